"""Masks measured and cut out of a network's low-resolution logits, as if those had been enlarged to the tile's size.

A network of the SAM family answers with (m, m) logits, m 256 or 288. The official code enlarges every candidate to the
tile's size, counts pixels over three cut-offs and throws most candidates away. Here the same numbers come from the small
logits: where the logits around a group of pixels lie on one side of a cut-off, so do all pixels between them, because
bilinear weights are shares; only the other groups, along outlines, are evaluated (`terralabel.masks.outlines`).

Two frames exist. SAM and SAM-HQ enlarge to the network's square, cut the padding off and resize that to the tile; SAM 2,
EdgeTAM and SAM 3 enlarge to the tile in one step. `Frame` says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core import rle
from terralabel.errors import ContractError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from terralabel.masks.outlines import Axis

__all__ = ["Frame", "LowResMasks", "Measures", "enlarge", "measure"]

#: Bytes of enlarged logits that exist at once where there is no compiled kernel.
_ENLARGED_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class Frame:
    """How (m, m) logits lie over a tile.

    size         (H, W) of the tile
    mask_size    m
    image_size   S, the side of the network's input
    resized      (h, w) of the tile within that input, the rest being padding right and below; None when the tile was
                 stretched to the whole square
    """

    size: tuple[int, int]
    mask_size: int
    image_size: int
    resized: tuple[int, int] | None = None

    @classmethod
    def of(cls, size: tuple[int, int], *, mask_size: int, image_size: int, pads: bool) -> Frame:
        """The frame of a tile whose long side is resized to `image_size` (`pads`), or that is stretched to the square."""
        if not pads:
            return cls(size, mask_size, image_size)
        scale = image_size * 1.0 / max(size)  # segment-anything's ResizeLongestSide
        resized = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
        return cls(size, mask_size, image_size, (max(resized[0], 1), max(resized[1], 1)))

    @property
    def input_size(self) -> tuple[int, int]:
        """(h, w) of the tile within the network's input."""
        return self.resized or (self.image_size, self.image_size)

    def to_input(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) xy of the tile as float32 xy of the network's input."""
        height, width = self.input_size
        return (np.asarray(xy, dtype=np.float64) * (width / self.size[1], height / self.size[0])).astype(np.float32)


def _taps(length: int, source: int) -> tuple[np.ndarray, np.ndarray]:
    """torch's bilinear weights (align_corners=False), in its own float32 arithmetic: (length, 2) index and weight."""
    if length == source:
        own = np.arange(length)
        return np.stack([own, own], 1), np.tile(np.array([1, 0], dtype=np.float32), (length, 1))
    scale = np.float64(np.float32(source) / np.float32(length))
    place = np.maximum(scale * (np.arange(length) + 0.5) - 0.5, 0).astype(np.float32)  # a fused multiply-subtract
    low = np.minimum(place.astype(np.int64), source - 1)
    share = np.clip(place - low.astype(np.float32), np.float32(0), np.float32(1))
    return np.stack([low, np.minimum(low + 1, source - 1)], 1), np.stack([np.float32(1) - share, share], 1)


@lru_cache(maxsize=64)
def _axis(length: int, mask_size: int, image_size: int, resized: int | None, twice: bool) -> Axis:
    """The axis of a tile `length` pixels long, `resized` of the network's `image_size`; None where it was stretched."""
    from terralabel.masks.outlines import Axis

    taps, weight = _taps(length if resized is None else image_size, mask_size)
    own = np.arange(length)
    then_taps, then_weight = np.stack([own, own], 1), np.tile(np.array([1, 0], dtype=np.float32), (length, 1))
    if twice and resized is not None:
        then_taps, then_weight = _taps(length, resized)
    bounds = np.stack([taps[then_taps[:, 0], 0], taps[then_taps[:, 1], 1]], 1)
    shares = np.zeros((length, 3), dtype=np.float32)
    for step in (0, 1):
        for tap in (0, 1):
            seen = taps[then_taps[:, step], tap] - bounds[:, 0]
            shares[own, np.minimum(seen, 2)] += then_weight[:, step] * weight[then_taps[:, step], tap]
    fresh = np.concatenate([[True], np.any(bounds[1:] != bounds[:-1], axis=1)])
    starts = np.concatenate([np.flatnonzero(fresh), [length]]).astype(np.int64)
    return Axis(taps, weight, then_taps, then_weight, twice, np.ascontiguousarray(bounds[fresh]), starts, shares)


