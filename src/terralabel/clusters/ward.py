"""Fine clusters merged to few: k-means with more centres than asked for, then what many of Ward's hierarchies of them agree on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from terralabel.clusters.kmeans import MANY, Checkpoint, OnlineKMeans, Report
from terralabel.clusters.lloyd import ROWS
from terralabel.contracts import Batches

__all__ = ["MergedKMeans", "agreed", "ward"]

#: Clusters are merged from twice as many cells, and from no fewer than this.
CELLS = 64
#: Hierarchies that are asked.
TREES = 100


def ward(centres: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` clusters each of (m, e) centres with (m,) weights goes to, (m,) int64; numbered by first centre.

    Ward (1963): the two clusters whose merger adds least to the inertia, weights w1 w2 / (w1 + w2) times the squared
    distance of their means, become one, until `count` are left. Of equal pairs the first goes first. Cost: m^2 memory.
    """
    means, mass = centres.astype(np.float64), np.asarray(weights, np.float64).copy()
    group = np.arange(len(means))
    alive = np.ones(len(means), dtype=bool)
    cost = np.full((len(means), len(means)), np.inf)
    for row in range(1, len(means)):
        cost[row, :row] = cost[:row, row] = _cost(means[:row], mass[:row], means[row], mass[row])
    for _ in range(len(means) - max(count, 1)):
        kept, gone = sorted(divmod(int(cost.argmin()), len(means)))
        total = mass[kept] + mass[gone]
        means[kept] = (mass[kept] * means[kept] + mass[gone] * means[gone]) / total
        mass[kept] = total
        group[group == gone] = kept
        cost[gone] = cost[:, gone] = np.inf
        alive[gone] = False
        cost[kept] = cost[:, kept] = np.where(alive, _cost(means, mass, means[kept], total), np.inf)
        cost[kept, kept] = np.inf
    return np.unique(group, return_inverse=True)[1]


def agreed(centres: np.ndarray, weights: np.ndarray, count: int, seed: int = 0, trees: int = TREES) -> np.ndarray:
    """Like `ward`, but by the vote of many hierarchies, so that no cluster hangs on how a few vectors lie.

    Each of `trees` hierarchies sees the weights times draws of an exponential distribution (Bayesian bootstrap, Rubin
    1981) and cuts the centres into `count`. The share of cuts that put two centres together is their likeness (evidence
    accumulation, Fred and Jain 2005); the two groups most alike on average become one, until `count` are left.
    """
    size, rng = len(centres), np.random.default_rng([seed, 4])
    if size <= count:
        return np.arange(size)
    mass = np.asarray(weights, np.float64)
    votes = np.zeros((size, size), np.int64)
    for _ in range(trees):
        drawn = np.maximum(mass * rng.standard_exponential(size), 1e-6 * mass.max())
        group = ward(centres, drawn, count)
        votes += group[:, None] == group
    return _most_alike(votes / trees, mass, count)


def _most_alike(likeness: np.ndarray, mass: np.ndarray, count: int) -> np.ndarray:
    """Average linkage of (m, m) likenesses of things that weigh (m,) mass, down to `count` groups: (m,) int64."""
    likeness, mass, group = likeness.copy(), mass.copy(), np.arange(len(mass))
    np.fill_diagonal(likeness, -np.inf)
    for _ in range(len(mass) - max(count, 1)):
        kept, gone = sorted(divmod(int(likeness.argmax()), len(mass)))
        joined = (mass[kept] * likeness[kept] + mass[gone] * likeness[gone]) / (mass[kept] + mass[gone])
        joined[kept] = -np.inf
        likeness[kept] = likeness[:, kept] = joined
        likeness[gone] = likeness[:, gone] = -np.inf
        mass[kept] += mass[gone]
        group[group == gone] = kept
    return np.unique(group, return_inverse=True)[1]


def _cost(means: np.ndarray, mass: np.ndarray, mean: np.ndarray, own: float) -> np.ndarray:
    return ((means - mean) ** 2).sum(axis=1) * mass * own / (mass + own)


