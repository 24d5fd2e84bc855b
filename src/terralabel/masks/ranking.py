"""How good a mask is a node? A small network on its measurements, trained once and shipped as numbers.

`tree_ranking.npz` holds the weights; how they were made stands in `docs/masks.md` and in `benchmarks/train_tree_ranking.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from threadpoolctl import ThreadpoolController

from terralabel.errors import WeightsError
from terralabel.masks.hierarchies import FEATURES

__all__ = ["Ranking", "load_ranking", "node_scores", "shipped_ranking"]


@dataclass(frozen=True)
class Ranking:
    """A perceptron with ReLU between its layers: `features` in, expected best IoU with a true object out.

    mean, scale   (d,) float32 of the features
    weights       matrices (d, h1) ... (h, 1) float32
    biases        vectors (h1,) ... (1,) float32
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    def score(self, features: np.ndarray) -> np.ndarray:
        """Expected IoU, (m,) float32 in [0, 1], of nodes with `features` (m, d)."""
        signal = np.clip((features - self.mean) / self.scale, -6, 6).astype(np.float32, order="C")
        with _threads().limit(limits=1, user_api="blas"):  # the number of threads may change the last bit
            for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
                signal = np.maximum(signal @ weight + bias, 0)
            return np.clip(signal @ self.weights[-1][:, 0] + self.biases[-1][0], 0, 1)


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def load_ranking(name: str, width: int) -> Ranking:
    """The ranking shipped under `name`, which must take `width` features."""
    path = files("terralabel.masks") / name
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        layers = sum(key.startswith("weight") for key in data)
        ranking = Ranking(
            data["mean"],
            data["scale"],
            tuple(data[f"weight{i}"].astype(np.float32) for i in range(layers)),
            tuple(data[f"bias{i}"].astype(np.float32) for i in range(layers)),
        )
    if len(ranking.mean) != width:
        raise WeightsError(f"{name}: takes {len(ranking.mean)} features, the trees give {width}; reinstall terralabel.")
    return ranking


@lru_cache(maxsize=1)
def shipped_ranking() -> Ranking:
    """The ranking of nodes that comes with the package."""
    return load_ranking("tree_ranking.npz", len(FEATURES))


def node_scores(features: np.ndarray) -> np.ndarray:
    """Score of nodes with `features` (m, d), (m,) float32 in [0, 1]: the learned one, or that of plain contrast where it is higher.

    The network knows roofs and fields. A slick or a river is neither, has no compact shape, and yet nothing in the picture stands
    out more: a node whose colour differs from its ring by more than its spread, along a contour without gaps, is worth almost half a mask.
    """
    contrast = features[:, FEATURES.index("ring_contrast")]
    closed = 1 - features[:, FEATURES.index("weak_share")]
    return np.maximum(shipped_ranking().score(features), 0.45 * np.clip((contrast - 1.5) / 2.5, 0, 1) * closed).astype(
        np.float32
    )
