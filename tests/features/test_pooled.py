"""Pooling against the definition: enlarge the map, then take the mean over the mask."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terralabel.contracts import Encoded, FeatureExtractor
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError
from terralabel.features.pooled import Pooled, _groups, footprints, pool
from terralabel.testing import FloodPromptable


def enlarged(feature_map: np.ndarray, covers: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Bilinear, align_corners=False, of the covered part of the map; one pixel at a time."""
    for axis in (0, 1):
        last, length = int(np.ceil(covers[axis])) - 1, size[axis]
        lines = []
        for i in range(length):
            source = max((i + 0.5) * covers[axis] / length - 0.5, 0)
            low = min(int(source), last)
            share = min(source - low, 1.0) if low < last else 0.0
            high = min(low + 1, last)
            lines.append((1 - share) * np.take(feature_map, low, axis) + share * np.take(feature_map, high, axis))
        feature_map = np.stack(lines, axis)
    return feature_map


def naive(masks: Masks, feature_map: np.ndarray, covers: tuple[float, float]) -> np.ndarray:
    large = enlarged(feature_map.astype(np.float64), covers, masks.size)
    return np.stack([large[mask].mean(axis=0) for mask in masks])


def speckled(size: tuple[int, int], n: int, seed: int) -> Masks:
    rng = np.random.default_rng(seed)
    arrays = []
    for _ in range(n):
        mask = np.zeros(size, dtype=bool)
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[y : y + rng.integers(1, size[0] + 1), x : x + rng.integers(1, size[1] + 1)] = True
        mask &= rng.random(size) < rng.choice([0.5, 0.9, 1.0])
        mask[y, x] = True
        arrays.append(mask)
    return Masks.from_arrays([*arrays, np.ones(size, dtype=bool)])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    part=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    seed=st.integers(0, 1000),
)
def test_equals_enlarging_first(size: tuple[int, int], shape: tuple[int, int], part: tuple[float, float], seed: int) -> None:
    feature_map = np.random.default_rng(seed).normal(size=(*shape, 5)).astype(np.float32)
    covers = (shape[0] * part[0], shape[1] * part[1])
    masks = speckled(size, 4, seed)
    np.testing.assert_allclose(pool(masks, feature_map, covers), naive(masks, feature_map, covers), atol=1e-5)


@pytest.mark.parametrize(("size", "shape"), [((64, 96), (4, 6)), ((50, 70), (7, 9)), ((5, 6), (16, 16))])
def test_equals_torch_interpolate(size: tuple[int, int], shape: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    feature_map = np.random.default_rng(0).normal(size=(*shape, 8)).astype(np.float32)
    tensor = torch.from_numpy(feature_map).permute(2, 0, 1)[None]
    large = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    masks = speckled(size, 6, 1)
    np.testing.assert_allclose(pool(masks, feature_map), np.stack([large[m].mean(axis=0) for m in masks]), atol=1e-5)


def test_footprints_add_up_to_areas() -> None:
    masks = Masks.from_arrays([*speckled((30, 41), 9, 2), np.zeros((30, 41), dtype=bool)])
    whole = footprints(masks, (8, 8), (6.4, 8.0)).toarray().reshape(11, 8, 8)
    np.testing.assert_allclose(whole.sum(axis=(1, 2)), masks.area, rtol=1e-12)
    assert (whole >= 0).all() and not whole[:, 7].any()  # the padded row never counts


def test_groups_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, feature_map = speckled((30, 41), 19, 2), np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    whole = pool(masks, feature_map)
    monkeypatch.setattr("terralabel.features.pooled._CELLS_AT_ONCE", 130)
    assert len(list(_groups(masks, (8, 8)))) > 3
    assert sorted(np.concatenate(list(_groups(masks, (8, 8)))).tolist()) == list(range(20))
    np.testing.assert_array_equal(pool(masks, feature_map), whole)


def test_one_pixel_is_enough() -> None:
    size, feature_map = (1024, 1024), np.full((64, 64, 3), 2.0, dtype=np.float32)
    arrays = [np.zeros(size, dtype=bool) for _ in range(3)]
    for array, at in zip(arrays, [(0, 0), (511, 700), (1023, 1023)], strict=True):
        array[at] = True
    np.testing.assert_allclose(pool(Masks.from_arrays(arrays), feature_map), 2.0, rtol=1e-6)


def test_a_row_does_not_depend_on_the_others() -> None:
    masks = speckled((60, 60), 20, 4)
    feature_map = np.random.default_rng(1).normal(size=(15, 15, 33)).astype(np.float32)
    together = pool(masks, feature_map)
    for i in (0, 7, 20):
        np.testing.assert_array_equal(pool(masks.select(np.array([i])), feature_map)[0], together[i])


def test_the_extractor_keeps_its_contract() -> None:
    flood = FloodPromptable()
    tile = Tile.from_array(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8))
    encoded, masks = flood.encode(tile), speckled((40, 56), 5, 0)
    extractor = Pooled(normalise="l2")
    assert isinstance(extractor, FeatureExtractor) and extractor.version != Pooled().version
    vectors = pickle.loads(pickle.dumps(extractor)).extract(tile, masks, encoded)
    assert vectors.shape == (6, 3) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        Pooled().extract(tile, masks, encoded), naive(masks, encoded.feature_map, encoded.covers), rtol=1e-5
    )
    empty = Pooled().extract(tile, Masks.from_arrays([np.zeros((40, 56), dtype=bool)]), encoded)
    np.testing.assert_array_equal(empty, np.zeros((1, 3)))
    with pytest.raises(ContractError, match="appearance"):
        Pooled().extract(tile, masks, Encoded(tile, None))
    with pytest.raises(SettingsError, match="normalise"):
        Pooled(normalise="l1")
    with pytest.raises(ContractError, match="covers"):
        pool(masks, encoded.feature_map, (99.0, 1.0))


def test_it_is_far_faster_than_enlarging() -> None:
    rng = np.random.default_rng(0)
    feature_map = rng.normal(size=(32, 32, 64)).astype(np.float32)
    arrays = []
    for _ in range(20):
        y, x = rng.integers(0, 400, 2)
        arrays.append(np.hypot(np.arange(512)[:, None] - y, np.arange(512) - x) < rng.integers(5, 60))
    masks = Masks.from_arrays(arrays)
    begin = time.perf_counter()
    ours = pool(masks, feature_map)
    middle = time.perf_counter()
    theirs = naive(masks, feature_map, (32.0, 32.0))
    end = time.perf_counter()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (middle - begin) * 3 < end - middle
