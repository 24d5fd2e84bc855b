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
    from scipy import sparse

    h, w, d = feature_map.shape
    cells = feature_map.reshape(h * w, d).astype(np.float64)
    out = np.zeros((len(masks), d), dtype=np.float32)
    for first, weights in footprints(masks, (h, w), covers):
        rows = slice(first, first + len(weights))
        total = sparse.csr_matrix(weights.reshape(len(weights), h * w)) @ cells  # one thread, row by row: always the same bytes
        out[rows] = total / np.maximum(masks.area[rows, None], 1)
    return out


def footprints(
    masks: Masks, shape: tuple[int, int], covers: tuple[float, float] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """A_y' m A_x of each mask: yields (index of the first mask, (k, h, w) float64) for a few masks at a time."""
    h, w = shape
    rows_covered, columns_covered = (float(h), float(w)) if covers is None else covers
    if not (0 < rows_covered <= h and 0 < columns_covered <= w):
        raise ContractError(f"covers is {covers}, expected more than 0 and at most {(h, w)} cells.")
    at, partial, total = _row_ends(masks.size[0], rows_covered)
    left, right, share = _taps(masks.size[1], columns_covered)
    owner, column, first, stop = _column_pieces(masks)
    at_once = max(1, _CELLS_AT_ONCE // (h * w))
    for begin in range(0, len(masks), at_once):
        count = min(at_once, len(masks) - begin)
        part = slice(*np.searchsorted(owner, [begin, begin + count]))
        # the two ends of every piece, each into the two columns of cells beside it
        end = np.concatenate([stop[part], first[part]])
        sign = np.repeat([1.0, -1.0], [part.stop - part.start] * 2)
        x = np.tile(column[part], 2)
        who = np.tile(owner[part] - begin, 2) * (h + 2)
        grids = np.zeros((3, count * (h + 2) * w))
        for cell, amount in ((left[x], sign * (1 - share[x])), (right[x], sign * share[x])):
            place = (who + at[end]) * w + cell
            for grid, value in zip(grids, (amount, amount * partial[end, 0], amount * partial[end, 1]), strict=True):
                grid += np.bincount(place, value, len(grid))
        steps, here, below = grids.reshape(3, count, h + 2, w)
        weights = here[:, :h]
        weights[:, 1:] += below[:, : h - 1]
        whole = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1][:, 1 : h + 1]  # cells above an end have their whole total
        weights[:, : len(total)] += whole[:, : len(total)] * total[:, None]
        weights[np.abs(weights) < 1e-9] = 0  # what rounding leaves where ends cancel
        yield begin, weights


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
