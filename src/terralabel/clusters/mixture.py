"""Mixtures of Gaussians that split and merge while the evidence rises, looked for on a sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from terralabel.clusters.batches import Block
from terralabel.clusters.gaussian import Prior, Statistics
from terralabel.clusters.lloyd import ROWS, best_start, nearest

__all__ = ["Mixture", "Search", "log_odds", "merge_gain", "split_gain"]

#: DeepDPM compares each cluster with so many of the nearest means when it looks for merges.
NEIGHBOURS = 3


@dataclass(frozen=True)
class Mixture:
    """Two statistics a cluster: groups 2c and 2c + 1 are the halves of cluster c."""

    halves: Statistics

    @property
    def clusters(self) -> Statistics:
        return self.halves[slice(0, None, 2)] + self.halves[slice(1, None, 2)]

    def __len__(self) -> int:
        return len(self.halves.count) // 2


def split_gain(prior: Prior, halves: Statistics, alpha: float) -> np.ndarray:
    """(k,): log Hastings ratio of making two clusters of the halves 2c and 2c + 1 of each cluster c.

    log H = log alpha + lgamma(N1) + L1 + lgamma(N2) + L2 - lgamma(N) - L; minus infinity if a half is empty.
    """
    from scipy.special import gammaln

    first, second = halves[slice(0, None, 2)], halves[slice(1, None, 2)]
    whole = first + second
    splittable = (first.count >= 1) & (second.count >= 1)
    one, two, n = (np.maximum(g.count, 1) for g in (first, second, whole))
    gain = np.log(alpha) + gammaln(one) + gammaln(two) - gammaln(n)
    gain += prior.evidence(first) + prior.evidence(second) - prior.evidence(whole)
    return np.where(splittable, gain, -np.inf)


def merge_gain(prior: Prior, clusters: Statistics, pairs: np.ndarray, alpha: float) -> np.ndarray:
    """(p,): log Hastings ratio of making one cluster of each of (p, 2) pairs: the split's with the sign turned."""
    from scipy.special import gammaln

    first, second = clusters[pairs[:, 0]], clusters[pairs[:, 1]]
    one, two = np.maximum(first.count, 1), np.maximum(second.count, 1)
    gain = gammaln(one + two) - np.log(alpha) - gammaln(one) - gammaln(two)
    return gain + prior.evidence(first + second) - prior.evidence(first) - prior.evidence(second)


