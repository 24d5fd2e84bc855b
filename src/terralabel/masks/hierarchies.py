"""Trees of regions, and what is known of every node: its own look, its surroundings and how it stands out from them.

A node is a set of neighbouring regions. Several trees are built over the same regions because they err differently
(a border-driven tree leaks through one weak gap, a colour-driven one splits a gabled roof at its ridge).
"""

from __future__ import annotations

from dataclasses import dataclass

import higra as hg
import numpy as np

from terralabel.masks.agglomerate import agglomerate
from terralabel.masks.regions import Regions

__all__ = ["FEATURES", "TREES", "Nodes", "Tree", "build_trees", "describe"]

#: The trees, in the order of their numbers in `Nodes.tree`.
TREES = ("border", "surface", "mixed", "area")
#: Edge weight and area of what is invalid: it joins last.
NEVER = 1e9
#: A parent larger by more than this (natural logarithm) says nothing about a node: it reaches too far away.
FAR_PARENT = 3.0
#: Nor does a node of another tree that is larger than five times.
LEAST_AGREEMENT = 0.2

FEATURES = (
    "log_area", "compactness", "box_fill", "rectangle_fill", "log_elongation", "log_regions",
    "spread_light", "spread_chroma", "texture", "inner_gradient",
    "ring_light", "ring_chroma", "ring_signed_light", "ring_texture", "ring_spread", "ring_contrast",
    "edge_fine", "edge_coarse", "edge_variation", "weak_share", "edge_over_inner", "edge_over_seams",
    "log_altitude", "log_rise", "log_parent_area", "parent_colour", "log_largest_child", "child_colour", "sibling_colour",
    "agreement_1", "agreement_2", "agreement_3", "on_border", "is_border", "is_surface", "is_mixed", "is_area",
)  # fmt: skip
_ON_BORDER = FEATURES.index("on_border")


@dataclass(frozen=True)
class Tree:
    """One tree over `n` regions; its m nodes are numbered leaves first, children before parents, the root last.

    higra     the same tree for higra's sums; None if there is but one region
    parents   (m,) int64, the root's is itself
    altitude  (m,) float64, 0 at the leaves
    first     (m,) int64: a node's regions are `order[first : first + count]`
    count     (m,) int64
    order     (n,) int64
    """

    higra: hg.Tree
    parents: np.ndarray
    altitude: np.ndarray
    first: np.ndarray
    count: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class Nodes:
    """All nodes of all trees, tree after tree.

    tree      (m,) int8 index into `TREES`
    node      (m,) int64 index inside the tree
    area      (m,) float64 pixels
    box       (m, 4) float64 first column, first row, last column, last row
    valid     (m,) bool: no invalid pixel inside
    features  (m, len(FEATURES)) float32
    """

    tree: np.ndarray
    node: np.ndarray
    area: np.ndarray
    box: np.ndarray
    valid: np.ndarray
    features: np.ndarray


def build_trees(regions: Regions) -> list[Tree]:
    """One tree per name in `TREES`."""
    if regions.n == 1:
        single = Tree(
            None, np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros(1, np.int64)
        )
        return [single for _ in TREES]
    foreign = ~(regions.valid[regions.source] & regions.valid[regions.target])
    crest = np.where(foreign, NEVER, regions.strength.sum(1))
    edges = np.stack([regions.length, crest * regions.length], 1)
    looks = np.concatenate([regions.area[:, None], regions.colour * regions.area[:, None]], 1)
    area = np.where(regions.valid, regions.area, NEVER)
    return [
        _finish(*agglomerate(regions.source, regions.target, looks, edges, _border)),
        _finish(*agglomerate(regions.source, regions.target, looks, edges, _surface)),
        _finish(*agglomerate(regions.source, regions.target, looks, edges, _mixed)),
        _finish(*hg.watershed_hierarchy_by_area(regions.graph(), crest, area)),
    ]


