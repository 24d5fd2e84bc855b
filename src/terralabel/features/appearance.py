"""`appearance`: what a mask looks like - colour, texture, surroundings and shape - measured without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.features.maps import PixelMaps, pixel_maps, surroundings
from terralabel.features.regions import Regions

__all__ = ["GROUPS", "Appearance", "measure"]


@dataclass(frozen=True)
class _Group:
    """Measurements that count as one.

    weight  square root of the group's share of the squared distance between two masks
    shared  part of a measurement that a mask takes from the masks it overlaps, see `Regions.shared`
    heard   most pixels of a mask that others take from: shapes of larger ones tell how large the tile is, not what lies there
    scales  (typical middle, typical spread) of the columns, the last repeated: medians over data sets of many kinds, in
            Lab units (lightness 0..100), natural logarithms, or as in `Regions.shape`
    """

    weight: float
    shared: float
    scales: tuple[tuple[float, float], ...]
    heard: float = math.inf


_TONE, _CHROMA, _TEXTURE = ((47.0, 16.0),), ((1.0, 6.3),), ((0.58, 0.3),)
_SHAPE = ((10.8, 0.93), (4.0, 0.41), (0.6, 0.24), (0.5, 0.12), (0.88, 0.07))
#: The groups, in the order of the columns. How the weights were found: docs/features.md.
GROUPS = {
    "tone": _Group(0.7, 0.5, _TONE),
    "chroma": _Group(1.0, 0.5, _CHROMA),
    "ratio": _Group(0.6, 0.5, ((-0.07, 0.14),)),
    "deviation": _Group(0.4, 0.5, ((2.0, 0.4), (1.35, 0.32))),
    "texture": _Group(0.6, 0.5, _TEXTURE),
    "shape": _Group(0.47, 0.8, _SHAPE, heard=1 << 15),
    "tone around 8": _Group(0.3, 0.0, _TONE),
    "chroma around 8": _Group(0.4, 0.0, _CHROMA),
    "texture around 8": _Group(0.3, 0.0, _TEXTURE),
    "tone around 16": _Group(0.15, 0.0, _TONE),
    "chroma around 16": _Group(0.25, 0.0, _CHROMA),
}
#: Side in pixels of the squares on which `fit` measures a data set: the size of a typical mask.
_SQUARE = 32


def measure(tile: Tile, masks: Masks) -> dict[str, np.ndarray]:
    """The measurements of each mask by group, each (n, columns) float64, not yet scaled; docs/features.md lists them."""
    maps = pixel_maps(tile.pixels, tile.valid, tile.sensor)
    whole = Regions(masks)
    seen = whole.visible()
    shape = {"shape": whole.shape()}
    found = _inside(maps, seen) | shape
    for name, told in (_inside(maps, whole) | shape).items():
        group = GROUPS[name]
        found[name] = (1 - group.shared) * found[name] + group.shared * whole.shared(told, group.heard)
    for name in GROUPS:
        kind, _, distance = name.partition(" around ")
        if distance:
            found[name] = seen.means(surroundings(getattr(maps, kind), float(distance)))
    return found


def _inside(maps: PixelMaps, regions: Regions) -> dict[str, np.ndarray]:
    """The groups that are measured at the regions' own pixels, but for their shape."""
    colour = maps.tone + maps.chroma
    mean = regions.means(colour)
    return {
        "tone": mean[:, :1],
        "chroma": mean[:, 1:],
        "ratio": regions.means(maps.ratio),
        "deviation": np.log1p(regions.deviations(colour, mean)),
        "texture": regions.means(maps.texture),
    }


def _columns(found: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weight, typical middle, typical spread) of every column, each (d,) float64."""
    rows = []
    for name, values in found.items():
        group, count = GROUPS[name], values.shape[1]
        rows += [(group.weight / np.sqrt(count), *group.scales[min(k, len(group.scales) - 1)]) for k in range(count)]
    weight, middle, spread = np.array(rows).T
    return weight, middle, spread


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
    version = "4"
    needs_encoded = False
    scaling = "none"

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32, finite; d depends on the number of bands only."""
        found = measure(tile, masks)
        values = np.concatenate(list(found.values()), axis=1)
        weight, middle, spread = _columns(found)
        if self.scales is not None:
            middle, spread = self.scales
        if len(middle) != values.shape[1]:
            raise ContractError(
                f"appearance: fitted on tiles of {len(middle)} measurements, this one has {values.shape[1]}: "
                "expected tiles of as many bands."
            )
        return np.nan_to_num((values - middle) / spread * weight).astype(np.float32)

    def fit(self, tiles: Iterable[Tile]) -> Appearance:
        """An extractor that knows the middle and spread of each measurement over squares of some tiles of the data set.

        A spread never leaves a quarter to four times the typical one, so that a flat data set is not blown up to noise.
        Shapes of squares say nothing: their scale stays the typical one. Without a valid pixel there is nothing to learn.
        """
        measured = [measure(tile, _squares(tile)) for tile in tiles if tile.valid.any()]
        if not measured:
            return Appearance()
        found = {name: np.concatenate([m[name] for m in measured]) for name in measured[0]}
        values = np.concatenate(list(found.values()), axis=1)
        _, middle, spread = _columns(found)
        shape = np.repeat([name == "shape" for name in found], [v.shape[1] for v in found.values()])
        middle = np.where(shape, middle, values.mean(axis=0))
        spread = np.where(shape, spread, np.clip(values.std(axis=0), spread / 4, spread * 4))
        return Appearance(np.stack([middle, spread]))

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learned, for `from_state`; empty before."""
        return {} if self.scales is None else {"scales": self.scales}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Appearance:
        """The extractor whose `state` this is."""
        return cls(np.asarray(state["scales"], dtype=np.float64) if "scales" in state else None)


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
