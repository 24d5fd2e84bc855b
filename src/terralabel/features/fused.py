"""`fused`: what a mask looks like, and what the mask generator's own network says of it, side by side.

Colour and texture tell surfaces apart that a network trained for outlines takes for one; a network's deeper maps tell things apart
that have one colour. Both parts are scaled alike: `appearance` by its weights, the map to the same length at every cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.features.appearance import Appearance
from terralabel.features.pooled import pool, unit_length

__all__ = ["Fused"]

#: Length of the map's vectors: then their spread over a data set is about that of a third of `appearance`.
_LENGTH = float(np.sqrt(2))


@dataclass(frozen=True, eq=False)
class Fused:
    """A `FeatureExtractor`: the columns of `appearance`, then the mean of the generator's feature map over each mask.

    `fit` is that of `appearance`, whose state it keeps; the map needs none.
    """

    appearance: Appearance = field(default_factory=Appearance)

    name = "fused"
    version = f"1-{Appearance.version}"
    needs_encoded = True
    scaling = "none"

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32. Raises `ContractError` when the mask generator has no feature map."""
        if encoded is None or encoded.feature_map is None:
            if not len(masks):
                return np.zeros((0, 0), dtype=np.float32)
            raise ContractError("fused features need a mask generator with a network; use features 'appearance'.")
        seen = pool(masks, unit_length(encoded.feature_map) * np.float32(_LENGTH), encoded.covers)
        return np.concatenate([self.appearance.extract(tile, masks), seen], axis=1)

    def fit(self, tiles: Iterable[Tile]) -> Fused:
        """An extractor that knows the data set's colours and textures."""
        return Fused(self.appearance.fit(tiles))

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learned, for `from_state`; empty before."""
        return self.appearance.state()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Fused:
        """The extractor whose `state` this is."""
        return cls(Appearance.from_state(state))
