"""`appearance`: what a mask looks like - colour, texture, surroundings and shape - measured without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, InputError
from terralabel.features.maps import CONTEXT_SIGMAS, pixel_maps, surroundings
from terralabel.features.regions import Regions

__all__ = ["WEIGHTS", "Appearance", "measure"]

#: (typical middle, typical spread) of the columns of each group, the last repeated: medians over data sets of many kinds.
#: Units: Lab (lightness 0..100), natural logs for ratio, deviation and texture, `Regions.shape` for shape.
_TONE, _CHROMA, _TEXTURE = (47.0, 16.0), (1.0, 6.3), (0.58, 0.3)
_TYPICAL = {
    "ratio": [(-0.07, 0.14)],
    "deviation": [(2.0, 0.4), (1.35, 0.32)],
    "texture": [_TEXTURE],
    "shape": [(10.8, 0.93), (4.0, 0.41), (0.6, 0.24), (0.5, 0.12), (0.88, 0.07)],
}
#: Weight of each group: the square root of its share of the squared distance between two masks.
WEIGHTS = {
    "colour": 1.0,
    "ratio": 0.5,
    "deviation": 0.4,
    "texture": 0.6,
    "shape": 0.35,
    "tone around 8": 0.5,
    "texture around 8": 0.3,
    "tone around 16": 0.3,
    "texture around 16": 0.2,
}
#: Share of a mask's measurements that it takes from the masks it overlaps.
SHARED = 0.5
#: Side in pixels of the squares on which `fit` measures a data set: the size of a typical mask.
_SQUARE = 32


def measure(tile: Tile, masks: Masks) -> dict[str, np.ndarray]:
    """The raw measurements of each mask by group, each (n, columns) float64; docs/features.md lists the columns."""
    maps = pixel_maps(tile.pixels, tile.valid, tile.sensor)
    regions = Regions(masks)
    colour = maps.tone + maps.chroma
    mean = regions.means(colour)
    groups = {
        "colour": mean,
        "ratio": regions.means(maps.ratio),
        "deviation": np.log1p(regions.deviations(colour, mean)),
        "texture": regions.means(maps.texture),
        "shape": regions.shape(),
    }
    for sigma in CONTEXT_SIGMAS:
        groups[f"tone around {sigma:.0f}"] = regions.means(surroundings(colour, sigma))
        groups[f"texture around {sigma:.0f}"] = regions.means(surroundings(maps.texture, sigma))
    return {group: (1 - SHARED) * values + SHARED * regions.shared(values) for group, values in groups.items()}


def _typical(group: str, columns: int) -> np.ndarray:
    """(2, columns) typical middle and spread of the columns of a group."""
    if group == "colour" or group.startswith("tone"):
        pairs = [_TONE, _CHROMA]
    else:
        pairs = _TYPICAL[group.split()[0]]
    return np.array([pairs[min(k, len(pairs) - 1)] for k in range(columns)]).reshape(columns, 2).T


@dataclass(frozen=True, eq=False)
class Appearance:
    """Colour, texture, surroundings and shape of each mask.

    One vector per mask whose columns are already weighted: cluster it without further scaling (`scaling`). `fit` learns the
    spread of a data set's measurements; without it typical ones are used. Either way a vector depends on its tile only, so
    tiles may be measured in any order and by any number of workers.

    scales: (2, d) float64 middle and spread of each column, None before `fit`.
    """

    scales: np.ndarray | None = None

    name = "appearance"
    version = "1"
    needs_encoded = False
    scaling = "none"

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32, finite; d depends on the number of bands only."""
        groups = measure(tile, masks)
        columns = [values.shape[1] for values in groups.values()]
        middle, spread = _scales(groups) if self.scales is None else self.scales
        if len(middle) != sum(columns):
            raise ContractError(
                f"appearance: fitted on tiles of {len(middle)} measurements, this one has {sum(columns)}: expected as many bands."
            )
        weight = np.repeat([WEIGHTS[g] / np.sqrt(max(k, 1)) for g, k in zip(groups, columns, strict=True)], columns)
        features = (np.concatenate(list(groups.values()), axis=1) - middle) / spread * weight
        return np.nan_to_num(features).astype(np.float32)

    def fit(self, tiles: Iterable[Tile]) -> Appearance:
        """An extractor that knows the middle and spread of each measurement over squares of some tiles of the data set.

        A spread never leaves a quarter to four times the typical one, so that a flat data set is not blown up to noise.
        Shapes of squares say nothing: their scale stays the typical one. Raises `InputError` without a valid pixel.
        """
        measured = [measure(tile, _squares(tile)) for tile in tiles if tile.valid.any()]
        if not measured:
            raise InputError("appearance: expected at least one tile with valid pixels to fit on, got none.", "no-pixels")
        groups = {group: np.concatenate([m[group] for m in measured]) for group in measured[0]}
        typical = _scales(groups)
        values = np.concatenate(list(groups.values()), axis=1)
        scales = np.stack([values.mean(0), np.clip(values.std(0), typical[1] / 4, typical[1] * 4)])
        shapes = np.repeat([group == "shape" for group in groups], [v.shape[1] for v in groups.values()])
        return Appearance(np.where(shapes, typical, scales))

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learned, for `from_state`; empty before."""
        return {} if self.scales is None else {"scales": self.scales}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Appearance:
        """The extractor whose `state` this is."""
        return cls(np.asarray(state["scales"], dtype=np.float64) if "scales" in state else None)


def _scales(groups: Mapping[str, np.ndarray]) -> np.ndarray:
    """(2, d) typical middle and spread of all columns."""
    return np.concatenate([_typical(group, values.shape[1]) for group, values in groups.items()], axis=1)


def _squares(tile: Tile) -> Masks:
    """Squares side by side, without their invalid pixels."""
    height, width = tile.size
    codes = []
    for y in range(0, height, _SQUARE):
        for x in range(0, width, _SQUARE):
            crop = tile.valid[y : y + _SQUARE, x : x + _SQUARE]
            if crop.any():
                codes.append(rle.encode_boxed(crop, x, y, tile.size))
    return Masks.from_codes(codes, tile.size)
