"""CHN6-CUG: roads of six Chinese cities, 4,511 images of 512 x 512 pixels at .5 m; 3,608 to learn from, 903 to test on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from terralabel.contracts import LabelRequest
from terralabel.core.labelled import ByThreshold, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import named_classes
from terralabel.imagery.datasets.pairing import find_rasters, labelled_images, pair_by, split_name

__all__ = ["CLASSES", "Chn6"]

CLASSES = named_classes(["background", "road"], [(0, 0, 0), (255, 255, 255)])

_IMAGE, _LABEL = "_sat", "_mask"
#: That and more is a road.
_THRESHOLD = 128
_LAYOUT = (
    "download CHN6-CUG from the page of CUG-URS and unpack it into train/images/..._sat.jpg, train/gt/..._mask.png,"
    " val/images and val/gt (or images and gt without splits)"
)


@dataclass(frozen=True)
class Chn6:
    """CHN6-CUG, roads: `images/..._sat.jpg` and `gt/..._mask.png`, in `train/` and `val/` or without splits."""

    name: str = "chn6-cug"

    def recognises(self, folder: Path) -> bool:
        """True when folders `images` and `gt` hold files that end in `_sat` and `_mask`."""
        return any(_ends(images, _IMAGE) and _ends(labels, _LABEL) for images, labels, _ in _folders(folder))

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set with the splits of its folders."""
        pairs, problems = [], []
        for images, labels, split in _folders(request.folder):
            found, told = pair_by(
                find_rasters(images),
                find_rasters(labels),
                lambda p: p.stem.removesuffix(_IMAGE),
                lambda p: p.stem.removesuffix(_LABEL),
            )
            pairs += [(image, label, split) for image, label in found]
            problems += told
        items = labelled_images(pairs)
        if not any(item.label for item in items):
            raise InputError(f"{request.folder} holds no labelled images of CHN6-CUG: {_LAYOUT}.", "missing-data")
        return LabelledSet(request.folder.name, CLASSES, items, ByThreshold(_THRESHOLD), self.name, tuple(problems))


def _folders(folder: Path) -> list[tuple[Path, Path, str]]:
    """(images, masks, split) below a folder and its splits."""
    below = [p for p in sorted(folder.iterdir()) if p.is_dir() and split_name(p.name)] if folder.is_dir() else []
    places = [(folder, ""), *((p, split_name(p.name)) for p in below)]
    return [(place / "images", place / "gt", split) for place, split in places if (place / "images").is_dir()]


def _ends(folder: Path, ending: str) -> bool:
    """Whether the first files of a folder are called so."""
    files = [p for p in islice(folder.glob("*.*"), 20) if not p.name.startswith(".")] if folder.is_dir() else []
    return bool(files) and all(p.stem.endswith(ending) for p in files)
