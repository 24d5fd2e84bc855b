"""The scene painter: deterministic, complete, and with a truth that fits the picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

from terralabel.core.classes import Classes
from terralabel.errors import SettingsError
from terralabel.imagery import brush
from terralabel.imagery.painter import CLASS_NAMES, paint_scene, write_demo


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    pixels, truth, _ = paint_scene(384, 320, seed=2)
    return pixels, truth


def test_shapes_and_classes(scene: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, truth = scene
    assert pixels.shape == (320, 384, 3) and pixels.dtype == np.uint8
    assert truth.shape == (320, 384) and truth.dtype == np.uint8
    assert set(np.unique(truth)) == set(range(1, len(CLASS_NAMES) + 1))


@pytest.mark.parametrize("kind", ["optical", "sar"])
def test_the_same_seed_paints_the_same_scene_and_another_seed_another(kind: str) -> None:
    first, again, other = (paint_scene(128, 96, seed, kind) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.5


def test_both_kinds_share_the_land() -> None:
    sar, truth, _ = paint_scene(256, 256, 5, "sar")
    assert sar.shape == (256, 256, 1) and sar.dtype == np.uint16
    assert np.array_equal(truth, paint_scene(256, 256, 5)[1])
    water, building = sar[truth == 3].mean(), sar[truth == 4].mean()
    assert water < 0.6 * np.median(sar) < np.median(sar) < building


def test_no_pixel_is_zero_because_zero_means_no_data(scene: tuple[np.ndarray, np.ndarray]) -> None:
    assert scene[0].min() > 0


def test_classes_can_be_told_apart_but_not_by_colour_alone(scene: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, truth = scene
    means = np.array([pixels[truth == c].mean(0) for c in range(1, 7)])
    spread = np.array([pixels[truth == c].std(0).mean() for c in range(1, 7)])
    assert means[1].sum() < means[0].sum()  # forest is darker than fields
    assert means[2, 2] > means[2, 0]  # water is bluish
    nearest = np.linalg.norm(pixels[:, :, None].astype(float) - means, axis=-1).argmin(-1) + 1
    assert 0.35 < (nearest == truth).mean() < 0.9
    assert spread.min() > 3  # no flat colours


def test_roads_have_the_widths_asked_for() -> None:
    _, truth, _ = paint_scene(512, 512, 0)
    reach = cv2.distanceTransform((truth == 5).astype(np.uint8), cv2.DIST_L2, 5)
    assert 4 <= np.percentile(reach[reach > 0], 99) <= 8


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="expected 'optical' or 'sar'"):
        paint_scene(64, 64, 0, "lidar")
    with pytest.raises(SettingsError, match="at least 32"):
        paint_scene(16, 64, 0)


def test_parcels_cover_the_picture() -> None:
    fields, cuts = brush.parcels(np.random.default_rng(0), (200, 300), side=80)
    covered = np.zeros((200, 300), np.uint8)
    for field in fields:
        cv2.fillPoly(covered, [np.round(field.outline).astype(np.int32)], 1)
    assert covered.all() and len(fields) > 4 and {cut.depth for cut in cuts} >= {0, 1, 2}


def test_noise_has_the_scale_asked_for() -> None:
    coarse, fine = (brush.fractal(np.random.default_rng(1), (256, 256), scale, 1) for scale in (64, 4))
    assert coarse.shape == (256, 256) and abs(float(coarse.mean())) < 1e-3 and abs(float(coarse.std()) - 1) < 1e-3
    assert np.abs(np.diff(coarse)).mean() * 5 < np.abs(np.diff(fine)).mean()


def test_a_shadow_falls_away_from_the_sun() -> None:
    height = np.zeros((40, 40), np.float32)
    height[10:15, 10:15] = 8
    dark = brush.shadows(height)
    assert dark[18, 18] > 0.9 and dark[8, 8] == 0 and dark[12, 12] < 0.2


def test_the_demo_is_georeferenced_and_its_truth_fits(tmp_path: Path) -> None:
    images, truth = write_demo(tmp_path, seed=1, scenes=2, size=128)
    assert sorted(p.name for p in images.iterdir()) == ["scene_1.tif", "scene_2.tif"]
    assert sorted(p.name for p in truth.iterdir()) == ["scene_1.png", "scene_2.png"]
    classes = Classes.from_json((tmp_path / "classes.json").read_text())
    assert [(entry.id, entry.name) for entry in classes][:2] == [(1, "field"), (2, "forest")]
    boxes = []
    for path in sorted(images.iterdir()):
        with rasterio.open(path) as source:
            assert source.crs.to_epsg() == 32633 and source.res == (0.5, 0.5) and source.count == 3 and source.nodata == 0
            missing = (source.read() == 0).all(0)
            boxes.append(source.bounds)
        mask = cv2.imread(str(truth / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask == 255, missing)
        assert missing[0, 0] == (path.stem == "scene_2") and not missing[-1, -1]
    assert boxes[0].right == boxes[1].left


def test_the_demo_is_reproducible(tmp_path: Path) -> None:
    first, again = (write_demo(tmp_path / name, seed=2, scenes=1, size=64)[0] / "scene_1.tif" for name in "ab")
    assert first.read_bytes() == again.read_bytes()
