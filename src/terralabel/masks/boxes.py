"""Boxes that somebody drew or a detector found, from files: upright or rotated, each with a class.

A rotated box becomes the smallest upright box round it, as SAMRS prompts SAM.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np

from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.core.coco import is_whole_number
from terralabel.errors import ContractError, InputError

__all__ = ["BoxFile", "Boxes", "read_boxes", "upright"]

_MAX_BYTES = 4 << 30
#: A DOTA line: four corners, then the class, then perhaps how difficult it is.
_CORNERS = 8


@dataclass(frozen=True)
class Boxes:
    """`n` upright boxes of one image: `xyxy` (n, 4) float64 image pixels, x0 < x1 and y0 < y1, and `class_id` (n,) int64.

    `score` (n,) float32 in [0, 1] is a detector's; 1 for boxes that a person drew.
    """

    xyxy: np.ndarray
    class_id: np.ndarray
    score: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def __post_init__(self) -> None:
        if len(self.score) != len(self.class_id):
            object.__setattr__(self, "score", np.ones(len(self.class_id), dtype=np.float32))
        if self.xyxy.shape != (len(self.class_id), 4):
            raise ContractError(f"Boxes: expected {len(self.class_id)} x 4 numbers, got {self.xyxy.shape}.")

    def __len__(self) -> int:
        return len(self.class_id)

    def inside(self, width: int, height: int) -> Boxes:
        """Cut to the image; boxes without a pixel in it are left out."""
        limit = np.array([width, height, width, height], dtype=np.float64)
        cut = np.clip(self.xyxy, 0, limit)
        keep = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
        return Boxes(cut[keep], self.class_id[keep], self.score[keep])


@dataclass(frozen=True)
class BoxFile:
    """All boxes of a file or folder: by the name of the image (its path as given, or its stem), and the classes they are of.

    `problems` are sentences on boxes that cannot be used, with their ids or lines.
    """

    path: Path
    classes: Classes
    by_name: Mapping[str, Boxes]
    problems: tuple[str, ...] = ()

    def match(self, keys: Mapping[str, str]) -> tuple[dict[str, Boxes], list[str]]:
        """Boxes of each scene: `keys` is scene key -> path of its image; and the names that are no scene's, sorted.

        A name is its image's when it ends the image's path, suffixes aside. `InputError` when two images could be meant.
        """
        found: dict[str, Boxes] = {}
        left = []
        stems: dict[str, list[str]] = defaultdict(list)
        for key, path in keys.items():
            stems[PurePosixPath(path).stem].append(key)
        for name, boxes in self.by_name.items():
            wanted = PurePosixPath(name).with_suffix("").parts
            alike = [k for k in stems.get(wanted[-1], []) if _ends(keys[k], wanted)]
            if len(alike) > 1:
                raise InputError(
                    f"{self.path}: {name!r} may be any of {len(alike)} images: name them with their folders.", "same-name"
                )
            if alike:
                found[alike[0]] = boxes
            else:
                left.append(name)
        return found, sorted(left)


def _ends(path: str, parts: Sequence[str]) -> bool:
    return PurePosixPath(path).with_suffix("").parts[-len(parts) :] == tuple(parts)


def upright(corners: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy of the smallest upright boxes round the corners (n, k, 2) xy."""
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _rotated_corners(box: Sequence[float]) -> np.ndarray:
    """(4, 2) xy corners of (centre x, centre y, width, height, angle in degrees); the sense of the angle changes no upright box."""
    cx, cy, width, height, angle = box
    turn = math.radians(angle)
    along = np.array([math.cos(turn), math.sin(turn)]) * width / 2
    across = np.array([-math.sin(turn), math.cos(turn)]) * height / 2
    return np.array([cx, cy]) + np.array([along + across, along - across, -along - across, -along + across])


def read_boxes(path: Path, classes: Classes | None = None) -> BoxFile:
    """Boxes of a COCO file, or of DOTA text files: one `.txt`, or a folder of them.

    COCO: `bbox` is (x, y, width, height), or (centre x, centre y, width, height, angle in degrees); where there is none, the
    `segmentation`'s polygon counts. DOTA: a line is `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, the file's stem is the image's.
    `classes`: a class map with the names in the file; without it COCO's categories, or DOTA's names in alphabetical order.
    """
    collected = _Collected(path)
    if path.is_dir() or path.suffix.lower() == ".txt":
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path} holds no .txt file: expected DOTA's, one for each image.", "missing-data")
        for file in files:
            _read_dota(file, collected)
        names = sorted({name for rows in collected.rows.values() for name, _, _ in rows})
        return collected.finished(classes or _numbered(dict(enumerate(names))))
    categories = _read_coco(path, collected)
    return collected.finished(classes or _numbered(categories))


