"""`contracts.Locator`s: the models of `grounding.models`, and what `refer fit` made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from terralabel.core.tile import Tile
from terralabel.errors import WeightsError
from terralabel.nets.grounding.models import FAMILIES, Grounding, load_grounding, model_type
from terralabel.nets.grounding.small_locator import SMALL, SmallLocator

__all__ = ["TextLocator", "fitted", "grounding_dino", "owlv2", "sam3"]

_BANDS = "give an image with three bands (--bands 1,2,3)"


@dataclass(frozen=True)
class TextLocator:
    """A locator on a model of `family` from `argument` (a folder or a hub name). The model is loaded when it is first asked."""

    family: str
    argument: str = ""
    device: str = "auto"

    @property
    def name(self) -> str:
        """The name it goes by in `--locator`."""
        return f"{self.family}:{self.argument}" if self.argument else self.family

    @property
    def version(self) -> str:
        """Changes with the weights. Loads the network."""
        return f"1-{self.model.sha256[:16]}"

    @cached_property
    def model(self) -> Grounding:
        """The network."""
        return load_grounding(self.family, self.argument, self.device)

    def on(self, device: str) -> TextLocator:
        """The same on a device."""
        return replace(self, device=device)

    def locate(self, tile: Tile, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `contracts.Locator`: all that the network proposes; a threshold is the caller's."""
        boxes, scores = self.model.find(tile.rgb(_BANDS), text)
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return boxes[keep].astype(np.float32), scores[keep].astype(np.float32)


def grounding_dino(argument: str = "") -> TextLocator:
    """Grounding DINO or MM Grounding DINO."""
    return TextLocator("grounding-dino", argument)


def owlv2(argument: str = "") -> TextLocator:
    """OWLv2 or OWL-ViT."""
    return TextLocator("owlv2", argument)


def sam3(argument: str = "") -> TextLocator:
    """SAM 3, asked by words."""
    return TextLocator("sam3", argument)


def fitted(argument: str = "") -> TextLocator | SmallLocator:
    """What `refer fit` wrote: a small network of ours, or a model of transformers that went on learning."""
    folder = Path(argument).expanduser()
    if (folder / SMALL).is_file():
        return SmallLocator(argument)
    if not argument or not (folder / "config.json").is_file():
        raise WeightsError(f"fitted:{argument}: no locator there; expected a folder that `terralabel refer fit` wrote.")
    kind = model_type(folder)
    families = [name for name, known in FAMILIES.items() if kind in known.types]
    if not families:
        raise WeightsError(f"{folder}: model_type is {kind!r}, which is no locator that is known here.")
    return TextLocator(families[0], argument)
