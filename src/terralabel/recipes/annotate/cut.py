"""Where classes are cut apart: what predictions of held-out images say about a network that finds too much, or too little, of a class.

The structure loss asks for every object pixel, and pays little for a wide rim: its networks draw thin and small things too large, and a
network that learns from such labels draws them larger still. So each class's probability gets a weight. By IoU a wide range of weights
is nearly as good on images that the network had not seen; of these, it is the one with which as much of the class is found as there is.
Where every class is an object, too much of one is too little of another, few images hold a class, and nothing is learned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["Sample", "cut_of", "fit_cut", "mean_iou", "weighted"]

#: Pixels of each picture that are kept to fit on.
PIXELS = 20_000
#: Logarithms of weights that are tried, and how many times round the classes.
_STEPS, _ROUNDS = np.linspace(-4, 4, 65), 2
#: Weights that cost no more than this of the best mean IoU are as good as the best.
_SLACK = 0.01


class Sample:
    """Pixels of held-out pictures: log-probabilities (K, n) and true class indices (n,)."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._said: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def add(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        """One picture: (K, h, w) float, and (h, w) indices of classes, -1 where nothing is known."""
        at = np.flatnonzero(truth.ravel() >= 0)
        at = self._rng.permutation(at)[:PIXELS]
        self._said.append(np.log(np.maximum(probabilities.reshape(len(probabilities), -1)[:, at], 1e-6)).astype(np.float32))
        self._true.append(truth.ravel()[at].astype(np.int64))

    @property
    def said(self) -> np.ndarray:
        """(K, n) float32."""
        return np.concatenate(self._said, axis=1)

    @property
    def true(self) -> np.ndarray:
        """(n,) int64."""
        return np.concatenate(self._true)

    def __len__(self) -> int:
        return sum(len(true) for true in self._true)


def fit_cut(sample: Sample, background: int | None) -> tuple[float, ...]:
    """(K,) weights of the classes, 1 for the background: as much is found of each as is true, at hardly less than the best mean IoU.

    `background`: the index of the class that is no object; None, where every class is one: no weights.
    """
    if background is None or not len(sample):
        return ()
    said, true = sample.said, sample.true
    objects = [k for k in range(len(said)) if k != background]
    offsets = np.zeros(len(said))
    for _ in range(_ROUNDS if len(objects) > 1 else 1):
        for k in objects:
            scores, off = [], []
            for step in _STEPS:
                offsets[k] = step
                found = (said + offsets[:, None]).argmax(axis=0)
                scores.append(mean_iou(found, true, objects))
                off.append(abs(np.log(((found == k).sum() + 1) / ((true == k).sum() + 1))))
            good = np.flatnonzero(np.array(scores) >= max(scores) - _SLACK)
            offsets[k] = _STEPS[good[np.array(off)[good].argmin()]]
    return tuple(float(w) for w in np.exp(offsets).round(4))


def mean_iou(found: np.ndarray, true: np.ndarray, objects: Sequence[int]) -> float:
    """The mean over the classes `objects` that are found or true."""
    size = int(max(found.max(initial=0), true.max(initial=0))) + 1
    counts = np.bincount(found * size + true, minlength=size * size).reshape(size, size)
    union = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    there = [k for k in objects if k < size and union[k]]
    return float(np.mean([counts[k, k] / union[k] for k in there])) if there else 0.0


def weighted(probabilities: np.ndarray, cut: Sequence[float]) -> np.ndarray:
    """(K, ...) probabilities with the weights of a cut, summing to 1 again; as they are where there is none."""
    if not len(cut):
        return probabilities
    heavier = probabilities * np.asarray(cut, dtype=np.float32).reshape(-1, *[1] * (probabilities.ndim - 1))
    return heavier / np.maximum(heavier.sum(axis=0, keepdims=True), np.float32(1e-12))


def cut_of(model: Path) -> tuple[float, ...]:
    """The weights of a model's classes, by held-out images and by those learned from; none where there is neither.

    What held-out images say is of the networks of the folds, which saw fewer images and find more that is not there than the model
    itself: where images learned from are content with a milder weight, it is half-way between the two (their geometric mean).
    """
    folder = model if model.is_dir() else model.parent
    found = [json.loads(p.read_text(encoding="utf-8")) for p in (folder / "held_out.json", folder / "cut.json") if p.is_file()]
    cuts = [np.array(made["cut"]) for made in found if made.get("cut")]
    if not cuts:
        return ()
    first, last = cuts[0], cuts[-1]
    return tuple(np.sqrt(first * np.maximum(first, last)).tolist())
