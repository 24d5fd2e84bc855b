"""The weight-free backend: coverage, validity, locality, determinism, prompts."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from terralabel.contracts import MaskGenerator, Promptable
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import SettingsError
from terralabel.evaluate.instances import best_overlaps, instance_masks, overlaps
from terralabel.masks.tree import TreeMasks


def scene(size: int = 256, seed: int = 0, shapes: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Rotated rectangles on a textured ground: (size, size, 3) uint8 and (size, size) int32 instances."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), (90, 120, 70), dtype=np.float32)
    truth = np.zeros((size, size), dtype=np.int32)
    for i in range(shapes):
        centre, extent = rng.uniform(20, size - 20, 2), rng.uniform(16, 44, 2)
        corners = cv2.boxPoints((tuple(centre), tuple(extent), float(rng.uniform(0, 90)))).astype(np.int32)
        inside = cv2.fillPoly(np.zeros((size, size), np.uint8), [corners], 1).astype(bool)
        if (truth[cv2.dilate(inside.astype(np.uint8), np.ones((5, 5))).astype(bool)] > 0).any():
            continue
        truth[inside] = i + 1
        image[inside] = rng.uniform(20, 235, 3)
    noise = cv2.GaussianBlur(rng.normal(0, 12, image.shape).astype(np.float32), (0, 0), 1.0)
    return np.clip(image + noise * 2, 0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def painted() -> tuple[np.ndarray, np.ndarray]:
    return scene()


def generate(pixels: np.ndarray, valid: np.ndarray | None = None, sensor: str = "optical", **settings: float) -> Masks:
    backend = TreeMasks(**settings)
    return backend.generate(backend.encode(Tile.from_array(pixels, valid, sensor=sensor)))


def covered(masks: Masks) -> np.ndarray:
    return np.any(list(masks), axis=0) if len(masks) else np.zeros(masks.size, dtype=bool)


def test_is_both_kinds_of_backend() -> None:
    assert isinstance(TreeMasks(), MaskGenerator)
    assert isinstance(TreeMasks(), Promptable)
    assert pickle.loads(pickle.dumps(TreeMasks(min_size=9))) == TreeMasks(min_size=9)


def test_finds_painted_objects(painted: tuple[np.ndarray, np.ndarray]) -> None:
    image, truth = painted
    best = best_overlaps(generate(image), instance_masks(truth))
    assert best.mean() > 0.85
    assert best.min() > 0.6


def test_columns_describe_the_masks(painted: tuple[np.ndarray, np.ndarray]) -> None:
    masks = generate(painted[0])
    rebuilt = Masks.from_arrays(list(masks))
    np.testing.assert_array_equal(masks.runs, rebuilt.runs)
    np.testing.assert_array_equal(masks.bbox, rebuilt.bbox)
    np.testing.assert_array_equal(masks.area, rebuilt.area)
    for i in range(len(masks)):
        x, y = masks.point_coords[i].astype(int)
        assert masks.array(i)[y, x]
    assert ((masks.predicted_iou >= 0) & (masks.predicted_iou <= 1)).all()
    assert ((masks.stability_score >= 0) & (masks.stability_score <= 1)).all()


def test_no_near_duplicates(painted: tuple[np.ndarray, np.ndarray]) -> None:
    masks = generate(painted[0])
    table = overlaps(masks, masks) - np.eye(len(masks))
    assert (table.max(1) > 0.9).mean() < 0.05  # only what fills holes may resemble a proposal


def test_same_bytes_twice(painted: tuple[np.ndarray, np.ndarray]) -> None:
    one, two = generate(painted[0]), generate(painted[0])
    assert one.runs.tobytes() == two.runs.tobytes()
    assert one.predicted_iou.tobytes() == two.predicted_iou.tobytes()


def test_every_valid_pixel_is_covered_and_no_invalid_one(painted: tuple[np.ndarray, np.ndarray]) -> None:
    image = painted[0].copy()
    y, x = np.mgrid[:256, :256]
    valid = (x + y > 90) & ~((x > 100) & (x < 130)) & ((x - 200) ** 2 + (y - 60) ** 2 > 400)
    valid[200, 3] = True
    image[~valid] = 0
    np.testing.assert_array_equal(covered(generate(image, valid)), valid)


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 40, 3), (40, 1, 1), (2, 2, 3), (3, 5, 1), (33, 47, 2), (40, 40, 4), (40, 40, 13)]
)
@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_any_shape_and_number_of_bands(shape: tuple[int, int, int], sensor: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)
    masks = generate(pixels, sensor=sensor)
    assert covered(masks).all()


def test_constant_and_empty_tiles() -> None:
    masks = generate(np.full((64, 80, 3), 77, np.uint8))
    assert covered(masks).all()
    assert len(masks) == 1
    assert len(generate(np.zeros((64, 80, 3), np.uint8), np.zeros((64, 80), bool))) == 0
    assert covered(generate(np.tile(np.uint8([[0, 255], [255, 0]]), (40, 40))[..., None])).all()


def test_bands_beyond_colour_are_seen(painted: tuple[np.ndarray, np.ndarray]) -> None:
    image, truth = painted
    many = np.full((256, 256, 13), 100, np.uint8)
    many[..., 10:] = image[..., :1]
    assert best_overlaps(generate(many), instance_masks(truth)).mean() > 0.6


def test_the_same_pixels_in_two_extents_give_the_same_masks() -> None:
    image, _ = scene(600, seed=3, shapes=90)
    dx, dy, side, margin = 37, 53, 512, 96
    one = generate(image[:side, :side])
    two = generate(image[dy : dy + side, dx : dx + side])

    def inner(masks: Masks, x: int, y: int) -> dict[bytes, int]:
        """Masks well inside both extents, as arrays in the frame of the first."""
        left, top = masks.bbox[:, 0] + x, masks.bbox[:, 1] + y
        right, bottom = left + masks.bbox[:, 2], top + masks.bbox[:, 3]
        low, high = np.array([dx, dy]) + margin, np.array([side, side]) - margin
        keep = np.flatnonzero((left >= low[0]) & (top >= low[1]) & (right <= high[0]) & (bottom <= high[1]))
        return {np.array([left[i], top[i]]).tobytes() + masks.crop(int(i)).tobytes(): int(i) for i in keep}

    first, second = inner(one, 0, 0), inner(two, dx, dy)
    assert len(first) > 40
    assert len(first.keys() & second.keys()) / len(first.keys() | second.keys()) > 0.97


@pytest.mark.parametrize("settings", [{"min_size": 0}, {"base_size": 0}, {"score_thresh": 2.0}, {"nms_thresh": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="tree"):
        TreeMasks(**settings)


@pytest.mark.data
def test_covers_real_buildings(data_dir: Path) -> None:
    pairs = []
    for path in sorted((data_dir / "oam-buildings" / "images").iterdir())[::8]:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(data_dir / "oam-buildings" / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        masks = generate(image)
        best = masks.select(np.argsort(-masks.predicted_iou, kind="stable")[:300])
        pairs.append(best_overlaps(best, instance_masks(mask, min_size=64)))
    best_iou = np.concatenate(pairs)
    assert best_iou.mean() >= 0.66
    assert (best_iou >= 0.5).mean() >= 0.77


@pytest.mark.data
def test_real_pixels_in_two_extents_give_the_same_masks(data_dir: Path) -> None:
    path = sorted((data_dir / "fields" / "images").iterdir())[1]
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    shift, side, margin = np.array([37, 53]), 900, 192
    found = []
    for x, y in (np.zeros(2, int), shift):
        masks = generate(np.ascontiguousarray(image[y : y + side, x : x + side]))
        first = masks.bbox[:, :2] + [x, y]
        inside = (first >= shift + margin) & (first + masks.bbox[:, 2:] <= side - margin)
        keep = np.flatnonzero(inside.all(axis=1))
        found.append({first[i].tobytes() + masks.crop(int(i)).tobytes() for i in keep})
    assert len(found[0]) > 100
    assert len(found[0] & found[1]) / len(found[0] | found[1]) > 0.97
