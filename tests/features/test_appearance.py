"""Appearance features: right values, right shapes, no surprises on odd input."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.contracts import FeatureExtractor
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.features.appearance import Appearance, measure
from terralabel.features.maps import pixel_maps
from terralabel.features.regions import Regions
from terralabel.testing import check_feature_extractor


def disc(size: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def box(size: tuple[int, int], x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def blobs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    blobs = [disc((61, 83), 30, 20, 9), box((61, 83), 0, 0, 83, 61), box((61, 83), 40, 10, 30, 4)]
    return [*blobs, rng.random((61, 83)) < 0.3, box((61, 83), 80, 0, 3, 61)]


def test_is_a_feature_extractor():
    assert isinstance(Appearance(), FeatureExtractor)
    check_feature_extractor(Appearance())


def test_means_and_deviations_are_those_of_the_pixels(blobs):
    values = np.random.default_rng(1).random((61, 83)).astype(np.float32) * 100
    regions = Regions(Masks.from_arrays(blobs))
    transposed = [np.ascontiguousarray(values.T)]
    means = regions.means(transposed)
    np.testing.assert_allclose(means[:, 0], [values[b].mean() for b in blobs], rtol=1e-6)
    np.testing.assert_allclose(regions.deviations(transposed, means)[:, 0], [values[b].std() for b in blobs], rtol=1e-4)


def test_perimeter_counts_pixel_edges(blobs):
    def edges(mask: np.ndarray) -> int:
        padded = np.pad(mask, 1).astype(int)
        return int(np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum())

    regions = Regions(Masks.from_arrays(blobs))
    np.testing.assert_allclose(regions.perimeter() * 4 / np.pi, [edges(b) for b in blobs])


def test_shape_of_a_disc_and_of_a_bar():
    size = (200, 200)
    masks = Masks.from_arrays([disc(size, 100, 100, 40), box(size, 20, 50, 120, 10), box(size, 50, 20, 10, 120)])
    (area, width, elongation, compactness, filling), along, across = Regions(masks).shape()
    assert area == pytest.approx(np.log2(np.pi * 40**2), abs=0.01)
    assert width == pytest.approx(np.log2(40), abs=0.1)  # 2 area / perimeter of a disc is its radius
    assert elongation == pytest.approx(0, abs=0.01)
    assert compactness == pytest.approx(1, abs=0.05)
    assert filling == pytest.approx(np.pi / 3, abs=0.01)
    np.testing.assert_allclose(along, across)
    assert along[2] == pytest.approx(np.log(12), abs=0.02)
    assert along[4] == pytest.approx(1, abs=0.01)


def test_texture_tells_fine_from_coarse_and_flat():
    rows, columns = np.mgrid[:128, :192]
    fine, coarse = np.sin(columns * 2.0) * 60 + 128, np.sin(rows * 0.25) * 60 + 128
    image = np.where(columns < 64, fine, np.where(columns < 128, coarse, 128)).astype(np.uint8)
    masks = Masks.from_arrays([box((128, 192), x + 12, 12, 40, 100) for x in (0, 64, 128)])
    texture = measure(Tile.from_array(np.dstack([image] * 3)), masks)["texture"]
    assert texture[0].argmax() == 0
    assert texture[1].argmax() > 1
    assert np.all(texture[2] < texture[:2].max(axis=1).min() - 1)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("sensor", ["optical", "sar"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (70, 50)])
def test_width_depends_on_the_bands_only_and_nothing_is_lost(bands, sensor, size):
    rng = np.random.default_rng(3)
    width = Appearance().extract(Tile.from_array(np.zeros((8, 8, bands), np.uint8), sensor=sensor), Masks.empty((8, 8))).shape
    tile = Tile.from_array(rng.integers(0, 256, (*size, bands), dtype=np.uint8), sensor=sensor)
    masks = Masks.from_arrays([np.ones(size, bool), rng.random(size) < 0.5, np.zeros(size, bool)])
    features = Appearance().extract(tile, masks)
    assert width == (0, features.shape[1])
    assert features.shape[0] == 3
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_same_bytes_for_the_same_tile(blobs):
    tile = Tile.from_array(np.random.default_rng(4).integers(0, 256, (61, 83, 3), dtype=np.uint8))
    masks = Masks.from_arrays(blobs)
    features = Appearance().extract(tile, masks)
    assert features.tobytes() == Appearance().extract(tile, masks).tobytes()


def test_overlapping_masks_share_their_values(blobs):
    values = np.arange(len(blobs) * 2, dtype=float).reshape(-1, 2) ** 2
    count = np.maximum(np.sum(blobs, axis=0), 1)
    shared = [np.tensordot(np.array(blobs, float), v, (0, 0)) / count for v in values.T]
    expected = [[image[blob].mean() for image in shared] for blob in blobs]
    np.testing.assert_allclose(Regions(Masks.from_arrays(blobs)).shared(values), expected)


def test_masks_that_are_too_large_are_not_heard():
    large, small, inside = box((20, 30), 0, 0, 30, 20), box((20, 30), 2, 2, 8, 8), box((20, 30), 4, 4, 2, 2)
    values = np.array([[100.0], [2.0], [6.0]])
    shared = Regions(Masks.from_arrays([large, small, inside])).shared(values, 64)[:, 0]
    heard_by_small = (60 * 2 + 4 * 4) / 64
    np.testing.assert_allclose(shared, [(536 * 100 + 64 * heard_by_small) / 600, heard_by_small, 4])


def test_masks_side_by_side_share_nothing():
    masks = Masks.from_arrays([box((20, 30), 0, 0, 10, 20), box((20, 30), 10, 5, 7, 7)])
    values = np.array([[1.0, -3.0], [2.0, 5.0]])
    np.testing.assert_allclose(Regions(masks).shared(values), values)


def dim(seed: int, shape: tuple[int, ...] = (96, 96, 3)) -> Tile:
    return Tile.from_array(np.random.default_rng(seed).integers(100, 110, shape, dtype=np.uint8))


def test_fit_brings_a_dim_data_set_to_the_spread_of_others(blobs):
    tile = Tile.from_array(np.random.default_rng(6).integers(100, 110, (61, 83, 3), dtype=np.uint8))
    masks = Masks.from_arrays(blobs)
    fitted = Appearance().fit([dim(0), dim(1)])
    assert Appearance().scales is None
    ratio = np.ptp(fitted.extract(tile, masks), axis=0) / np.ptp(Appearance().extract(tile, masks), axis=0)
    assert ratio[0] == pytest.approx(4, rel=1e-3)  # lightness: as far as a spread may leave the typical one


def test_fitted_state_comes_back(blobs):
    tile = dim(2, (61, 83, 3))
    fitted = Appearance().fit([dim(0)])
    again = Appearance.from_state(fitted.state())
    masks = Masks.from_arrays(blobs)
    assert fitted.extract(tile, masks).tobytes() == again.extract(tile, masks).tobytes()
    assert Appearance.from_state(Appearance().state()).scales is None


def test_nothing_is_learned_from_tiles_without_data():
    blind = Tile.from_array(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool))
    assert Appearance().fit([blind]).scales is None


def test_fitted_on_other_bands_says_so():
    with pytest.raises(ContractError, match="as many bands"):
        Appearance().fit([dim(0)]).extract(dim(0, (9, 9, 4)), Masks.empty((9, 9)))


def test_transposed_tile_has_the_same_features():
    image = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = disc((48, 64), 30, 20, 11)
    upright = Appearance().extract(Tile.from_array(image), Masks.from_arrays([mask]))
    turned = Appearance().extract(Tile.from_array(image.transpose(1, 0, 2).copy()), Masks.from_arrays([mask.T.copy()]))
    np.testing.assert_allclose(upright, turned, atol=2e-4)


def test_pixels_outside_the_valid_area_do_not_make_edges():
    image = np.full((40, 40, 3), 180, dtype=np.uint8)
    valid = np.ones((40, 40), dtype=bool)
    valid[:, 30:] = False
    image[~valid] = 0
    with_cliff = pixel_maps(image, np.ones_like(valid), "optical").texture[0]
    without = pixel_maps(image, valid, "optical").texture[0]
    assert with_cliff.max() > 1
    assert without.max() < 0
