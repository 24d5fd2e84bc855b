"""SAMRS: boxes of three detection sets made masks by SAM. SOTA, SIOR and FAST as one set with one list of 75 classes.

The classes of a subset keep their order; those of SIOR follow SOTA's, those of FAST follow SIOR's. A subset's ids begin at 0 and
255 is "no label" (background), so each subset's labels are shifted by where its classes begin.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from terralabel.contracts import LabelRequest
from terralabel.core.labelled import ByFolder, ByValue, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import named_classes
from terralabel.imagery.datasets.pairing import Found, find_rasters, labelled_images, pair_by

__all__ = ["CLASSES", "SUBSETS", "Samrs", "split_by_name"]

_SOTA = """large-vehicle swimming-pool helicopter bridge plane ship soccer-ball-field basketball-court ground-track-field
small-vehicle baseball-diamond tennis-court roundabout storage-tank harbor container-crane airport helipad"""
_SIOR = """airplane airport baseballfield basketballcourt bridge chimney expressway-service-area expressway-toll-station dam
golffield groundtrackfield harbor overpass ship stadium storagetank tenniscourt trainstation vehicle windmill"""
_FAST = """A220 A321 A330 A350 ARJ21 Baseball-Field Basketball-Court Boeing737 Boeing747 Boeing777 Boeing787 Bridge Bus C919
Cargo-Truck Dry-Cargo-Ship Dump-Truck Engineering-Ship Excavator Fishing-Boat Football-Field Intersection Liquid-Cargo-Ship
Motorboat other-airplane other-ship other-vehicle Passenger-Ship Roundabout Small-Car Tennis-Court Tractor Trailer Truck-Tractor
Tugboat Van Warship"""

#: Subset -> its classes in the order of its ids, from 0: 18, 20 and 37.
SUBSETS = {"SOTA": tuple(_SOTA.split()), "SIOR": tuple(_SIOR.split()), "FAST": tuple(_FAST.split())}
CLASSES = named_classes([f"{subset}: {name}" for subset, names in SUBSETS.items() for name in names])

#: How folders of the subsets are called, in the release and by people.
_FOLDERS = {"SOTA": r"sota|dotav?2.*", "SIOR": r"sior|dior.*", "FAST": r"fast|fair1m.*"}
_IMAGES = re.compile(r"images|jpegimages.*", re.IGNORECASE)
_LAYOUT = (
    "download images and semantic labels of the subsets from SAMRS's page and unpack them into SOTA/images and"
    " SOTA/hbox_segs_init/gray, SIOR/JPEGImages-trainval and SIOR/hbox_segs_trainvaltest_init/gray, FAST/images and"
    " FAST/rhbox_segs_init/gray (at least one subset)"
)


def split_by_name(name: str, train: float = 0.7) -> str:
    """ "train" or "val" by the sha256 of a name, so that every machine splits alike and no list has to be kept."""
    return "train" if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < train * 2**32 else "val"


@dataclass(frozen=True)
class Samrs:
    """All subsets that are there, split 7:3 by the names of the images."""

    name: str = "samrs"

    def recognises(self, folder: Path) -> bool:
        """True when there is a folder of a subset with a folder `gray` in it."""
        return any(_gray(place) for place in _subset_folders(folder).values())

    def read(self, request: LabelRequest) -> LabelledSet:
        """One set of 75 classes, named "SOTA: plane"; a subset that is not there is told."""
        pairs, meanings = [], []
        problems = [
            f"subset {subset} is not there: the classes are numbered as if it were."
            for subset in SUBSETS
            if subset not in _subset_folders(request.folder)
        ]
        first = {subset: sum(len(SUBSETS[s]) for s in list(SUBSETS)[:k]) for k, subset in enumerate(SUBSETS)}
        for subset, place in _subset_folders(request.folder).items():
            labels = _gray(place)
            if labels is None:
                problems.append(f"{place} has no folder gray/ with semantic labels.")
                continue
            shifted = tuple((k, first[subset] + k) for k in range(len(SUBSETS[subset])))
            meanings.append((labels, ByValue(shifted, strict=True)))
            found, told = pair_by(_images(place), find_rasters(labels), lambda p: p.stem, lambda p: p.stem)
            pairs += [(image, label, split_by_name(image.stem)) for image, label in found]
            problems += told
        if not any(label for _, label, _ in pairs):
            raise InputError(f"{request.folder} holds no labelled images of SAMRS: {_LAYOUT}.", "missing-data")
        items = labelled_images(pairs)
        return LabelledSet(request.folder.name, CLASSES, items, ByFolder(tuple(meanings)), self.name, tuple(problems))


def _subset_folders(folder: Path) -> dict[str, Path]:
    """Subset -> its folder, in the order of the classes."""
    below = [p for p in sorted(folder.iterdir()) if p.is_dir()] if folder.is_dir() else []
    found = {}
    for subset, pattern in _FOLDERS.items():
        place = next((p for p in below if re.fullmatch(pattern, p.name, re.IGNORECASE)), None)
        if place is not None:
            found[subset] = place
    return found


def _gray(place: Path) -> Path | None:
    """The folder of semantic labels: `gray`, in the subset's folder or up to three levels below."""
    return next((p for depth in ("gray", "*/gray", "*/*/gray") for p in sorted(place.glob(depth)) if p.is_dir()), None)


def _images(place: Path) -> Found:
    """All images of a subset; SIOR's lie in two folders."""
    folders = [p for depth in ("*", "*/*") for p in sorted(place.glob(depth)) if p.is_dir() and _IMAGES.fullmatch(p.name)]
    parts = [find_rasters(folder) for folder in folders]
    return Found(place, tuple(path for part in parts for path in part.paths), tuple(t for part in parts for t in part.problems))
