"""SAM 2's trunk under ELNet, from an official file of random weights: equal to the inference one, frozen, and with adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from terralabel.errors import WeightsError  # noqa: E402
from terralabel.nets.elnet.network import build_elnet, default_learns, rebuild_elnet  # noqa: E402
from terralabel.nets.elnet.trunks import make_trunk  # noqa: E402
from terralabel.nets.sam.families import tiny  # noqa: E402
from terralabel.nets.sam.hiera import Hiera  # noqa: E402
from terralabel.nets.sam.loading import build, load, write_official  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny-sam2.pt"
    write_official(build(tiny("sam2.1"), seed=1), tiny("sam2.1"), path)
    return path


def test_maps_are_those_of_the_inference_trunk(weights: Path) -> None:
    trunk = make_trunk(str(weights)).eval()
    plain = Hiera(load(weights).model.vision_encoder.backbone, torch.float32)
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = trunk(x), plain(x)
    assert [m.shape[-1] for m in ours] == [32, 16, 8, 4] and tuple(m.shape[1] for m in ours) == trunk.channels
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_maps_are_those_of_transformers(weights: Path) -> None:
    """The same official file through the modules of transformers alone, from patches to stages."""
    trunk = make_trunk(str(weights)).eval()
    theirs = load(weights).model.vision_encoder.backbone.eval()
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(x).intermediate_hidden_states
        for one, two in zip(trunk(x), expected, strict=True):
            torch.testing.assert_close(one, two.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_every_block_is_given_what_its_adapter_made(weights: Path) -> None:
    """block(x + adapter(x)), seen at the first operation of each block."""
    network = build_elnet(str(weights), 2, width=8, learns="adapters", seed=0).eval()
    blocks, made, given = network.backbone.net.blocks, [], []  # type: ignore[union-attr]
    for adapter, block in zip(network.adapters, blocks, strict=True):  # type: ignore[arg-type]
        torch.nn.init.normal_(adapter.up.weight, std=0.1)  # type: ignore[union-attr, arg-type]
        adapter.register_forward_hook(lambda module, inputs, output: made.append((inputs[0], output)))
        block.layer_norm1.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 64))
    assert len(made) == len(given) == len(blocks)  # type: ignore[arg-type]
    for (before, after), seen in zip(made, given, strict=True):
        assert torch.equal(after, seen) and not torch.allclose(before, after)


@pytest.mark.parametrize("size", [(64, 96), (70, 50)])
def test_any_size(weights: Path, size: tuple[int, int]) -> None:
    network = build_elnet(str(weights), 2, width=8, learns="adapters", seed=0).eval()
    assert network(torch.randn(1, 3, *size)).shape == (1, 2, *size)


def test_only_adapters_and_the_decoder_move(weights: Path) -> None:
    network = build_elnet(str(weights), 2, width=8, learns="adapters", seed=0).train()
    assert len(network.adapters) == len(network.backbone.net.blocks)  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.01)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.startswith("backbone.") for key in moved)
    assert {key for key in before if key.startswith("adapters.")} <= moved


def test_a_checkpoint_needs_no_file_of_sam(weights: Path) -> None:
    network = build_elnet(str(weights), 3, width=8, learns="adapters", seed=0).eval()
    trunk = network.backbone
    made = {"trunk": trunk.name, "learns": "adapters", "bands": 3, "classes": 3, "edge": False, "zoom": 1.0, "width": 8,
            "origin": trunk.origin, "hiera": trunk.hiera}  # fmt: skip
    again = rebuild_elnet(made).eval()
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(x), network(x))


def test_of_other_sams_there_is_no_trunk(tmp_path: Path) -> None:
    write_official(build(tiny("sam")), tiny("sam"), tmp_path / "sam.pt")
    with pytest.raises(WeightsError, match=r"expected SAM 2 or 2\.1, whose trunk is a Hiera"):
        make_trunk(str(tmp_path / "sam.pt"))


def test_weights_of_a_name_that_are_not_here_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"models pull|sam2\.1_tiny"):
        make_trunk("sam2.1_tiny")


def test_a_tiny_one_learns_wholly(weights: Path) -> None:
    assert default_learns(make_trunk(str(weights))) == "everything"
