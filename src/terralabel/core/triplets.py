"""Triplets of image, text and box: the records of sets for text-referred segmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

__all__ = ["Triplet", "TripletSet"]


@dataclass(frozen=True)
class Triplet:
    """One text about one image: `xyxy` is the box of what is meant, pixels of the image; `key` is unique in the set.

    `split` is "train", "val", "test", or "" where the set does not say; `category` its class, "" where it has none.
    """

    key: str
    image: Path
    text: str
    xyxy: tuple[float, float, float, float]
    split: str = ""
    category: str = ""


@dataclass(frozen=True)
class TripletSet:
    """Texts with boxes, sentences on what was left out, and `mask`: (H, W) bool of an item; None where there are only boxes."""

    name: str
    items: tuple[Triplet, ...]
    problems: tuple[str, ...] = ()
    mask: Callable[[Triplet], np.ndarray] | None = None

    def split(self, name: str) -> TripletSet:
        """Only the items of a split; all for "all"."""
        return self if name == "all" else replace(self, items=tuple(item for item in self.items if item.split == name))
