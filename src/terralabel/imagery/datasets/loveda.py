"""LoveDA: seven land-cover classes at .3 m, rural and urban; ids from 1, 0 is no label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from terralabel.contracts import LabelRequest
from terralabel.core.classes import IGNORE
from terralabel.core.labelled import ByValue, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import named_classes
from terralabel.imagery.datasets.pairing import find_rasters, labelled_images, pair_files, split_name

__all__ = ["CLASSES", "LoveDA"]

_TABLE = (
    ("background", (255, 255, 255)),
    ("building", (255, 0, 0)),
    ("road", (255, 255, 0)),
    ("water", (0, 0, 255)),
    ("barren", (159, 129, 183)),
    ("forest", (0, 255, 0)),
    ("agriculture", (255, 195, 128)),
)
CLASSES = named_classes([name for name, _ in _TABLE], [color for _, color in _TABLE], first=1)

_SPLITS = ("Train", "Val", "Test")
_PLACES = ("Rural", "Urban")
_LAYOUT = (
    "download Train.zip and Val.zip from LoveDA's page and unpack them into Train/Rural/images_png, Train/Rural/masks_png,"
    " Train/Urban/..., Val/..."
)


@dataclass(frozen=True)
class LoveDA:
    """LoveDA as released (`Train/Rural/images_png`, `masks_png`, ...), or moved to `img_dir` and `ann_dir`."""

    name: str = "loveda"

    def recognises(self, folder: Path) -> bool:
        """True for the layout of the release."""
        return any((folder / split / place / "images_png").is_dir() for split in _SPLITS for place in _PLACES)

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set with its splits; test has no labels."""
        pairs, problems = [], []
        for images, labels, split in _folders(request.folder):
            found, told = pair_files(find_rasters(images), find_rasters(labels))
            pairs += [(image, label, split) for image, label in found]
            problems += told
        items = labelled_images(pairs)
        if not any(item.label for item in items):
            raise InputError(f"{request.folder} holds no labelled images of LoveDA: {_LAYOUT}.", "missing-data")
        return LabelledSet(request.folder.name, CLASSES, items, ByValue(((0, IGNORE),)), self.name, tuple(problems))


def _folders(folder: Path) -> list[tuple[Path, Path, str]]:
    if (folder / "img_dir").is_dir():
        below = [p for p in sorted((folder / "img_dir").iterdir()) if p.is_dir()]
        return [(p, folder / "ann_dir" / p.name, split_name(p.name)) for p in below]
    return [
        (folder / split / place / "images_png", folder / split / place / "masks_png", split.lower())
        for split in _SPLITS
        for place in _PLACES
        if (folder / split / place / "images_png").is_dir()
    ]
