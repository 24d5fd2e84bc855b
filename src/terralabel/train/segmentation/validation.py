"""The val split measured between steps: mIoU and accuracy over all its labelled pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.nets.segmentation.network import Network
from terralabel.train.segmentation.distributed import Team
from terralabel.train.segmentation.inference import Mapper
from terralabel.train.segmentation.samples import Reader

__all__ = ["Validation", "accuracy_of", "miou_of"]


def miou_of(counts: np.ndarray) -> float:
    """Mean IoU of (K, K) counts, rows predicted, columns true; classes that are in neither are left out; NaN without any."""
    right = counts.diagonal()
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return float((right[union > 0] / union[union > 0]).mean()) if union.any() else float("nan")


def accuracy_of(counts: np.ndarray) -> float:
    """Share of the pixels that are right."""
    return float(counts.diagonal().sum() / max(counts.sum(), 1))


@dataclass(frozen=True)
class Validation:
    """The labelled images of a split, seen in windows of `tile_size` side by side."""

    reader: Reader
    sizes: dict[str, tuple[int, int]]
    tile_size: int
    precision: str = "fp32"

    def measure(self, network: Network, device: torch.device, team: Team) -> dict[str, float]:
        """{"miou", "accuracy"} of the network as it is; each process sees its share of the images."""
        network.eval()
        mapper = Mapper(network, device, tile_size=self.tile_size, overlap=0, precision=self.precision)
        counts = np.zeros((network.classes, network.classes), np.int64)
        items = [item for item in self.reader.labelled.images if item.key in self.sizes]
        for item in items[team.rank :: team.size]:
            size = self.sizes[item.key]

            def read(window: Window, item=item, size=size) -> tuple[np.ndarray, np.ndarray]:
                pixels = self.reader.pixels(item, window, size)
                return pixels, np.ones(pixels.shape[:2], bool)

            for part in mapper.blended(read, *size):
                true = self.reader.labels(item, part.window, size)
                found = part.probabilities.argmax(axis=0)[true != IGNORE]
                pairs = found * network.classes + true[true != IGNORE]
                counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
        whole = team.sum_(torch.from_numpy(counts).to(device)).cpu().numpy()
        return {"miou": miou_of(whole), "accuracy": accuracy_of(whole)}
