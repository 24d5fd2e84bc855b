"""From scored nodes to masks: keep the peaks, drop near-duplicates, and write run lengths straight from those of the regions.

Nothing is counted per tile: a node stays or goes by its own score and by those of the nodes it overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from terralabel.core.masks import Masks
from terralabel.masks.hierarchies import TREES, Nodes, Tree
from terralabel.masks.regions import Regions

__all__ = ["Forest", "base_partition", "members", "peaks", "sets_to_masks", "suppress"]


@dataclass(frozen=True)
class Forest:
    """All that the `tree` backend knows of a tile: its regions, the trees over them, their nodes and the score of each, (m,) float32."""

    regions: Regions
    trees: list[Tree]
    nodes: Nodes
    score: np.ndarray


def peaks(forest: Forest, candidates: np.ndarray, ratio: float) -> np.ndarray:
    """Of the `candidates` (m,) bool those that no better one of their own tree resembles by an IoU of `ratio`, (m,) bool.

    In one tree two nodes overlap only if one holds the other, and then their IoU is the ratio of their areas.
    """
    keep = candidates.copy()
    start = 0
    for tree in forest.trees:
        stop = start + len(tree.parents)
        area = forest.nodes.area[start:stop]
        score = np.where(candidates[start:stop], forest.score[start:stop], -1.0)
        node = np.flatnonzero(candidates[start:stop])
        above = tree.parents[node]
        while len(node):
            near = (area[node] >= ratio * area[above]) & (above != node)
            node, above = node[near], above[near]
            above_wins = score[above] > score[node]
            keep[start + node[above_wins]] = False
            keep[start + above[~above_wins]] = False
            up = tree.parents[above]
            node, above = node[up != above], up[up != above]
        start = stop
    return keep


def members(forest: Forest, which: np.ndarray) -> sparse.csr_matrix:
    """(k, n) sparse matrix of ones: the regions of each node in `which` (indices into `Nodes`)."""
    start = np.concatenate([[0], np.cumsum([len(tree.parents) for tree in forest.trees])])
    tree, node = forest.nodes.tree[which], forest.nodes.node[which]
    first = np.concatenate([t.first for t in forest.trees])[start[tree] + node]
    count = np.concatenate([t.count for t in forest.trees])[start[tree] + node]
    order = np.concatenate([t.order for t in forest.trees])
    bounds = np.concatenate([[0], np.cumsum(count)])
    position = np.repeat(first + tree.astype(np.int64) * forest.regions.n - bounds[:-1], count) + np.arange(bounds[-1])
    ones = np.ones(bounds[-1], dtype=np.float64)
    return sparse.csr_matrix((ones, order[position], bounds), shape=(len(which), forest.regions.n))


def suppress(sets: sparse.csr_matrix, area: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy suppression of near-duplicates, (k,) bool: best first, each drops all others whose IoU with it is over `threshold`."""
    shared = (sets @ sparse.diags(area) @ sets.T).tocsr()
    size = np.asarray(sets @ area)
    row = np.repeat(np.arange(len(size)), np.diff(shared.indptr))
    overlap = shared.data / (size[row] + size[shared.indices] - shared.data)
    close = (overlap > threshold) & (row != shared.indices)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(row[close], minlength=len(size)))])
    rivals = shared.indices[close]
    alive = np.ones(len(size), dtype=bool)
    for i in np.argsort(-score, kind="stable"):
        if alive[i] and bounds[i] < bounds[i + 1]:
            alive[rivals[bounds[i] : bounds[i + 1]]] = False
    return alive


def base_partition(forest: Forest, size: float) -> np.ndarray:
    """Indices of nodes that share out all valid pixels: the regions left when all smaller than `size` pixels have been absorbed."""
    at = TREES.index("area")
    tree = forest.trees[at]
    start = sum(len(t.parents) for t in forest.trees[:at])
    fits = (tree.altitude <= size) & forest.nodes.valid[start : start + len(tree.parents)]
    fits[: len(tree.order)] = forest.regions.valid
    up = fits[tree.parents]
    up[-1] = False
    # A node may fit above one that does not only through invalid pixels, which `valid` already rules out.
    return start + np.flatnonzero(fits & ~up)


def sets_to_masks(
    regions: Regions, sets: sparse.csr_matrix, box: np.ndarray, predicted_iou: np.ndarray, stability: np.ndarray
) -> Masks:
    """Masks of sets of regions (k, n), with their boxes (first and last column and row) and scores.

    The label image is cut into vertical runs once; a mask is the ordered list of the runs of its regions, joined where they touch.
    """
    height, width = regions.labels.shape
    flat = np.ascontiguousarray(regions.labels.T).ravel()
    start = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    stop = np.append(start[1:], flat.size)
    by_mask = sets.T.tocsr()[flat[start]].tocsc()  # (runs, k): the runs of each mask, in order
    by_mask.sort_indices()
    owner = np.repeat(np.arange(sets.shape[0]), np.diff(by_mask.indptr))
    begin, end = start[by_mask.indices], stop[by_mask.indices]
    joined = (owner[1:] == owner[:-1]) & (begin[1:] == end[:-1])
    begin, owner = begin[np.append(True, ~joined)], owner[np.append(True, ~joined)]
    end = end[np.append(~joined, True)]
    codes, offsets = _codes(owner, begin, end, sets.shape[0], height * width)
    corners = box.astype(np.int32)
    bbox = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2] + 1], 1)
    area = np.bincount(owner, end - begin, sets.shape[0]).astype(np.int64)
    frame = np.tile(np.array([0, 0, width, height], dtype=np.int32), (len(area), 1))
    points = _middles(owner, begin, end, len(area), height)
    return Masks(
        (height, width),
        codes,
        offsets,
        bbox,
        area,
        predicted_iou.astype(np.float32),
        stability.astype(np.float32),
        points,
        frame,
    )


def _codes(owner: np.ndarray, begin: np.ndarray, end: np.ndarray, count: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths and offsets of masks given as sorted intervals of ones; each mask has at least one."""
    pairs = np.bincount(owner, minlength=count)
    last = np.cumsum(pairs) - 1
    tail = total - end[last]
    offsets = np.concatenate([[0], np.cumsum(2 * pairs + (tail > 0))])
    place = 2 * np.arange(len(owner)) + np.concatenate([[0], np.cumsum(tail > 0)[:-1]])[owner]
    before = np.concatenate([[0], end[:-1]])
    before[last[:-1] + 1] = 0
    codes = np.empty(offsets[-1], dtype=np.uint32)
    codes[place], codes[place + 1] = begin - before, end - begin
    codes[offsets[1:][tail > 0] - 1] = tail[tail > 0]
    return codes, offsets


def _middles(owner: np.ndarray, begin: np.ndarray, end: np.ndarray, count: int, height: int) -> np.ndarray:
    """The middle of the longest run of each mask, (k, 2) float32 xy."""
    length = end - begin
    head = np.searchsorted(owner, np.arange(count))
    longest = np.maximum.reduceat(length, head)
    which = np.flatnonzero(length == longest[owner])
    which = which[np.searchsorted(owner[which], np.arange(count))]
    middle = (begin[which] + end[which] - 1) // 2
    return np.stack([middle // height, middle % height], 1).astype(np.float32) + 0.5
