"""iSAID: 16 classes on DOTA-v1.0's images, labels painted in colours; the raw release, and crops made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import rasterio

from terralabel.contracts import LabelRequest
from terralabel.core.labelled import ByColor, LabelledSet, ToIds
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import named_classes
from terralabel.imagery.datasets.pairing import Found, find_rasters, labelled_images, pair_by
from terralabel.imagery.gdal import gdal
from terralabel.imagery.sniff import sniff

__all__ = ["CLASSES", "COLORS", "LABEL_ENDING", "ISaid"]

#: What the name of a label has after that of its image.
LABEL_ENDING = "_instance_color_RGB"

#: (name, (red, green, blue)) in the order of the ids, from 0.
_TABLE = (
    ("background", (0, 0, 0)),
    ("ship", (0, 0, 63)),
    ("store_tank", (0, 63, 63)),
    ("baseball_diamond", (0, 63, 0)),
    ("tennis_court", (0, 63, 127)),
    ("basketball_court", (0, 63, 191)),
    ("ground_track_field", (0, 63, 255)),
    ("bridge", (0, 127, 63)),
    ("large_vehicle", (0, 127, 127)),
    ("small_vehicle", (0, 0, 127)),
    ("helicopter", (0, 0, 191)),
    ("swimming_pool", (0, 0, 255)),
    ("roundabout", (0, 191, 127)),
    ("soccer_ball_field", (0, 127, 191)),
    ("plane", (0, 127, 255)),
    ("harbor", (0, 100, 155)),
)
CLASSES = named_classes([name for name, _ in _TABLE], [color for _, color in _TABLE])
COLORS = ByColor(tuple((color, k) for k, (_, color) in enumerate(_TABLE)))

_SPLITS = ("train", "val", "test")
_LAYOUT = (
    "download the images of DOTA-v1.0 (train, val, test) from DOTA's page and the Semantic_masks of train and val from iSAID's"
    " page, and unpack them into train/images/P0000.png, train/Semantic_masks/P0000_instance_color_RGB.png, and the same for val"
)


@dataclass(frozen=True)
class ISaid:
    """iSAID, raw (`SPLIT/images`, `SPLIT/Semantic_masks`) or as crops (`img_dir/SPLIT`, `ann_dir/SPLIT`, or `SPLIT/labels`).

    Labels are painted in colours, or in crops perhaps ids of one band. Background is class 0.
    """

    name: str = "isaid"

    def recognises(self, folder: Path) -> bool:
        """True when labels are called `..._instance_color_RGB`."""
        places = [place for split in _SPLITS for place in _label_folders(folder, split)]
        return any(path.stem.endswith(LABEL_ENDING) for place in places for path in islice(_files(place), 60))

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set with the splits of the release; test has no labels."""
        pairs, problems = [], []
        for split in _SPLITS:
            images, labels = _first(_image_folders(request.folder, split)), _first(_label_folders(request.folder, split))
            if images is None:
                continue
            found, told = pair_by(find_rasters(images), _rasters(labels), _own_name, _image_of)
            pairs += [(image, label, split) for image, label in found]
            problems += told
        items = labelled_images(pairs)
        if not any(item.label for item in items):
            raise InputError(f"{request.folder} holds no labelled images of iSAID: {_LAYOUT}.", "missing-data")
        label = next(item.label for item in items if item.label)
        return LabelledSet(request.folder.name, CLASSES, items, _meaning(label), self.name, tuple(problems))


def _image_folders(folder: Path, split: str) -> list[Path]:
    return [folder / "img_dir" / split, folder / split / "images"]


def _label_folders(folder: Path, split: str) -> list[Path]:
    """Where labels may lie; the release's own tools put them beside the images."""
    names = ("Semantic_masks", "labels", "images")
    return [folder / "ann_dir" / split, *(folder / split / name for name in names)]


def _first(folders: list[Path]) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.png")) if folder.is_dir() else iter(())


def _rasters(folder: Path | None) -> Found:
    return find_rasters(folder) if folder is not None else Found(Path(), ())


def _own_name(image: Path) -> str:
    """The stem of an image; "" for masks that lie beside it."""
    return "" if "_instance_" in image.stem else image.stem


def _image_of(label: Path) -> str:
    """The stem of the image that a label belongs to; "" for files that are no semantic labels."""
    return label.stem.removesuffix(LABEL_ENDING) if label.stem.endswith(LABEL_ENDING) else ""


def _meaning(label: Path) -> ToIds:
    """Crops may hold ids; the release holds colours. The first label tells."""
    with gdal(label), rasterio.open(label, driver=sniff(label), sharing=False) as source:
        return COLORS if source.count >= 3 else None
