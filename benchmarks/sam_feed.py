"""Realistic answers for networks without training: the same mask logits, at the same place, for the official code and ours.

A random network's masks are noise, and nothing passes SAM's filters. So both sides compute all that they always compute, and
then the decoder's answers are replaced by those of a drawn map: three nested objects around every point (a part, an
object, a group), some sharp and some blurred, some sure and some not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["Answers", "fed", "feed_official"]

#: Objects of each scale on the map.
COUNTS = (260, 90, 30)


class Answers:
    """Mask logits and predicted IoU of any point: (n, 2) xy in pixels of the network's input, `side` pixels wide."""

    def __init__(self, side: int = 1024, mask_size: int = 256, seed: int = 0) -> None:
        self.side, self.mask_size = side, mask_size
        rng = np.random.default_rng(seed)
        grid = np.stack(np.mgrid[:mask_size, :mask_size], -1).astype(np.float64)
        bend = [ndimage.gaussian_filter(rng.normal(size=(mask_size, mask_size)), mask_size / 16) for _ in range(2)]
        bent = grid + np.stack(bend, -1) / max(bend[0].std(), 1e-9) * (mask_size / 40)
        self.maps, self.logits, self.quality = [], [], []
        for count, mean in zip(COUNTS, (0.8, 0.9, 0.84), strict=True):
            count = max(count * mask_size // 256, 3)
            seeds = rng.random((count, 2)) * mask_size
            _, label = cKDTree(seeds).query(bent.reshape(-1, 2))
            label = label.reshape(mask_size, mask_size).astype(np.int32)
            slope = np.exp(rng.normal(1.6, 0.7, count))
            self.maps.append(label)
            self.logits.append(np.stack([_logits(label == i, slope[i]) for i in range(count)]))
            self.quality.append(np.clip(rng.normal(mean, 0.08, count), 0.3, 0.99))
        self.noise = rng.normal(0, 0.015, (64, 64, 3))

    def of(self, xy: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """((n, 3, m, m) logits, (n, 3) predicted IoU), float32."""
        column, row = np.clip(np.asarray(xy) * (self.mask_size / self.side), 0, self.mask_size - 1).astype(int).T
        own = [label[row, column] for label in self.maps]
        noise = self.noise[row % 64, column % 64]
        iou = np.stack([quality[i] for quality, i in zip(self.quality, own, strict=True)], 1) + noise
        shift = (noise * 20).astype(np.float32)
        stacked = np.empty((len(row), 3, self.mask_size, self.mask_size), np.float32)
        for k in range(3):
            np.add(self.logits[k][own[k]], shift[:, k, None, None], out=stacked[:, k])
        return torch.from_numpy(stacked), torch.from_numpy(np.minimum(iou, 0.999).astype(np.float32))


def _logits(inside: np.ndarray, slope: float) -> np.ndarray:
    """Like a signed distance from the outline, bounded."""
    if not inside.any():
        return np.full(inside.shape, -12, np.float32)
    near = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    far = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 3)
    return np.clip((near - far + np.where(inside, -0.5, 0.5)) * slope, -12, 12).astype(np.float32)


def feed_official(sam: Any, answers: Answers, *, compute: bool = True) -> None:
    """Let an official `Sam` compute its masks (unless not `compute`) and answer with those of the map."""
    prompts, decode = sam.prompt_encoder.forward, sam.mask_decoder.forward
    asked: dict[str, np.ndarray] = {}

    def remember(points: Any, boxes: Any, masks: Any) -> Any:
        asked["xy"] = points[0][:, 0].numpy()
        return prompts(points=points, boxes=boxes, masks=masks)

    def answer(**given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if compute:
            decode(**given)
        return answers.of(asked["xy"])

    sam.prompt_encoder.forward, sam.mask_decoder.forward = remember, answer


@contextmanager
def fed(answers: Answers) -> Iterator[None]:
    """The same for every `SamNetwork` of this process: predicted IoU before the selection, logits in place of those made."""
    from terralabel.nets.sam.network import SamNetwork

    of_group, drawn = SamNetwork._of_group, SamNetwork._drawn
    asked = threading.local()  # a group of prompts is one thread's

    def begin(self: Any, prepared: Any, points: torch.Tensor, thresh: float) -> Any:
        asked.xy, asked.at = points.cpu().numpy(), 0
        return of_group(self, prepared, points, thresh)

    def answer(self: Any, prepared: Any, made: Any, thresh: float) -> Any:
        count = len(made.iou)
        logits, iou = answers.of(asked.xy[asked.at : asked.at + count])
        asked.at += count
        made = replace(made, iou=iou.to(made.iou))
        index, passed, _ = drawn(self, prepared, made, thresh)
        return index, passed, logits.flatten(0, 1)[index.cpu()].to(made.iou.device)

    SamNetwork._of_group, SamNetwork._drawn = begin, answer  # type: ignore[method-assign]
    try:
        yield
    finally:
        SamNetwork._of_group, SamNetwork._drawn = of_group, drawn  # type: ignore[method-assign]
