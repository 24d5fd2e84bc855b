"""Vectors that arrive in batches: checked, cut into equal blocks, shuffled within a buffer, sampled.

Everything here depends on the order of the vectors only, never on where one batch ends and the next begins, so that
the same objects written as other parts give the same clusters to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np

from terralabel.errors import ContractError

__all__ = ["LARGEST", "Block", "Reservoir", "blocks", "shuffled", "single_thread", "usable"]

#: Features of a larger magnitude are treated like NaN: their squares would overflow float32.
LARGEST = 1e15

#: (m, d) float32 vectors and their (m,) float32 weights.
Block = tuple[np.ndarray, np.ndarray]


def single_thread() -> AbstractContextManager:
    """BLAS on one thread within the `with` block: sums of several threads would differ in the last bits."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


def usable(features: np.ndarray) -> np.ndarray:
    """(n,) bool: the rows of (n, d) float32 `features` that are finite and no larger than `LARGEST`."""
    with np.errstate(invalid="ignore"):
        # one comparison does for NaN, infinity and overflow: all of them make it False
        return (np.abs(features) <= LARGEST).all(axis=1)


def _checked(batch: np.ndarray | tuple[np.ndarray, np.ndarray], width: int | None) -> Block:
    features, weights = batch if isinstance(batch, tuple) else (batch, None)
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise ContractError(f"A batch is {features.dtype} {features.shape}; expected (m, d) numbers.")
    if width is not None and features.shape[1] != width:
        raise ContractError(f"A batch has {features.shape[1]} features a vector, the batches before it had {width}.")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, np.float32)
    if weights is None:
        return features, np.ones(len(features), np.float32)
    weights = np.asarray(weights, np.float32)
    if weights.shape != (len(features),):
        raise ContractError(f"A batch has weights {weights.shape}; expected ({len(features)},), one for each vector.")
    if (weights < 0).any():
        raise ContractError("A batch has negative weights; expected areas or counts, 0 or more.")
    return features, weights


def blocks(batches: Iterable[np.ndarray | tuple[np.ndarray, np.ndarray]], rows: int) -> Iterator[Block]:
    """Cut batches of any size into blocks of `rows` vectors (the last may be smaller); unusable rows are left out.

    A batch is an (m, d) array or a pair of it and (m,) weights. Rows that are not finite, and rows whose weight
    is 0 or not finite, do not take part in fitting. Raises `ContractError` for other shapes.
    """
    width: int | None = None
    waiting: list[Block] = []
    held = 0
    for batch in batches:
        features, weights = _checked(batch, width)
        width = features.shape[1]
        keep = usable(features) & np.isfinite(weights) & (weights > 0)
        if not keep.all():
            features, weights = features[keep], weights[keep]
        start = 0
        while held + len(features) - start >= rows:
            stop = start + rows - held
            waiting.append((features[start:stop], weights[start:stop]))
            yield _joined(waiting)
            waiting, held, start = [], 0, stop
        if start < len(features):
            waiting.append((features[start:], weights[start:]))
            held += len(features) - start
    if held:
        yield _joined(waiting)


def _joined(pieces: list[Block]) -> Block:
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate([x for x, _ in pieces]), np.concatenate([w for _, w in pieces])


def shuffled(source: Iterable[Block], rows: int, rng: np.random.Generator) -> Iterator[Block]:
    """Each block of `source` in random order, cut into batches of `rows`: a shuffle bounded by the size of a block."""
    for features, weights in source:
        order = rng.permutation(len(features))
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            yield features[chosen], weights[chosen]


class Reservoir:
    """A uniform sample of at most `size` vectors of a stream of unknown length; in the order of the stream."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size = size
        self._rng = rng
        self._pool: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._held = 0
        self._threshold = -1.0

    def add(self, features: np.ndarray, weights: np.ndarray) -> None:
        """Every vector draws a key; those with the largest keys stay."""
        keys = self._rng.random(len(features))
        drawn = keys > self._threshold
        if drawn.any():
            self._pool.append((keys[drawn], features[drawn], weights[drawn]))
            self._held += int(drawn.sum())
        if self._held > 2 * self._size:
            self._shrink()

    def _shrink(self) -> None:
        keys, features, weights = (np.concatenate(column) for column in zip(*self._pool, strict=True))
        if len(keys) > self._size:
            kept = np.sort(np.argpartition(keys, -self._size)[-self._size :])
            keys, features, weights = keys[kept], features[kept], weights[kept]
            self._threshold = float(keys.min())
        self._pool, self._held = [(keys, features, weights)], len(keys)

    def sample(self) -> Block:
        """The (r, d) vectors kept, r <= size, and their weights."""
        if not self._pool:
            return np.empty((0, 0), np.float32), np.empty(0, np.float32)
        self._shrink()
        return self._pool[0][1], self._pool[0][2]
