"""Appearance and a network's map side by side."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel import registry
from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.features.appearance import Appearance
from terralabel.features.fused import Fused


@pytest.fixture
def tile() -> Tile:
    return Tile.from_array(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))


@pytest.fixture
def masks() -> Masks:
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    return Masks.from_arrays([left, ~left])


def test_both_parts_stand_side_by_side(tile: Tile, masks: Masks) -> None:
    maps = np.zeros((8, 8, 2), np.float32)
    maps[:, :4, 0], maps[:, 4:, 1] = 5, 0.1  # the length at a cell says nothing
    fused = registry.create("features", "fused")
    found = fused.extract(tile, masks, Encoded(tile, None, maps, (8, 8)))
    plain = Appearance().extract(tile, masks)
    np.testing.assert_array_equal(found[:, : plain.shape[1]], plain)
    seen = found[:, plain.shape[1] :]
    assert seen.shape == (2, 2)
    np.testing.assert_allclose(seen.sum(1), np.sqrt(2), rtol=1e-6)
    assert seen[0, 0] > 0.95 * np.sqrt(2) and seen[1, 1] > 0.95 * np.sqrt(2)


def test_what_it_learns_is_what_appearance_learns(tile: Tile, masks: Masks) -> None:
    fitted = Fused().fit([tile])
    again = Fused.from_state(fitted.state())
    encoded = Encoded(tile, None, np.ones((8, 8, 3), np.float32), (8, 8))
    np.testing.assert_array_equal(fitted.extract(tile, masks, encoded), again.extract(tile, masks, encoded))
    expected = Appearance().fit([tile]).extract(tile, masks)
    np.testing.assert_array_equal(fitted.extract(tile, masks, encoded)[:, : expected.shape[1]], expected)
    assert (fitted.extract(tile, masks, encoded) != Fused().extract(tile, masks, encoded)).any()


def test_without_a_network_it_says_what_to_do(tile: Tile, masks: Masks) -> None:
    with pytest.raises(ContractError, match="use features 'appearance'"):
        Fused().extract(tile, masks, Encoded(tile, None))
    assert len(Fused().extract(tile, Masks.empty(tile.size), None)) == 0
