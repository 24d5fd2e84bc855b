from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from terralabel.core.grid import Window, plan_tiles
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.imagery.sources import content_hash, find_sources
from terralabel.imagery.tiles import estimate, read_tile, scene_of

Write = Callable[..., Path]


def test_from_a_file_to_tiles(tmp_path: Path, write_tif: Write, unchanged) -> None:
    array = np.random.default_rng(0).integers(0, 3000, (3, 90, 130)).astype(np.uint16)
    array[:, :40, :50] = 0
    write_tif(tmp_path / "a b.tif", array, nodata=0, transform=Affine(2, 0, 1000, 0, -2, 5000), crs="EPSG:32633")
    unchanged(tmp_path)
    (source,) = find_sources([tmp_path]).files
    radiometry = fit_radiometry([source.path]).radiometry
    with radiometry.open(source.path) as raster:
        scene = scene_of(source, raster, sensor="optical", sha256=content_hash(source.path))
        tiles = [read_tile(raster, plan, radiometry) for plan in plan_tiles(scene.key, scene.width, scene.height, 64, 16)]
    assert (scene.key, scene.stem, scene.width, scene.height) == ("a_b", "a b", 130, 90)
    assert len(scene.sha256) == 64
    covered = np.zeros((90, 130), int)
    for tile in tiles:
        x, y = tile.plan.window.x, tile.plan.window.y
        assert tile.pixels.shape == (64, 64, 3)
        assert tile.georeference.transform == (2, 0, 1000 + 2 * x, 0, -2, 5000 - 2 * y)
        assert tile.georeference.crs == scene.georeference.crs
        np.testing.assert_array_equal(tile.valid, (array[:, y : y + 64, x : x + 64] != 0).any(axis=0))
        assert not tile.pixels[~tile.valid].any()
        covered[tile.plan.core.slices()] += 1
    assert (covered == 1).all()


def test_empty_tile_is_all_invalid(tmp_path: Path, write_tif: Write) -> None:
    path = write_tif(tmp_path / "a.tif", np.zeros((1, 30, 30), np.uint8), nodata=0)
    radiometry = fit_radiometry([path]).radiometry
    with radiometry.open(path) as raster:
        (plan,) = plan_tiles("a", 30, 30, 64, 0)
        tile = read_tile(raster, plan, radiometry)
    assert not tile.valid.any()
    assert not tile.pixels.any()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (100_000, 3), (64, 64), (65, 129)])
def test_estimate_counts_what_planning_gives(width: int, height: int) -> None:
    plans = plan_tiles("a", width, height, 64, 16)
    counted = estimate([(width, height)], tile_size=64, overlap=16)
    assert counted.tiles == len(plans)
    assert counted.read_pixels == sum(plan.window.area for plan in plans)
    assert counted.pixels == width * height == sum(plan.core.area for plan in plans)


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=4),
    tile_size=st.integers(24, 256),
    share=st.floats(0, 0.75),
)
def test_estimate_agrees_with_planning_everywhere(sizes: list[tuple[int, int]], tile_size: int, share: float) -> None:
    overlap = int(tile_size * share)
    plans = [plan for width, height in sizes for plan in plan_tiles("a", width, height, tile_size, overlap)]
    counted = estimate(sizes, tile_size=tile_size, overlap=overlap)
    assert (counted.scenes, counted.tiles) == (len(sizes), len(plans))
    assert counted.read_pixels == sum(plan.window.area for plan in plans)


def test_a_thousand_tiles_of_a_narrow_scene(tmp_path: Path, write_tif: Write) -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 3, 100_000)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", array, compress="deflate")
    radiometry = fit_radiometry([path]).radiometry
    rebuilt = np.zeros((3, 100_000, 3), np.uint8)
    with radiometry.open(path) as raster:
        for plan in plan_tiles("a", 100_000, 3, 256, 64):
            tile = read_tile(raster, plan, radiometry)
            rebuilt[plan.core.slices()] = tile.pixels[plan.core.relative_to(plan.window).slices()]
        whole, valid = raster.read(Window(0, 0, 100_000, 3))
    np.testing.assert_array_equal(rebuilt, radiometry.apply(whole, valid))