def axes(frame: Frame) -> tuple[Axis, Axis]:
    """(rows, columns) of a frame."""
    twice = frame.resized is not None and frame.resized != frame.size
    rows, columns = frame.resized or (None, None)
    return (
        _axis(frame.size[0], frame.mask_size, frame.image_size, rows, twice),
        _axis(frame.size[1], frame.mask_size, frame.image_size, columns, twice),
    )


@dataclass(frozen=True)
class Measures:
    """What is known of `n` candidates without their pixels.

    stability_score (n,) float32, NaN for a mask that is empty at the lower cut-off, as in segment-anything;
    area (n,) int64 pixels; bbox (n, 4) int32 xywh, zeros for an empty mask.
    """

    stability_score: np.ndarray
    area: np.ndarray
    bbox: np.ndarray


def measure(logits: Tensor, frame: Frame, *, offset: float = 1.0, threads: int = 1) -> Measures:
    """Stability score, area and box at the tile's size of (n, m, m) float32 logits, on whatever device they are.

    `offset` shifts the cut-off of the stability score up and down from 0. The result does not depend on `threads`.
    Raises `WeightsError` for logits that are not finite: what a damaged checkpoint gives.
    """
    _check(logits, frame)
    if not len(logits):
        return Measures(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 4), np.int32))
    if _compiled(logits):
        counts, box = _measure_compiled(logits.numpy(), frame, offset, threads)
    else:
        counts, box = _measure_enlarged(logits, frame, offset)
    if (counts < 0).any():
        raise WeightsError(
            "The network answers with NaN or infinite logits: the checkpoint is damaged or not meant for this network; "
            "check it with `terralabel models check FILE`."
        )
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing over the lower cut-off
        stability = counts[:, 2].astype(np.float32) / counts[:, 0].astype(np.float32)
    return Measures(stability, counts[:, 1].copy(), box)


def _check(logits: Tensor, frame: Frame) -> None:
    expected = (len(logits), frame.mask_size, frame.mask_size)
    if tuple(logits.shape) != expected or str(logits.dtype) != "torch.float32":
        raise ContractError(f"Mask logits: expected {expected} float32, got {tuple(logits.shape)} {logits.dtype}.")


@lru_cache(maxsize=1)
def has_kernel() -> bool:
    """Whether numba is there."""
    return find_spec("numba") is not None


