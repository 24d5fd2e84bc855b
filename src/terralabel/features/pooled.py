"""One vector per mask from an encoder's map: the exact mean over the mask, without ever enlarging the map.

ALPS, equation 4: ``f = sum_xy m(x, y) F'(x, y) / sum_xy m(x, y)`` with F' the map F enlarged bilinearly to the tile. Enlarging
is linear, so with interpolation matrices A_y (H x h) and A_x (W x w) the same number is ``<A_y' m A_x, F> / sum(m)``: the mask
goes down to the map (its *footprint*, (h, w) weights that add up to its area), and the map never comes up.

A footprint costs the mask's run lengths, not its pixels: what a run of rows y0..y1 of one column leaves in the cells is
``P[y1] - P[y0]`` with P the cumulative sum of A_y, and a row of P is the cells' totals, then two partial ones, then zeros.
So each end of a run adds six numbers, whatever the run's length, and no mask is too small to be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from terralabel.contracts import Encoded
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError

__all__ = ["Pooled", "footprints", "pool"]

#: Footprint cells computed at once; bounds memory to a few hundred MB.
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Pooled:
    """A `FeatureExtractor`: the mean of the mask generator's own encoder map over each mask.

    `normalise` is "none" or "l2" (each vector to length 1). `scaling` is what it asks of the clusterer: nothing, as in
    ALPS's released code, which clusters the bare means.
    """

    normalise: str = "none"
    name: str = "pooled"
    needs_encoded: bool = True
    scaling: str = "none"

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "l2"):
            raise SettingsError(f"normalise is {self.normalise!r}; give 'none' or 'l2'.")

    @property
    def version(self) -> str:
        """Changes with the formula and the normalisation."""
        return f"1-{self.normalise}"

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32. Raises `ContractError` when the mask generator has no feature map."""
        if encoded is None or encoded.feature_map is None:
            if not len(masks):
                return np.zeros((0, 0), dtype=np.float32)
            raise ContractError(
                "Pooled features need a mask generator with a network; use features 'appearance' or an encoder's name."
            )
        vectors = pool(masks, encoded.feature_map, encoded.covers)
        return unit_length(vectors) if self.normalise == "l2" else vectors


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length; rows of zeros stay."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def pool(masks: Masks, feature_map: np.ndarray, covers: tuple[float, float] | None = None) -> np.ndarray:
    """Mean of a feature map over each mask, (n, d) float32, exact for bilinear enlargement (align_corners=False).

    `feature_map` is (h, w, d); its first `covers` = (rows, columns) cells span the tile (all, by default). Cells past
    them are padding and never count. A mask without pixels gives zeros. A row does not depend on the other masks.
    """
    h, w, d = feature_map.shape
    cells = feature_map.reshape(h * w, d).astype(np.float64)
    out = np.zeros((len(masks), d), dtype=np.float32)
    for part in _groups(masks, (h, w)):
        total = footprints(masks.select(part), (h, w), covers) @ cells  # sparse: one thread, row by row, always the same bytes
        out[part] = total / np.maximum(masks.area[part, None], 1)
    return out