def _numbered(categories: Mapping[int, str]) -> Classes:
    """Classes under their own ids, numbered anew when those do not fit a byte."""
    fits = all(0 <= number < IGNORE for number in categories)
    rows = list(categories.items()) if fits else list(enumerate(categories.values()))
    if len(rows) > IGNORE:
        raise InputError(f"{len(rows)} classes of boxes; labels hold at most {IGNORE}: give a class map.", "too-many-classes")
    return Classes().with_entries(ClassEntry(number, name, distinct_color(k)) for k, (number, name) in enumerate(rows))


@dataclass
class _Collected:
    """Boxes while a file is read: image name -> (class name, box xyxy, score)."""

    path: Path
    rows: dict[str, list[tuple[str, np.ndarray, float]]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)

    def add(self, image: str, name: str, box: np.ndarray, label: str, score: Any = None) -> None:
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            self.problems.append(
                f"{label}: no box ({', '.join(f'{v:g}' for v in box)}): its sides must be longer than 0 [bad-box]"
            )
        else:
            number = isinstance(score, int | float) and math.isfinite(score)
            self.rows[image].append((name, box, min(max(float(score), 0.0), 1.0) if number else 1.0))

    def finished(self, classes: Classes) -> BoxFile:
        ids = {entry.name: entry.id for entry in classes}
        unknown: dict[str, int] = defaultdict(int)
        by_name = {}
        for image, rows in self.rows.items():
            for name, _, _ in rows:
                unknown[name] += name not in ids
            known = [(ids[name], box, score) for name, box, score in rows if name in ids]
            by_name[image] = Boxes(
                np.array([box for _, box, _ in known], dtype=np.float64).reshape(-1, 4),
                np.array([i for i, _, _ in known], dtype=np.int64),
                np.array([score for _, _, score in known], dtype=np.float32),
            )
        told = [
            f"{count} boxes of {name!r}, which is no class of the class map [unknown-class]"
            for name, count in unknown.items()
            if count
        ]
        return BoxFile(self.path, classes, by_name, (*self.problems, *told))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large for a file of boxes.", "not-labels")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "not-labels") from error


def _read_dota(path: Path, collected: _Collected) -> None:
    collected.rows[path.stem] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words or line.startswith(("imagesource:", "gsd:")):
            continue
        label = f"{path.name}, line {number}"
        try:
            corners = np.array([float(word) for word in words[:_CORNERS]]).reshape(4, 2)
            name = words[_CORNERS]
        except (ValueError, IndexError):
            collected.problems.append(f"{label}: expected x1 y1 x2 y2 x3 y3 x4 y4 class; got {line[:60]!r} [bad-line]")
            continue
        collected.add(path.stem, name, upright(corners[None])[0], label)


def _read_coco(path: Path, collected: _Collected) -> dict[int, str]:
    """Fills `collected`; returns category id -> name."""
    try:
        data = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON that can be read: {error}. Expected a COCO file, or DOTA's .txt.", "not-labels"
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a COCO file, got a {type(data).__name__}.", "not-labels")
    for name in ("images", "annotations", "categories"):
        if not isinstance(data.get(name), list):
            raise InputError(f"{path}: COCO file without a list of {name}.", "not-labels")
    images = {row["id"]: str(row.get("file_name", "")) for row in _rows(data["images"])}
    categories = {row["id"]: str(row.get("name", row["id"])) for row in _rows(data["categories"])}
    for name in images.values():
        collected.rows[name] = []
    for position, row in enumerate(data["annotations"]):
        label = f"annotation {row['id']}" if isinstance(row, dict) and "id" in row else f"annotation {position} (by position)"
        try:
            if not isinstance(row, dict) or row.get("image_id") not in images:
                raise InputError("its image_id is not in the file", "dangling-image")
            if row.get("category_id") not in categories:
                raise InputError(f"category_id {row.get('category_id')!r} is not in the file", "dangling-category")
            box = _coco_box(row)
        except (InputError, TypeError) as error:
            status = error.status if isinstance(error, InputError) else "bad-id"
            collected.problems.append(f"{label}: {error} [{status}]")
            continue
        collected.add(images[row["image_id"]], categories[row["category_id"]], box, label, row.get("score"))
    return categories


def _rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row, dict) and is_whole_number(row.get("id"))]


def _coco_box(row: Mapping[str, Any]) -> np.ndarray:
    """(4,) xyxy of an annotation's bbox, upright or rotated, or of its polygon."""
    box, polygon = row.get("bbox"), row.get("segmentation")
    if _numbers(box) and len(box) == 4:
        x, y, width, height = (float(v) for v in box)
        return np.array([x, y, x + width, y + height])
    if _numbers(box) and len(box) == 5:
        return upright(_rotated_corners([float(v) for v in box])[None])[0]
    if (
        isinstance(polygon, list)
        and polygon
        and all(_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in polygon)
    ):
        return upright(np.concatenate([np.array(part, dtype=np.float64).reshape(-1, 2) for part in polygon])[None])[0]
    raise InputError(f"bbox is {box!r}, expected (x, y, width, height) or (cx, cy, width, height, angle)", "bad-box")


def _numbers(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