def _compiled(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and has_kernel()


def _measure_compiled(logits: np.ndarray, frame: Frame, offset: float, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) int64 pixels over -offset, 0, offset (-1 where logits are not finite) and (n, 4) int32 boxes xywh."""
    from terralabel.masks.outlines import measure_masks

    rows, columns = axes(frame)
    cuts = np.array([-offset, 0.0, offset], dtype=np.float32)
    counts, box = np.zeros((len(logits), 3), dtype=np.int64), np.zeros((len(logits), 4), dtype=np.int32)
    logits = np.ascontiguousarray(logits)

    def share(part: slice) -> None:
        measure_masks(logits[part], cuts, rows, columns, counts[part], box[part])

    if threads <= 1 or len(logits) < 2:
        share(slice(None))
    else:
        with ThreadPoolExecutor(threads) as pool:  # each mask is counted by itself, so shares do not matter
            list(pool.map(share, (slice(i, i + 16) for i in range(0, len(logits), 16))))
    return counts, box


def _measure_enlarged(logits: Tensor, frame: Frame, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """As `_measure_compiled`, by enlarging a few masks at a time on their own device."""
    import torch

    counts, boxes = [], []
    for part in logits.split(_at_once(frame, logits.device.type)):
        finite = part.isfinite().flatten(1).all(1)
        large = enlarge(part, frame)
        over = [(large > cut).flatten(1).sum(1) for cut in (-offset, 0.0, offset)]
        inside = large > 0
        across, down = inside.any(1), inside.any(2)
        ends = [*_ends(across), *_ends(down)]
        columns = torch.stack([column.long() for column in (*over, finite, *ends)], 1)
        table = columns.cpu().numpy()  # once, for a copy from a GPU waits for it
        counts.append(np.where(table[:, 3:4] == 1, table[:, :3], -1))
        left, right, top, bottom = table[:, 4:].T
        box = np.stack([left, top, right - left + 1, bottom - top + 1], 1)
        boxes.append(np.where(table[:, 1:2] > 0, box, 0).astype(np.int32))
    return np.concatenate(counts), np.concatenate(boxes)


def _ends(hit: Tensor) -> tuple[Tensor, Tensor]:
    """First and last true of each row of (n, length); anything for a row of none."""
    first = hit.byte().argmax(1)
    return first, hit.shape[1] - 1 - hit.flip(1).byte().argmax(1)


def _at_once(frame: Frame, device: str) -> int:
    side = max(frame.size[0] * frame.size[1], frame.image_size**2 if frame.resized else 0)
    return max(_ENLARGED_BYTES.get(device, 1 << 30) // (4 * side), 1)


def enlarge(logits: Tensor, frame: Frame) -> Tensor:
    """(n, H, W) float32 logits at the tile's size, the official way: what everything else here avoids."""
    from torch.nn.functional import interpolate

    n = len(logits)
    # Three masks to a prompt, as the official code has them: torch on the CPU rounds otherwise with other numbers of channels.
    large = logits.new_zeros(-(-n // 3) * 3, *logits.shape[1:])
    large[:n] = logits
    large = large.unflatten(0, (-1, 3))
    if frame.resized is not None:
        large = interpolate(large, (frame.image_size, frame.image_size), mode="bilinear", align_corners=False)
        large = large[..., : frame.resized[0], : frame.resized[1]]
    if tuple(large.shape[2:]) != tuple(frame.size):
        large = interpolate(large, frame.size, mode="bilinear", align_corners=False)
    return large.flatten(0, 1)[:n]


@dataclass(frozen=True)
class LowResMasks:
    """Masks kept as the part of their logits that their box sees: a fraction of (m, m), and far less than (H, W).

    `parts` are float32 arrays, `corners` (n, 2) the row and column of each part's first logit; on another device than
    the CPU, `logits` are whole (n, m, m) tensors there, and `parts` is empty.
    """

    frame: Frame
    bbox: np.ndarray
    parts: tuple[np.ndarray, ...] = ()
    corners: np.ndarray | None = None
    logits: Any = None

    @classmethod
    def keep(cls, logits: Tensor, frame: Frame, bbox: np.ndarray) -> LowResMasks:
        """Of (n, m, m) logits what is needed to make their masks later; `bbox` as `measure` gave it."""
        if not _compiled(logits):
            return cls(frame, bbox, logits=logits)
        rows, columns = axes(frame)
        top, bottom = _seen(rows, bbox[:, 1], bbox[:, 3])
        left, right = _seen(columns, bbox[:, 0], bbox[:, 2])
        values = logits.numpy()
        parts = tuple(values[i, top[i] : bottom[i], left[i] : right[i]].copy() for i in range(len(values)))
        return cls(frame, bbox, parts, np.stack([top, left], 1))

    @classmethod
    def join(cls, several: list[LowResMasks]) -> LowResMasks:
        """All of them, in order; at least one, all of one frame."""
        bbox = np.concatenate([each.bbox for each in several])
        if several[0].logits is not None:
            import torch

            return cls(several[0].frame, bbox, logits=torch.cat([each.logits for each in several]))
        parts = tuple(part for each in several for part in each.parts)
        return cls(
            several[0].frame, bbox, parts, np.concatenate([each.corners for each in several if each.corners is not None])
        )

    def codes(self, which: np.ndarray) -> list[np.ndarray]:
        """COCO run lengths (uint32, see `core.rle`) of the masks at `which`, of what is over 0 at the tile's size."""
        if self.logits is not None:
            return list(_enlarged_codes(self.logits[which.tolist()], self.frame))
        from terralabel.masks.outlines import run_lengths

        rows, columns = axes(self.frame)
        assert self.corners is not None
        return [run_lengths(self.parts[i], self.corners[i], self.bbox[i], rows, columns) for i in which]


def _seen(axis: Axis, first: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First logit, and the one past the last, that pixels first .. first + length - 1 see; nothing for no pixels."""
    last = np.maximum(first + length - 1, 0)
    groups = np.searchsorted(axis.starts, [first, last], side="right") - 1
    return axis.bounds[groups[0], 0], np.where(length > 0, axis.bounds[groups[1], 1] + 1, axis.bounds[groups[0], 0])


def _enlarged_codes(logits: Tensor, frame: Frame) -> Iterator[np.ndarray]:
    """Run lengths by way of enlarged logits; only the ends of runs leave the device."""
    for part in logits.split(_at_once(frame, logits.device.type)):
        inside = (enlarge(part, frame) > 0).transpose(1, 2).flatten(1)  # column-major
        changes = (inside[:, 1:] != inside[:, :-1]).nonzero().cpu().numpy()
        owner, place = changes[:, 0], changes[:, 1] + 1
        begins = inside[:, 0].cpu().numpy()
        for i, edges in enumerate(np.split(place, np.searchsorted(owner, np.arange(1, len(part))))):
            yield rle.from_edges(np.concatenate([[0], edges]) if begins[i] else edges, frame.size[0] * frame.size[1])
