"""A regression forest as plain arrays: fitted by scikit-learn, kept as JSON, evaluated by numpy. No pickle anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from terralabel.errors import InputError

__all__ = ["Forest", "fit_forest"]

_TREES, _LEAVES, _FEW = 50, 24, 3


@dataclass(frozen=True)
class Forest:
    """Trees one after the other in arrays of `m` nodes; the prediction is the mean of the trees' leaves.

    first (t,) int32 the root of each tree; feature (m,) int32, -1 for a leaf; threshold (m,) float64: left where the value is at
    most that; left, right (m,) int32 node numbers; value (m,) float64 of leaves.
    """

    first: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    def predict(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 of (n, s) float32 without NaN."""
        total = np.zeros(len(values))
        rows = np.arange(len(values))
        for root in self.first.tolist():
            node = np.full(len(values), root, dtype=np.int32)
            while (inner := self.feature[node] >= 0).any():
                go_left = values[rows, np.maximum(self.feature[node], 0)] <= self.threshold[node]
                node = np.where(inner, np.where(go_left, self.left[node], self.right[node]), node)
            total += self.value[node]
        return total / max(len(self.first), 1)

    def to_dict(self) -> dict[str, Any]:
        """Lists for JSON; `from_dict` gives the same forest, number for number."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Forest:
        """Read what `to_dict` gave; `InputError` for trees that lead nowhere or in circles."""
        kinds = {"threshold": np.float64, "value": np.float64}
        forest = cls(*(np.array(data[name], dtype=kinds.get(name, np.int32)) for name in cls.__dataclass_fields__))
        nodes, inner = np.arange(len(forest.feature)), forest.feature >= 0
        below = np.concatenate([forest.left[inner] - nodes[inner], forest.right[inner] - nodes[inner]])
        ends = np.concatenate([forest.left[inner], forest.right[inner], forest.first])
        if (len(below) and below.min() <= 0) or (len(ends) and (ends.max() >= len(nodes) or ends.min() < 0)):
            raise InputError("The judge's trees are damaged: fit it again.", "damaged")
        return forest


def fit_forest(values: np.ndarray, target: np.ndarray, seed: int) -> Forest:
    """Extremely randomised trees on (n, s) float32 without NaN and (n,) targets; thresholds and leaves rounded to 7 digits."""
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(
        _TREES, min_samples_leaf=_FEW, max_leaf_nodes=_LEAVES, max_features=0.5, bootstrap=False, random_state=seed, n_jobs=1
    ).fit(values, target)
    first, columns = [], []
    start = 0
    for estimator in model.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        children = [np.where(leaf, -1, side + start) for side in (tree.children_left, tree.children_right)]
        columns.append((np.where(leaf, -1, tree.feature), np.where(leaf, 0.0, tree.threshold), *children, tree.value[:, 0, 0]))
        first.append(start)
        start += tree.node_count
    feature, threshold, left, right, value = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    integers = (part.astype(np.int32) for part in (feature, left, right))
    feature, left, right = integers
    return Forest(np.array(first, np.int32), feature, _rounded(threshold), left, right, _rounded(value))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{v:.7g}") for v in values.tolist()], dtype=np.float64)
