"""Clusters whose number is not known: split and merge Gaussians by the evidence of a Dirichlet process mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from terralabel.clusters.batches import Block, Reservoir, blocks, single_thread, usable
from terralabel.clusters.gaussian import Prior, Statistics
from terralabel.clusters.lloyd import ROWS, best_start, nearest
from terralabel.clusters.scaling import Moments, Scaling, check_scaling
from terralabel.contracts import Batches
from terralabel.errors import ContractError, SettingsError

__all__ = ["SplitMerge", "merge_gain", "split_gain"]

#: DeepDPM compares each cluster with so many of the nearest means when it looks for merges.
NEIGHBOURS = 3


@dataclass(frozen=True)
class _Mixture:
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


class SplitMerge:
    """Clusters of streamed vectors, their number found by the data; a `Clusterer` (`--clusters auto`).

    1. One pass takes moments and a uniform sample of vectors; PCA to at most `pca` dimensions (never more than 32, and
       fewer for few vectors: d^2 is at most a 30th of the sample).
    2. On the sample, from one cluster and from many: vectors go to the most likely cluster and, in it, to the likelier
       of two halves; a cluster splits into its halves, or merges with one of the 3 nearest, where the evidence of a
       Dirichlet process mixture (prior of DeepDPM: alpha 10, kappa 1e-4, nu d + 2, Psi .005 I) rises. The start that
       ends with more evidence is kept. (DeepDPM also accepts some falls at random; here nothing is left to chance.)
    3. The same on all vectors, from there, for at most `passes` passes. Memory holds statistics only.

    Batches, weights (made to be 1 on average), vectors that are not finite, order of clusters and determinism: as
    `OnlineKMeans`. At most `largest` clusters. Certainty is 1 - p2 / p1, p the probabilities of the two likeliest.
    """

    name = "dpmm"
    version = "1"

    def __init__(
        self,
        seed: int = 0,
        scale: str = "standard",
        pca: int | None = 32,
        alpha: float = 10.0,
        largest: int = 64,
        sample: int = 8192,
        passes: int = 6,
        rounds: int = 60,
    ) -> None:
        check_scaling(scale, pca)
        if not alpha > 0:
            raise SettingsError(f"alpha {alpha}: expected a number above 0.")
        for setting, value, least in (
            ("largest", largest, 1),
            ("sample", sample, 16),
            ("passes", passes, 0),
            ("rounds", rounds, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{setting} {value!r}: expected a whole number of at least {least}.")
        self.seed, self.scale, self.pca, self.alpha = int(seed), scale, min(pca or 32, 32), float(alpha)
        self.largest, self.sample, self.passes, self.rounds = int(largest), int(sample), int(passes), int(rounds)
        self._scaling: Scaling | None = None
        self._unit = 1.0
        self._statistics: Statistics | None = None

    def fit(self, batches: Batches, *, progress: Callable[[str], None] | None = None) -> SplitMerge:
        """Fit on several passes over `batches`; `progress` gets a line after each."""
        say = progress or (lambda line: None)
        with single_thread():
            vectors, weights = self._begin(batches)
            if not len(vectors):
                return self._keep(Statistics.zeros(0, self._fitted.reduced))
            sample = _Sample(vectors, weights, Prior(vectors.shape[1]), self)
            say(f"clusters auto: looking for them in a sample of {len(vectors)} vectors")
            mixture = max((sample.search(sample.start(k)) for k in sample.starts()), key=sample.score)
            say(f"clusters auto: {len(mixture)} in the sample")
            if self._count > len(vectors):
                mixture = self._over_all(batches, sample, mixture, say)
            return self._keep(mixture.clusters)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int32, -1 for vectors that are not finite; certainty (n,) float32 = 1 - p2 / p1."""
        features = np.asarray(features, np.float32)
        ids, sure = np.full(len(features), -1, np.int32), np.zeros(len(features), np.float32)
        if self._statistics is None:
            raise ContractError("These clusters are not fitted yet: call fit first.")
        if not len(self._statistics.count):
            return ids, sure
        if features.ndim != 2 or features.shape[1] != self._fitted.width:
            raise ContractError(f"Features {features.shape}: expected (n, {self._fitted.width}), as in fitting.")
        with single_thread():
            prior = Prior(self._fitted.reduced)
            rows = np.flatnonzero(usable(features))
            for start in range(0, len(rows), ROWS):
                chosen = rows[start : start + ROWS]
                odds = _log_odds(prior, self._statistics, self._working(features[chosen]))
                ids[chosen] = odds.argmax(axis=1)
                sure[chosen] = 1.0 if odds.shape[1] == 1 else _margin(odds)
        return ids, sure

    def transform(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, e) float32: scaled and reduced, the space `centres` live in."""
        with single_thread():
            return self._working(np.asarray(features, np.float32)).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """`centres` (k, e) float32 in the space of `transform`, `weights` (k,) float64, the statistics and the scaling."""
        if self._statistics is None:
            raise ContractError("These clusters are not fitted yet: call fit first.")
        return {
            "centres": self._statistics.means.astype(np.float32),
            "weights": self._statistics.count,
            "total": self._statistics.total,
            "second": self._statistics.second,
            "unit": np.array(self._unit),
            **self._fitted.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> SplitMerge:
        """A clusterer that predicts like the one `state` was taken of."""
        made = cls()
        made._scaling = Scaling.from_state(state)
        made.scale, made._unit = made._scaling.scale, float(state["unit"])
        made._statistics = Statistics(*(np.asarray(state[k], np.float64) for k in ("weights", "total", "second")))
        return made

    @property
    def _fitted(self) -> Scaling:
        if self._scaling is None:
            raise ContractError("These clusters are not fitted yet: call fit first.")
        return self._scaling

    def _working(self, features: np.ndarray) -> np.ndarray:
        """(m, d) float32 -> (m, e) float64, scaled, reduced, of variance 1 on average: the prior's unit."""
        return self._fitted.apply(features).astype(np.float64) * self._unit

    def _begin(self, batches: Batches) -> Block:
        """Fit the scaling in one pass; the sample, in working units, and its weights."""
        moments = Moments(True, self.scale == "l2")
        reservoir = Reservoir(self.sample, np.random.default_rng([self.seed, 0]))
        weight = 0.0
        for features, weights in blocks(batches(), ROWS):
            moments.add(features, weights)
            reservoir.add(features, weights)
            weight += float(weights.sum(dtype=np.float64))
        vectors, weights = reservoir.sample()
        self._scaling = moments.scaling(self.scale, min(self.pca, _bearable(len(vectors))))
        self._count, self._unit = moments.count, 1.0
        self._mean_weight = weight / max(moments.count, 1)
        if not len(vectors):
            return vectors, weights
        spread = float((self._working(vectors) ** 2).mean())
        self._unit = 1 / np.sqrt(spread) if spread > 0 else 1.0
        return self._working(vectors), weights.astype(np.float64) / self._mean_weight

    def _over_all(self, batches: Batches, sample: _Sample, mixture: _Mixture, say: Callable[[str], None]) -> _Mixture:
        """Passes over all vectors from the mixture of the sample, splitting and merging while that pays."""

        def all_vectors() -> Iterable[Block]:
            for features, weights in blocks(batches(), ROWS):
                yield self._working(features), weights.astype(np.float64) / self._mean_weight

        before = -np.inf
        for turn in range(self.passes):
            mixture = sample.sweep(mixture, all_vectors())
            score = sample.score(mixture)
            say(f"clusters auto: pass {turn + 1} of at most {self.passes}, {len(mixture)} clusters")
            changed = sample.changed(mixture) if turn + 1 < self.passes else None
            if changed is None and score - before <= 1e-5 * abs(score):
                break
            mixture, before = changed or mixture, -np.inf if changed else score
        return mixture

    def _keep(self, clusters: Statistics) -> SplitMerge:
        """Store the clusters, the heaviest first."""
        order = np.lexsort([*clusters.total.T[::-1], -clusters.count]) if len(clusters.count) else np.arange(0)
        self._statistics = clusters[order]
        return self