class MergedKMeans:
    """`clusters` clusters of streamed vectors, each a union of cells of a finer k-means; a `Clusterer` (`--clusters N`).

    `OnlineKMeans` with more centres than asked for (twice their number, 64 at least), which `agreed` merges: few centres
    fitted at once end in one of many local optima. More than `MANY` clusters are fitted as they are.
    Batches, weights, bad vectors, order of clusters, bytes and resuming: as `OnlineKMeans`. Certainty is `1 - d1 / d2`, d1
    and d2 the distances to the nearest centre and to the nearest one of another cluster.
    """

    name = "kmeans"
    version = "3"

    def __init__(self, clusters: int = 16, seed: int = 0, scale: str = "standard", pca: int | None = None) -> None:
        cells = OnlineKMeans(clusters, seed, scale=scale, pca=pca)  # checks the settings
        self.clusters, self.seed, self.scale = cells.clusters, cells.seed, scale
        fine = max(CELLS, 2 * clusters) if clusters <= MANY else clusters
        self._cells = OnlineKMeans(fine, seed, scale=scale, pca=pca)
        self._group: np.ndarray = np.empty(0, np.int64)
        self.centres: np.ndarray = np.empty((0, 0), np.float32)
        self.weights: np.ndarray = np.empty(0)

    def fit(
        self,
        batches: Batches,
        *,
        progress: Report | None = None,
        checkpoint: Checkpoint | None = None,
        resume: Mapping[str, np.ndarray] | None = None,
    ) -> MergedKMeans:
        """Fit on several passes over `batches`; arguments as for `OnlineKMeans.fit`."""
        self._cells.fit(batches, progress=progress, checkpoint=checkpoint, resume=resume)
        return self._merged(agreed(self._cells.centres, self._cells.weights, self.clusters, self.seed))

    def _merged(self, group: np.ndarray) -> MergedKMeans:
        """Means and weights of the clusters, the heaviest first (then by coordinates, so that ties have an order)."""
        cells, mass = self._cells.centres, self._cells.weights
        weights = np.bincount(group, mass)
        means = np.zeros((len(weights), cells.shape[1]))
        np.add.at(means, group, cells * mass[:, None])
        means /= weights[:, None]
        order = np.lexsort([*means.T[::-1], -weights])
        self._group = np.argsort(order)[group]
        self.centres, self.weights = means[order].astype(np.float32), weights[order]
        return self

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int32, -1 for vectors that are not finite; certainty (n,) float32 in [0, 1]."""
        ids, sure = self._cells.predict(features)
        if len(self._group) > len(self.centres):
            known = np.flatnonzero(ids >= 0)
            for start in range(0, len(known), ROWS):
                rows = known[start : start + ROWS]
                ids[rows], sure[rows] = self._nearest_two(self._cells.transform(features[rows]))
        return ids, sure

    def _nearest_two(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cluster and certainty; distances are taken by differences, so that no vector depends on those beside it."""
        squared = np.empty((len(vectors), len(self._group)), np.float32)
        for cell, centre in enumerate(self._cells.centres):
            away = vectors - centre
            np.einsum("ij,ij->i", away, away, out=squared[:, cell])
        ids = self._group[squared.argmin(axis=1)].astype(np.int32)
        if len(self.centres) == 1:
            return ids, np.ones(len(ids), np.float32)
        near = squared.min(axis=1)
        far = np.where(self._group == ids[:, None], np.inf, squared).min(axis=1)
        return ids, np.where(far > 0, 1 - np.sqrt(near / np.where(far > 0, far, 1)), 0).astype(np.float32)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, e) float32: scaled and reduced, the space `centres` live in."""
        return self._cells.transform(features)

    def state(self) -> dict[str, np.ndarray]:
        """`centres` (k, e) float32 and `weights` (k,) of the clusters; those of the `cells` (m, e), and their `group` (m,)."""
        cells = self._cells.state()
        return {
            **cells,
            "centres": self.centres,
            "weights": self.weights,
            "cells": cells["centres"],
            "cell_weights": cells["weights"],
            "group": self._group,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> MergedKMeans:
        """A clusterer that predicts like the one `state` was taken of."""
        made = cls(clusters=max(1, len(state["centres"])))
        made._cells = OnlineKMeans.from_state({**state, "centres": state["cells"], "weights": state["cell_weights"]})
        made.scale, made._group = made._cells.scale, np.asarray(state["group"], np.int64)
        made.centres, made.weights = np.asarray(state["centres"], np.float32), np.asarray(state["weights"], np.float64)
        return made