def _border(one: np.ndarray, other: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean gradient along the shared border."""
    return edges[:, 1] / edges[:, 0]


def _surface(one: np.ndarray, other: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Loss of a piecewise constant picture (Ward) per pixel side of border saved (Mumford and Shah)."""
    gap = one[:, 1:] / one[:, :1] - other[:, 1:] / other[:, :1]
    return np.square(gap).sum(1) * one[:, 0] * other[:, 0] / (one[:, 0] + other[:, 0]) / edges[:, 0]


def _mixed(one: np.ndarray, other: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Colour difference and border gradient together; small and thin regions, of which there is little to see, go first."""
    gap = np.sqrt(np.square(one[:, 1:] / one[:, :1] - other[:, 1:] / other[:, :1]).sum(1))
    return (gap + edges[:, 1] / edges[:, 0]) * np.sqrt(np.minimum(one[:, 0], other[:, 0]) / edges[:, 0])


def _finish(tree: hg.Tree, altitude: np.ndarray) -> Tree:
    """Number the regions depth first, so that those of any node lie side by side."""
    leaves = tree.num_leaves()
    parents = tree.parents().astype(np.int64)
    count = hg.accumulate_sequential(tree, np.ones(leaves), hg.Accumulators.sum).astype(np.int64)
    children, start = _children(parents, leaves)
    before = np.cumsum(count[children]) - count[children]
    offset = np.zeros(len(parents))
    offset[children] = before - np.repeat(before[start], np.diff(np.append(start, len(children))))
    first = hg.propagate_sequential_and_accumulate(tree, offset, hg.Accumulators.sum).astype(np.int64)
    order = np.empty(leaves, dtype=np.int64)
    order[first[:leaves]] = np.arange(leaves)
    return Tree(tree, parents, np.asarray(altitude, dtype=np.float64), first, count, order)


def _children(parents: np.ndarray, leaves: int) -> tuple[np.ndarray, np.ndarray]:
    """All nodes but the root grouped by parent, and where the group of each inner node starts."""
    children = np.argsort(parents[:-1], kind="stable")
    return children, np.searchsorted(parents[children], np.arange(leaves, len(parents)))


def describe(regions: Regions, trees: list[Tree]) -> Nodes:
    """Measure every node of every tree."""
    leaf, edge = _leaf_table(regions), _edge_table(regions)
    sizes = [len(tree.parents) for tree in trees]
    start = np.concatenate([[0], np.cumsum(sizes)])
    table = np.zeros((start[-1], len(FEATURES)), np.float32, order="F")  # written column by column
    parts = []
    for i, tree in enumerate(trees):
        columns, *part = _features(regions, tree, leaf, edge)
        parts.append(part)
        mine = table[start[i] : start[i + 1]]
        for k, column in enumerate(columns[:-1]):
            mine[:, k] = column
        mine[:, _ON_BORDER] = columns[-1]
        mine[:, _ON_BORDER + 1 + i] = 1
    areas = [part[0] for part in parts]
    for i, tree in enumerate(trees):
        others = [_agreement(tree, areas[i], trees[j], areas[j]) for j in range(len(trees)) if j != i]
        for k, column in enumerate(_falling(*others)):
            table[start[i] : start[i + 1], _ON_BORDER - 3 + k] = column
    return Nodes(
        np.repeat(np.arange(len(trees), dtype=np.int8), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        np.concatenate(areas),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        table,
    )


def _falling(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest, the middle and the smallest of three."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    return np.maximum(high, c), np.maximum(low, np.minimum(high, c)), np.minimum(low, c)


def _leaf_table(regions: Regions) -> np.ndarray:
    """(n, 1 + k) float64: area and the sums of `Regions.sums`, zero where invalid."""
    return np.concatenate([regions.area[:, None], regions.sums], 1) * regions.valid[:, None]


def _edge_table(regions: Regions) -> np.ndarray:
    """(e, 5) float64 additive measures of each edge: length, fine, coarse and squared fine strength, weakness."""
    fine, coarse = regions.strength[:, 0], regions.strength[:, 1]
    return np.stack([np.ones_like(fine), fine, coarse, fine * fine, regions.weak], 1) * regions.length[:, None]


def _sum_up(tree: Tree, leaf: np.ndarray, inner: np.ndarray | None = None) -> np.ndarray:
    """Sums over the subtree of every node of values at the leaves and, if given, at all nodes."""
    if tree.higra is None:
        return leaf.copy()
    if inner is None:
        return hg.accumulate_sequential(tree.higra, leaf, hg.Accumulators.sum)
    return hg.accumulate_and_add_sequential(tree.higra, inner, leaf, hg.Accumulators.sum)


def _ring(regions: Regions, tree: Tree, edge: np.ndarray, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the contour of every node (edge measures, then the look of the far side), and over the seams inside it.

    An edge lies on the contour of the nodes between one of its ends and the node that joins both: count it at both ends
    and take it away where they meet.
    """
    n, m, channels = regions.n, len(tree.parents), regions.channels
    look = np.concatenate([leaf[:, 1 : 2 + channels], leaf[:, 1 + 2 * channels : 2 + 2 * channels]], 1) / regions.area[:, None]
    look[:, channels] = np.square(look[:, 0])
    width = edge.shape[1] + look.shape[1]
    if not len(edge):
        return np.zeros((m, width)), np.zeros((m, edge.shape[1]))
    s, t, length = regions.source, regions.target, regions.length[:, None]
    at_source, at_target = np.concatenate([edge, look[t] * length], 1), np.concatenate([edge, look[s] * length], 1)
    meet = tree.higra.lowest_common_ancestor(s, t)
    ends, joins = np.zeros((n, width)), np.zeros((m, width))
    for column in range(width):
        ends[:, column] = np.bincount(s, at_source[:, column], n) + np.bincount(t, at_target[:, column], n)
        joins[:, column] = np.bincount(meet, at_source[:, column] + at_target[:, column], m)
    seams = _sum_up(tree, np.zeros((n, edge.shape[1])), np.ascontiguousarray(joins[:, : edge.shape[1]] / 2))
    return np.maximum(_sum_up(tree, ends, -joins), 0), seams


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, 1e-3))


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(vectors).sum(1))