class _Sample:
    """The vectors that structure is looked for in: (r, e) float64, with weights of mean 1."""

    def __init__(self, vectors: np.ndarray, weights: np.ndarray, prior: Prior, settings: SplitMerge) -> None:
        self._vectors, self._weights, self._prior, self._settings = vectors, weights, prior, settings
        self._coarse = vectors.astype(np.float32)

    def starts(self) -> list[int]:
        """Numbers of clusters to start from."""
        return sorted({1, min(self._settings.largest, 40, max(1, len(self._vectors) // (2 * self._prior.width)))})

    def start(self, count: int) -> _Mixture:
        """`count` clusters of k-means, each with two halves of k-means."""
        weights = self._weights.astype(np.float32)
        centres = best_start(self._coarse, weights, count, [self._settings.seed, 1, count], 2)
        ids, _ = nearest(self._coarse, centres)
        return _Mixture(Statistics.joined([self._halved(np.flatnonzero(ids == k)) for k in range(len(centres))]))

    def _halved(self, members: np.ndarray) -> Statistics:
        """Of the two halves that 2-means cuts these vectors of the sample into."""
        vectors, weights = self._coarse[members], self._weights[members]
        halves = np.zeros(len(members), np.int64)
        if len(members) >= 2:
            centres = best_start(vectors, weights.astype(np.float32), 2, [self._settings.seed, 2], 2)
            halves, _ = nearest(vectors, centres)
        return Statistics.of(self._vectors[members], weights, halves, 2)

    def sweep(self, mixture: _Mixture, source: Iterable[Block] | None = None) -> _Mixture:
        """Assign every vector anew, to a cluster and to a half of it; clusters that get none are gone."""
        found = Statistics.zeros(2 * len(mixture), self._prior.width)
        for vectors, weights in source if source is not None else [(self._vectors, self._weights)]:
            for start in range(0, len(vectors), ROWS):
                rows = vectors[start : start + ROWS]
                halves = self._assigned(mixture, rows)
                found = found + Statistics.of(rows, weights[start : start + ROWS], halves, 2 * len(mixture))
        alive = np.flatnonzero(_Mixture(found).clusters.count > 0)
        return _Mixture(found[np.stack([2 * alive, 2 * alive + 1], axis=1).ravel()])

    def _assigned(self, mixture: _Mixture, vectors: np.ndarray) -> np.ndarray:
        """(m,): the half (2c or 2c + 1) each vector belongs to."""
        ids = _log_odds(self._prior, mixture.clusters, vectors).argmax(axis=1)
        halves = 2 * ids
        for cluster in np.unique(ids).tolist():
            pair = mixture.halves[slice(2 * cluster, 2 * cluster + 2)]
            if (pair.count > 0).all():
                members = ids == cluster
                halves[members] += _log_odds(self._prior, pair, vectors[members]).argmax(axis=1)
        return halves

    def score(self, mixture: _Mixture) -> float:
        """Log of the joint probability of vectors and assignment, but for a constant."""
        from scipy.special import gammaln

        clusters = mixture.clusters
        each = np.log(self._settings.alpha) + gammaln(np.maximum(clusters.count, 1)) + self._prior.evidence(clusters)
        return float(each.sum())

    def search(self, mixture: _Mixture) -> _Mixture:
        """Sweeps until they settle, then splits and merges, over and over until none pays."""
        best, most, refreshed = mixture, -np.inf, False
        for _ in range(self._settings.rounds):
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

    def _settled(self, mixture: _Mixture, sweeps: int = 12) -> _Mixture:
        before = -np.inf
        for _ in range(sweeps):
            mixture = self.sweep(mixture)
            score = self.score(mixture) + float(self._prior.evidence(mixture.halves).sum())
            if score - before <= 1e-5 * abs(score):
                break
            before = score
        return mixture

    def _recut(self, mixture: _Mixture) -> _Mixture:
        ids = _log_odds(self._prior, mixture.clusters, self._vectors).argmax(axis=1)
        return _Mixture(Statistics.joined([self._halved(np.flatnonzero(ids == k)) for k in range(len(mixture))]))

    def changed(self, mixture: _Mixture) -> _Mixture | None:
        """The mixture after the merges, or else the splits, that raise the evidence; None if none does."""
        merged = self._merged(mixture)
        if len(merged) < len(mixture):
            return merged
        gains = split_gain(self._prior, mixture.halves, self._settings.alpha)
        splits = np.argsort(-gains, kind="stable")[: self._settings.largest - len(mixture)]
        splits = splits[gains[splits] > 0]
        return self._split(mixture, set(splits.tolist())) if len(splits) else None

    def _split(self, mixture: _Mixture, splits: set[int]) -> _Mixture:
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
        return _Mixture(Statistics.joined(parts))

    def _merged(self, mixture: _Mixture) -> _Mixture:
        """Merge the pair that gains most, again and again, until none gains; the pair become the halves of the new one."""
        while len(mixture) > 1:
            clusters = mixture.clusters
            pairs = _neighbours(clusters.means)
            gains = merge_gain(self._prior, clusters, pairs, self._settings.alpha)
            if not gains.max() > 0:
                break
            pair = pairs[gains.argmax()]
            rest = np.setdiff1d(np.arange(len(mixture)), pair)
            kept = mixture.halves[np.stack([2 * rest, 2 * rest + 1], axis=1).ravel()]
            mixture = _Mixture(Statistics.joined([kept, clusters[pair]]))
        return mixture


def _bearable(vectors: int) -> int:
    """Dimensions in which so many vectors bear some 20 full covariances: their evidence counts d (d + 1) / 2 each.

    In more dimensions the mixture merges even clusters that are far apart.
    """
    return max(2, math.isqrt(vectors // 30))


def _neighbours(means: np.ndarray) -> np.ndarray:
    """(p, 2): each mean with each of the 3 nearest to it, lower index first, every pair once, sorted."""
    apart = ((means[:, None] - means[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(means) - 1)]
    pairs = np.stack([np.repeat(np.arange(len(means)), near.shape[1]), near.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _log_odds(prior: Prior, clusters: Statistics, vectors: np.ndarray) -> np.ndarray:
    """(m, k): log of weight times density of each cluster at (m, e) float64 vectors; empty clusters have none."""
    means, whiteners, normalisers = prior.gaussians(clusters)
    with np.errstate(divide="ignore"):
        offsets = normalisers + np.log(clusters.count)
    odds = np.empty((len(vectors), len(means)))
    for k in range(len(means)):
        away = (vectors - means[k]) @ whiteners[k]
        odds[:, k] = offsets[k] - 0.5 * np.einsum("ij,ij->i", away, away)
    return odds


def _margin(odds: np.ndarray) -> np.ndarray:
    """1 - p2 / p1 of each row, from logarithms."""
    two = np.partition(odds, -2, axis=1)[:, -2:]
    return -np.expm1(two[:, 0] - two[:, 1])
