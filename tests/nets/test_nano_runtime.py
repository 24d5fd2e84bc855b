"""onnxruntime and torch compute the same network, from the same file of weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import MissingExtraError, SettingsError, WeightsError
from terralabel.imagery.painter import paint_scene
from terralabel.nets.nano import runtime, sampling
from terralabel.nets.nano.runtime import Asked, Runtime, load_runtime
from terralabel.nets.nano.shipped import SHIPPED
from terralabel.nets.weights import models_table

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from terralabel.nets.nano import runtime_onnx  # noqa: E402
from terralabel.nets.nano import windows as torch_windows  # noqa: E402
from terralabel.nets.nano.network import NanoNet  # noqa: E402
from terralabel.nets.nano.runtime_onnx import GRAPHS, OnnxRuntime  # noqa: E402
from terralabel.nets.nano.runtime_torch import TorchRuntime  # noqa: E402
from terralabel.nets.nano.shipped import write_network  # noqa: E402


@pytest.fixture(scope="module")
def both() -> tuple[Runtime, Runtime]:
    return OnnxRuntime(SHIPPED), TorchRuntime(SHIPPED)


def picture(height: int, width: int) -> np.ndarray:
    return paint_scene(256, 256, 3)[0][:height, :width].astype(np.float32) / 127.5 - 1


def asked(size: tuple[int, int], count: int, grid: int, points: int, seed: int = 0) -> Asked:
    """Random prompts of every kind in a picture of `size`."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-8, np.array(size[::-1]) - 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 120, (count, 2))], 1).astype(np.float32)
    return Asked(
        size,
        sampling.around(boxes),
        boxes,
        rng.choice([0, 0.5, 1], count).astype(np.float32),
        rng.uniform(0, size[0], (count, points, 2)).astype(np.float32),
        rng.integers(-1, 2, (count, points)),
        rng.choice([-1, 0, 1], (count, grid, grid)).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("size", "count", "grid", "points"), [((256, 192), 5, 48, 1), ((64, 128), 1, 24, 3), ((128, 128), 64, 24, 1)]
)
def test_the_numbers_are_the_same(
    both: tuple[Runtime, Runtime], size: tuple[int, int], count: int, grid: int, points: int
) -> None:
    ours, theirs = both
    assert ours.digest == theirs.digest and ours.kind != theirs.kind
    one, other = ours.encode(picture(*size)), theirs.encode(picture(*size))
    np.testing.assert_allclose(ours.describe(one), theirs.describe(other), atol=1e-4)
    xy = np.random.default_rng(1).uniform(0, size[::-1], (200, 2)).astype(np.float32)
    for mine, reference, tolerance in zip(ours.guess(one, xy), theirs.guess(other, xy), (1e-2, 1e-4), strict=True):  # pixels
        np.testing.assert_allclose(mine, reference, atol=tolerance)
    questions = asked(size, count, grid, points)
    logits, expected = ours.decode(one, questions)
    their_logits, their_expected = theirs.decode(other, questions)
    assert logits.shape == (count, grid, grid) and expected.shape == (count,)
    assert np.abs(logits - their_logits).max() < 1e-4 * np.abs(their_logits).max()
    np.testing.assert_allclose(expected, their_expected, atol=2e-3)  # counts cells over a cut-off
    assert np.median(np.abs(expected - their_expected)) < 1e-5


def test_the_same_input_gives_the_same_bytes(both: tuple[Runtime, Runtime]) -> None:
    again = OnnxRuntime(SHIPPED)
    questions = asked((128, 128), 7, 24, 1)
    for one, other in zip(both[0].decode(both[0].encode(picture(128, 128)), questions), again.decode(again.encode(picture(128, 128)), questions), strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)


def test_no_prompts_and_one_prompt(both: tuple[Runtime, Runtime]) -> None:
    ours = both[0]
    seen = ours.encode(picture(64, 64))
    boxes, fits = ours.guess(seen, np.zeros((0, 2), np.float32))
    assert boxes.shape == (0, 3, 4) and fits.shape == (0, 3)
    whole = asked((64, 64), 4, 24, 1)
    first = replace(
        whole, **{name: getattr(whole, name)[:1] for name in ("windows", "boxes", "sure", "points", "labels", "rough")}
    )
    np.testing.assert_allclose(ours.decode(seen, first)[0][0], ours.decode(seen, whole)[0][0], atol=1e-4)


