"""Online k-means out of core: mini-batches to get near, exact passes to settle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from terralabel.clusters.batches import Block, Reservoir, blocks, shuffled, single_thread, usable
from terralabel.clusters.lloyd import ROWS, best_start, certainty, gathered, nearest, plus_plus
from terralabel.clusters.scaling import Moments, Scaling, check_scaling
from terralabel.contracts import Batches
from terralabel.errors import ContractError, SettingsError

__all__ = ["OnlineKMeans"]

#: With more clusters than this, starts differ too little to be worth more than one.
MANY = 256

Report = Callable[[str], None]
Checkpoint = Callable[[Mapping[str, np.ndarray]], None]


@dataclass(frozen=True)
class _Fit:
    """What fitting remembers between two passes; all of it is in a checkpoint."""

    scaling: Scaling
    sample: np.ndarray  # (r, e) float32, scaled
    sample_weights: np.ndarray  # (r,) float32
    centres: np.ndarray  # (k, e) float32
    weights: np.ndarray  # (k,) float64: of the vectors each centre has seen
    inertia: float = np.inf
    online: int = 0
    exact: int = 0
    settled: bool = False


class OnlineKMeans:
    """K-means of streamed vectors; a `Clusterer`.

    1. One pass takes moments (for scaling and PCA) and a uniform sample of `sample` vectors.
    2. k-means++ and Lloyd on the sample, the best of `restarts` (one for more than 256 clusters).
    3. `passes` passes of mini-batch k-means (Sculley 2010: each centre moves by 1/n_k towards its vectors) over
       batches of `batch_size`, shuffled within buffers of 16 batches.
    4. At most `refinements` exact passes (Lloyd over all vectors), until the inertia settles to `tolerance`.

    A centre that no vector chose in a pass moves to a vector of the sample drawn as k-means++ would. Memory holds a
    buffer, the sample and the centres, whatever the number of vectors. Same vectors in the same order and same `seed`
    give the same bytes, however they are cut into batches and whatever BLAS' number of threads.

    Batches are (m, d) arrays, or pairs of one and (m,) weights (areas, say): a vector of weight 2 counts as two.
    Vectors with NaN, infinity or entries over 1e15 take no part in fitting; `predict` gives them cluster -1 with
    certainty 0. With fewer than `clusters` distinct vectors there are fewer clusters; without vectors there are none
    and `predict` says -1 for all. Cluster 0 is the heaviest, then in falling order.

    scale: "none", "standard" (each feature to mean 0 and variance 1) or "l2" (each vector to length 1);
    pca: keep so many principal axes, after scaling.
    """

    name = "kmeans"
    version = "1"

    def __init__(
        self,
        clusters: int = 16,
        seed: int = 0,
        batch_size: int = 4096,
        passes: int = 1,
        scale: str = "standard",
        pca: int | None = None,
        restarts: int = 4,
        refinements: int = 20,
        tolerance: float = 1e-4,
        sample: int = 16384,
    ) -> None:
        for setting, value, least in (
            ("clusters", clusters, 1),
            ("batch_size", batch_size, 1),
            ("passes", passes, 0),
            ("restarts", restarts, 1),
            ("refinements", refinements, 0),
            ("sample", sample, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{setting} {value!r}: expected a whole number of at least {least}.")
        check_scaling(scale, pca)
        self.clusters, self.seed, self.batch_size, self.passes = int(clusters), int(seed), int(batch_size), int(passes)
        self.scale, self.pca, self.restarts, self.refinements = scale, pca, int(restarts), int(refinements)
        self.tolerance, self.sample = tolerance, max(int(sample), 8 * self.clusters)
        self._scaling: Scaling | None = None
        self.centres = np.empty((0, 0), np.float32)
        self.weights: np.ndarray = np.empty(0)
        self.inertia = np.inf

    def fit(
        self,
        batches: Batches,
        *,
        progress: Report | None = None,
        checkpoint: Checkpoint | None = None,
        resume: Mapping[str, np.ndarray] | None = None,
    ) -> OnlineKMeans:
        """Fit on several passes over `batches`.

        `progress` gets a line after each pass. `checkpoint` gets arrays after each pass; given back as `resume` to a
        clusterer of the same settings and with the same batches, fitting goes on from there to the same bytes.
        """
        say, keep = progress or (lambda line: None), checkpoint or (lambda state: None)
        with single_thread():
            if resume is not None:
                fit = _from_checkpoint(resume)
            else:
                fit = self._begin(batches)
                say(f"k-means: {len(fit.centres)} centres placed on a sample of {len(fit.sample)} vectors")
                keep(_to_checkpoint(fit))
            while len(fit.centres) and fit.online < self.passes:
                fit = self._online_pass(fit, batches)
                say(f"k-means: mini-batch pass {fit.online} of {self.passes}")
                keep(_to_checkpoint(fit))
            while len(fit.centres) and not fit.settled and fit.exact < self.refinements:
                fit = self._exact_pass(fit, batches)
                say(f"k-means: exact pass {fit.exact} of at most {self.refinements}, inertia {fit.inertia:.6g}")
                keep(_to_checkpoint(fit))
            return self._finish(fit)

    def partial_fit(self, features: np.ndarray, weights: np.ndarray | None = None) -> OnlineKMeans:
        """One mini-batch step; the first one also fits the scaling and places the centres. For streams without an end."""
        batch: Any = features if weights is None else (features, weights)
        with single_thread():
            for block, block_weights in blocks([batch], max(len(features), 1)):
                if self._scaling is None or not len(self.centres):
                    self._finish(self._begin(lambda: [batch]))
                    self.weights = np.zeros(len(self.centres))
                if block.shape[1] != self._fitted.width:
                    raise ContractError(f"A batch has {block.shape[1]} features a vector, the first had {self._fitted.width}.")
                moved, seen, _ = _step(self.centres, self.weights, self._fitted.apply(block), block_weights)
                self.centres, self.weights = moved, self.weights + seen
        return self

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int32, -1 for vectors that are not finite; certainty (n,) float32 of `certainty`."""
        features = np.asarray(features, np.float32)
        ids = np.full(len(features), -1, np.int32)
        sure = np.zeros(len(features), np.float32)
        if self._fitted.width == 0 or not len(self.centres):
            return ids, sure
        if features.ndim != 2 or features.shape[1] != self._fitted.width:
            raise ContractError(f"Features {features.shape}: expected (n, {self._fitted.width}), as in fitting.")
        with single_thread():
            rows = np.flatnonzero(usable(features))
            for start in range(0, len(rows), ROWS):  # by blocks, so that the scaled copy stays small
                chosen = rows[start : start + ROWS]
                ids[chosen], sure[chosen] = certainty(self._fitted.apply(features[chosen]), self.centres)
        return ids, sure

    def transform(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, e) float32: scaled and reduced, the space `centres` live in."""
        with single_thread():
            return self._fitted.apply(np.asarray(features, np.float32))

    def state(self) -> dict[str, np.ndarray]:
        """`centres` (k, e) float32 in the scaled space, `weights` (k,) float64, `inertia`, and the scaling's arrays."""
        return {"centres": self.centres, "weights": self.weights, "inertia": np.array(self.inertia), **self._fitted.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> OnlineKMeans:
        """A clusterer that predicts (and `partial_fit`s) like the one `state` was taken of."""
        made = cls(clusters=max(1, len(state["centres"])))
        made._scaling = Scaling.from_state(state)
        made.scale = made._scaling.scale
        made.centres = np.asarray(state["centres"], np.float32)
        made.weights = np.asarray(state["weights"], np.float64)
        made.inertia = float(state["inertia"])
        return made

    @property
    def _fitted(self) -> Scaling:
        if self._scaling is None:
            raise ContractError("These clusters are not fitted yet: call fit first.")
        return self._scaling

    def _buffers(self, batches: Batches) -> Iterator[Block]:
        return blocks(batches(), 16 * self.batch_size)

    def _begin(self, batches: Batches) -> _Fit:
        """Moments and sample in one pass, then k-means++ on the sample."""
        moments = Moments(self.pca is not None, self.scale == "l2")
        reservoir = Reservoir(self.sample, np.random.default_rng([self.seed, 0]))
        for features, weights in blocks(batches(), ROWS):
            moments.add(features, weights)
            reservoir.add(features, weights)
        scaling = moments.scaling(self.scale, self.pca)
        sample, sample_weights = reservoir.sample()
        sample = scaling.apply(sample) if len(sample) else sample
        restarts = self.restarts if self.clusters <= MANY else 1
        centres = best_start(sample, sample_weights, self.clusters, [self.seed, 1], restarts)
        seen: np.ndarray = np.zeros(len(centres))
        if len(centres):
            seen = np.bincount(nearest(sample, centres)[0], sample_weights, len(centres))
        return _Fit(scaling, sample, sample_weights, centres, seen)

    def _online_pass(self, fit: _Fit, batches: Batches) -> _Fit:
        """Mini-batch k-means over all vectors, in an order shuffled within buffers."""
        rng = np.random.default_rng([self.seed, 2, fit.online])
        centres, seen = fit.centres, fit.weights.copy()
        this_pass = np.zeros(len(centres))
        for features, weights in shuffled(self._buffers(batches), self.batch_size, rng):
            centres, mass, _ = _step(centres, seen, fit.scaling.apply(features), weights)
            seen += mass
            this_pass += mass
        centres = self._repaired(fit, centres, this_pass)
        return replace(fit, centres=centres, weights=seen, online=fit.online + 1)

    def _exact_pass(self, fit: _Fit, batches: Batches) -> _Fit:
        """One iteration of Lloyd over all vectors; settled when it improved the inertia by less than `tolerance`."""
        sums, mass, inertia = np.zeros(fit.centres.shape), np.zeros(len(fit.centres)), 0.0
        for features, weights in blocks(batches(), ROWS):
            scaled = fit.scaling.apply(features)
            ids, squared = nearest(scaled, fit.centres)
            block_sums, block_mass = gathered(scaled, weights, ids, len(mass))
            sums += block_sums
            mass += block_mass
            inertia += float(weights @ squared.astype(np.float64))
        live = mass > 0
        centres = np.where(live[:, None], sums / np.where(live, mass, 1)[:, None], fit.centres).astype(np.float32)
        repaired = self._repaired(fit, centres, mass)
        changed = repaired is not centres
        settled = not changed and fit.inertia - inertia <= self.tolerance * inertia
        return replace(fit, centres=repaired, weights=mass, inertia=inertia, exact=fit.exact + 1, settled=settled)

    def _repaired(self, fit: _Fit, centres: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Centres that no vector chose are placed anew, if any vector of the sample is away from all others."""
        live = mass > 0
        if live.all():
            return centres
        rng = np.random.default_rng([self.seed, 3, fit.online, fit.exact])
        found = plus_plus(fit.sample, fit.sample_weights, len(centres), rng, np.ascontiguousarray(centres[live]))
        fresh = found[int(live.sum()) :]
        if not len(fresh):
            return centres
        repaired = centres.copy()
        repaired[np.flatnonzero(~live)[: len(fresh)]] = fresh
        return repaired

    def _finish(self, fit: _Fit) -> OnlineKMeans:
        """Drop centres without vectors, put the heaviest first (then by coordinates, so that ties have an order)."""
        alive = np.flatnonzero(fit.weights > 0)
        order = alive[np.lexsort([*fit.centres[alive].T[::-1], -fit.weights[alive]])] if len(alive) else alive
        self._scaling, self.inertia = fit.scaling, fit.inertia
        self.centres = np.ascontiguousarray(fit.centres[order])
        self.weights = fit.weights[order]
        return self


def _step(
    centres: np.ndarray, seen: np.ndarray, features: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """One mini-batch: each centre moves to the mean of all it has ever seen, which is a rate of 1/n_k a vector."""
    ids, squared = nearest(features, centres)
    sums, mass = gathered(features, weights, ids, len(centres))
    hit = mass > 0
    moved = centres.copy()
    step = (sums[hit] - mass[hit, None] * centres[hit]) / (seen[hit] + mass[hit])[:, None]
    moved[hit] = centres[hit] + step
    return moved, mass, float(weights @ squared.astype(np.float64))


def _to_checkpoint(fit: _Fit) -> dict[str, np.ndarray]:
    return {
        **fit.scaling.state(),
        "sample": fit.sample,
        "sample_weights": fit.sample_weights,
        "centres": fit.centres,
        "weights": fit.weights,
        "inertia": np.array(fit.inertia),
        "passes": np.array([fit.online, fit.exact, int(fit.settled)]),
    }


def _from_checkpoint(arrays: Mapping[str, np.ndarray]) -> _Fit:
    online, exact, settled = (int(v) for v in arrays["passes"])
    return _Fit(
        Scaling.from_state(arrays),
        np.asarray(arrays["sample"]),
        np.asarray(arrays["sample_weights"]),
        np.asarray(arrays["centres"]),
        np.asarray(arrays["weights"]),
        float(arrays["inertia"]),
        online,
        exact,
        bool(settled),
    )