def _features(
    regions: Regions, tree: Tree, leaf: np.ndarray, edge: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """The columns of `FEATURES` that need one tree only, and area, box and validity of its nodes."""
    c = regions.channels
    total = _sum_up(tree, leaf)
    ring, seams = _ring(regions, tree, edge, leaf)
    valid = _sum_up(tree, (~regions.valid).astype(np.float64)) == 0
    area = np.maximum(total[:, 0], 1.0)
    box = _box_up(tree, regions.box)
    mean = total[:, 1 : 1 + c] / area[:, None]
    spread = np.sqrt(np.maximum(total[:, 1 + c : 1 + 2 * c] / area[:, None] - mean * mean, 0))
    texture, inner = total[:, 1 + 2 * c] / area, total[:, 2 + 2 * c] / area
    length = np.maximum(ring[:, 0], 1.0)
    border = ring[:, :5] / length[:, None]
    far = ring[:, 5:] / length[:, None]
    outside, outside_square, outside_texture = far[:, :c], far[:, c], far[:, c + 1]
    gap = mean - outside
    ring_spread = np.sqrt(np.maximum(outside_square - outside[:, 0] ** 2, 0))
    contrast = np.sqrt((gap * gap).sum(1)) / (np.sqrt((spread * spread).sum(1)) + 3)
    sides = ring[:, 0] + total[:, -1]
    seam = seams[:, 1] / np.maximum(seams[:, 0], 1)
    columns = [
        *_shape(area, box, total[:, 3 + 2 * c : 8 + 2 * c], sides),
        np.log(tree.count),
        spread[:, 0], np.sqrt((spread[:, 1:] ** 2).sum(1)), texture, inner,
        np.abs(gap[:, 0]), np.sqrt((gap[:, 1:] ** 2).sum(1)), gap[:, 0], outside_texture - texture, ring_spread, contrast,
        border[:, 1], border[:, 2], np.sqrt(np.maximum(border[:, 3] - border[:, 1] ** 2, 0)), border[:, 4],
        _log(border[:, 1] + 0.1) - _log(inner + 0.1), _log(border[:, 1] + 0.1) - _log(seam + 0.1),
        *_family(tree, regions.n, area, mean),
        total[:, -1] / np.maximum(sides, 1),
    ]  # fmt: skip
    return columns, total[:, 0], box, valid


def _shape(area: np.ndarray, box: np.ndarray, moments: np.ndarray, sides: np.ndarray) -> list[np.ndarray]:
    """Log area, compactness, share of the box, likeness to a rectangle of any direction (1 for one), log elongation."""
    x, y, xx, yy, xy = (moments / area[:, None]).T
    var_x, var_y, cov = xx - x * x + 1 / 12, yy - y * y + 1 / 12, xy - x * y
    determinant = np.maximum(var_x * var_y - cov * cov, 1e-3)
    half, rest = (var_x + var_y) / 2, np.sqrt(np.square((var_x - var_y) / 2) + cov * cov)
    fill = area / ((box[:, 2] - box[:, 0] + 1) * (box[:, 3] - box[:, 1] + 1))
    elongation = 0.5 * _log((half + rest) / np.maximum(half - rest, 1 / 12))
    return [np.log(area), 16 * area / np.maximum(sides, 4) ** 2, fill, area / (12 * np.sqrt(determinant)), elongation]


def _family(tree: Tree, n: int, area: np.ndarray, mean: np.ndarray) -> list[np.ndarray]:
    """How a node relates to its parent, its sibling and its children in the tree."""
    m = len(tree.parents)
    up = tree.parents
    largest, split = np.zeros(m), np.zeros(m)
    rest = np.maximum(area[up] - area, 1)[:, None]
    sibling = np.minimum(_length(mean - (mean[up] * area[up, None] - mean * area[:, None]) / rest), 200)
    if m > 1:
        children, start = _children(up, n)
        largest[n:] = _log(np.maximum.reduceat(area[children], start) / area[n:])
        split[n:] = np.maximum.reduceat(sibling[children], start)
        sibling[-1] = 0
    away = np.minimum(_length(mean - mean[up]), 200)
    altitude = np.clip(tree.altitude, 0, 1e7)
    rise = _log(altitude[up] + 1) - _log(altitude + 1)
    growth = _log(area[up] / area)
    far = growth > FAR_PARENT
    away, sibling = np.where(far, 0, away), np.where(far, 0, sibling)
    return [_log(altitude + 1), rise, np.minimum(growth, FAR_PARENT), away, largest, split, sibling]


def _box_up(tree: Tree, box: np.ndarray) -> np.ndarray:
    """Boxes of all nodes from those of the regions."""
    if tree.higra is None:
        return box.copy()
    low = hg.accumulate_sequential(tree.higra, np.ascontiguousarray(box[:, :2]), hg.Accumulators.min)
    high = hg.accumulate_sequential(tree.higra, np.ascontiguousarray(box[:, 2:]), hg.Accumulators.max)
    return np.concatenate([low, high], 1)


def _agreement(tree: Tree, area: np.ndarray, other: Tree, other_area: np.ndarray) -> np.ndarray:
    """For every node, its IoU with the smallest node of another tree that holds all of it: 1 if the same set is there too."""
    if tree.higra is None:
        return np.ones(len(area))
    n = len(tree.order)
    place = other.first[:n].astype(np.float64)
    low = hg.accumulate_sequential(tree.higra, place, hg.Accumulators.min).astype(np.int64)
    high = hg.accumulate_sequential(tree.higra, place, hg.Accumulators.max).astype(np.int64)
    holder = other.higra.lowest_common_ancestor(other.order[low], other.order[high])
    return np.maximum(area / np.maximum(other_area[holder], 1.0), LEAST_AGREEMENT)