def test_windows_without_torch_are_those_of_training() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(-20, 150, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 900, (40, 2))], 1).astype(np.float32)
    windows = sampling.around(boxes)
    theirs = torch_windows.around(torch.from_numpy(boxes))
    np.testing.assert_array_equal(windows, theirs.numpy())
    np.testing.assert_array_equal(sampling.mip_level(windows, 24), torch_windows.mip_level(theirs, 24).numpy())
    x, y = sampling.cell_centres(windows, 24)
    their_x, their_y = torch_windows.cell_centres(theirs[None], 24)
    np.testing.assert_allclose(x, their_x[0].numpy(), rtol=1e-6)
    maps = rng.normal(size=(1, 3, 128, 64)).astype(np.float32)
    sampled = torch_windows.sample(torch.from_numpy(maps), their_x, their_y).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(sampling.sample(maps[0].transpose(1, 2, 0), x, y), sampled, atol=1e-4)
    level = torch_windows.mip_level(theirs[None], 24)
    smooth = torch.from_numpy(picture(128, 192))[None].permute(0, 3, 1, 2)
    atlas = torch_windows.mips(smooth)
    mipped = torch_windows.sample_mips(atlas, 192, their_x, their_y, level).permute(0, 2, 3, 1).numpy()
    ours = sampling.sample_mips(atlas[0].permute(1, 2, 0).numpy(), 192, x, y, level[0].numpy())
    np.testing.assert_allclose(ours, mipped, atol=1e-3)


def test_other_weights_need_no_other_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = NanoNet()
    for name, values in net.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2)
    write_network(net.state_dict(), tmp_path / "a.safetensors")
    ours, theirs = OnnxRuntime(tmp_path / "a.safetensors"), TorchRuntime(tmp_path / "a.safetensors")
    found = [net.describe(net.encode(picture(64, 64))) for net in (ours, theirs)]
    np.testing.assert_allclose(*found, atol=1e-4)
    write_network({key: value for key, value in net.state_dict().items() if "point" not in key}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="missing point"):
        OnnxRuntime(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="no safetensors file"):
        OnnxRuntime(tmp_path / "c.safetensors")


def test_the_graphs_are_those_of_the_network(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from terralabel.nets.nano.export import export

    fresh = export(tmp_path)
    assert fresh.read_text() == GRAPHS.read_text(), "run python -m terralabel.nets.nano.export"
    for path in tmp_path.glob("*.onnx"):
        assert path.read_bytes() == GRAPHS.with_name(path.name).read_bytes()


def test_all_files_in_the_package_are_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.parent.iterdir() if path.is_file()) <= 10_000_000


def test_a_damaged_graph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "graphs.json").write_bytes(GRAPHS.read_bytes())
    monkeypatch.setattr(runtime_onnx, "GRAPHS", tmp_path / "graphs.json")
    with pytest.raises(WeightsError, match=r"encode\.onnx: the file is missing"):
        OnnxRuntime(SHIPPED)
    (tmp_path / "encode.onnx").write_bytes(b"short")
    with pytest.raises(WeightsError, match=r"encode\.onnx: the file is damaged; reinstall"):
        OnnxRuntime(SHIPPED)


def test_who_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [load_runtime(device=device).kind for device in ("auto", "cpu")] == ["onnx", "onnx"]
    with pytest.raises(SettingsError, match="give --device cpu"):
        load_runtime(device="cuda:77")
    assert "nano, for --masks nano (computed by onnxruntime)" in models_table()
    there = {"torch"}
    monkeypatch.setattr(runtime, "find_spec", lambda name: name if name in there else None)
    assert load_runtime().kind == "torch"
    there.clear()
    assert "nano, for --masks nano (pip install 'terralabel[nano]')" in models_table()
    with pytest.raises(MissingExtraError, match=r"onnxruntime: pip install 'terralabel\[nano\]'"):
        load_runtime()
    with pytest.raises(MissingExtraError, match=r"cuda needs torch: pip install 'terralabel\[torch\]'"):
        load_runtime(device="cuda")


def test_labels_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None  # any import of it fails
import numpy as np
from terralabel.core.tile import Tile
from terralabel.features.fused import Fused
from terralabel.masks.nano import Nano
backend = Nano()
encoded = backend.encode(Tile.from_array(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)))
masks = backend.generate(encoded)
assert len(masks) and Fused().extract(encoded.tile, masks, encoded).shape[0] == len(masks)
print(backend.version)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "-onnx-" in found.stdout
