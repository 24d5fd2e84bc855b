"""Scaling and PCA, fitted on streamed moments, stored with the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from terralabel.errors import SettingsError

__all__ = ["SCALES", "Moments", "Scaling", "check_scaling"]

#: none: features as they are; standard: zero mean and unit variance of each; l2: vectors of length 1.
SCALES = ("none", "standard", "l2")


def check_scaling(scale: str, pca: int | None) -> None:
    """Raise `SettingsError` for an unknown scale or a PCA of less than one dimension."""
    if scale not in SCALES:
        raise SettingsError(f"scale {scale!r}: expected one of {', '.join(SCALES)}.")
    if pca is not None and pca < 1:
        raise SettingsError(f"pca {pca}: expected at least 1 dimension, or none.")


def _unit_length(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a zero vector stays zero. Scaled by the largest entry first, so that no square overflows."""
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0)
    features = features / np.where(largest > 0, largest, 1)
    length = np.sqrt(np.einsum("ij,ij->i", features, features))[:, None]
    return features / np.where(length > 0, length, 1)


class Moments:
    """Weighted mean, variance and (for PCA) covariance of a stream of blocks, about the mean of its first block."""

    def __init__(self, covariance: bool, l2: bool) -> None:
        self._covariance = covariance
        self._l2 = l2
        self._origin: np.ndarray | None = None
        self.count = 0

    def add(self, features: np.ndarray, weights: np.ndarray) -> None:
        """Add (m, d) float32 vectors with (m,) float32 weights."""
        features = _unit_length(features) if self._l2 else features
        if self._origin is None:
            self._origin = features.mean(axis=0, dtype=np.float64)
            self._weight = 0.0
            self._first = np.zeros(features.shape[1])
            self._second = np.zeros((features.shape[1],) * (2 if self._covariance else 1))
        away = features.astype(np.float64) - self._origin
        self.count += len(away)
        self._weight += float(weights.sum(dtype=np.float64))
        weighted = away * weights[:, None]
        self._first += weighted.sum(axis=0)
        self._second += weighted.T @ away if self._covariance else np.einsum("ij,ij->j", weighted, away)

    def scaling(self, scale: str, pca: int | None) -> Scaling:
        """The scaling fitted on what was added."""
        if self._origin is None:
            return Scaling(scale, np.zeros(0, np.float32), np.zeros(0, np.float32), None)
        offset = self._first / self._weight
        mean = self._origin + offset
        if self._covariance:
            covariance = self._second / self._weight - np.outer(offset, offset)
            variance = np.diag(covariance)
        else:
            variance = self._second / self._weight - offset**2
        deviation = np.sqrt(np.maximum(variance, 0))
        # a constant feature keeps a deviation of about the resolution of float32: dividing by it would make noise of it
        constant = deviation <= 1e-7 * np.abs(mean)
        factor = np.where(constant, 0.0, 1 / np.where(constant, 1, deviation)) if scale == "standard" else np.ones_like(mean)
        axes = _principal_axes(covariance * np.outer(factor, factor), pca) if self._covariance and pca else None
        return Scaling(scale, mean.astype(np.float32), factor.astype(np.float32), axes)


def _principal_axes(covariance: np.ndarray, dimensions: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = max(1, min(dimensions, int((values > 1e-10 * max(values[0], 1e-300)).sum())))
    vectors = vectors[:, :kept]
    # an eigenvector has no sign of its own; the largest entry is made positive
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)])
    return np.ascontiguousarray(vectors * np.where(signs == 0, 1, signs), np.float32)


@dataclass(frozen=True)
class Scaling:
    """Features -> the space in which distances are taken: `((unit length) - mean) * factor @ axes`.

    mean (d,) and factor (d,) float32; axes (d, e) float32 or None without PCA. The mean is taken off with every
    scale: it changes no distance, and keeps float32 exact for features far from 0.
    """

    scale: str
    mean: np.ndarray
    factor: np.ndarray
    axes: np.ndarray | None

    @property
    def width(self) -> int:
        """Features a vector must have."""
        return len(self.mean)

    @property
    def reduced(self) -> int:
        """Features a vector has after `apply`."""
        return self.width if self.axes is None else self.axes.shape[1]

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(m, d) float32 -> (m, e) float32."""
        if self.scale == "l2":
            features = _unit_length(features)
        features = features - self.mean
        if self.scale == "standard":
            features *= self.factor
        if self.axes is None:
            return features
        # in float64: a product's last bits depend on the rows beside it, and are cut off on the way back to float32
        return (features.astype(np.float64) @ self.axes.astype(np.float64)).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays for `from_state`."""
        arrays = {"scale": np.array(SCALES.index(self.scale), np.int64), "mean": self.mean, "factor": self.factor}
        return arrays if self.axes is None else {**arrays, "axes": self.axes}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Scaling:
        """The scaling that `state` was taken of."""
        axes = state.get("axes")
        return cls(
            SCALES[int(state["scale"])],
            np.asarray(state["mean"], np.float32),
            np.asarray(state["factor"], np.float32),
            None if axes is None else np.asarray(axes, np.float32),
        )
