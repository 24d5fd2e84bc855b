"""A look at a set: shares of the classes, sizes that differ, ids that are none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from tests.imagery.datasets.fake import coco, isaid, noise, patches, save

from terralabel.errors import InputError
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.datasets.checking import check_labelled, checkup_text, evenly
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.runs.progress import Silent
from terralabel.train.segmentation.survey import survey


def test_shares_add_up(tmp_path: Path) -> None:
    dataset = open_labelled(isaid(tmp_path))
    found = check_labelled(dataset)
    assert (found.looked, found.failures) == (3, ())
    assert sum(found.pixels.values()) == 3 * 100 * 130
    expected = sum(np.bincount(np.array([0, 1, 2, 14, 15])[patches(100, 130, 5, k)].ravel(), minlength=16) for k in (0, 1, 0))
    assert found.pixels == {i: int(n) for i, n in enumerate(expected) if n}
    text = checkup_text(dataset, found)
    assert "4 images (test 1, train 2, val 1), 3 with labels" in text
    assert f"{100 * expected[14] / (3 * 13000):6.2f} %" in next(line for line in text.splitlines() if "plane" in line)
    assert "helicopter" in text


def test_strips_count_every_pixel_once(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((2100, 2000), np.uint8))
    save(tmp_path / "labels/a.png", patches(2100, 2000, 3, 0, side=100))
    found = check_labelled(open_labelled(tmp_path))
    assert found.pixels == {i: int(n) for i, n in enumerate(np.bincount(patches(2100, 2000, 3, 0, side=100).ravel()))}


def test_sizes_and_ids_that_do_not_fit(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / f"images/{name}.png", noise(20, 30, 0))
        save(tmp_path / f"labels/{name}.png", patches(20, 30, 3, 0))
    dataset = open_labelled(tmp_path)
    save(tmp_path / "labels/b.png", patches(20, 29, 3, 0))
    save(tmp_path / "labels/c.png", patches(20, 30, 5, 0))
    found = check_labelled(dataset)
    assert [text.rpartition("[")[2] for text in found.failures] == ["size]", "unknown-ids]"]
    assert "is 30 x 20 pixels, its label 29 x 20" in found.failures[0]
    assert sum(found.pixels.values()) == 600
    assert "failed: " in checkup_text(dataset, found)


def test_coco_sizes(tmp_path: Path) -> None:
    dataset = open_labelled(coco(tmp_path))
    assert sum(check_labelled(dataset).pixels.values()) == 1200
    assert check_labelled(dataset.binary).pixels == {0: 500 + 550, 1: 100 + 50}
    save(tmp_path / "images/a.png", noise(21, 30, 0))
    assert "is 30 x 21 pixels, its label 30 x 20" in check_labelled(dataset).failures[0]


def test_a_sample_is_spread_evenly(tmp_path: Path) -> None:
    for k in range(10):
        save(tmp_path / f"images/{k}.png", noise(8, 8, k))
        save(tmp_path / f"labels/{k}.png", patches(8, 8, 2, k, side=2))
    dataset = open_labelled(tmp_path)
    assert [item.key for item in evenly(dataset.images, 5)] == ["0", "2", "4", "6", "8"]
    assert len(evenly(dataset.images, 100)) == 10
    assert (check_labelled(dataset, 3).looked, check_labelled(dataset, 0).looked) == (3, 10)


def raster(path: Path, pixels: np.ndarray, crs: str | None, left: float, pixel: float = 2.0) -> Path:
    """A GeoTIFF of (H, W) uint8 at (left, 100)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if crs is None else {"crs": crs, "transform": Affine(pixel, 0, left, 0, -pixel, 100)}
    profile = {"driver": "GTiff", "width": pixels.shape[1], "height": pixels.shape[0], "count": 1, "dtype": "uint8", **place}
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels, 1)
    return path


@pytest.mark.parametrize(
    ("crs", "left", "pixel", "told"),
    [
        ("EPSG:32632", 500.0, 2.0, "is in EPSG:32632, its image a.tif in EPSG:32633: expected the grid of the image"),
        ("EPSG:32633", 508.0, 2.0, "lies 4.0 pixels off its image a.tif"),
        ("EPSG:32633", 500.0, 1.0, "lies 5.0 pixels off its image a.tif"),
        ("EPSG:32633", 500.4, 2.0, ""),
        (None, 0.0, 1.0, ""),
    ],
)
def test_a_label_of_another_place_is_refused(tmp_path: Path, crs: str | None, left: float, pixel: float, told: str) -> None:
    raster(tmp_path / "images/a.tif", noise(20, 30, 0)[..., 0], "EPSG:32633", 500.0)
    raster(tmp_path / "labels/a.tif", patches(20, 30, 3, 0), crs, left, pixel)
    dataset = open_labelled(tmp_path)
    found = check_labelled(dataset)
    assert len(found.failures) == bool(told) and told in "".join(found.failures)
    radiometry = fit_radiometry([dataset.images[0].image]).radiometry
    if told:
        with pytest.raises(InputError, match=re.escape(told)):
            survey(dataset, radiometry, Silent())
    else:
        assert survey(dataset, radiometry, Silent()).sizes == {"a": (30, 20)}
