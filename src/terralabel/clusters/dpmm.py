"""Clusters whose number is not known: split and merge Gaussians by the evidence of a Dirichlet process mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from terralabel.clusters.batches import Reservoir, blocks, single_thread, usable
from terralabel.clusters.gaussian import Prior, Statistics
from terralabel.clusters.lloyd import ROWS
from terralabel.clusters.mixture import Mixture, Search, log_odds
from terralabel.clusters.scaling import Moments, Scaling, check_scaling
from terralabel.contracts import Batches
from terralabel.errors import ContractError, SettingsError

__all__ = ["SplitMerge"]


@dataclass(frozen=True)
class _Space:
    """Features -> the space of the mixture: scaled, reduced, and of variance 1 on average, which is the prior's unit."""

    scaling: Scaling
    unit: float

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(m, d) float32 -> (m, e) float64."""
        return self.scaling.apply(features).astype(np.float64) * self.unit


@dataclass(frozen=True)
class _Fit:
    """What fitting remembers between two passes; all of it is in a checkpoint."""

    space: _Space
    mean_weight: float
    sample: np.ndarray  # (r, e) float64
    sample_weights: np.ndarray  # (r,) float64
    mixture: Mixture
    turn: int = 0
    score: float = -math.inf
    settled: bool = False


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
        self._space: _Space | None = None
        self._statistics: Statistics | None = None

    def fit(
        self,
        batches: Batches,
        *,
        progress: Callable[[str], None] | None = None,
        checkpoint: Callable[[Mapping[str, np.ndarray]], None] | None = None,
        resume: Mapping[str, np.ndarray] | None = None,
    ) -> SplitMerge:
        """Fit on several passes over `batches`.

        `progress` gets a line after each. `checkpoint` gets arrays after each; given back as `resume` to a clusterer of
        the same settings and with the same batches, fitting goes on from there to the same bytes.
        """
        say, keep = progress or (lambda line: None), checkpoint or (lambda state: None)
        with single_thread():
            if resume is not None:
                fit = _from_checkpoint(resume)
            else:
                fit = self._begin(batches)
                say(f"clusters auto: {len(fit.mixture)} in a sample of {len(fit.sample)} vectors")
                keep(_to_checkpoint(fit))
            while not fit.settled and fit.turn < self.passes:
                fit = self._pass(fit, batches)
                say(f"clusters auto: pass {fit.turn} of at most {self.passes}, {len(fit.mixture)} clusters")
                keep(_to_checkpoint(fit))
            return self._finish(fit)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int32, -1 for vectors that are not finite; certainty (n,) float32 = 1 - p2 / p1."""
        space, clusters = self._fitted
        features = np.asarray(features, np.float32)
        ids, sure = np.full(len(features), -1, np.int32), np.zeros(len(features), np.float32)
        if not len(clusters.count):
            return ids, sure
        if features.ndim != 2 or features.shape[1] != space.scaling.width:
            raise ContractError(f"Features {features.shape}: expected (n, {space.scaling.width}), as in fitting.")
        with single_thread():
            rows = np.flatnonzero(usable(features))
            for start in range(0, len(rows), ROWS):
                chosen = rows[start : start + ROWS]
                odds = log_odds(Prior(space.scaling.reduced), clusters, space.apply(features[chosen]))
                ids[chosen] = odds.argmax(axis=1)
                sure[chosen] = 1.0 if odds.shape[1] == 1 else _margin(odds)
        return ids, sure

    def transform(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, e) float32: scaled and reduced, the space `centres` live in."""
        with single_thread():
            return self._fitted[0].apply(np.asarray(features, np.float32)).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """`centres` (k, e) float32 in the space of `transform`, `weights` (k,) float64, the statistics and the scaling."""
        space, clusters = self._fitted
        return {
            "centres": clusters.means.astype(np.float32),
            "weights": clusters.count,
            "total": clusters.total,
            "second": clusters.second,
            "unit": np.array(space.unit),
            **space.scaling.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> SplitMerge:
        """A clusterer that predicts like the one `state` was taken of."""
        made = cls()
        made._space = _Space(Scaling.from_state(state), float(state["unit"]))
        made.scale = made._space.scaling.scale
        made._statistics = Statistics(*(np.asarray(state[k], np.float64) for k in ("weights", "total", "second")))
        return made

    @property
    def _fitted(self) -> tuple[_Space, Statistics]:
        if self._space is None or self._statistics is None:
            raise ContractError("These clusters are not fitted yet: call fit first.")
        return self._space, self._statistics

    def _search(self, sample: np.ndarray, weights: np.ndarray) -> Search:
        return Search(sample, weights, seed=self.seed, alpha=self.alpha, largest=self.largest, rounds=self.rounds)

    def _begin(self, batches: Batches) -> _Fit:
        """Scaling and sample in one pass, then the mixture of the sample."""
        moments = Moments(True, self.scale == "l2")
        reservoir = Reservoir(self.sample, np.random.default_rng([self.seed, 0]))
        weight = 0.0
        for features, weights in blocks(batches(), ROWS):
            moments.add(features, weights)
            reservoir.add(features, weights)
            weight += float(weights.sum(dtype=np.float64))
        vectors, weights = reservoir.sample()
        space = _Space(moments.scaling(self.scale, min(self.pca, _bearable(len(vectors)))), 1.0)
        if not len(vectors):
            return _Fit(space, 1.0, vectors, weights, Mixture(Statistics.zeros(0, 0)), settled=True)
        spread = float((space.apply(vectors) ** 2).mean())
        space = replace(space, unit=1 / math.sqrt(spread) if spread > 0 else 1.0)
        mean_weight = weight / moments.count
        sample, weights = space.apply(vectors), weights.astype(np.float64) / mean_weight
        mixture = self._search(sample, weights).best()
        return _Fit(space, mean_weight, sample, weights, mixture, settled=len(sample) == moments.count)

    def _pass(self, fit: _Fit, batches: Batches) -> _Fit:
        """One pass over all vectors; splits and merges while that pays, but not after the last pass."""
        search = self._search(fit.sample, fit.sample_weights)
        scaled = (
            (fit.space.apply(features), weights.astype(np.float64) / fit.mean_weight)
            for features, weights in blocks(batches(), ROWS)
        )
        mixture = search.sweep(fit.mixture, scaled)
        fit = replace(fit, mixture=mixture, turn=fit.turn + 1)
        changed = search.changed(mixture) if fit.turn < self.passes else None
        if changed is not None:
            return replace(fit, mixture=changed, score=-math.inf)
        score = search.score(mixture)
        return replace(fit, score=score, settled=score - fit.score <= 1e-5 * abs(score))

    def _finish(self, fit: _Fit) -> SplitMerge:
        """Store the clusters, the heaviest first (then by coordinates, so that ties have an order)."""
        clusters = fit.mixture.clusters
        order = np.lexsort([*clusters.total.T[::-1], -clusters.count]) if len(clusters.count) else np.arange(0)
        self._space, self._statistics = fit.space, clusters[order]
        return self


def _bearable(vectors: int) -> int:
    """Dimensions in which so many vectors bear some 20 full covariances: their evidence counts d (d + 1) / 2 each.

    In more dimensions the mixture merges even clusters that are far apart.
    """
    return max(2, math.isqrt(vectors // 30))


def _margin(odds: np.ndarray) -> np.ndarray:
    """1 - p2 / p1 of each row, from logarithms."""
    two = np.partition(odds, -2, axis=1)[:, -2:]
    return -np.expm1(two[:, 0] - two[:, 1])


def _to_checkpoint(fit: _Fit) -> dict[str, np.ndarray]:
    halves = fit.mixture.halves
    return {
        **fit.space.scaling.state(),
        "numbers": np.array([fit.space.unit, fit.mean_weight, fit.score]),
        "sample": fit.sample,
        "sample_weights": fit.sample_weights,
        "weights": halves.count,
        "total": halves.total,
        "second": halves.second,
        "passes": np.array([fit.turn, int(fit.settled)]),
    }


def _from_checkpoint(arrays: Mapping[str, np.ndarray]) -> _Fit:
    unit, mean_weight, score = (float(v) for v in arrays["numbers"])
    turn, settled = (int(v) for v in arrays["passes"])
    return _Fit(
        _Space(Scaling.from_state(arrays), unit),
        mean_weight,
        np.asarray(arrays["sample"]),
        np.asarray(arrays["sample_weights"]),
        Mixture(Statistics(*(np.asarray(arrays[k], np.float64) for k in ("weights", "total", "second")))),
        turn,
        score,
        bool(settled),
    )
