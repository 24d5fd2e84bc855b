"""One object across seams: links, numbers, pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terralabel.core.grid import TilePlan, Window, plan_tiles
from terralabel.core.masks import Masks
from terralabel.errors import ContractError
from terralabel.labels.stitch import FEW, alone, link, neighbours, own, piece_spans, resolve

LEFT = TilePlan("s:0:0", "s", 0, 0, Window(0, 0, 10, 8), Window(0, 0, 8, 8))
RIGHT = TilePlan("s:0:1", "s", 0, 1, Window(6, 0, 10, 8), Window(8, 0, 8, 8))


def box(x, y, w, h, size=(8, 10)):
    out = np.zeros(size, dtype=bool)
    out[y : y + h, x : x + w] = True
    return out


def by_hand(a, b, agree):
    """`link` on arrays of the shared part, pair by pair."""
    order_a = sorted((i for i in range(len(a)) if a[i][:, 6:].any()), key=lambda i: (a[i].sum(), i))
    order_b = sorted((j for j in range(len(b)) if b[j][:, :4].any()), key=lambda j: (b[j].sum(), j))
    pairs = []
    for i in order_a:
        twin = next((j for j in order_b if np.array_equal(a[i][:, 6:], b[j][:, :4])), None)
        if twin is not None:
            pairs.append((i, twin))
            order_b.remove(twin)
    order_a = [i for i in order_a if i not in [p[0] for p in pairs]]
    score = {}
    for r, i in enumerate(order_a):
        for s, j in enumerate(order_b):
            common, union = (a[i][:, 6:] & b[j][:, :4]).sum(), (a[i][:, 6:] | b[j][:, :4]).sum()
            if common >= FEW and common >= agree * union:
                score[i, j] = (-common / union, -common, r, s)
    for i, j in sorted(score, key=score.get):
        if i not in [p for p, _ in pairs] and j not in [q for _, q in pairs]:
            pairs.append((i, j))
    return sorted(pairs)


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.int8, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 9)),
    arrays(np.int8, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 9)),
    st.sampled_from([0.3, 0.5, 0.8]),
)
def test_link_equals_comparing_every_pair_of_arrays(a, b, agree):
    a, b = ([box(x, min(y, 7), w + 1, h + 1) for x, y, w, h in side.tolist()] for side in (a, b))
    pairs, strength = link(LEFT, Masks.from_arrays(a, (8, 10)), RIGHT, Masks.from_arrays(b, (8, 10)), agree)
    assert pairs.dtype == np.int32 and strength.dtype == np.float32 and len(pairs) == len(strength)
    assert sorted(map(tuple, pairs.tolist())) == by_hand(a, b, agree)
    assert ((strength > 0) & (strength < 1)).all()


def test_nested_masks_that_look_equal_in_the_overlap_pair_by_size():
    small, middle, large = box(5, 2, 5, 3), box(3, 2, 7, 3), box(0, 2, 10, 3)
    other_small, other_large = box(0, 2, 5, 3), box(0, 2, 9, 3)
    a, b = Masks.from_arrays([large, small, middle]), Masks.from_arrays([other_large, other_small])
    assert link(LEFT, a, RIGHT, b)[0].tolist() == [[1, 1], [2, 0]]


def test_tiles_apart_or_empty_have_no_links():
    far = TilePlan("s:0:2", "s", 0, 2, Window(30, 0, 10, 8), Window(30, 0, 10, 8))
    masks = Masks.from_arrays([box(0, 0, 10, 8)])
    assert link(LEFT, masks, far, masks)[0].shape == (0, 2)
    assert link(LEFT, masks, RIGHT, Masks.empty((8, 10)))[0].shape == (0, 2)
    assert link(LEFT, Masks.from_arrays([np.zeros((8, 10), bool)]), RIGHT, masks)[0].shape == (0, 2)


def test_without_overlap_the_two_sides_of_the_seam_are_compared():
    beside = TilePlan("s:0:1", "s", 0, 1, Window(10, 0, 10, 8), Window(10, 0, 10, 8))
    below = TilePlan("s:1:0", "s", 1, 0, Window(0, 8, 10, 8), Window(0, 8, 10, 8))
    corner = TilePlan("s:1:1", "s", 1, 1, Window(10, 8, 10, 8), Window(10, 8, 10, 8))
    whole = TilePlan("s:0:0", "s", 0, 0, Window(0, 0, 10, 8), Window(0, 0, 10, 8))
    masks = Masks.from_arrays([box(7, 1, 3, 4), box(7, 6, 3, 2)])
    assert link(whole, masks, beside, Masks.from_arrays([box(0, 0, 9, 1), box(0, 1, 5, 5), box(0, 6, 1, 2)]))[0].tolist() == [
        [0, 1],
        [1, 2],
    ]
    assert link(whole, masks, below, Masks.from_arrays([box(0, 0, 3, 3), box(7, 0, 3, 9)]))[0].tolist() == [[1, 1]]
    assert len(link(whole, masks, corner, masks)[0]) == 0


def test_neighbours_share_a_side():
    plans = plan_tiles("s", 100, 70, 40, 10)
    expected = {
        (i, j)
        for i, a in enumerate(plans)
        for j, b in enumerate(plans)
        if i < j and abs(a.row - b.row) + abs(a.column - b.column) == 1
    }
    assert set(neighbours(plans)) == expected and len(neighbours(plans)) == len(expected)


def groups(counts, pairs, strength):
    """`resolve` by the book: one sorted pass; only valid where no order of joining is in doubt, or for crowded scenes."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    tile = np.searchsorted(offsets, np.arange(offsets[-1]), side="right") - 1
    group = {i: {i} for i in range(offsets[-1])}
    for k in sorted(range(len(pairs)), key=lambda k: (-strength[k], *pairs[k])):
        p, q = group[pairs[k][0]], group[pairs[k][1]]
        if p is not q and not {tile[i] for i in p} & {tile[i] for i in q}:
            p |= q
            group.update(dict.fromkeys(q, p))
    numbers = {}
    return [numbers.setdefault(id(group[i]), len(numbers)) for i in range(offsets[-1])]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_resolve_equals_joining_strongest_first(counts, data):
    total = sum(counts)
    tile = np.repeat(np.arange(len(counts)), counts)
    possible = [(i, j) for i in range(total) for j in range(i + 1, total) if tile[i] != tile[j]]
    pairs = data.draw(st.lists(st.sampled_from(possible), max_size=12, unique=True)) if possible else []
    strength = np.array([data.draw(st.sampled_from([0.5, 0.6, 0.9, 1.0])) for _ in pairs], dtype=np.float32)
    got = resolve(np.array(counts), np.array(pairs, dtype=np.int64).reshape(-1, 2), strength)
    assert got.dtype == np.int32
    assert got.tolist() == groups(counts, pairs, strength)
    shuffled = data.draw(st.permutations(range(len(pairs))))
    assert np.array_equal(got, resolve(np.array(counts), np.array(pairs).reshape(-1, 2)[shuffled], strength[shuffled]))
    assert alone(got).tolist() == [got.tolist().count(k) == 1 for k in got.tolist()]


