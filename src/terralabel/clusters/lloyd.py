"""The steps of k-means on vectors in memory: nearest centres, sums, k-means++ and Lloyd's iterations."""

from __future__ import annotations

import numpy as np

__all__ = ["ROWS", "best_start", "certainty", "gathered", "lloyd", "nearest", "plus_plus"]

#: Vectors compared with all centres at a time: their products stay in the cache.
ROWS = 4096

#: Centres that k-means++ places one by one; more are placed by several at a time.
STEPS = 1024


def nearest(features: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of (k, d) centres for (m, d) float32 vectors: ids (m,) int64 and squared distances (m,) float32.

    Of equally near centres the first wins. k must be at least 1.
    """
    half_norms = 0.5 * np.einsum("ij,ij->i", centres, centres)
    transposed = np.ascontiguousarray(centres.T)
    ids = np.empty(len(features), np.int64)
    squared = np.empty(len(features), np.float32)
    step = max(16, min(ROWS, 2**22 // len(centres)))
    for start in range(0, len(features), step):
        rows = features[start : start + step]
        scores = rows @ transposed
        scores -= half_norms
        best = scores.argmax(axis=1)
        ids[start : start + step] = best
        top = scores[np.arange(len(rows)), best]
        squared[start : start + step] = np.einsum("ij,ij->i", rows, rows) - 2 * top
    return ids, np.maximum(squared, 0, out=squared)


def certainty(features: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre (n,) int32 and `1 - d1 / d2` (n,) float32, d1 and d2 the distances to the two nearest centres.

    1 at a centre, 0 half way between two; 1 where there is one centre only; 0 where d2 is 0.
    The two nearest are found by products and then measured by differences, so that a vector's result does not
    depend on the others it is predicted with.
    """
    if len(centres) == 1:
        return np.zeros(len(features), np.int32), np.ones(len(features), np.float32)
    half_norms = 0.5 * np.einsum("ij,ij->i", centres, centres)
    ids, sure = np.empty(len(features), np.int32), np.empty(len(features), np.float32)
    step = max(16, min(ROWS, 2**22 // len(centres)))
    for start in range(0, len(features), step):
        part = slice(start, start + step)
        ids[part], sure[part] = _two_nearest(features[part], centres, half_norms)
    return ids, sure


def _two_nearest(features: np.ndarray, centres: np.ndarray, half_norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = features @ centres.T - half_norms
    pair = np.sort(np.argpartition(scores, -2, axis=1)[:, -2:], axis=1)  # (n, 2); the lower id first wins ties
    away = features[:, None, :] - centres[pair]  # (n, 2, e)
    distances = np.sqrt(np.einsum("nij,nij->ni", away, away))
    first = distances.argmin(axis=1)
    near, far = distances.min(axis=1), distances.max(axis=1)
    ids = pair[np.arange(len(pair)), first].astype(np.int32)
    return ids, np.where(far > 0, 1 - near / np.where(far > 0, far, 1), 0).astype(np.float32)


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
    to the nearest centre. More than `STEPS` centres are drawn several at a time, without choosing (as k-means|| does).
    Returns fewer when no vector is away from all centres: (k, d) float32.
    """
    chosen = np.empty((0, features.shape[1]), np.float32) if centres is None else centres
    norms = np.einsum("ij,ij->i", features, features)
    if len(chosen):
        distances = nearest(features, chosen)[1]
    elif len(features):
        first = int(np.searchsorted(np.cumsum(weights, dtype=np.float64), rng.random() * weights.sum(dtype=np.float64)))
        chosen = features[[min(first, len(features) - 1)]]
        distances = _squared(features, norms, chosen)[:, 0]
    together = -(-count // STEPS)
    trials = 2 + int(np.log(max(count, 1))) if together == 1 else together
    while len(chosen) < count and len(features):
        # below this, a distance is the rounding of float32 and the vector a copy of a centre
        potential = np.where(distances > 2e-6 * norms, weights * distances, 0).astype(np.float64)
        total = np.cumsum(potential)
        if not total[-1] > 0:
            break
        drawn = np.searchsorted(total, rng.random(trials) * total[-1], side="right").clip(max=len(features) - 1)
        if together > 1:
            drawn = _distinct(features, drawn)[: count - len(chosen)]
        closer = np.minimum(distances[:, None], _squared(features, norms, features[drawn]))
        if together == 1:
            best = int((weights @ closer).argmin())
            drawn, closer = drawn[[best]], closer[:, [best]]
        distances = closer.min(axis=1)
        chosen = np.concatenate([chosen, features[drawn]])
    return np.ascontiguousarray(chosen, np.float32)


def _distinct(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """These rows without those whose vector came before."""
    _, first = np.unique(features[rows], axis=0, return_index=True)
    return rows[np.sort(first)]


def _squared(features: np.ndarray, norms: np.ndarray, centres: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # BLAS kernels may raise flags for lanes beyond the data; all entries are finite here
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
