"""Coarse labels: what each kind does to known shapes, seeds, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.testing.coarse import KINDS, coarse


def scene() -> np.ndarray:
    """(160, 160) uint8: a hundred blocks of class 1, a disc of class 2, a strip without label."""
    label = np.zeros((160, 160), np.uint8)
    for y in range(2, 120, 12):
        for x in range(2, 120, 12):
            label[y : y + 7, x : x + 8] = 1
    y, x = np.mgrid[:160, :160]
    label[(y - 140) ** 2 + (x - 60) ** 2 < 15**2] = 2
    label[:, 150:] = 255
    return label


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_and_no_label_stays(kind: str) -> None:
    label = scene()
    before = label.copy()
    one, two = coarse(label, kind, seed=3), coarse(label, kind, seed=3)
    assert one.dtype == np.uint8 and (one == two).all() and (label == before).all()
    assert (one[:, 150:] == 255).all() and (one[:, :150] != 255).all()
    assert set(np.unique(one)) <= {0, 1, 2, 255} and (one != label).any()


@pytest.mark.parametrize("kind", ["shifted", "polygons", "missing", "extra"])
def test_another_seed_gives_another(kind: str) -> None:
    assert (coarse(scene(), kind, seed=1) != coarse(scene(), kind, seed=2)).any()


def test_what_each_kind_does() -> None:
    label = np.zeros((64, 64), np.uint8)
    label[20:40, 10:50] = 1
    found = {kind: coarse(label, kind) == 1 for kind in KINDS}
    assert found["dilated"][18, 30] and found["dilated"].sum() > 1000 and (found["dilated"] | (label == 0)).all()
    assert found["eroded"].sum() == 12 * 32 and found["eroded"][24:36, 14:46].all()
    moved = np.argwhere(found["shifted"]).min(axis=0) - np.array([20, 10])
    assert found["shifted"].sum() == 800 and 3.5 <= np.hypot(*moved) <= 8.5
    assert (found["boxes"] == (label == 1)).all(), "a box round a box"
    y, x = np.mgrid[:64, :64]
    disc = ((y - 30) ** 2 + (x - 30) ** 2 < 400).astype(np.uint8)
    assert (coarse(disc, "boxes") == 1).sum() == 39 * 39
    polygon = coarse(disc, "polygons") == 1
    assert 0.5 < (polygon & (disc > 0)).sum() / (polygon | (disc > 0)).sum() < 0.95


def test_one_in_five_is_missing_or_false() -> None:
    label = scene()
    blocks = 100
    gone = [1 - (coarse(label, "missing", seed=s) == 1).sum() / (56 * blocks) for s in range(8)]
    assert min(gone) > 0.1 and max(gone) < 0.3 and abs(np.mean(gone) - 0.2) < 0.05
    more = [((coarse(label, "extra", seed=s) == 1) & (label == 0)).sum() / (56 * blocks) for s in range(8)]
    assert min(more) > 0.02 and max(more) < 0.25, "some lie on real ones"
    assert all((coarse(label, "extra", seed=s)[label == 1] != 0).all() for s in range(8)), "nothing real is lost"


def test_thin_things_survive_erosion_and_networks_are_taken_in_pieces() -> None:
    roads = np.zeros((256, 256), np.uint8)
    roads[30:36], roads[200:214], roads[:, 120:126] = 1, 1, 1
    assert 0.1 < (coarse(roads, "eroded") == 1).sum() / roads.sum() < 0.8
    assert (coarse(roads, "boxes") == 1).mean() < 0.5, "not one box round the whole network"
    lost = 1 - (coarse(roads, "missing", seed=1) == 1).sum() / roads.sum()
    assert 0.02 < lost < 0.6


def test_an_empty_label_and_an_unknown_kind() -> None:
    empty = np.zeros((20, 20), np.uint8)
    assert all((coarse(empty, kind) == empty).all() for kind in KINDS)
    other = np.full((20, 20), 3, np.uint8)
    assert (coarse(other, "dilated", background=3) == 3).all()
    with pytest.raises(ValueError, match="'wobbly' is no kind of coarse label; known: dilated, eroded"):
        coarse(empty, "wobbly")