def _groups(masks: Masks, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Indices of consecutive masks whose boxes together hold about `_CELLS_AT_ONCE` cells."""
    rows = masks.bbox[:, 3] * (shape[0] / max(masks.size[0], 1)) + 3
    columns = masks.bbox[:, 2] * (shape[1] / max(masks.size[1], 1)) + 2
    group = np.cumsum(rows * columns) // _CELLS_AT_ONCE
    for number in np.unique(group):
        yield np.flatnonzero(group == number)


def footprints(masks: Masks, shape: tuple[int, int], covers: tuple[float, float] | None = None) -> sparse.csr_matrix:
    """A_y' m A_x of each mask: (n, h * w) float64, sparse; row i adds up to the area of mask i."""
    h, w = shape
    rows_covered, columns_covered = (float(h), float(w)) if covers is None else covers
    if not (0 < rows_covered <= h and 0 < columns_covered <= w):
        raise ContractError(f"covers is {covers}, expected more than 0 and at most {(h, w)} cells.")
    at, partial, total = _row_ends(masks.size[0], rows_covered)
    left, right, share = _taps(masks.size[1], columns_covered)
    owner, column, first, stop = _column_pieces(masks)
    # cells are kept for the mask's box only, column by column: (n,) first cell, count of cells, place of the first
    x, y, width, height = (masks.bbox[:, k].astype(np.int64) for k in range(4))
    full = masks.area > 0
    row0, rows = at[y], np.where(full, at[y + height] + 2 - at[y], 0)
    column0 = left[np.minimum(x, masks.size[1] - 1)]
    columns = np.where(full, right[np.maximum(x + width - 1, 0)] - column0 + 1, 0)
    base = np.concatenate([[0], np.cumsum(rows * columns)])
    # the two ends of every piece, each into the two columns of cells beside it
    end, who, where = np.concatenate([stop, first]), np.tile(owner, 2), np.tile(column, 2)
    sign = np.repeat([1.0, -1.0], len(owner))
    corner = base[who] + at[end] - row0[who]
    steps, here, below = np.zeros((3, base[-1]))
    for cell, amount in ((left[where], sign * (1 - share[where])), (right[where], sign * share[where])):
        place = corner + (cell - column0[who]) * rows[who]
        steps += np.bincount(place, amount, base[-1])
        here += np.bincount(place, amount * partial[end, 0], base[-1])
        below += np.bincount(place, amount * partial[end, 1], base[-1])
    mask = np.repeat(np.arange(len(masks)), rows * columns)
    within = np.arange(base[-1]) - base[mask]
    row, cell = row0[mask] + within % np.maximum(rows[mask], 1), column0[mask] + within // np.maximum(rows[mask], 1)
    here[1:] += below[:-1]
    whole = np.cumsum(steps[::-1])[::-1]  # cells above an end have their whole total; a column's steps add up to 0
    here[:-1] += whole[1:] * np.append(total, np.zeros(2))[np.minimum(row[:-1], len(total))]
    keep = np.abs(here) > 1e-9  # less is what rounding leaves where ends cancel
    pointers = np.concatenate([[0], np.cumsum(np.bincount(mask[keep], minlength=len(masks)))])
    return sparse.csr_matrix((here[keep], row[keep] * w + cell[keep], pointers), shape=(len(masks), h * w))


@lru_cache(maxsize=16)
def _taps(length: int, covered: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first cell, second cell, share of the second) of each of `length` pixels over `covered` cells: a row of A."""
    last = int(np.ceil(covered)) - 1
    source = np.maximum((np.arange(length) + 0.5) * (covered / length) - 0.5, 0)
    low = np.minimum(source.astype(np.int64), last)
    return low, np.minimum(low + 1, last), np.where(low < last, source - low, 0.0)


@lru_cache(maxsize=16)
def _row_ends(length: int, covered: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, the cumulative sum of A over pixels, in short: for each y in 0..length

    at (length + 1,)          cells before this one have their whole total,
    partial (length + 1, 2)   this one and the next have so much,
    total (cells,)            and the later ones nothing.
    """
    low, high, share = _taps(length, covered)
    cells = int(np.ceil(covered))
    at = np.concatenate([low, [cells]])
    summed = np.zeros((length + 1, cells + 2))
    summed[np.arange(length) + 1, low] += 1 - share
    summed[np.arange(length) + 1, high] += share
    summed = np.cumsum(summed, axis=0)
    partial = np.stack([summed[np.arange(length + 1), at], summed[np.arange(length + 1), at + 1]], axis=1)
    return at, partial, summed[-1, :cells]


def _column_pieces(masks: Masks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mask, column, first row, row past the last) of every vertical piece of every mask, in mask order."""
    height = masks.size[0]
    owner, first, stop = rle.intervals(masks.runs, masks.offsets)
    left = first // height
    columns = (stop - 1) // height - left + 1
    piece = np.repeat(np.arange(len(owner)), columns)
    column = left[piece] + np.arange(len(piece)) - np.repeat(np.cumsum(columns) - columns, columns)
    top = np.maximum(first[piece] - column * height, 0)
    bottom = np.minimum(stop[piece] - column * height, height)
    return owner[piece], column, top, bottom
