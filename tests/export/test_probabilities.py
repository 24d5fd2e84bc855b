"""Rasters of probabilities: whole, placed, one band a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.core.classes import Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import ContractError
from terralabel.export.probabilities import probability_raster

PLACE = Georeference((0.5, 0.0, 400000.0, 0.0, -0.5, 5800000.0), "EPSG:32633")


def scene(width: int, height: int) -> Scene:
    return Scene("a", "a.tif", "a", width, height, PLACE)


def parts(width: int, height: int, rows: int, columns: int) -> list[Window]:
    """Bands of `columns`, each in strips of `rows`."""
    return [
        Window(x, y, min(columns, width - x), min(rows, height - y))
        for x in range(0, width, columns)
        for y in range(0, height, rows)
    ]


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"), [(700, 1100, 300, 512), (40, 30, 7, 512), (513, 600, 600, 512)]
)
def test_what_is_added_is_what_is_read(tmp_path: Path, width: int, height: int, rows: int, columns: int) -> None:
    values = np.random.default_rng(0).random((3, height, width)).astype(np.float32)
    classes = Classes.of_clusters(3)
    with probability_raster(tmp_path / "p.tif", scene(width, height), classes, {"MADE": "x"}) as raster:
        for window in parts(width, height, rows, columns):
            raster.add(window, values[(slice(None), *window.slices())])
    with rasterio.open(tmp_path / "p.tif") as found:
        assert (found.read() == np.rint(values * 255)).all()
        assert found.crs.to_epsg() == 32633
        assert tuple(found.transform)[:6] == PLACE.transform
        assert found.descriptions == ("cluster 0", "cluster 1", "cluster 2")
        assert found.tags()["MADE"] == "x"
        assert found.dtypes == ("uint8",) * 3


def test_passing_rasters_hold_the_same_and_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    values = np.zeros((2, 1024, 600), np.float32)
    values[:, :300] = np.random.default_rng(0).random((2, 300, 600))
    found = []
    for passing in (False, True):
        path = tmp_path / f"{passing}.tif"
        with probability_raster(path, scene(600, 1024), Classes.of_clusters(2), {}, passing=passing) as raster:
            for window in parts(600, 1024, 300, 600):
                raster.add(window, values[(slice(None), *window.slices())])
        with rasterio.open(path) as written:
            found.append(written.read())
            assert (written.compression is None) == passing
    np.testing.assert_array_equal(*found)
    assert (tmp_path / "True.tif").stat().st_size < 0.6 * 2 * 2 * 1024 * 1024  # two of four tiles a band are empty


def test_nothing_is_left_when_it_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ContractError),
        probability_raster(tmp_path / "p.tif", scene(30, 30), Classes.of_clusters(2), {}) as raster,
    ):
        raster.add(Window(0, 0, 30, 30), np.zeros((3, 30, 30), np.float32))
    assert list(tmp_path.iterdir()) == []
