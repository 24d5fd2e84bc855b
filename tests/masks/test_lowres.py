"""Measures and run lengths from small logits against enlarging them, pixel by pixel, as the official code does."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.errors import ContractError, WeightsError

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from terralabel.masks import lowres  # noqa: E402
from terralabel.masks.lowres import Frame, LowResMasks, enlarge, measure  # noqa: E402

#: (pads, S, m, tile): SAM's two steps and SAM 2's one; squares, strips, larger and smaller than the input, one pixel.
CASES = [
    (True, 64, 16, (64, 64)),
    (True, 64, 16, (48, 64)),
    (True, 64, 16, (64, 31)),
    (True, 64, 16, (33, 50)),
    (True, 64, 16, (150, 211)),
    (True, 64, 16, (3, 70)),
    (True, 64, 16, (1, 1)),
    (False, 64, 16, (64, 64)),
    (False, 64, 16, (48, 33)),
    (False, 64, 16, (16, 16)),
    (False, 63, 18, (100, 7)),
    (True, 256, 64, (300, 256)),
]


def surfaces(n: int, m: int, seed: int = 0) -> torch.Tensor:
    """(n, m, m) logits: blobs of all sizes with wavy edges, some that fill the frame, noise, all and nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:m, 0:m] / m
    out = []
    for _ in range(n - 4):
        cx, cy, radius = rng.random(3) * (1, 1, 0.6) + (0, 0, 0.01)
        angle = np.arctan2(y - cy, x - cx)
        distance = np.hypot(x - cx, y - cy) * (1 + 0.3 * np.sin(rng.integers(2, 7) * angle))
        out.append(np.clip((radius - distance) / radius * rng.uniform(3, 15), -32, 32))
    out += [rng.normal(size=(m, m)), np.full((m, m), -4.0), np.full((m, m), 4.0), rng.normal(size=(m, m)) * 1e-3]
    return torch.from_numpy(np.stack(out).astype(np.float32))


@pytest.mark.parametrize(("pads", "image_size", "mask_size", "size"), CASES)
def test_equals_enlarging_to_the_last_pixel(pads: bool, image_size: int, mask_size: int, size: tuple[int, int]) -> None:
    frame = Frame.of(size, mask_size=mask_size, image_size=image_size, pads=pads)
    logits = surfaces(24, mask_size)
    large = enlarge(logits, frame)
    assert large.shape[1:] == size
    truth = Masks.from_arrays((large > 0).numpy(), size)
    stability = (large > 1).flatten(1).sum(1) / (large > -1).flatten(1).sum(1)
    found = measure(logits, frame)
    np.testing.assert_array_equal(found.area, truth.area)
    np.testing.assert_array_equal(found.bbox, truth.bbox)
    np.testing.assert_array_equal(found.stability_score, stability.numpy())
    assert found.area.dtype == np.int64 and found.bbox.dtype == np.int32 and found.stability_score.dtype == np.float32
    some = np.array([3, 0, 20, 21, 22, 23, 7])
    codes = LowResMasks.keep(logits, frame, found.bbox).codes(some)
    for code, i in zip(codes, some, strict=True):
        np.testing.assert_array_equal(code, truth.code(i))


def test_enlarging_is_the_official_predictors() -> None:
    """As in segment-anything's `Sam.postprocess_masks` and SAM 2's `SAM2Transforms.postprocess_masks`, three masks to a prompt."""
    logits = surfaces(24, 16).unflatten(0, (8, 3))
    resize = {"mode": "bilinear", "align_corners": False}
    square = torch.nn.functional.interpolate(logits, (64, 64), **resize)
    two_steps = torch.nn.functional.interpolate(square[..., :43, :64], (100, 150), **resize)
    padded = Frame.of((100, 150), mask_size=16, image_size=64, pads=True)
    assert padded.resized == (43, 64)
    assert torch.equal(enlarge(logits.flatten(0, 1), padded), two_steps.flatten(0, 1))
    one_step = torch.nn.functional.interpolate(logits, (100, 150), **resize)
    stretched = Frame.of((100, 150), mask_size=16, image_size=64, pads=False)
    assert torch.equal(enlarge(logits.flatten(0, 1), stretched), one_step.flatten(0, 1))


