"""A network over a scene of any size: windows whose overlaps are blended, with memory that does not grow with the scene.

The scene is cut into vertical bands so narrow that one row of windows over a band fits a fixed room; a band is gone down row
by row. Windows that lie across two bands are computed for both, so that bands change nothing in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softmax

from terralabel.core.grid import TilePlan, Window, plan_tiles
from terralabel.nets.segmentation.network import Network

__all__ = ["Blended", "Mapper", "autocast", "window_weight"]

#: Bytes of probabilities that are held for one row of windows.
_ROOM = 256 << 20
#: Bands begin at multiples of this: the side of the tiles inside label rasters.
_ALIGN = 512

#: (window) -> pixels (h, w, C) uint8 after the radiometry, valid (h, w) bool.
Read = Callable[[Window], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Blended:
    """One finished part of a scene: `probabilities` (K, h, w) float32, of sum 1 where `valid` (h, w) bool, else 0."""

    window: Window
    probabilities: np.ndarray
    valid: np.ndarray


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Where the forward pass runs: in float32 as it is, else torch's mixed precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def window_weight(height: int, width: int, overlap: int) -> np.ndarray:
    """(height, width) float32, 1 inside, falling linearly over `overlap` pixels to every edge, above 0 everywhere."""

    def along(length: int) -> np.ndarray:
        from_edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
        return np.minimum(from_edge / max(overlap, 0.5), 1.0)

    return np.outer(along(height), along(width)).astype(np.float32)


class Mapper:
    """`network` in evaluation mode on `device`, in windows of `tile_size` that overlap by `overlap`, `batch_size` at once."""

    def __init__(
        self,
        network: Network,
        device: torch.device,
        *,
        tile_size: int,
        overlap: int,
        batch_size: int = 1,
        precision: str = "fp32",
        room: int = _ROOM,
    ) -> None:
        self.network, self.device, self.precision = network, device, precision
        self.tile_size, self.overlap, self.batch_size, self.room = tile_size, overlap, batch_size, room

    @property
    def channels(self) -> int:
        """Maps that `probabilities` gives."""
        return self.network.classes

    def blended(self, read: Read, width: int, height: int) -> Iterator[Blended]:
        """Every part of a scene once, band by band and from the top; `read` is asked for windows inside it."""
        for left, right in self.bands(width):
            yield from self.band(read, width, height, left, right)

    def band(self, read: Read, width: int, height: int, left: int, right: int) -> Iterator[Blended]:
        """The columns [left, right) of a scene, from the top, as `blended` gives them."""
        rows: dict[int, list[TilePlan]] = {}
        for plan in plan_tiles("scene", width, height, self.tile_size, self.overlap):
            if plan.window.x < right and plan.window.right > left:
                rows.setdefault(plan.row, []).append(plan)
        yield from self._down(read, [rows[row] for row in sorted(rows)], Window(left, 0, right - left, height))

    def bands(self, width: int) -> list[tuple[int, int]]:
        """First and last-but-one columns of the bands that a scene is cut into."""
        fits = self.room // (4 * self.channels * self.tile_size) // _ALIGN * _ALIGN
        side = max(fits, _ALIGN)
        return [(left, min(left + side, width)) for left in range(0, width, side)]

    def _down(self, read: Read, rows: list[list[TilePlan]], band: Window) -> Iterator[Blended]:
        """One band: rows of windows are summed; what the next row does not touch is finished."""
        deep = rows[0][0].window.height
        total = np.zeros((self.channels, deep, band.width), np.float32)
        weight, valid = np.zeros((deep, band.width), np.float32), np.zeros((deep, band.width), bool)
        for index, row in enumerate(rows):
            top = row[0].window.y
            origin = Window(band.x, top, band.width, deep)
            for window, probabilities, seen in self._windows(read, row):
                part = window.intersect(origin)
                here, there = part.relative_to(origin).slices(), part.relative_to(window).slices()
                share = window_weight(window.height, window.width, self.overlap)[there]
                total[(slice(None), *here)] += probabilities[(slice(None), *there)] * share
                weight[here] += share
                valid[here] |= seen[there]
            below = rows[index + 1][0].window.y if index + 1 < len(rows) else band.height
            done = below - top
            probabilities = total[:, :done] / np.maximum(weight[:done], np.float32(1e-12))
            probabilities[:, ~valid[:done]] = 0
            yield Blended(Window(band.x, top, band.width, done), probabilities, valid[:done].copy())
            for array in (total, weight, valid):
                array[..., : deep - done, :] = array[..., done:, :].copy()
                array[..., deep - done :, :] = 0

    def _windows(self, read: Read, row: list[TilePlan]) -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
        """(window, probabilities (K, h, w), valid) of one row; windows without a valid pixel are left out."""
        waiting: list[tuple[Window, np.ndarray, np.ndarray]] = []
        for plan in row:
            pixels, valid = read(plan.window)
            if valid.any():
                waiting.append((plan.window, pixels, valid))
            if len(waiting) == self.batch_size:
                yield from self._computed(waiting)
                waiting = []
        if waiting:
            yield from self._computed(waiting)

    def _computed(
        self, waiting: list[tuple[Window, np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
        found = self.probabilities(np.stack([pixels for _, pixels, _ in waiting]))
        for (window, _, valid), probabilities in zip(waiting, found, strict=True):
            yield window, probabilities, valid

    @torch.inference_mode()
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K, h, w) float32 of (B, h, w, C) uint8."""
        batch = as_input(self.network, pixels, self.device)
        with autocast(self.device, self.precision):
            logits = self.network(batch)
        return softmax(logits.float(), dim=1).cpu().numpy()


def as_input(network: Network, pixels: np.ndarray, device: torch.device) -> Tensor:
    """(B, C, h, w) float32 normalised, on the device, of (B, h, w, C) uint8; in memory as convolutions like it."""
    moved = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, non_blocking=True).permute(0, 3, 1, 2)
    return network.normalise(moved).contiguous(memory_format=torch.channels_last)
