"""The small network: windows, prompts, file."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from terralabel.errors import WeightsError  # noqa: E402
from terralabel.nets.nano.network import NanoNet, prompt_channels  # noqa: E402
from terralabel.nets.nano.shipped import SHA256, SHIPPED, load_network, read_network, write_network  # noqa: E402
from terralabel.nets.nano.windows import MIPS, around, cell_centres, mip_level, mips, sample, sample_mips  # noqa: E402


def test_windows_are_half_as_large_again_and_not_too_thin() -> None:
    window = around(torch.tensor([[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 100.0, 10.0], [5.0, 5.0, 6.0, 6.0]]))
    torch.testing.assert_close(window[0], torch.tensor([0.0, 10.0, 60.0, 70.0]))
    torch.testing.assert_close(window[1], torch.tensor([-25.0, -32.5, 125.0, 42.5]))
    torch.testing.assert_close(window[2, 2:] - window[2, :2], torch.tensor([12.0, 12.0]))


def test_sampling_a_ramp_gives_the_places() -> None:
    ramp = torch.stack([torch.arange(64.0).expand(48, 64), torch.arange(48.0)[:, None].expand(48, 64)])[None] + 0.5
    x, y = cell_centres(torch.tensor([[[8.0, 4.0, 40.0, 36.0], [10.0, 10.0, 20.0, 30.0]]]), 8)
    found = sample(ramp, x, y)
    torch.testing.assert_close(found[1, 0], x[0, 1].expand(8, 8))
    torch.testing.assert_close(found[1, 1], y[0, 1][:, None].expand(8, 8))


@pytest.mark.parametrize("level", range(MIPS))
def test_every_halving_shows_the_same_place(level: int) -> None:
    ramp = torch.stack([torch.arange(64.0).expand(64, 64), torch.arange(64.0)[:, None].expand(64, 64)])[None] + 0.5
    x, y = cell_centres(torch.tensor([[[16.0, 16.0, 48.0, 40.0]]]), 8)
    found = sample_mips(mips(ramp), 64, x, y, torch.tensor([[level]]))
    torch.testing.assert_close(found[0, 0], x[0, 0].expand(8, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0, 1], y[0, 0][:, None].expand(8, 8), atol=1e-3, rtol=0)


def test_coarser_windows_take_coarser_pixels() -> None:
    windows = torch.tensor([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 1000.0, 10.0]])
    assert mip_level(windows, 32).tolist() == [0, 1, 3]


def test_prompts_are_drawn_where_they_are() -> None:
    window = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    drawn = prompt_channels(
        window, 32, (32, 24), torch.tensor([[8.0, 4.0, 16.0, 12.0]]), torch.tensor([0.5]),
        torch.tensor([[[20.5, 10.5], [3.5, 30.5], [9.5, 9.5]]]), torch.tensor([[1, 0, -1]]), torch.zeros(1, 32, 32),
    )[0]  # fmt: skip
    assert drawn[0, 4:12, 8:16].eq(0.5).all() and drawn[0].sum() == 32
    assert drawn[1, 10, 20] == 1 and drawn[1].argmax() == 10 * 32 + 20
    assert drawn[2].argmax() == 30 * 32 + 3 and drawn[2, 9, 9] < 1e-3
    assert drawn[4, :, :24].all() and not drawn[4, :, 24:].any()


def test_shipped_file_is_small_and_checked(tmp_path: Path) -> None:
    assert SHIPPED.stat().st_size <= 10_000_000
    assert load_network()[1] == SHA256
    assert all(bool(value.isfinite().all()) for value in read_network()[0].state_dict().values())
    damaged = tmp_path / "nano.safetensors"
    data = bytearray(SHIPPED.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="damaged"):
        load_network(damaged, SHA256)


def test_large_variances_stay_what_they_are(tmp_path: Path) -> None:
    net = NanoNet()
    variances = net.pyramid.smooth[2][1].running_var  # type: ignore[index]
    variances.fill_(250_000.0)  # type: ignore[operator]
    write_network(net.state_dict(), tmp_path / "a.safetensors")
    stored = read_network(tmp_path / "a.safetensors")[0].state_dict()["pyramid.smooth.2.1.running_var"]
    assert torch.equal(stored, torch.full_like(stored, 250_000.0))


def test_file_holds_the_network_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = NanoNet().eval()
    write_network(net.state_dict(), tmp_path / "a.safetensors")
    again, _ = load_network(tmp_path / "a.safetensors")
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        one, other = net.encode(x).deep, again.encode(x).deep
    assert (one - other).abs().max() < 0.02 * one.abs().max()
    write_network({key: value for key, value in net.state_dict().items() if "point" not in key}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="missing point"):
        load_network(tmp_path / "b.safetensors")
