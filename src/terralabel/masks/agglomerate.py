"""Fast local agglomeration: neighbours that are each other's best (or nearly so) merge, everywhere at once.

A global queue merges the two most alike regions of the whole tile first; for the usual linkages that gives the same tree as
merging all pairs that are each other's nearest at the same time, which is local and fast in numpy. A large region with many
small neighbours would still take one of them per round, so the rule is relaxed a little more each round: a region may follow its
nearest neighbour if that neighbour's own nearest is not nearer by more than a factor.
"""

from __future__ import annotations

from collections.abc import Callable

import higra as hg
import numpy as np

__all__ = ["Linkage", "agglomerate", "follow", "merge_edges", "nearest", "renumber", "sum_groups"]

#: Dissimilarity of the pairs at the ends of edges: (stats at one end, stats at the other, edge stats) -> (e,) float64.
Linkage = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def agglomerate(
    source: np.ndarray,
    target: np.ndarray,
    stats: np.ndarray,
    edges: np.ndarray,
    linkage: Linkage,
    *,
    ease: float = 0.1,
    growth: float = 1.25,
) -> tuple[hg.Tree, np.ndarray]:
    """The tree over n >= 2 connected regions and the dissimilarity at which each node was made, (2n - 1,) float64.

    stats (n, k) and edges (e, j) are sums: those of a union are their sums. The factor of round r is 1 + ease * growth ** r.
    """
    n = len(stats)
    keeper = np.arange(n)  # one region that stands for each cluster
    merges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    source, target = source.copy(), target.copy()
    while len(source):
        weight = linkage(stats[source], stats[target], edges)
        best, choice = nearest(len(stats), source, target, weight)
        slack = 1.0 + min(ease * growth ** len(merges), 1e6)
        head, tail = source[choice], target[choice]
        follower = np.arange(len(stats))
        other = np.where(head == follower, tail, head)
        joins = best <= slack * best[other]
        mutual = choice[other] == choice
        joins &= ~(mutual & (follower > other))
        used = choice[joins]
        merges.append((keeper[head[joins]], keeper[tail[joins]], weight[used]))
        kept, name = renumber(follow(np.where(joins, other, follower)))
        stats = sum_groups(name, stats, len(kept))
        keeper = keeper[kept]
        source, target, edges = merge_edges(name[source], name[target], edges, len(kept))
    return _tree(n, merges)


def nearest(n: int, source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest weight at each cluster and the edge that has it; ties are broken by a scattered order, the same at both ends."""
    scatter = (np.arange(len(weight), dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(4294967291) / 4294967291.0
    order = np.argsort(-(weight * (1 + 1e-10 * scatter) + 1e-12 * scatter))
    choice = np.empty(n, dtype=np.int64)
    # The last write wins, so the smallest weight, written last, stays.
    choice[np.stack([source[order], target[order]], 1).ravel()] = np.repeat(order, 2)
    return weight[choice], choice


def follow(pointer: np.ndarray) -> np.ndarray:
    """The end of each chain of pointers (n,), which must have no loops."""
    while True:
        further = pointer[pointer]
        if np.array_equal(further, pointer):
            return pointer
        pointer = further


def renumber(root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pointers to roots (n,), the roots in order and for each element the place of its root among them."""
    is_root = root == np.arange(len(root))
    return np.flatnonzero(is_root), (np.cumsum(is_root) - 1)[root]


def sum_groups(name: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Sums of the rows of `values` (n, k) that have the same `name` (n,) in 0..groups - 1, (groups, k)."""
    order = np.argsort(name, kind="stable")
    start = np.searchsorted(name[order], np.arange(groups))
    return np.add.reduceat(values[order], start, axis=0)


def merge_edges(source: np.ndarray, target: np.ndarray, edges: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges between the new clusters: those that became one pair are summed, those inside a cluster vanish."""
    apart = source != target
    source, target, edges = source[apart], target[apart], edges[apart]
    if not len(source):
        return source, target, edges
    key = np.minimum(source, target) * n + np.maximum(source, target)
    order = np.argsort(key, kind="stable")
    key = key[order]
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    pair = key[start]
    return pair // n, pair % n, np.add.reduceat(edges[order], start, axis=0)


def _tree(n: int, merges: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[hg.Tree, np.ndarray]:
    """A binary tree from merges in order: round after round, inside a round the nearest first."""
    heads, tails, weights = (np.concatenate([merge[i] for merge in merges]) for i in range(3))
    turn = np.repeat(np.arange(len(merges)), [len(merge[0]) for merge in merges])
    order = np.lexsort((weights, turn))
    graph = hg.UndirectedGraph(n)
    graph.add_edges(heads[order], tails[order])
    tree, _ = hg.bpt_canonical(graph, np.arange(n - 1, dtype=np.float64))
    return tree, np.concatenate([np.zeros(n), weights[order]])
