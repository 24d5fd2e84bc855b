"""Means, deviations and shapes of many masks from their run lengths, at the cost of the image and the runs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from terralabel.core import rle
from terralabel.core.masks import Masks

__all__ = ["Regions"]


class Regions:
    """The runs of `n` masks, kept in the form in which sums over maps are differences of a cumulative sum."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.size = masks.size
        self._hold(*rle.intervals(masks.runs, masks.offsets))

    def _hold(self, owner: np.ndarray, first: np.ndarray, stop: np.ndarray) -> None:
        """Take these runs, sorted by the mask that owns them, for the regions'."""
        self.owner, self.first, self.stop = owner, first, stop
        self._head = np.flatnonzero(np.diff(owner, prepend=-1))
        self.area = np.maximum(np.bincount(owner, stop - first, len(self.masks)), 1)

    def visible(self) -> Regions:
        """What of each mask is seen once all are painted, smallest on top; a mask of which nothing is keeps its pixels."""
        areas = self.masks.area
        rank = np.empty(len(areas), dtype=np.int64)
        rank[np.lexsort((np.arange(len(areas)), -areas))] = np.arange(len(areas))
        top = np.full(self.size[0] * self.size[1], -1, dtype=np.int32)
        order = np.argsort(rank[self.owner], kind="stable")
        for owner, first, stop in zip(*(v[order].tolist() for v in (self.owner, self.first, self.stop)), strict=True):
            top[first:stop] = owner
        first = np.flatnonzero(np.diff(top, prepend=-2))
        owner, stop = top[first].astype(np.int64), np.append(first, len(top))[1:]
        gone = ~np.isin(np.arange(len(areas)), owner)[self.owner]
        runs = np.stack([owner, first, stop])[:, owner >= 0], np.stack([self.owner, self.first, self.stop])[:, gone]
        every = np.concatenate(runs, axis=1)
        seen = copy(self)
        seen._hold(*every[:, np.argsort(every[0], kind="stable")])
        return seen

    def _per_mask(self, per_run: np.ndarray) -> np.ndarray:
        """Sum of a quantity of each run over the runs of each mask, (n,) float64; 0 for an empty mask."""
        out = np.zeros(len(self.masks))
        if len(per_run):
            out[self.owner[self._head]] = np.add.reduceat(per_run, self._head)
        return out

    def means(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Mean of each transposed (W, H) map over each mask, (n, len(maps)) float64."""
        out = np.zeros((len(self.masks), len(maps)))
        total = np.zeros(self.size[0] * self.size[1] + 1)
        for column, values in enumerate(maps):
            np.cumsum(values.ravel(), dtype=np.float64, out=total[1:])
            out[:, column] = self._per_mask(total[self.stop] - total[self.first]) / self.area
        return out

    def deviations(self, maps: Sequence[np.ndarray], means: np.ndarray) -> np.ndarray:
        """Standard deviation of each map inside each mask, given its means; (n, len(maps)) float64."""
        squares = self.means([values * values for values in maps])
        return np.sqrt(np.maximum(squares - means * means, 0))

    def shared(self, values: np.ndarray, largest: float = np.inf) -> np.ndarray:
        """Mean over each mask's pixels of the mean of `values` (n, c) of all masks that hold the pixel, (n, c) float64.

        Masks of a hierarchy overlap: so a small mask hears what the larger ones around it look like, and a large one what
        its parts do. Masks of more than `largest` pixels are not heard. Where nobody is heard, a mask
        hears itself; without overlap this gives `values` back.
        """
        pixels = self.size[0] * self.size[1]
        heard = (self.masks.area <= largest).astype(np.float64)
        count = self._painted(heard)
        silent = count < 0.5
        count[silent] = 1
        out = np.zeros(values.shape)
        total = np.zeros(pixels + 1)
        np.cumsum(silent, out=total[1:])
        own = self._per_mask(total[self.stop] - total[self.first])
        for column in range(values.shape[1]):
            np.cumsum(self._painted(values[:, column] * heard) / count, out=total[1:])
            told = self._per_mask(total[self.stop] - total[self.first])
            out[:, column] = (told + own * values[:, column]) / self.area
        return out

    def _painted(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values` (n,) of the masks over each pixel, (W * H,) float64."""
        pixels = self.size[0] * self.size[1]
        per_run = values[self.owner]
        steps = np.bincount(self.first, per_run, pixels + 1) - np.bincount(self.stop, per_run, pixels + 1)
        return np.cumsum(steps[:pixels])

    def perimeter(self) -> np.ndarray:
        """Length of the outline in pixel edges times pi / 4 (right on average over directions), (n,) float64."""
        height, pixels = self.size[0], self.size[0] * self.size[1]
        columns = (self.stop - 1) // height - self.first // height + 1
        vertical = 2 * self._per_mask(columns.astype(np.float64))
        # the pixels of a mask whose right neighbour is in it too: overlap with itself, moved by one column
        key = self.owner * (2 * pixels)
        starts, lengths = key + self.first, np.concatenate([[0], np.cumsum(self.stop - self.first)])

        def covered_before(position: np.ndarray) -> np.ndarray:
            run = np.searchsorted(starts, position, side="right")
            open_end = np.concatenate([[-1], key + self.stop])[run]
            return lengths[run] - np.maximum(open_end - position, 0)

        inner = self._per_mask(
            (covered_before(key + self.stop + height) - covered_before(key + self.first + height)).astype(np.float64)
        )
        return (vertical + 2 * (self.masks.area - inner)) * (np.pi / 4)

    def shape(self) -> np.ndarray:
        """(n, 5) float64: log2 area, log2 width (2 area / perimeter), log elongation, compactness, filling.

        Elongation is the ratio of the axes of the ellipse of equal second moments, compactness 4 pi area / perimeter^2,
        filling the area over that of the rectangle of equal second moments (1 for a rectangle at any angle).
        """
        width, height = self.size[1], self.size[0]
        y = np.broadcast_to(np.arange(height, dtype=np.float64), (width, height))
        x = np.broadcast_to(np.arange(width, dtype=np.float64)[:, None], (width, height))
        mx, my, mxx, myy, mxy = self.means([x, y, x * x, y * y, x * y]).T
        xx, yy, xy = mxx - mx * mx + 1 / 12, myy - my * my + 1 / 12, mxy - mx * my
        spread = np.sqrt(np.maximum((xx - yy) ** 2 / 4 + xy * xy, 0))
        major, minor = (xx + yy) / 2 + spread, np.maximum((xx + yy) / 2 - spread, 1 / 12)
        outline = np.maximum(self.perimeter(), 1)
        return np.stack(
            [
                np.log2(self.area),
                np.log2(2 * self.area / outline),
                0.5 * np.log(np.maximum(major, minor) / minor),
                np.minimum(4 * np.pi * self.area / outline**2, 1),
                np.minimum(self.area / (12 * np.sqrt(np.maximum(major, minor) * minor)), 1.1),
            ],
            axis=1,
        )
