"""One object across tile seams.

    link      two neighbouring tiles    -> which of their masks are one object (they agree where both tiles look)
    resolve   all links of a scene      -> the object of every mask
    own       one tile                  -> the pieces it answers for: whole, clipped to its core, or dropped

All are pure functions on records: the first and the last run tile by tile, in any order and in parallel, with only their
parts kept between; `resolve` needs a few bytes for each mask of a scene. Figures and reasons: `docs/labels.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terralabel.core.grid import TilePlan, Window
from terralabel.core.masks import Masks
from terralabel.errors import ContractError
from terralabel.labels.spans import Spans, spans_of

__all__ = ["FEW", "Pieces", "alone", "link", "neighbours", "own", "piece_spans", "resolve"]

#: Fewer common pixels than this prove nothing, unless the two masks are equal there.
FEW = 4


def neighbours(plans: Sequence[TilePlan]) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of positions in `plans` (one scene, plan order) whose tiles share a side: those to link.

    Tiles that share only a corner need no link of their own: the two others that meet there see the same pixels. Links through a
    corner alone rest on few pixels and did more harm than good (`docs/labels.md`).
    """
    place = {(plan.row, plan.column): i for i, plan in enumerate(plans)}
    steps = ((0, 1), (1, 0))
    pairs = [(i, place.get((plan.row + down, plan.column + right))) for i, plan in enumerate(plans) for down, right in steps]
    return [(i, j) for i, j in pairs if j is not None]


# ---------------------------------------------------------------------------------------------------------------- link


@dataclass(frozen=True)
class _Clipped:
    """What is seen of a tile's masks in the part both tiles look at, in that part's frame.

    index (m,) positions among the tile's masks, smallest mask first; area (m,); key (m,) uint64 fingerprint;
    box (m, 4) x, y, right, bottom; start, stop: column-major intervals of mask k at offsets[k]:offsets[k + 1].
    """

    index: np.ndarray
    area: np.ndarray
    key: np.ndarray
    box: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    offsets: np.ndarray


