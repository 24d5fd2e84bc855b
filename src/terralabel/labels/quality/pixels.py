"""Do the pixels of a label look like those with this label elsewhere? A light classifier, fitted on the other pictures of the set.

It needs no network and no truth, so it says something of labels of any origin: where a classifier that has learned the classes
from the other pictures' labels disagrees, the label is wrong, or the picture unlike the others (Northcutt et al. 2021 find label
errors so).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = ["Pixels", "pixel_features"]

#: Pixels that are drawn of one picture, and of all.
_DRAWN, _ALL = 1500, 60_000
_FOLDS, _TREES = 5, 40
#: Every so many-th row and column is classified; what lies between takes the same.
_STEP = 2


def pixel_features(image: np.ndarray) -> np.ndarray:
    """(H, W, 14) float32 of (H, W, 3) uint8: Lab, Lab at two blurs, texture at two sizes, gradient, its mean around, darkness rank."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0]
    x, y = (cv2.Sobel(cv2.GaussianBlur(light, (0, 0), 1.0), -1, *d, scale=0.125) for d in ((1, 0), (0, 1)))
    gradient = np.sqrt(x * x + y * y)
    texture = [np.sqrt(np.maximum(cv2.blur(light * light, (s, s)) - cv2.blur(light, (s, s)) ** 2, 0)) for s in (5, 15)]
    rank = np.searchsorted(np.percentile(light, np.arange(1, 100)), light) / 99.0  # of this picture: SAR's levels differ
    blurred = [cv2.GaussianBlur(lab, (0, 0), s) for s in (2.0, 6.0)]
    return np.dstack([lab, *blurred, *texture, gradient, cv2.blur(gradient, (15, 15)), rank]).astype(np.float32)


@dataclass
class Pixels:
    """Draws pixels of each picture (`add`, in a fixed order), then says of any of them what the others make of it (`maps`).

    `class_ids`: of the labels. `seed`: of the draws, the folds and the trees.
    """

    class_ids: tuple[int, ...]
    seed: int = 0
    _names: list[str] = field(default_factory=list)
    _features: list[np.ndarray] = field(default_factory=list)
    _labels: list[np.ndarray] = field(default_factory=list)
    _models: dict[int, Any] = field(default_factory=dict)

    def add(self, name: str, image: np.ndarray, label: np.ndarray, valid: np.ndarray) -> None:
        """One picture: (H, W, 3) uint8, (H, W) uint8 class ids, (H, W) bool."""
        there = np.flatnonzero((valid & (label != IGNORE)).ravel())
        rng = np.random.default_rng([self.seed, len(self._names)])
        chosen = np.sort(rng.choice(there, min(_DRAWN, len(there)), replace=False)) if len(there) else there
        self._names.append(name)
        self._features.append(pixel_features(image).reshape(-1, 14)[chosen])
        self._labels.append(label.ravel()[chosen])
        self._models.clear()

    @property
    def usable(self) -> bool:
        """Whether there are two pictures and two classes, so that there is something to learn."""
        drawn = [labels for labels in self._labels if len(labels)]
        return len(drawn) > 1 and len(np.unique(np.concatenate(drawn))) > 1

    def maps(self, name: str, image: np.ndarray) -> np.ndarray | None:
        """(K, H, W) float32 probabilities by a classifier that has not seen the picture; one that was not added is new to all of them."""
        if not self.usable:
            return None
        fold = self._fold_of(name)
        if fold not in self._models:
            self._models[fold] = self._fit(fold)
        model = self._models[fold]
        height, width = image.shape[:2]
        found = model.predict_proba(pixel_features(image)[::_STEP, ::_STEP].reshape(-1, 14)).astype(np.float32)
        out = np.zeros((len(self.class_ids), -(-height // _STEP), -(-width // _STEP)), dtype=np.float32)
        for column, class_id in enumerate(model.classes_.tolist()):
            if class_id in self.class_ids:
                out[self.class_ids.index(class_id)] = found[:, column].reshape(out.shape[1:])
        return np.ascontiguousarray(out.repeat(_STEP, axis=1).repeat(_STEP, axis=2)[:, :height, :width])

    def _fold_of(self, name: str) -> int:
        if name not in self._names:
            return -1
        order = np.random.default_rng(self.seed).permutation(len(self._names))
        return int(order[self._names.index(name)]) % min(_FOLDS, len(self._names))

    def _fit(self, fold: int) -> Any:
        """Trees on the pixels of the pictures outside a fold."""
        from sklearn.ensemble import ExtraTreesClassifier

        rows = [i for i, name in enumerate(self._names) if self._fold_of(name) != fold]
        features, labels = (np.concatenate([part[i] for i in rows]) for part in (self._features, self._labels))
        if len(labels) > _ALL:
            kept = np.sort(np.random.default_rng([self.seed, fold + 2]).choice(len(labels), _ALL, replace=False))
            features, labels = features[kept], labels[kept]
        model = ExtraTreesClassifier(_TREES, max_depth=14, min_samples_leaf=5, n_jobs=1, random_state=self.seed)
        return model.fit(features, labels)
