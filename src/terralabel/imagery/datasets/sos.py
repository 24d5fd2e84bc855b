"""SOS, the Deep-SAR Oil Spill set: grey radar chips of 256 x 256 pixels by PALSAR and Sentinel-1, oil or sea.

Two editions are about: the release (`train|test/palsar|sentinel/image|label`), and a refined one that other papers use
(`images|masks/train|val/palsar_1.png`). Masks of Sentinel-1 are anti-aliased, so that they are read by a threshold. About one mask
in 26 is empty: an image without oil, and no mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from terralabel.contracts import LabelRequest
from terralabel.core.labelled import ByThreshold, LabelledSet
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.datasets.class_lists import named_classes
from terralabel.imagery.datasets.pairing import Found, find_rasters, labelled_images, pair_by, pair_files, split_name

__all__ = ["CLASSES", "SENSORS", "Sos"]

CLASSES = named_classes(["sea", "oil"], [(11, 60, 93), (217, 95, 2)])
SENSORS = ("palsar", "sentinel")

_SPLITS = ("train", "val", "test")
#: How the folders of images and of masks are called, in the release and in the code of those who made it.
_FOLDERS = (("image", "label"), ("images", "labels"), ("sat", "gt"))
_OWN_NAME = re.compile(r"(palsar|sentinel)_.+", re.IGNORECASE)
#: That and more is oil.
_THRESHOLD = 128
_LAYOUT = (
    "download the Deep-SAR Oil Spill dataset from the page of CUG-URS and unpack it into train/palsar/image, train/palsar/label,"
    " train/sentinel/..., test/..., or the refined edition into images/train/palsar_1.png, masks/train/palsar_1.png, images/val/..."
)


@dataclass(frozen=True)
class Sos:
    """SOS, oil spills in SAR, the release or the refined edition; `sos:palsar` and `sos:sentinel` are the halves."""

    argument: str = ""

    name = "sos"

    def __post_init__(self) -> None:
        if self.argument not in ("", *SENSORS):
            raise SettingsError(f"sos:{self.argument}: expected sos, sos:palsar or sos:sentinel.")

    def recognises(self, folder: Path) -> bool:
        """True for folders of sensors in those of splits, or images and masks that are called by sensors."""
        if any((folder / split / sensor).is_dir() for split in _SPLITS for sensor in SENSORS):
            return True
        place = next((p for split in _SPLITS if (p := folder / "images" / split).is_dir()), None)
        return place is not None and (folder / "masks").is_dir() and any(_sensor(p) for p in sorted(place.iterdir())[:1])

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set with the splits of its edition; `sensor` is "sar"."""
        pairs, problems = [], []
        for images, labels, split in self._folders(request.folder):
            found, told = _paired(images, labels, self._sensors)
            pairs += [(image, label, split) for image, label in found]
            problems += told
        items = labelled_images(pairs)
        if not any(item.label for item in items):
            which = f" of {self.argument}" if self.argument else ""
            raise InputError(f"{request.folder} holds no labelled images of SOS{which}: {_LAYOUT}.", "missing-data")
        name = request.folder.name + (f" {self.argument}" if self.argument else "")
        return LabelledSet(name, CLASSES, items, ByThreshold(_THRESHOLD), self.name, tuple(problems), sensor="sar")

    @property
    def _sensors(self) -> tuple[str, ...]:
        return (self.argument,) if self.argument else SENSORS

    def _folders(self, folder: Path) -> list[tuple[Path, Path, str]]:
        """(images, masks, split) of either edition."""
        if (folder / "images").is_dir():
            below = [p for p in sorted((folder / "images").iterdir()) if p.is_dir() and split_name(p.name)]
            return [(p, folder / "masks" / p.name, split_name(p.name)) for p in below]
        places = [(folder / split / sensor, split) for split in _SPLITS for sensor in self._sensors]
        return [
            (place / images, place / labels, split)
            for place, split in places
            for images, labels in _FOLDERS
            if (place / images).is_dir()
        ]


def _sensor(path: Path) -> str:
    """The sensor that a file of the refined edition is called by, "" for others."""
    found = _OWN_NAME.fullmatch(path.stem)
    return found.group(1).lower() if found else ""


def _paired(images: Path, labels: Path, sensors: tuple[str, ...]) -> tuple[list[tuple[Path, Path | None]], list[str]]:
    """Images with their masks; in the refined edition only those of `sensors`."""
    found, masks = find_rasters(images), find_rasters(labels)
    if any(_sensor(path) for path in found.paths):
        return pair_by(_of(found, sensors), _of(masks, sensors), lambda p: p.stem, lambda p: p.stem)
    return pair_files(found, masks)


def _of(found: Found, sensors: tuple[str, ...]) -> Found:
    return Found(found.folder, tuple(path for path in found.paths if _sensor(path) in sensors), found.problems)