def link(
    plan_a: TilePlan, masks_a: Masks, plan_b: TilePlan, masks_b: Masks, agree: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Which masks of two neighbouring tiles are one object: pairs (k, 2) int32 and their strength (k,) float32.

    Two masks are one object when, restricted to the pixels both tiles look at, they are equal, or their intersection over
    union is at least `agree` and neither has a better partner left (best pairs first; ties: the smaller mask). Nested masks
    that are equal there are paired by size, smallest with smallest. Windows that only touch (`plan_b` right of or below
    `plan_a`) are compared by the pixels on either side of the seam. Strength is the agreement, a little lower for few pixels; rows are sorted.
    """
    view_a, view_b = _common_views(plan_a.window, plan_b.window)
    if not view_a.area:
        return np.zeros((0, 2), dtype=np.int32), np.zeros(0, dtype=np.float32)
    a, b = _clipped(plan_a, masks_a, view_a), _clipped(plan_b, masks_b, view_b)
    same_a, same_b = _equal(a, b)
    rest_a = np.setdiff1d(np.arange(len(a.index)), same_a)
    rest_b = np.setdiff1d(np.arange(len(b.index)), same_b)
    near_a, near_b, near = _alike(a, rest_a, b, rest_b, agree)
    pairs = np.stack([a.index[np.concatenate([same_a, near_a])], b.index[np.concatenate([same_b, near_b])]], 1).astype(np.int32)
    area = a.area[same_a]
    strength = np.concatenate([area / (area + FEW), near]).astype(np.float32)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], strength[order]


def _common_views(a: Window, b: Window) -> tuple[Window, Window]:
    """What of `a` is compared with what of `b`: where they overlap; where they only touch, the lines on either side."""
    shared = a.intersect(b)
    if shared.area:
        return shared, shared
    if shared.height and b.x == a.right:
        return Window(b.x - 1, shared.y, 1, shared.height), Window(b.x, shared.y, 1, shared.height)
    if shared.width and b.y == a.bottom:
        return Window(shared.x, b.y - 1, shared.width, 1), Window(shared.x, b.y, shared.width, 1)
    return shared, shared


def _clipped(plan: TilePlan, masks: Masks, shared: Window) -> _Clipped:
    view = shared.relative_to(plan.window)
    box = masks.bbox
    inside = (
        (box[:, 0] < view.right)
        & (box[:, 0] + box[:, 2] > view.x)
        & (box[:, 1] < view.bottom)
        & (box[:, 1] + box[:, 3] > view.y)
    )
    which = np.flatnonzero(inside & (masks.area > 0))
    which = which[np.lexsort((which, masks.area[which]))]
    spans = spans_of(masks, which, view).moved(-view.x, -view.y)
    seen, owner = np.unique(spans.owner, return_inverse=True)
    offsets = np.searchsorted(owner, np.arange(len(seen) + 1))
    start, stop = spans.column * shared.height + spans.first, spans.column * shared.height + spans.stop
    head = offsets[:-1]
    if not len(seen):
        return _Clipped(which[:0], head, head.astype(np.uint64), np.zeros((0, 4), dtype=np.int64), start, stop, offsets)
    tail = offsets[1:] - 1
    edges = (
        spans.column[head],
        np.minimum.reduceat(spans.first, head),
        spans.column[tail] + 1,
        np.maximum.reduceat(spans.stop, head),
    )
    area = np.add.reduceat(stop - start, head)
    return _Clipped(which[seen], area, np.add.reduceat(_mix(start, stop), head), np.stack(edges, 1), start, stop, offsets)


def _mix(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """A 64-bit fingerprint of each interval (splitmix64); a mask's is the sum of its intervals'."""
    with np.errstate(over="ignore"):
        x = (start.astype(np.uint64) << np.uint64(32)) | stop.astype(np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _equal(a: _Clipped, b: _Clipped) -> tuple[np.ndarray, np.ndarray]:
    """Positions (in a, in b) of masks equal in the shared part; within a group of equals the k-th with the k-th."""
    keys, group = np.unique(np.concatenate([a.key, b.key]), return_inverse=True)
    code = [_nth(side) * np.int64(len(keys)) + side for side in (group[: len(a.key)], group[len(a.key) :])]
    _, in_a, in_b = np.intersect1d(code[0], code[1], assume_unique=True, return_indices=True)
    return in_a, in_b


def _nth(group: np.ndarray) -> np.ndarray:
    """How many equal values stand before each value."""
    order = np.argsort(group, kind="stable")
    ranked = group[order]
    head = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(group) else order
    out = np.empty(len(group), dtype=np.int64)
    out[order] = np.arange(len(group)) - np.repeat(head, np.diff(np.concatenate([head, [len(group)]])))
    return out


def _alike(
    a: _Clipped, rest_a: np.ndarray, b: _Clipped, rest_b: np.ndarray, agree: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(in a, in b, strength) of the pairs among `rest_a` x `rest_b` that overlap by `agree`, best first and one to one."""
    i, j = _candidates(a, rest_a, b, rest_b, agree)
    common = _intersections(a, i, b, j)
    union = a.area[i] + b.area[j] - common
    keep = (common >= FEW) & (common >= agree * union)
    i, j, common, union = i[keep], j[keep], common[keep], union[keep]
    order = np.lexsort((j, i, -common, -common / union))
    best = order[_one_to_one(i[order], j[order])]
    return i[best], j[best], common[best] / (union[best] + FEW)


def _one_to_one(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which pairs (i, j), best first, remain when each takes its two ends out of the running; positions, in rounds.

    In a round every pair that is the first for both its ends is taken: rounds of all at once, and the same as one by one.
    """
    chosen, left = [np.zeros(0, dtype=np.int64)], np.arange(len(i))
    while len(left):
        first_i, first_j = (np.unique(side[left], return_index=True)[1] for side in (i, j))
        taken = left[np.intersect1d(first_i, first_j)]
        chosen.append(taken)
        left = left[~(np.isin(i[left], i[taken]) | np.isin(j[left], j[taken]))]
    return np.concatenate(chosen)


def _candidates(
    a: _Clipped, rest_a: np.ndarray, b: _Clipped, rest_b: np.ndarray, agree: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose areas and boxes do not already rule out an overlap of `agree`."""
    if not len(rest_a) or not len(rest_b):
        return rest_a[:0], rest_b[:0]
    area_a, area_b = a.area[rest_a, None], b.area[None, rest_b]
    box_a, box_b = a.box[rest_a].astype(np.int32), b.box[rest_b].astype(np.int32)
    wide = np.minimum(box_a[:, None, 2], box_b[:, 2]) - np.maximum(box_a[:, None, 0], box_b[:, 0])
    high = np.minimum(box_a[:, None, 3], box_b[:, 3]) - np.maximum(box_a[:, None, 1], box_b[:, 1])
    most = np.minimum(np.minimum(area_a, area_b), np.maximum(wide, 0) * np.maximum(high, 0))
    i, j = np.nonzero((most >= FEW) & (most * (1 + agree) >= agree * (area_a + area_b)))
    return rest_a[i], rest_b[j]


def _intersections(a: _Clipped, i: np.ndarray, b: _Clipped, j: np.ndarray) -> np.ndarray:
    """Common pixels of the pairs (i, j): for each interval of b, how much of a lies before its stop less before its start."""
    count = b.offsets[j + 1] - b.offsets[j]
    pair = np.repeat(np.arange(len(j)), count)
    source = np.arange(len(pair)) + np.repeat(b.offsets[j] - np.cumsum(count) + count, count)
    size = int(max(a.stop.max(initial=0), b.stop.max(initial=0))) + 1
    shelf = np.repeat(np.arange(len(a.index)), np.diff(a.offsets)) * size + a.start  # ascending over all masks of a
    before = np.cumsum(a.stop - a.start) - (a.stop - a.start)
    low, high = a.offsets[i[pair]], i[pair] * size
    inside = _before(a, shelf, before, low, high, b.stop[source]) - _before(a, shelf, before, low, high, b.start[source])
    return np.bincount(pair, inside, len(j)).astype(np.int64)


def _before(
    a: _Clipped, shelf: np.ndarray, before: np.ndarray, low: np.ndarray, base: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """Pixels of all masks up to the one at `low` that lie before `place` in it (differences of it are what is wanted)."""
    at = np.maximum(np.searchsorted(shelf, base + place, side="left") - 1, low)
    return before[at] + np.clip(place, a.start[at], a.stop[at]) - a.start[at]


# ------------------------------------------------------------------------------------------------------------- resolve


def resolve(counts: np.ndarray, pairs: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The object of every mask of a scene, (sum(counts),) int32, numbered from 0 in the order of their first masks.

    counts (t,) masks per tile in plan order; a mask's global index is its tile's offset plus its place in the tile.
    pairs (k, 2) global indices, strength (k,) float32, in any order. Masks that are linked, however indirectly, are one object,
    except that no object has two masks of one tile: there the stronger links win. Peak: about 12 bytes a mask and 40 a link.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    if total > np.iinfo(np.int32).max:
        raise ContractError(
            f"A scene of {total} masks: at most {np.iinfo(np.int32).max} can be stitched; raise the minimum mask size."
        )
    pairs = np.asarray(pairs, dtype=np.int32).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= total):
        raise ContractError(
            f"Links name mask {int(pairs.max())}, but the scene has {total}: parts of different runs were mixed."
        )
    root = _components(total, pairs)
    crowded = _crowded(root, offsets)
    if len(crowded):
        _separate(root, crowded, offsets, pairs, strength)
    number = np.cumsum(root == np.arange(total, dtype=np.int32), dtype=np.int32)  # a root is the first mask of its object
    return number[root] - 1


def _components(total: int, pairs: np.ndarray) -> np.ndarray:
    """The smallest mask that each mask is linked to, (total,) int32: roots hook onto smaller roots, then all paths are cut."""
    root = np.arange(total, dtype=np.int32)
    u, v = pairs[:, 0], pairs[:, 1]
    while len(u):
        np.minimum.at(root, np.maximum(u, v), np.minimum(u, v))
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root = shorter
        u, v = root[u], root[v]
        apart = u != v
        u, v = u[apart], v[apart]
    return root


def _crowded(root: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The roots of components that hold two masks of one tile, sorted."""
    linked = root != np.arange(len(root), dtype=np.int32)
    linked[root[linked]] = True
    members = np.flatnonzero(linked)
    code = np.searchsorted(offsets, members, side="right") - 1
    code += root[members].astype(np.int64) * len(offsets)
    code.sort()
    return np.unique(code[1:][code[1:] == code[:-1]] // len(offsets))


def _separate(root: np.ndarray, crowded: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, strength: np.ndarray) -> None:
    """Join the crowded components anew, strongest link first, never two masks of one tile; `root` is changed in place."""
    doubtful = np.flatnonzero(np.isin(root[pairs[:, 0]], crowded))
    pairs = pairs[doubtful[np.lexsort((pairs[doubtful, 1], pairs[doubtful, 0], -strength[doubtful]))]]
    masks = np.unique(pairs)
    tile = (np.searchsorted(offsets, masks, side="right") - 1).astype(np.int32)
    head = np.arange(len(masks), dtype=np.int32)
    _join_strongest(head, tile, np.searchsorted(masks, pairs).astype(np.int32))
    smallest = np.arange(len(masks))
    np.minimum.at(smallest, head, np.arange(len(masks)))
    root[masks] = masks[smallest[head]]


def _join_strongest(head: np.ndarray, tile: np.ndarray, pairs: np.ndarray) -> None:
    """Give the masks of a group one `head`, pair by pair in order, passing over a pair whose groups share a tile.

    Groups are rings through `after`: 16 bytes a mask, where Python's sets would take hundreds. Only a long ring keeps the set
    of its tiles, as the bits of one integer.
    """
    after, size = np.arange(len(head), dtype=np.int32), np.ones(len(head), dtype=np.int32)
    of, next_of, count, place = head.data, after.data, size.data, tile.data
    tiles_of: dict[int, int] = {}
    long = max(16, int(tile.max(initial=0)) // 64)

    def ring(start: int) -> list[int]:
        out, mask = [start], next_of[start]
        while mask != start:
            out.append(mask)
            mask = next_of[mask]
        return out

    def tiles(group: int) -> int:
        bits = tiles_of.get(group, 0)
        if not bits:
            for mask in ring(group):
                bits |= 1 << place[mask]
        return bits

    for begin in range(0, len(pairs), 1 << 16):  # a Python list of all pairs would be large
        for u, v in pairs[begin : begin + (1 << 16)].tolist():
            p, q = of[u], of[v]
            if p == q:
                continue
            mine, theirs = tiles(p), tiles(q)
            if mine & theirs:
                continue
            if count[p] < count[q]:
                p, q = q, p
            for mask in ring(q):
                of[mask] = p
            next_of[p], next_of[q] = next_of[q], next_of[p]
            count[p] += count[q]
            tiles_of.pop(q, None)
            if count[p] >= long:
                tiles_of[p] = mine | theirs


def alone(objects: np.ndarray) -> np.ndarray:
    """(n,) bool from `resolve`'s result: True for a mask that is its object's only one."""
    return (np.bincount(objects) == 1)[objects] if len(objects) else np.zeros(0, dtype=bool)


# ----------------------------------------------------------------------------------------------------------------- own


@dataclass(frozen=True)
class Pieces:
    """What one tile contributes to its scene's objects.

    mask (k,) int32 position among the tile's masks, ascending; object (k,) int32 number from `resolve`;
    whole (k,) bool: the piece keeps what it has outside the tile's core (a guest there), otherwise it is clipped to the core;
    area (k,) int64 pixels after that.
    """

    mask: np.ndarray
    object: np.ndarray
    whole: np.ndarray
    area: np.ndarray

    def __len__(self) -> int:
        return len(self.mask)

    def take(self, which: np.ndarray) -> Pieces:
        """The pieces at `which` (indices or bool), in that order."""
        return Pieces(self.mask[which], self.object[which], self.whole[which], self.area[which])


def own(plan: TilePlan, masks: Masks, objects: np.ndarray, single: np.ndarray) -> Pieces:
    """The pieces of one tile: objects (n,) int32 and single (n,) bool are this tile's share of `resolve` and `alone`.

    A mask with partners in other tiles is clipped to the core: each tile answers for its core, so the pieces of an object
    fit together without overlap. A mask without partner stays where no other core holds more of it; elsewhere it is dropped,
    for the tile there has looked too and said something else. One that stays is clipped where the window's inner borders cut
    it, and dropped if others cover most of what is left: half an object that no neighbour confirms is a guess, worth having
    only where it is the only one. Otherwise it is complete and keeps its whole extent. What has no pixel left is dropped.
    """
    share = _shares(plan, masks)
    within, seen = share[:, 4], share.sum(1)
    keep = (within > 0) & (~single | (within == share.max(1)))
    guess = keep & single & _cut(plan, masks)
    whole = keep & single & (within < seen) & ~guess
    if guess.any():
        keep[guess] = 2 * _covered(plan, masks, np.flatnonzero(guess), np.flatnonzero(keep & ~guess)) < within[guess]
    which = np.flatnonzero(keep)
    area = np.where(whole, seen, within)[which]
    return Pieces(which.astype(np.int32), objects[which].astype(np.int32), whole[which], area)


def _covered(plan: TilePlan, masks: Masks, which: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many pixels that each mask of `which` has in the tile's core lie under at least one of `others`, (k,) int64."""
    core = plan.core.relative_to(plan.window)
    height, width = masks.size
    covering = spans_of(masks, others, core)
    edges = np.zeros(height * width + 1, dtype=np.int32)
    np.add.at(edges, covering.column * height + covering.first, 1)
    np.add.at(edges, covering.column * height + covering.stop, -1)
    under = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])  # covered pixels before each place
    asked = spans_of(masks, which, core)
    count = under[asked.column * height + asked.stop] - under[asked.column * height + asked.first]
    return np.bincount(asked.owner, count, len(which)).astype(np.int64)


def _cut(plan: TilePlan, masks: Masks) -> np.ndarray:
    """True for masks that touch a window border behind which the scene goes on, (n,) bool."""
    window, core = plan.window, plan.core
    box = masks.bbox
    cut = np.zeros(len(masks), dtype=bool)
    for inner, touches in (
        (core.x > window.x, box[:, 0] <= 0),
        (core.y > window.y, box[:, 1] <= 0),
        (core.right < window.right, box[:, 0] + box[:, 2] >= window.width),
        (core.bottom < window.bottom, box[:, 1] + box[:, 3] >= window.height),
    ):
        if inner:
            cut |= touches
    return cut


def _shares(plan: TilePlan, masks: Masks) -> np.ndarray:
    """Pixels of each mask in the tile's core and in the eight parts around it, (n, 9) int64, row-major; the core is 4."""
    core = plan.core.relative_to(plan.window)
    share = np.zeros((len(masks), 9), dtype=np.int64)
    box = masks.bbox
    inside = (box[:, 0] >= core.x) & (box[:, 1] >= core.y)
    inside &= (box[:, 0] + box[:, 2] <= core.right) & (box[:, 1] + box[:, 3] <= core.bottom)
    share[inside, 4] = masks.area[inside]
    which = np.flatnonzero(~inside)
    spans = spans_of(masks, which)
    across = np.searchsorted([core.x, core.right], spans.column, side="right")
    edges = np.array([0, core.y, core.bottom, plan.window.height])
    for down in range(3):
        length = np.minimum(spans.stop, edges[down + 1]) - np.maximum(spans.first, edges[down])
        code = spans.owner * 3 + across
        share[which, 3 * down : 3 * down + 3] = np.bincount(code, np.maximum(length, 0), 3 * len(which)).reshape(-1, 3)
    return share


def piece_spans(plan: TilePlan, masks: Masks, pieces: Pieces) -> Spans:
    """The geometry of a tile's pieces in scene pixels, owner = position among the pieces."""
    spans = spans_of(masks, pieces.mask)
    core = plan.core.relative_to(plan.window)
    clipped = spans.clip(core)
    if pieces.whole.any():
        clipped = Spans.join([clipped.take(~pieces.whole[clipped.owner]), spans.take(pieces.whole[spans.owner])])
    return clipped.moved(plan.window.x, plan.window.y)
