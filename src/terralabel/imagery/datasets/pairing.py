"""Which label file belongs to which image: by the same path below two folders, but for an ending of the names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from terralabel.core.labelled import LabelledImage
from terralabel.errors import InputError
from terralabel.imagery.keys import unique_keys
from terralabel.imagery.sources import find_sources

__all__ = ["Found", "find_rasters", "labelled_images", "pair_by", "pair_files", "split_name"]

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Found:
    """Rasters below a folder, sorted, and sentences on what could not be used."""

    folder: Path
    paths: tuple[Path, ...]
    problems: tuple[str, ...] = ()


def split_name(folder: str) -> str:
    """ "train", "val" or "test" for the name of a folder, "" for any other."""
    return _SPLITS.get(folder.lower(), "")


def find_rasters(folder: Path) -> Found:
    """Every raster below `folder`; what was meant as one and is none becomes a problem."""
    if not folder.is_dir():
        return Found(folder, ())
    sources = find_sources([folder])
    return Found(
        folder,
        tuple(sorted((s.path for s in sources.files), key=str)),
        tuple(f"{s.reason} [{s.status}]" for s in sources.skipped),
    )


def labelled_images(
    pairs: Sequence[tuple[Path, Path | None, str]],
) -> tuple[LabelledImage, ...]:
    """(image, label, split) as records with unique keys, in their order."""
    keys = unique_keys([image for image, _, _ in pairs])
    items = [LabelledImage(key, image, label, split) for key, (image, label, split) in zip(keys, pairs, strict=True)]
    return tuple(sorted(items, key=lambda item: item.key))


def pair_files(images: Found, labels: Found) -> tuple[list[tuple[Path, Path | None]], list[str]]:
    """Each image with its label or None, and sentences on those left over.

    Names pair when the paths below the two folders agree without the suffix; else when they agree without the ending that all
    names of a side share (`P1.png` and `P1_instance_color_RGB.png`, `a_sat.jpg` and `a_mask.png`).
    """
    image_names, label_names = (_named(found, partial(_path_below, found)) for found in (images, labels))
    if not set(image_names) & set(label_names):
        image_names, label_names = _without_ending(image_names), _without_ending(label_names)
    return _paired(image_names, label_names, [*images.problems, *labels.problems])


def pair_by(
    images: Found, labels: Found, image_name: Callable[[Path], str], label_name: Callable[[Path], str]
) -> tuple[list[tuple[Path, Path | None]], list[str]]:
    """As `pair_files`, by names of your own; a file with the name "" is none of the data set's."""
    return _paired(_named(images, image_name), _named(labels, label_name), [*images.problems, *labels.problems])


def _paired(
    images: dict[str, Path], labels: dict[str, Path], problems: list[str]
) -> tuple[list[tuple[Path, Path | None]], list[str]]:
    pairs = [(path, labels.get(name)) for name, path in images.items()]
    bare = [image for image, label in pairs if label is None]
    if bare and labels:
        problems.append(f"{len(bare)} of {len(pairs)} images have no label, the first: {bare[0]}")
    extra = [path for name, path in labels.items() if name not in images]
    if extra:
        problems.append(f"{len(extra)} of {len(labels)} labels have no image, the first: {extra[0]}")
    return pairs, problems


def _path_below(found: Found, path: Path) -> str:
    return str(PurePosixPath(path.relative_to(found.folder).with_suffix("")))


def _named(found: Found, name_of: Callable[[Path], str]) -> dict[str, Path]:
    """Name -> file; two files of one name are refused."""
    names: dict[str, Path] = {}
    for path in found.paths:
        name = name_of(path)
        if name in names:
            raise InputError(f"{names[name]} and {path} have the same name: which one is meant? Remove one.", "same-name")
        if name:
            names[name] = path
    return names


def _without_ending(names: dict[str, Path]) -> dict[str, Path]:
    """The names without the ending they all share, from its first `_`, `-` or `.` on; as they are when that makes two the same."""
    if not names:
        return names
    shared = _shared_end([name.rpartition("/")[2] for name in names])
    start = re.search(r"[_.-]", shared)
    ending = shared[start.start() :] if start else ""
    if len(names) == 1:  # nothing to compare with: words of letters only
        ending = "".join(re.findall(r"[_.-][A-Za-z][A-Za-z_.-]*$", shared))
    cut = {name.removesuffix(ending): path for name, path in names.items()}
    return cut if len(cut) == len(names) else names


def _shared_end(names: Sequence[str]) -> str:
    first, last = min(name[::-1] for name in names), max(name[::-1] for name in names)
    length = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length][::-1]
