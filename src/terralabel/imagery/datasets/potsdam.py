"""ISPRS Potsdam: 38 tiles of 6000 x 6000 pixels at 5 cm, six classes painted in colours, boundaries left out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from terralabel.contracts import LabelRequest
from terralabel.core.classes import IGNORE
from terralabel.core.labelled import ByColor, ByValue, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import named_classes
from terralabel.imagery.datasets.pairing import Found, find_rasters, labelled_images, pair_by, pair_files, split_name

__all__ = ["CLASSES", "COLORS", "TRAIN", "VAL", "Potsdam", "tile_name"]

#: (name, (red, green, blue)) in the order of the ids, from 1; black is a boundary.
_TABLE = (
    ("impervious surface", (255, 255, 255)),
    ("building", (0, 0, 255)),
    ("low vegetation", (0, 255, 255)),
    ("tree", (0, 255, 0)),
    ("car", (255, 255, 0)),
    ("clutter", (255, 0, 0)),
)
CLASSES = named_classes([name for name, _ in _TABLE], [color for _, color in _TABLE], first=1)
#: Some released labels are off by a few grey values in places, so the nearest corner of the colour cube counts.
COLORS = ByColor((*((color, k) for k, (_, color) in enumerate(_TABLE, 1)), ((0, 0, 0), IGNORE)), tolerance=16)

#: Row of the mosaic -> its columns, as papers split them.
_TRAIN = {2: (10, 11, 12), 3: (10, 11, 12), 4: (10, 11, 12), 5: (10, 11, 12), 6: range(7, 13), 7: range(7, 13)}
_VAL = {2: (13, 14), 3: (13, 14), 4: (13, 14, 15), 5: (13, 14, 15), 6: (13, 14, 15), 7: (13,)}
TRAIN = frozenset(f"{row}_{column}" for row, columns in _TRAIN.items() for column in columns)
VAL = frozenset(f"{row}_{column}" for row, columns in _VAL.items() for column in columns)

_TILE = re.compile(r"top_potsdam_0*(\d+)_0*(\d+)_(.+)")
_CROP = re.compile(r"\d+_\d+(_\d+){4}")
_LAYOUT = (
    "order Potsdam from the ISPRS page on the 2D semantic labelling contest, and unpack 2_Ortho_RGB.zip and"
    " 5_Labels_all_noBoundary.zip into it: 2_Ortho_RGB/top_potsdam_2_10_RGB.tif,"
    " 5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"
)


def tile_name(path: Path, *kinds: str) -> str:
    """ "2_10" for `top_potsdam_2_10_RGB.tif` when "RGB" is one of `kinds`; "" for any other file."""
    match = _TILE.fullmatch(path.stem)
    return f"{match[1]}_{match[2]}" if match and match[3] in kinds else ""


@dataclass(frozen=True)
class Potsdam:
    """The release (RGB tiles and colour labels, without boundaries where they are there) or crops (`img_dir`, `ann_dir`).

    Ids are 1..6; in crops 0 is a boundary. Both mean "no label" in what is read.
    """

    name: str = "potsdam"

    def recognises(self, folder: Path) -> bool:
        """True when files are called `top_potsdam_...`, or crops `2_10_0_0_512_512.png`."""
        crops = next((folder / "img_dir" / "train").glob("*.png"), None)
        if crops is not None:
            return _CROP.fullmatch(crops.stem) is not None
        return next(folder.glob("*/top_potsdam_*"), None) is not None or next(folder.glob("top_potsdam_*"), None) is not None

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set, split into the 24 tiles for training and the 14 for validation that papers use."""
        if (request.folder / "img_dir").is_dir():
            return self._crops(request.folder)
        images, labels, problems = _released(request.folder)
        found, told = pair_by(
            images, labels, lambda p: tile_name(p, "RGB"), lambda p: tile_name(p, "label_noBoundary", "label")
        )
        pairs = [(image, label, _split(tile_name(image, "RGB"))) for image, label in found]
        if not any(label for _, label, _ in pairs):
            raise InputError(f"{request.folder} holds no labelled tiles of Potsdam: {_LAYOUT}.", "missing-data")
        problems = [*problems, *told, *_missing(pairs)]
        return LabelledSet(request.folder.name, CLASSES, labelled_images(pairs), COLORS, self.name, tuple(problems))

    def _crops(self, folder: Path) -> LabelledSet:
        images = folder / "img_dir"
        found, problems = pair_files(find_rasters(images), find_rasters(folder / "ann_dir"))
        pairs = [(image, label, split_name(image.relative_to(images).parts[0])) for image, label in found]
        if not any(label for _, label, _ in pairs):
            raise InputError(
                f"{folder} has img_dir/ and no labels of the same names in ann_dir/: make the crops anew.", "missing-data"
            )
        return LabelledSet(folder.name, CLASSES, labelled_images(pairs), ByValue(((0, IGNORE),)), self.name, tuple(problems))


def _released(folder: Path) -> tuple[Found, Found, list[str]]:
    """RGB tiles, labels (those without boundaries if there are any), and what to know of them."""
    every = find_rasters(folder)
    images = [path for path in every.paths if tile_name(path, "RGB")]
    eroded = [path for path in every.paths if tile_name(path, "label_noBoundary")]
    full = [path for path in every.paths if tile_name(path, "label")]
    problems = list(every.problems)
    if full and not eroded:
        problems.append(
            "the labels still have their boundaries, which papers leave out: unpack 5_Labels_all_noBoundary.zip beside them."
        )
    return Found(folder, tuple(images)), Found(folder, tuple(eroded or full)), problems


def _split(tile: str) -> str:
    return "train" if tile in TRAIN else "val" if tile in VAL else ""


def _missing(pairs: list[tuple[Path, Path | None, str]]) -> list[str]:
    have = {tile_name(image, "RGB") for image, label, _ in pairs if label is not None}
    lost = sorted((TRAIN | VAL) - have)
    return [f"{len(lost)} of 38 tiles are not there with image and label, the first: {lost[0]}"] if lost else []