class Search:
    """Looks for clusters in a sample: vectors (r, e) float64, with weights (r,) float64 of mean 1.

    seed: of k-means where clusters are cut; alpha: concentration of the Dirichlet process; largest: number of clusters
    there may be; rounds: of splits and merges.
    """

    def __init__(
        self, vectors: np.ndarray, weights: np.ndarray, *, seed: int, alpha: float, largest: int, rounds: int = 60
    ) -> None:
        self._vectors, self._weights, self._prior = vectors, weights, Prior(vectors.shape[1])
        self._seed, self._alpha, self._largest, self._rounds = seed, alpha, largest, rounds
        self._coarse = vectors.astype(np.float32)

    def best(self) -> Mixture:
        """The mixture with the most evidence that the search finds from its starts."""
        return max((self.search(self.start(count)) for count in self.starts()), key=self.score)

    def starts(self) -> list[int]:
        """Numbers of clusters to start from."""
        return sorted({1, min(self._largest, 40, max(1, len(self._vectors) // (2 * self._prior.width)))})

    def start(self, count: int) -> Mixture:
        """`count` clusters of k-means, each with two halves of k-means."""
        weights = self._weights.astype(np.float32)
        centres = best_start(self._coarse, weights, count, [self._seed, 1, count], 2)
        ids, _ = nearest(self._coarse, centres)
        return Mixture(Statistics.joined([self._halved(np.flatnonzero(ids == k)) for k in range(len(centres))]))

    def _halved(self, members: np.ndarray) -> Statistics:
        """Of the two halves that 2-means cuts these vectors of the sample into."""
        vectors, weights = self._coarse[members], self._weights[members]
        halves = np.zeros(len(members), np.int64)
        if len(members) >= 2:
            centres = best_start(vectors, weights.astype(np.float32), 2, [self._seed, 2], 2)
            halves, _ = nearest(vectors, centres)
        return Statistics.of(self._vectors[members], weights, halves, 2)

    def sweep(self, mixture: Mixture, source: Iterable[Block] | None = None) -> Mixture:
        """Assign every vector anew, to a cluster and to a half of it; clusters that get none are gone."""
        found = Statistics.zeros(2 * len(mixture), self._prior.width)
        for vectors, weights in source if source is not None else [(self._vectors, self._weights)]:
            for start in range(0, len(vectors), ROWS):
                rows = vectors[start : start + ROWS]
                halves = self._assigned(mixture, rows)
                found = found + Statistics.of(rows, weights[start : start + ROWS], halves, 2 * len(mixture))
        alive = np.flatnonzero(Mixture(found).clusters.count > 0)
        return Mixture(found[np.stack([2 * alive, 2 * alive + 1], axis=1).ravel()])

    def _assigned(self, mixture: Mixture, vectors: np.ndarray) -> np.ndarray:
        """(m,): the half (2c or 2c + 1) each vector belongs to."""
        ids = log_odds(self._prior, mixture.clusters, vectors).argmax(axis=1)
        halves = 2 * ids
        for cluster in np.unique(ids).tolist():
            pair = mixture.halves[slice(2 * cluster, 2 * cluster + 2)]
            if (pair.count > 0).all():
                members = ids == cluster
                halves[members] += log_odds(self._prior, pair, vectors[members]).argmax(axis=1)
        return halves

    def score(self, mixture: Mixture) -> float:
        """Log of the joint probability of vectors and assignment, but for a constant."""
        from scipy.special import gammaln

        clusters = mixture.clusters
        each = np.log(self._alpha) + gammaln(np.maximum(clusters.count, 1)) + self._prior.evidence(clusters)
        return float(each.sum())

    def search(self, mixture: Mixture) -> Mixture:
        """Sweeps until they settle, then splits and merges, over and over until none pays."""
        best, most, refreshed = mixture, -np.inf, False
        for _ in range(self._rounds):
            mixture = self._settled(mixture)
            score = self.score(mixture)
            if score > most:
                best, most = mixture, score
            changed = self.changed(mixture)
            if changed is None and refreshed:
                break
            # the halves may be stuck in a poor cut: before giving up, they are cut anew once
            refreshed = changed is None
            mixture = changed or self._recut(mixture)
        return best

    def _settled(self, mixture: Mixture, sweeps: int = 12) -> Mixture:
        before = -np.inf
        for _ in range(sweeps):
            mixture = self.sweep(mixture)
            score = self.score(mixture) + float(self._prior.evidence(mixture.halves).sum())
            if score - before <= 1e-5 * abs(score):
                break
            before = score
        return mixture

    def _recut(self, mixture: Mixture) -> Mixture:
        ids = log_odds(self._prior, mixture.clusters, self._vectors).argmax(axis=1)
        return Mixture(Statistics.joined([self._halved(np.flatnonzero(ids == k)) for k in range(len(mixture))]))

    def changed(self, mixture: Mixture) -> Mixture | None:
        """The mixture after the merges, or else the splits, that raise the evidence; None if none does."""
        merged = self._merged(mixture)
        if len(merged) < len(mixture):
            return merged
        gains = split_gain(self._prior, mixture.halves, self._alpha)
        splits = np.argsort(-gains, kind="stable")[: self._largest - len(mixture)]
        splits = splits[gains[splits] > 0]
        return self._split(mixture, set(splits.tolist())) if len(splits) else None

    def _split(self, mixture: Mixture, splits: set[int]) -> Mixture:
        """The halves of these clusters become clusters; the halves of those are cut on the sample."""
        assigned = self._assigned(mixture, self._vectors)
        parts = []
        for cluster in range(len(mixture)):
            if cluster not in splits:
                parts.append(mixture.halves[slice(2 * cluster, 2 * cluster + 2)])
                continue
            for half in (2 * cluster, 2 * cluster + 1):
                cut = self._halved(np.flatnonzero(assigned == half))
                seen = cut.count.sum()
                whole = mixture.halves[slice(half, half + 1)]
                parts.append(cut.times(whole.count[0] / seen) if seen else whole + Statistics.zeros(2, self._prior.width))
        return Mixture(Statistics.joined(parts))

    def _merged(self, mixture: Mixture) -> Mixture:
        """Merge the pair that gains most, again and again, until none gains; the pair become the halves of the new one."""
        while len(mixture) > 1:
            clusters = mixture.clusters
            pairs = _neighbours(clusters.means)
            gains = merge_gain(self._prior, clusters, pairs, self._alpha)
            if not gains.max() > 0:
                break
            pair = pairs[gains.argmax()]
            rest = np.setdiff1d(np.arange(len(mixture)), pair)
            kept = mixture.halves[np.stack([2 * rest, 2 * rest + 1], axis=1).ravel()]
            mixture = Mixture(Statistics.joined([kept, clusters[pair]]))
        return mixture


def _neighbours(means: np.ndarray) -> np.ndarray:
    """(p, 2): each mean with each of the 3 nearest to it, lower index first, every pair once, sorted."""
    apart = ((means[:, None] - means[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(means) - 1)]
    pairs = np.stack([np.repeat(np.arange(len(means)), near.shape[1]), near.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def log_odds(prior: Prior, clusters: Statistics, vectors: np.ndarray) -> np.ndarray:
    """(m, k): log of weight times density of each cluster at (m, e) float64 vectors; empty clusters have none."""
    means, whiteners, normalisers = prior.gaussians(clusters)
    with np.errstate(divide="ignore"):
        offsets = normalisers + np.log(clusters.count)
    odds = np.empty((len(vectors), len(means)))
    for k in range(len(means)):
        away = (vectors - means[k]) @ whiteners[k]
        odds[:, k] = offsets[k] - 0.5 * np.einsum("ij,ij->i", away, away)
    return odds
