"""`appearance`: what a mask looks like - colour, texture, surroundings and shape - measured without a network."""

from __future__ import annotations

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.features.maps import CONTEXT_SIGMAS, pixel_maps, surroundings
from terralabel.features.regions import Regions

__all__ = ["Appearance", "measure"]


def measure(tile: Tile, masks: Masks) -> dict[str, np.ndarray]:
    """The raw measurements of each mask by group, each (n, columns) float64."""
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
        around = surroundings(colour + maps.texture, sigma)
        groups[f"context{sigma:.0f}"] = regions.means(around)
    return groups


class Appearance:
    """Colour, texture, surroundings and shape of each mask.

    One vector per mask whose columns are already weighted: cluster it without further scaling (`scaling`).
    """

    name = "appearance"
    version = "1"
    needs_encoded = False
    scaling = "none"

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32, finite; d depends on the number of bands and the sensor only."""
        groups = measure(tile, masks)
        blocks = [(values - CENTRE[g](values.shape[1])) for g, values in groups.items()]
        return np.nan_to_num(np.concatenate(blocks, axis=1)).astype(np.float32)