@pytest.mark.parametrize("case", [CASES[3], CASES[8]])
def test_without_numba_the_same(case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    pads, image_size, mask_size, size = case
    frame = Frame.of(size, mask_size=mask_size, image_size=image_size, pads=pads)
    logits = surfaces(13, mask_size)
    compiled = measure(logits, frame, offset=0.5)
    kept = LowResMasks.keep(logits, frame, compiled.bbox)
    monkeypatch.setattr(lowres, "has_kernel", lambda: False)
    monkeypatch.setitem(lowres._ENLARGED_BYTES, "cpu", 1 << 16)  # several parts
    plain = measure(logits, frame, offset=0.5)
    for column in ("area", "bbox", "stability_score"):
        np.testing.assert_array_equal(getattr(compiled, column), getattr(plain, column))
    whole = LowResMasks.keep(logits, frame, plain.bbox)
    assert whole.logits is not None and not whole.parts
    some = np.array([12, 4, 10, 9, 11])
    for one, other in zip(kept.codes(some), whole.codes(some), strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_and_parts_do_not_matter() -> None:
    frame = Frame.of((100, 70), mask_size=32, image_size=128, pads=True)
    logits = surfaces(40, 32)
    alone, shared = measure(logits, frame), measure(logits, frame, threads=3)
    np.testing.assert_array_equal(alone.area, shared.area)
    np.testing.assert_array_equal(alone.stability_score, shared.stability_score)
    boxes = alone.bbox
    halves = [LowResMasks.keep(logits[part], frame, boxes[part]) for part in (slice(0, 15), slice(15, 40))]
    joined, index = LowResMasks.join(halves), np.arange(40)
    runs, offsets = rle.concatenate(joined.codes(index))
    rle.validate(runs, offsets, frame.size)
    np.testing.assert_array_equal(rle.areas(runs, offsets), alone.area)
    np.testing.assert_array_equal(rle.boxes(runs, offsets, frame.size), boxes)


def test_only_what_the_box_sees_is_kept() -> None:
    frame = Frame.of((256, 256), mask_size=64, image_size=256, pads=True)
    logits = torch.full((1, 64, 64), -3.0)
    logits[0, 20:24, 30:40] = 3.0
    found = measure(logits, frame)
    kept = LowResMasks.keep(logits, frame, found.bbox)
    assert kept.parts[0].size < 8 * 14
    logits[:] = -9.0  # a copy, not a view of what the network overwrites
    (code,) = kept.codes(np.array([0]))
    assert code[1::2].sum() == found.area[0] > 600


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_refused(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Frame.of((64, 64), mask_size=16, image_size=64, pads=True)
    logits = surfaces(8, 16)
    logits[5, 3, 2] = bad
    with pytest.raises(WeightsError, match="NaN or infinite logits: the checkpoint is damaged"):
        measure(logits, frame)
    monkeypatch.setattr(lowres, "has_kernel", lambda: False)
    with pytest.raises(WeightsError, match="NaN or infinite"):
        measure(logits, frame)


def test_wrong_shapes_are_refused() -> None:
    frame = Frame.of((64, 64), mask_size=16, image_size=64, pads=True)
    with pytest.raises(ContractError, match=r"expected \(2, 16, 16\) float32"):
        measure(torch.zeros(2, 17, 16), frame)
    with pytest.raises(ContractError, match="float64"):
        measure(torch.zeros(2, 16, 16, dtype=torch.float64), frame)
    assert len(measure(torch.zeros(0, 16, 16), frame).area) == 0
    assert np.isnan(measure(torch.full((1, 16, 16), -5.0), frame).stability_score[0])
