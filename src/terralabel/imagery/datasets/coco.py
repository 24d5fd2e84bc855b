"""COCO instances as class labels: polygons and run lengths, drawn when a label is asked for, the largest first."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely

from terralabel.contracts import LabelRequest
from terralabel.core import rle
from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.core.coco import checked_counts, checked_rings, is_whole_number
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.class_lists import read_classes
from terralabel.imagery.datasets.pairing import labelled_images, split_name
from terralabel.imagery.datasets.reading import image_size

__all__ = ["Coco", "CocoLabels", "Instance", "checked_segmentation", "paint_instance"]

#: Problems told one by one; of more, the number.
_TOLD = 20
#: Labels are drawn whole, a byte a pixel.
_MOST_PIXELS = 1 << 30
_LAYOUT = (
    "expected annotations/instances_train.json (or any COCO file) beside images/, or the COCO file and the folder of images"
)


@dataclass(frozen=True, eq=False)
class Instance:
    """One annotation: `rings` are outer rings (n, 2) float64 xy, or `runs` COCO run lengths of the whole image."""

    class_id: int
    area: float
    rings: tuple[np.ndarray, ...] = ()
    runs: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class CocoLabels:
    """The instances of every image: key -> (height, width) and what is drawn there.

    Pixels of no instance are `rest`: the class called "background" if there is one, else 255.
    """

    sizes: Mapping[str, tuple[int, int]]
    instances: Mapping[str, tuple[Instance, ...]]
    rest: int = IGNORE

    def draw(self, item: LabelledImage) -> np.ndarray:
        """(H, W) uint8: the largest first, so that small things lie on top; equal ones in the order of the file.

        `InputError` when the image is not of the size that the file says: what is claimed is not allocated.
        """
        size = self.sizes[item.key]
        there = image_size(item.image)
        if there != size[::-1]:
            raise InputError(
                f"{item.image} is {there[0]} x {there[1]} pixels, its label {size[1]} x {size[0]}: they must be of one size.",
                "size",
            )
        if size[0] * size[1] > _MOST_PIXELS:
            raise InputError(
                f"{item.image} has {size[0] * size[1]:,} pixels; labels are drawn whole: cut it into smaller ones.", "too-large"
            )
        out = np.full(size, self.rest, dtype=np.uint8)
        for instance in sorted(self.instances.get(item.key, ()), key=lambda i: -i.area):
            paint_instance(out, instance)
        return out


def paint_instance(out: np.ndarray, instance: Instance) -> None:
    """Write the instance's class id where it lies on (H, W) uint8."""
    if instance.runs is not None:
        out[rle.decode_box(instance.runs, (0, 0, out.shape[1], out.shape[0]), (out.shape[0], out.shape[1]))] = instance.class_id
        return
    xy = np.concatenate(instance.rings)
    left, top = np.maximum(np.floor(xy.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(xy.max(axis=0)), out.shape[::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    moved = [(shapely.Polygon(ring - (left, top)), 1) for ring in instance.rings]
    inside = rasterio.features.rasterize(moved, out_shape=(int(bottom - top), int(right - left)), dtype="uint8")
    out[top:bottom, left:right][inside > 0] = instance.class_id


@dataclass(frozen=True)
class Coco:
    """One or more COCO files (train, val, test by their names) and the images they name. Crowds become "no label"."""

    name: str = "coco"

    def recognises(self, folder: Path) -> bool:
        """True when there is a JSON file with a list of annotations."""
        return any(_begins_like_coco(path) for path in _files(folder))

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set; annotations that cannot be drawn are problems, with their ids."""
        root = request.folder if request.folder.is_dir() else request.folder.parent
        files = [request.labels] if request.labels else [request.folder] if request.folder.is_file() else _files(root)
        files = [path for path in files if path.is_file() and _begins_like_coco(path)]
        if not files:
            raise InputError(f"{request.folder} holds no COCO file: {_LAYOUT}.", "missing-data")
        parts = [_File.read(path, root) for path in files]
        names = list(dict.fromkeys(name for part in parts for name in part.categories.values()))
        classes, rest = _classes(request.classes, parts, names)
        return _labelled_set(root.name, parts, classes, rest)


def _files(folder: Path) -> list[Path]:
    """Where COCO files lie: in the folder, in annotations/, and in the folders of the splits."""
    if not folder.is_dir():
        return []
    return [path for place in ("*.json", "annotations/*.json", "*/*coco*.json") for path in sorted(folder.glob(place))]


def _begins_like_coco(path: Path) -> bool:
    """A cheap look: the keys of COCO, or at least a list of images, near the beginning or the end."""
    with open(path, "rb") as handle:
        head = handle.read(1 << 16)
        handle.seek(max(handle.seek(0, 2) - (1 << 16), 0))
        text = head + handle.read()
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and b'"annotations"' in text and b'"image' in text


@dataclass(frozen=True, eq=False)
class _File:
    """One COCO file with its images found on disk; `annotations` by image id, unchecked."""

    path: Path
    split: str
    images: dict[int, tuple[Path, tuple[int, int]]]
    missing: frozenset[int]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]
    problems: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, root: Path) -> _File:
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(
                f"{path} is no JSON that can be read: {error}. Copy or download it again.", "not-labels"
            ) from error
        for name in ("images", "annotations", "categories"):
            if not isinstance(data.get(name), list):
                raise InputError(f"{path}: COCO file without a list of {name}.", "not-labels")
        split = next(
            (s for word in (*path.stem.split("_"), path.parent.name) if (s := split_name(word.rstrip("0123456789")))), ""
        )
        categories = {
            c["id"]: str(c.get("name", c["id"]))
            for c in data["categories"]
            if isinstance(c, dict) and is_whole_number(c.get("id"))
        }
        images, missing, problems = _images(data["images"], path, root)
        return cls(path, split, images, missing, data["annotations"], categories, tuple(problems))


def _images(
    rows: Sequence[Any], path: Path, root: Path
) -> tuple[dict[int, tuple[Path, tuple[int, int]]], frozenset[int], list[str]]:
    """Image id -> (file, (height, width)) of the images that are there, the ids of those that are not, and what to tell."""
    found: dict[int, tuple[Path, tuple[int, int]]] = {}
    lost: dict[int, str] = {}
    problems = []
    for position, row in enumerate(rows):
        good = isinstance(row, dict) and all(is_whole_number(row.get(k)) for k in ("id", "width", "height"))
        if not good or row["id"] in found or not (0 < row["width"] < 1 << 20 and 0 < row["height"] < 1 << 20):
            problems.append(f"{path.name}: image {position} (by position) has no id of its own, width and height")
            continue
        name = str(row.get("file_name", ""))
        place = _locate(name, path, root)
        if place is None:
            lost[row["id"]] = name
        else:
            found[row["id"]] = place, (row["height"], row["width"])
    if lost:
        problems.append(
            f"{path.name}: {len(lost)} of {len(rows)} images are not there, the first: {next(iter(lost.values()))!r}"
        )
    return found, frozenset(lost), problems


def _locate(name: str, path: Path, root: Path) -> Path | None:
    """The file of an image below the root: never one that its name leads out of it."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    stems = [path.stem.rpartition("_")[2], split_name(path.stem.rpartition("_")[2].rstrip("0123456789"))]
    below = [
        root / "images",
        *(root / stem for stem in stems if stem),
        *(root / "images" / stem for stem in stems if stem),
        root,
    ]
    return next((place / name for place in (path.parent, *below) if (place / name).is_file()), None)


def _classes(given: Path | None, parts: Sequence[_File], names: Sequence[str]) -> tuple[Classes, int]:
    """The class map given, else the categories under their ids (numbered anew when those do not fit a byte), and what the rest is."""
    if given is not None:
        classes, _ = read_classes(given)
    else:
        ids = {name: number for part in parts for number, name in part.categories.items()}
        fits = len(set(ids.values())) == len(ids) and all(0 <= number < IGNORE for number in ids.values())
        numbered = ids if fits else {name: k for k, name in enumerate(names)}
        entries = [ClassEntry(numbered[name], name, distinct_color(k)) for k, name in enumerate(names)]
        classes = Classes().with_entries(entries)
    background = next((entry.id for entry in classes if entry.name.lower() == "background"), IGNORE)
    return classes, background


def _labelled_set(name: str, parts: Sequence[_File], classes: Classes, rest: int) -> LabelledSet:
    problems = [text for part in parts for text in part.problems]
    pairs = [(path, part.path, part.split) for part in parts for path, _ in part.images.values()]
    if not pairs:
        raise InputError(f"{parts[0].path}: none of its images is there: {_LAYOUT}. {'; '.join(problems[:1])}", "missing-data")
    items = labelled_images(pairs)
    key_of = {item.image: item.key for item in items}
    sizes = {key_of[path]: size for part in parts for path, size in part.images.values()}
    instances: dict[str, list[Instance]] = defaultdict(list)
    rejected: list[str] = []
    for part in parts:
        for image_id, instance in _instances(part, classes, rejected):
            instances[key_of[part.images[image_id][0]]].append(instance)
    problems += rejected[:_TOLD]
    if len(rejected) > _TOLD:
        problems.append(f"and {len(rejected) - _TOLD} more annotations that cannot be drawn")
    labels = CocoLabels(sizes, {key: tuple(found) for key, found in instances.items()}, rest)
    return LabelledSet(name, classes, items, labels, "coco", tuple(problems))


def _instances(part: _File, classes: Classes, rejected: list[str]) -> list[tuple[int, Instance]]:
    """(image id, instance) of all annotations that can be drawn; the others are named in `rejected`."""
    ids = {entry.name: entry.id for entry in classes}
    seen: set[int] = set()
    out = []
    for position, row in enumerate(part.annotations):
        label = f"{part.path.name}: annotation {position} (by position)"
        try:
            if not isinstance(row, dict) or not is_whole_number(row.get("id")):
                raise InputError("its id is no whole number", "bad-id")
            label = f"{part.path.name}: annotation {row['id']}"
            if row["id"] in seen:
                raise InputError("its id was used before", "duplicate")
            seen.add(row["id"])
            image = row.get("image_id")
            if not is_whole_number(image) or not (image in part.images or image in part.missing):
                raise InputError(f"image_id {image!r} is not in the file", "dangling-image")
            if image in part.images:  # that one is not there is told once, not by each of its annotations
                out.append((image, _instance(row, part, ids)))
        except InputError as error:
            rejected.append(f"{label}: {error} [{error.status}]")
    return out


def _instance(row: dict[str, Any], part: _File, ids: Mapping[str, int]) -> Instance:
    category = row.get("category_id")
    if not is_whole_number(category) or category not in part.categories:
        raise InputError(f"category_id {category!r} is not in the file", "dangling-category")
    name = part.categories[category]
    if name not in ids:
        raise InputError(f"category {name!r} is no class of the class map", "unknown-class")
    height, width = part.images[row["image_id"]][1]
    class_id = IGNORE if row.get("iscrowd") == 1 else ids[name]
    return checked_segmentation(row, width, height, class_id)


def checked_segmentation(row: dict[str, Any], width: int, height: int, class_id: int) -> Instance:
    """The instance of an annotation for an image of this size; `InputError` for what cannot be drawn."""
    segmentation = row.get("segmentation")
    if isinstance(segmentation, dict):
        runs = checked_counts(segmentation, width, height)
        return Instance(class_id, float(runs[1::2].sum()), runs=runs.astype(np.uint32))
    if not isinstance(segmentation, list):
        boxes = " (boxes alone become masks with `terralabel detect-label`)" if row.get("bbox") else ""
        raise InputError(
            f"segmentation is a {type(segmentation).__name__}, expected RLE or polygons{boxes}", "bad-segmentation"
        )
    rings = checked_rings(segmentation)
    polygons = shapely.polygons([np.concatenate([ring, ring[:1]]) for ring in rings])
    if not shapely.is_valid(polygons).all():
        raise InputError("a polygon crosses itself", "self-crossing")
    inside = shapely.intersects(polygons, shapely.box(0, 0, width, height))
    if not inside.any():
        raise InputError("lies outside its image", "outside")
    return Instance(class_id, float(shapely.area(polygons).sum()), tuple(rings))
