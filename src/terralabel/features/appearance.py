"""`appearance`: what a mask looks like - colour, texture, surroundings and shape - measured without a network."""

from __future__ import annotations

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.features.maps import CONTEXT_SIGMAS, pixel_maps, surroundings
from terralabel.features.regions import Regions

__all__ = ["Appearance", "measure"]

#: (typical middle, typical spread) of the columns of each group; a group with more columns than entries repeats the last.
#: Units: lightness and Lab (0..100), natural logs for ratio and texture, see `Regions.shape` for shape.
_TONE, _CHROMA, _TEXTURE = (50.0, 18.0), (0.0, 8.0), (0.0, 0.6)
_SCALES = {
    "ratio": [(0.0, 0.2)],
    "deviation": [(6.0, 4.0), (2.0, 2.0)],
    "texture": [_TEXTURE],
    "coherence": [(0.4, 0.15)],
    "shape": [(8.0, 2.5), (2.0, 1.0), (0.7, 0.45), (0.35, 0.2), (0.75, 0.15)],
}
#: Weight of each group: the square root of its share of the squared distance between two masks.
WEIGHTS = {
    "colour": 1.0,
    "ratio": 0.3,
    "deviation": 0.4,
    "texture": 0.6,
    "coherence": 0.3,
    "shape": 0.3,
    "context8": 0.5,
    "context16": 0.5,
    "context32": 0.4,
}


def measure(tile: Tile, masks: Masks) -> dict[str, np.ndarray]:
    """The raw measurements of each mask by group, each (n, columns) float64; the columns are listed in docs/features.md."""
    maps = pixel_maps(tile.pixels, tile.valid, tile.sensor)
    regions = Regions(masks)
    colour = maps.tone + maps.chroma
    mean = regions.means(colour)
    groups = {
        "colour": mean,
        "ratio": regions.means(maps.ratio),
        "deviation": regions.deviations(colour, mean),
        "texture": regions.means(maps.texture),
        "coherence": regions.means(maps.coherence),
        "shape": regions.shape(),
    }
    for sigma in CONTEXT_SIGMAS:
        groups[f"context{sigma:.0f}"] = regions.means(surroundings(colour + maps.texture, sigma))
    return groups


def _scales(group: str, columns: int, textures: int) -> np.ndarray:
    """(columns, 2) typical middle and spread of the columns of a group."""
    if group == "colour":
        pairs = [_TONE, _CHROMA]
    elif group.startswith("context"):
        pairs = [_TONE] + [_CHROMA] * (columns - 1 - textures) + [_TEXTURE] * textures
    else:
        pairs = _SCALES[group]
    return np.array([pairs[min(k, len(pairs) - 1)] for k in range(columns)]).reshape(columns, 2)


class Appearance:
    """Colour, texture, surroundings and shape of each mask.

    One vector per mask whose columns are already weighted: cluster it without further scaling (`scaling`). It depends on
    nothing but the tile, so tiles may be measured in any order and by any number of workers.
    """

    name = "appearance"
    version = "1"
    needs_encoded = False
    scaling = "none"

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32, finite; d depends on the number of bands only."""
        groups = measure(tile, masks)
        textures = groups["texture"].shape[1]
        blocks = []
        for group, values in groups.items():
            columns = values.shape[1]
            middle, spread = _scales(group, columns, textures).T
            blocks.append((values - middle) / spread * (WEIGHTS[group] / np.sqrt(max(columns, 1))))
        return np.nan_to_num(np.concatenate(blocks, axis=1)).astype(np.float32)
