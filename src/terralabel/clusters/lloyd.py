"""The steps of k-means on vectors in memory: nearest centre, sums, k-means++ and Lloyd's iterations."""

from __future__ import annotations

import numpy as np

__all__ = ["ROWS", "best_start", "gathered", "lloyd", "nearest", "plus_plus"]

#: Vectors compared with all centres at a time: their products stay in the cache.
ROWS = 4096


def nearest(features: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of (k, d) centres for (m, d) float32 vectors: ids (m,) int64 and squared distances (m,) float32.

    Of equally near centres the first wins. k must be at least 1.
    """
    half_norms = 0.5 * np.einsum("ij,ij->i", centres, centres)
    transposed = np.ascontiguousarray(centres.T)
    ids = np.empty(len(features), np.int64)
    squared = np.empty(len(features), np.float32)
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS]
        scores = rows @ transposed
        scores -= half_norms
        best = scores.argmax(axis=1)
        ids[start : start + ROWS] = best
        top = scores[np.arange(len(rows)), best]
        squared[start : start + ROWS] = np.einsum("ij,ij->i", rows, rows) - 2 * top
    return ids, np.maximum(squared, 0, out=squared)


def gathered(features: np.ndarray, weights: np.ndarray, ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums (count, d) float64 of the vectors of each id, and the weights' sums (count,) float64."""
    from scipy.sparse import csr_array

    sums = np.zeros((count, features.shape[1]))
    for start in range(0, len(features), ROWS):
        part = slice(start, start + ROWS)
        rows = len(ids[part])
        members = csr_array((weights[part], ids[part], np.arange(rows + 1)), shape=(rows, count))
        sums += members.T @ features[part]
    return sums, np.bincount(ids, weights=weights, minlength=count)


def plus_plus(
    features: np.ndarray, weights: np.ndarray, count: int, rng: np.random.Generator, centres: np.ndarray | None = None
) -> np.ndarray:
    """Add centres to `centres` until there are `count`, by greedy k-means++ (Arthur and Vassilvitskii 2007).

    Each is the best of 2 + log(count) vectors drawn with probability proportional to weight times squared distance
    to the nearest centre. Returns fewer when no vector is away from all centres: (k, d) float32.
    """
    chosen = np.empty((0, features.shape[1]), np.float32) if centres is None else centres
    norms = np.einsum("ij,ij->i", features, features)
    if len(chosen):
        distances = nearest(features, chosen)[1]
    elif len(features):
        first = int(np.searchsorted(np.cumsum(weights, dtype=np.float64), rng.random() * weights.sum(dtype=np.float64)))
        chosen = features[[min(first, len(features) - 1)]]
        distances = _squared(features, norms, chosen)[:, 0]
    trials = 2 + int(np.log(max(count, 1)))
    while len(chosen) < count and len(features):
        # below this, a distance is the rounding of float32 and the vector a copy of a centre
        potential = np.where(distances > 2e-6 * norms, weights * distances, 0).astype(np.float64)
        total = np.cumsum(potential)
        if not total[-1] > 0:
            break
        drawn = np.searchsorted(total, rng.random(trials) * total[-1], side="right").clip(max=len(features) - 1)
        closer = np.minimum(distances[:, None], _squared(features, norms, features[drawn]))
        best = int((weights @ closer).argmin())
        distances = closer[:, best]
        chosen = np.concatenate([chosen, features[[drawn[best]]]])
    return np.ascontiguousarray(chosen, np.float32)


def _squared(features: np.ndarray, norms: np.ndarray, centres: np.ndarray) -> np.ndarray:
    products = features @ centres.T
    products *= -2
    products += norms[:, None]
    products += np.einsum("ij,ij->i", centres, centres)
    return np.maximum(products, 0, out=products)


def lloyd(
    features: np.ndarray, weights: np.ndarray, centres: np.ndarray, iterations: int, tolerance: float = 1e-3
) -> tuple[np.ndarray, float]:
    """Lloyd's iterations: better centres (k, d) float32 and their inertia (that of the last assignment).

    Stops when the inertia improves by less than `tolerance` of itself. A centre without vectors stays where it is.
    """
    before = np.inf
    inertia = np.inf
    for _ in range(iterations):
        ids, squared = nearest(features, centres)
        inertia = float(weights @ squared.astype(np.float64))
        if before - inertia <= tolerance * inertia:
            break
        sums, mass = gathered(features, weights, ids, len(centres))
        centres = np.where(mass[:, None] > 0, sums / np.maximum(mass, 1e-300)[:, None], centres).astype(np.float32)
        before = inertia
    return centres, inertia


def best_start(
    features: np.ndarray, weights: np.ndarray, count: int, seed: list[int], restarts: int, iterations: int = 30
) -> np.ndarray:
    """The best of `restarts` runs of k-means++ and Lloyd on a sample: centres (k <= count, d) float32."""
    best, least = np.empty((0, features.shape[1]), np.float32), np.inf
    for restart in range(restarts):
        start = plus_plus(features, weights, count, np.random.default_rng([*seed, restart]))
        if not len(start):
            return start
        centres, inertia = lloyd(features, weights, start, iterations)
        if inertia < least:
            best, least = centres, inertia
    return best