def test_long_chains_are_one_object():
    n = 3000
    pairs = np.stack([np.arange(n - 1), np.arange(1, n)], 1)[np.random.default_rng(1).permutation(n - 1)]
    assert resolve(np.ones(n, int), pairs, np.ones(n - 1, np.float32)).max() == 0


def test_entangled_long_objects_are_joined_strongest_first():
    rng = np.random.default_rng(3)
    counts, tiles = np.full(60, 3), np.repeat(np.arange(60), 3)
    pairs = np.stack([np.arange(177), np.arange(177) + 3], 1)  # three objects through all tiles...
    stray = rng.integers(0, 180, (120, 2))  # ... and links that mix them up
    pairs = np.concatenate([pairs, stray[tiles[stray[:, 0]] != tiles[stray[:, 1]]]])
    strength = rng.random(len(pairs)).astype(np.float32)
    got = resolve(counts, pairs, strength)
    assert got.tolist() == groups(counts, pairs.tolist(), strength)
    assert np.bincount(got).max() > 20


def test_links_of_another_run_are_refused():
    with pytest.raises(ContractError, match="Links name mask 9, but the scene has 3"):
        resolve(np.array([1, 2]), np.array([[0, 9]]), np.ones(1, np.float32))


@pytest.mark.parametrize(
    ("mask", "single", "kept", "whole", "area"),
    [
        (box(1, 1, 3, 3), True, True, False, 9),  # inside the core
        (box(4, 1, 5, 3), True, True, True, 15),  # complete, mostly in the core: a guest next door
        (box(4, 1, 5, 3), False, True, False, 12),  # its partner has the rest
        (box(7, 1, 2, 3), True, True, True, 6),  # half and half: stays
        (box(8, 1, 1, 3), True, False, False, 0),  # wholly next door
        (box(4, 1, 6, 3), True, True, False, 12),  # cut by the window
        (box(7, 1, 3, 3), True, False, False, 0),  # cut, the larger part next door: nobody there agreed
        (box(7, 1, 3, 3), False, True, False, 3),  # cut, and its partner has the rest
        (box(8, 1, 2, 3), False, False, False, 0),
        (np.zeros((8, 10), bool), True, False, False, 0),
    ],
)
def test_who_owns_what(mask, single, kept, whole, area):
    masks = Masks.from_arrays([mask])
    pieces = own(LEFT, masks, np.array([5], np.int32), np.array([single]))
    assert len(pieces) == int(kept)
    if kept:
        assert pieces.object.tolist() == [5] and pieces.whole.tolist() == [whole] and pieces.area.tolist() == [area]
        assert piece_spans(LEFT, masks, pieces).areas(1).tolist() == [area]


def test_a_lonely_mask_stays_where_most_of_it_is_and_scene_borders_do_not_cut():
    right = Masks.from_arrays([box(0, 0, 4, 3), box(0, 0, 3, 3), box(1, 1, 2, 2), box(0, 5, 3, 2)])
    pieces = own(RIGHT, right, np.arange(4, dtype=np.int32), np.ones(4, bool))
    assert pieces.mask.tolist() == [0, 2] and pieces.whole.tolist() == [False, True]
    left = Masks.from_arrays([box(0, 0, 9, 8), box(7, 5, 2, 1), box(6, 0, 3, 8)])
    assert own(LEFT, left, np.arange(3, dtype=np.int32), np.ones(3, bool)).whole.tolist() == [True, True, True]
    wide = TilePlan("s:0:1", "s", 0, 1, Window(4, 0, 12, 8), Window(8, 0, 8, 8))
    minority = Masks.from_arrays([box(1, 1, 4, 2, (8, 12)), box(2, 3, 5, 2, (8, 12))])
    assert own(wide, minority, np.arange(2, dtype=np.int32), np.ones(2, bool)).mask.tolist() == [1]


def test_half_an_object_stays_only_where_others_do_not_cover_it():
    half, under, beside = box(3, 1, 7, 3), box(1, 0, 6, 5), box(3, 5, 3, 2)
    objects, single = np.arange(2, dtype=np.int32), np.ones(2, bool)
    assert own(LEFT, Masks.from_arrays([half, under]), objects, single).mask.tolist() == [1]
    assert own(LEFT, Masks.from_arrays([half, beside]), objects, single).mask.tolist() == [0, 1]
