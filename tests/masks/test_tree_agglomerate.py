"""Agglomeration and regions, on graphs small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.tile import Tile
from terralabel.masks.agglomerate import agglomerate, follow, merge_edges, nearest
from terralabel.masks.regions import channels, find_regions


def difference(one: np.ndarray, other: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Distance of the means of the only channel."""
    return np.abs(one[:, 1] / one[:, 0] - other[:, 1] / other[:, 0])


def line(values: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A chain of regions of one pixel each."""
    n = len(values)
    stats = np.stack([np.ones(n), np.array(values)], 1)
    return np.arange(n - 1), np.arange(1, n), stats, np.ones((n - 1, 1))


def test_the_most_alike_neighbours_join_first() -> None:
    tree, altitude = agglomerate(*line([0.0, 1.0, 10.0, 12.0, 40.0]), difference, ease=0.0)
    parents = tree.parents()
    assert parents[0] == parents[1]
    assert parents[2] == parents[3]
    assert parents[parents[0]] == parents[parents[2]]
    assert parents[4] == tree.root()
    assert altitude[parents[0]] == pytest.approx(1)
    assert altitude[parents[2]] == pytest.approx(2)
    assert altitude[parents[parents[0]]] == pytest.approx(10.5)
    assert altitude[tree.root()] == pytest.approx(40 - 23 / 4)


@pytest.mark.parametrize("values", [[5.0] * 40, list(range(40)), [0.0, 9.0] * 20])
def test_ties_and_chains_end_in_one_tree(values: list[float]) -> None:
    tree, altitude = agglomerate(*line(values), difference)
    assert tree.num_vertices() == 2 * len(values) - 1
    assert len(altitude) == tree.num_vertices()
    assert (tree.num_children()[len(values) :] == 2).all()


def test_nearest_picks_the_smallest_edge_at_each_end() -> None:
    best, choice = nearest(4, np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([3.0, 1.0, 2.0]))
    assert best.tolist() == [3, 1, 1, 2]
    assert choice.tolist() == [0, 1, 1, 2]


def test_pointers_and_edges() -> None:
    assert follow(np.array([0, 0, 1, 2, 4])).tolist() == [0, 0, 0, 0, 4]
    source, target, sums = merge_edges(np.array([0, 1, 2, 1]), np.array([1, 0, 0, 1]), np.array([[1.0], [2], [4], [8]]), 3)
    assert list(zip(source.tolist(), target.tolist(), sums[:, 0].tolist(), strict=True)) == [(0, 1, 3.0), (0, 2, 4.0)]


def test_regions_part_the_tile_and_measure_themselves() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    regions = find_regions(Tile.from_array(pixels))
    values = channels(Tile.from_array(pixels))
    counts = np.bincount(regions.labels.ravel(), minlength=regions.n)
    np.testing.assert_array_equal(regions.area, counts)
    assert regions.valid.all()
    assert (
        regions.length.sum()
        == (regions.labels[1:] != regions.labels[:-1]).sum() + (regions.labels[:, 1:] != regions.labels[:, :-1]).sum()
    )
    for region in (0, regions.n // 2, regions.n - 1):
        rows, columns = np.nonzero(regions.labels == region)
        assert regions.box[region].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        np.testing.assert_allclose(regions.colour[region], values[rows, columns].mean(0), rtol=1e-4)


def test_regions_never_mix_valid_and_invalid_pixels() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 40, 1), dtype=np.uint8)
    valid = np.random.default_rng(2).random((40, 40)) > 0.3
    regions = find_regions(Tile.from_array(np.where(valid[..., None], pixels, 0), valid))
    np.testing.assert_array_equal(regions.valid[regions.labels], valid)
