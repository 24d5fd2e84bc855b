"""Objects of a scene after stitching: one row per object, whatever number of tiles it was seen in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terralabel.core import rle
from terralabel.errors import ContractError

__all__ = ["Objects"]


@dataclass(frozen=True)
class Objects:
    """`n` objects of one scene, as columns.

    id              (n,) int64, unique in the run, from 1
    cluster_id      (n,) int32; -1 for an object a person drew
    class_id        (n,) int32; 255 where its cluster was dropped
    score           (n,) float32 in [0, 1]: certainty of the cluster
    predicted_iou, stability_score   (n,) float32, of the best piece
    status          n strings: "auto" or "corrected" (touched by a person)
    bbox            (n, 4) int64 xywh, scene pixels, tight
    area            (n,) int64 pixels
    runs, offsets   run lengths of each object in the frame of its own bbox (h, w), see `terralabel.core.rle`
    """

    scene: str
    id: np.ndarray
    cluster_id: np.ndarray
    class_id: np.ndarray
    score: np.ndarray
    predicted_iou: np.ndarray
    stability_score: np.ndarray
    status: tuple[str, ...]
    bbox: np.ndarray
    area: np.ndarray
    runs: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.offsets) - 1
        expected = {
            "id": ((n,), np.int64),
            "cluster_id": ((n,), np.int32),
            "class_id": ((n,), np.int32),
            "score": ((n,), np.float32),
            "predicted_iou": ((n,), np.float32),
            "stability_score": ((n,), np.float32),
            "bbox": ((n, 4), np.int64),
            "area": ((n,), np.int64),
        }
        for name, (shape, dtype) in expected.items():
            column = getattr(self, name)
            if column.shape != shape or column.dtype != dtype:
                raise ContractError(f"Objects.{name}: expected {shape} {np.dtype(dtype)}, got {column.shape} {column.dtype}.")
        if len(self.status) != n:
            raise ContractError(f"Objects.status: expected {n} entries, got {len(self.status)}.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def code(self, index: int) -> np.ndarray:
        """Run lengths of object `index` in the frame of its bbox."""
        return self.runs[self.offsets[index] : self.offsets[index + 1]]

    def crop(self, index: int) -> np.ndarray:
        """The (h, w) bool mask of object `index` inside its bbox."""
        _, _, width, height = (int(v) for v in self.bbox[index])
        return rle.decode_box(self.code(index), (0, 0, width, height), (height, width))
