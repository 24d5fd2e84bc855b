"""Data sets that are plain folders: images beside labels, mmsegmentation's layout, and TerraLabel's own runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from terralabel.contracts import LabelRequest
from terralabel.core.classes import Classes
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import class_list, find_classes
from terralabel.imagery.datasets.pairing import find_rasters, labelled_images, pair_files, split_name

__all__ = ["ImageFolder", "MmsegFolder", "RunFolderLabels"]

_IMAGES = ("images", "image", "imgs", "img", "sat")
_LABELS = ("labels", "masks", "annotations", "label", "mask", "annotation", "gt")


@dataclass(frozen=True)
class ImageFolder:
    """`images/` beside `labels/` or `masks/` (or two folders given), same names; with `train/`, `val/`, `test/` in or around them."""

    name: str = "folder"

    def recognises(self, folder: Path) -> bool:
        """True when there is a folder of images and one of labels."""
        return any(_two_folders(place) is not None for place, _ in _places(folder))

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set; `InputError` says the layout when it is another."""
        return folder_set(request, self.name, *self.pairs(request))

    def pairs(self, request: LabelRequest) -> tuple[list[tuple[Path, Path | None, str]], list[str]]:
        """(image, label or None, split) of the folders, and sentences on what is left over."""
        pairs, problems = [], []
        for images, labels, split in self._folders(request):
            found, told = pair_files(find_rasters(images), find_rasters(labels))
            problems += told
            pairs += [(image, label, split or _split_below(image, images)) for image, label in found]
        return pairs, problems

    def _folders(self, request: LabelRequest) -> list[tuple[Path, Path, str]]:
        if request.labels is not None:
            return [(request.folder, request.labels, "")]
        found = [(_two_folders(place), split) for place, split in _places(request.folder)]
        folders = [(pair[0], pair[1], split) for pair, split in found if pair is not None]
        if not folders:
            raise InputError(
                f"{request.folder} has no images/ beside labels/ or masks/: expected files of the same names there, or give the"
                " folder of images and that of labels.",
                "no-images",
            )
        return folders


def _places(folder: Path) -> list[tuple[Path, str]]:
    """Where images/ and labels/ may lie: in the folder, and in its train/, val/ and test/."""
    below = [p for p in sorted(folder.iterdir()) if p.is_dir() and split_name(p.name)] if folder.is_dir() else []
    return [(folder, ""), *((p, split_name(p.name)) for p in below)]


def _two_folders(place: Path) -> tuple[Path, Path] | None:
    images = next((place / name for name in _IMAGES if (place / name).is_dir()), None)
    labels = next((place / name for name in _LABELS if (place / name).is_dir()), None)
    return (images, labels) if images and labels else None


def _split_below(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    return split_name(parts[0]) if len(parts) > 1 else ""


@dataclass(frozen=True)
class MmsegFolder:
    """mmsegmentation's layout: `img_dir/{train,val,test}/` and `ann_dir/{train,val,test}/`."""

    name: str = "mmseg"

    def recognises(self, folder: Path) -> bool:
        """True when there is an `img_dir`."""
        return (folder / "img_dir").is_dir()

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set, with the splits of the folders."""
        images, labels = request.folder / "img_dir", request.labels or request.folder / "ann_dir"
        if not images.is_dir() or not labels.is_dir():
            raise InputError(f"{request.folder}: expected img_dir/ and ann_dir/, each with train/, val/ or test/.", "no-images")
        found, problems = pair_files(find_rasters(images), find_rasters(labels))
        pairs = [(image, label, _split_below(image, images)) for image, label in found]
        return folder_set(request, self.name, pairs, problems)


def folder_set(
    request: LabelRequest, format: str, pairs: list[tuple[Path, Path | None, str]], problems: list[str]
) -> LabelledSet:
    """A set of paired files whose classes are those of the request, of the folder, or the ids in the labels."""
    items = labelled_images(pairs)
    if not any(item.label for item in items):
        have = f"{len(items)} images and none of their labels" if items else "no images"
        raise InputError(f"{request.folder}: {have}; names of labels must be those of the images.", "no-images")
    beside = find_classes(request.labels) if request.labels is not None and request.threshold is None else None
    classes, to_ids = class_list(request.folder, request.classes or beside, items, request.ignore, request.threshold)
    return LabelledSet(request.folder.name, classes, items, to_ids, format, tuple(problems))


@dataclass(frozen=True)
class RunFolderLabels:
    """A run of `terralabel label`: the images it was given, and `labels/`."""

    name: str = "run"

    def recognises(self, folder: Path) -> bool:
        """True when there are a manifest and scenes."""
        return (folder / "manifest.json").is_file() and (folder / "scenes.jsonl").is_file()

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set with the run's class map as it stands; `InputError` when the run has no labels yet."""
        folder = request.folder
        if not self.recognises(folder):
            raise InputError(f"{folder} is not a run: it has no manifest.json and scenes.jsonl.", "not-a-run")
        items, problems = _scenes(folder)
        if not any(item.label for item in items) or not (folder / "classes.json").is_file():
            raise InputError(f"{folder} has no labels yet: finish it with the same `terralabel label` command.", "no-images")
        classes = _shown_classes(request.classes or folder / "classes.json")
        return LabelledSet(folder.name, classes, tuple(items), None, self.name, tuple(problems))


def _scenes(folder: Path) -> tuple[list[LabelledImage], list[str]]:
    items, problems = [], []
    for number, line in enumerate((folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if "failure" in row:
                problems.append(str(row["failure"]["reason"]))
                continue
            key, source, split = row["scene"]["key"], Path(row["scene"]["source"]), row["scene"]["split"] or ""
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder / 'scenes.jsonl'}, line {number}, is damaged ({error!r}): run `label` again.", "damaged"
            ) from error
        if not source.is_file():
            problems.append(f"{source} is no longer there: put it back, or label it where it is now.")
            continue
        label = folder / "labels" / f"{key}.tif"
        if not label.is_file():
            problems.append(f"{source} has no label: finish the run with the same `terralabel label` command.")
        items.append(LabelledImage(key, source, label if label.is_file() else None, split))
    return sorted(items, key=lambda item: item.key), problems


def _shown_classes(path: Path) -> Classes:
    return Classes.from_json(path.read_text(encoding="utf-8"))
