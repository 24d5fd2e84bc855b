"""Many masks of one tile, as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from terralabel.core import rle
from terralabel.errors import ContractError

__all__ = ["Masks"]


@dataclass(frozen=True)
class Masks:
    """`n` masks of one tile, in the tile's own pixels, as run lengths and columns named like SAM's records.

    size                (H, W) of the tile
    runs, offsets       COCO uncompressed run lengths, see `terralabel.core.rle`
    bbox                (n, 4) int32 xywh, tight
    area                (n,) int64 pixels
    predicted_iou       (n,) float32 in [0, 1]: the generator's own estimate of quality
    stability_score     (n,) float32 in [0, 1]
    point_coords        (n, 2) float32 xy: the prompt that made the mask, or a point inside it
    crop_box            (n, 4) int32 xywh: the part of the tile that was looked at
    """

    size: tuple[int, int]
    runs: np.ndarray
    offsets: np.ndarray
    bbox: np.ndarray
    area: np.ndarray
    predicted_iou: np.ndarray
    stability_score: np.ndarray
    point_coords: np.ndarray
    crop_box: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.offsets) - 1
        expected = {
            "bbox": ((n, 4), np.int32),
            "area": ((n,), np.int64),
            "predicted_iou": ((n,), np.float32),
            "stability_score": ((n,), np.float32),
            "point_coords": ((n, 2), np.float32),
            "crop_box": ((n, 4), np.int32),
        }
        for name, (shape, dtype) in expected.items():
            column = getattr(self, name)
            if column.shape != shape or column.dtype != dtype:
                raise ContractError(f"Masks.{name}: expected {shape} {np.dtype(dtype)}, got {column.shape} {column.dtype}.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Masks:
        """No masks at all."""
        return cls.from_codes([], size)

    @classmethod
    def from_codes(
        cls,
        codes: Sequence[np.ndarray],
        size: tuple[int, int],
        *,
        predicted_iou: np.ndarray | None = None,
        stability_score: np.ndarray | None = None,
        point_coords: np.ndarray | None = None,
        crop_box: np.ndarray | None = None,
    ) -> Masks:
        """Masks from single run-length codes; what is not given is derived (scores 1, a point inside, the whole tile)."""
        runs, offsets = rle.concatenate(codes)
        rle.validate(runs, offsets, size)
        n = len(codes)
        ones = np.ones(n, dtype=np.float32)
        return cls(
            size,
            runs,
            offsets,
            rle.boxes(runs, offsets, size),
            rle.areas(runs, offsets),
            ones if predicted_iou is None else np.asarray(predicted_iou, dtype=np.float32),
            ones if stability_score is None else np.asarray(stability_score, dtype=np.float32),
            _inner_points(runs, offsets, size) if point_coords is None else np.asarray(point_coords, dtype=np.float32),
            np.tile(np.array([0, 0, size[1], size[0]], dtype=np.int32), (n, 1))
            if crop_box is None
            else np.asarray(crop_box, dtype=np.int32),
        )

    @classmethod
    def from_arrays(cls, arrays: Sequence[np.ndarray], size: tuple[int, int] | None = None, **columns: np.ndarray) -> Masks:
        """Masks from (H, W) bool arrays; `columns` as in `from_codes`."""
        if size is None:
            if not len(arrays):
                raise ContractError("Masks.from_arrays: give `size` when there are no arrays.")
            size = (arrays[0].shape[0], arrays[0].shape[1])
        return cls.from_codes([rle.encode(a) for a in arrays], size, **columns)

    def code(self, index: int) -> np.ndarray:
        """Run lengths of mask `index`."""
        return self.runs[self.offsets[index] : self.offsets[index + 1]]

    def crop(self, index: int) -> np.ndarray:
        """The (h, w) bool crop of mask `index` inside its own `bbox`."""
        return rle.decode_box(self.code(index), self.bbox[index], self.size)

    def array(self, index: int) -> np.ndarray:
        """Mask `index` as (H, W) bool."""
        x, y, w, h = (int(v) for v in self.bbox[index])
        whole = np.zeros(self.size, dtype=bool)
        whole[y : y + h, x : x + w] = self.crop(index)
        return whole

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.array(i) for i in range(len(self)))

    def select(self, which: np.ndarray) -> Masks:
        """The masks at `which` ((k,) integer indices or (n,) bool), in that order."""
        which = np.flatnonzero(which) if np.asarray(which).dtype == bool else np.asarray(which, dtype=np.int64)
        count = np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        source = np.repeat(self.offsets[which] - offsets[:-1], count) + np.arange(offsets[-1])
        return Masks(
            self.size,
            self.runs[source],
            offsets,
            self.bbox[which],
            self.area[which],
            self.predicted_iou[which],
            self.stability_score[which],
            self.point_coords[which],
            self.crop_box[which],
        )

    def within(self, valid: np.ndarray) -> Masks:
        """The masks without the pixels that are not `valid` ((H, W) bool of the tile); scores and prompts stay."""
        if valid.shape != tuple(self.size):
            raise ContractError(f"Masks.within: expected valid pixels of {self.size}, got {valid.shape}.")
        if valid.all() or not len(self):
            return self
        outside = np.flatnonzero(self.sums((~valid)[:, :, None])[:, 0])
        if not len(outside):
            return self
        codes = [self.code(i) for i in range(len(self))]
        for i in outside.tolist():
            x, y, w, h = (int(v) for v in self.bbox[i])
            codes[i] = rle.encode_boxed(self.crop(i) & valid[y : y + h, x : x + w], x, y, self.size)
        return Masks.from_codes(codes, self.size, **self._scores())

    @classmethod
    def join(cls, parts: Sequence[Masks], size: tuple[int, int]) -> Masks:
        """The masks of several parts of one tile of `size` (H, W), one after the other."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty(size)
        codes = [part.code(i) for part in parts for i in range(len(part))]
        columns = {key: np.concatenate([part._scores()[key] for part in parts]) for key in parts[0]._scores()}
        return cls.from_codes(codes, size, **columns)

    def _scores(self) -> dict[str, np.ndarray]:
        return {key: getattr(self, key) for key in ("predicted_iou", "stability_score", "point_coords", "crop_box")}

    def covered(self) -> np.ndarray:
        """(H, W) bool: the pixels of at least one mask."""
        _, first, stop = rle.intervals(self.runs, self.offsets)
        pixels = self.size[0] * self.size[1]
        depth = np.bincount(first, minlength=pixels + 1) - np.bincount(stop, minlength=pixels + 1)
        return np.ascontiguousarray(np.cumsum(depth[:pixels]).reshape(self.size[1], self.size[0]).T > 0)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of an (H, W, C) array over each mask, (n, C) float64; see `rle.sums`."""
        if values.shape[:2] != self.size:
            raise ContractError(f"Masks.sums: expected values of {self.size}, got {values.shape[:2]}.")
        return rle.sums(self.runs, self.offsets, values)


def _inner_points(runs: np.ndarray, offsets: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A pixel centre inside each mask: the middle of its longest run of ones; (n, 2) float32 xy."""
    n = len(offsets) - 1
    owner, first, stop = rle.intervals(runs, offsets)
    points = np.zeros((n, 2), dtype=np.float32)
    if owner.size:
        order = np.lexsort((-(stop - first), owner))
        owner_sorted = owner[order]
        head = order[np.concatenate([[True], owner_sorted[1:] != owner_sorted[:-1]])]
        middle = (first[head] + stop[head] - 1) // 2
        points[owner[head]] = np.stack([middle // size[0], middle % size[0]], 1) + 0.5
    return points
