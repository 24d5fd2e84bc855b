"""What people corrected, kept as places and classes, so that it survives every rerun whatever ids the new objects get.

A correction is a shape in scene pixels with a class, or 255: no label here. Later corrections win over earlier ones.
`whole` is the object as drawn; `cover` is the part it shows: what smaller objects lie on top of it, they keep. The label
raster gets `cover`; the objects get `whole`, in place of every automatic object that is the same one (IoU >= .5) or lies
mostly (>= half) under `cover`. Objects without a class stay unless they are the same one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core import rle
from terralabel.core.classes import IGNORE
from terralabel.core.files import write_text
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.errors import ContractError, InputError, RunError
from terralabel.export.shapes import Shape

__all__ = [
    "FIRST_ID",
    "Correction",
    "Corrections",
    "apply_to_instances",
    "apply_to_objects",
    "apply_to_raster",
    "corrected_batches",
    "corrected_ids",
    "correction_of",
    "load_corrections",
    "record_of",
    "save_corrections",
    "taken",
]

#: Objects a person drew or changed are numbered from here, by their place in the list, so that ids stay over reruns.
FIRST_ID = 2_000_000_001
#: Corrected objects per batch.
_BATCH = 2000
_KINDS = ("class", "shape", "drawn", "deleted")


@dataclass(frozen=True)
class Correction:
    """One thing a person did.

    `class_id` is 255 where there shall be no label. `kind` is "class" (another class for an object), "shape" (another
    outline), "drawn" (a new object) or "deleted". `cover` None means all of `whole`. `author`, `time` (ISO 8601) and
    `source` (the file it came with) say who, when and from where.
    """

    scene: str
    class_id: int
    whole: Shape
    cover: Shape | None = None
    kind: str = "drawn"
    author: str = ""
    time: str = ""
    source: str = ""

    @property
    def shown(self) -> Shape:
        """The part that goes into the label raster."""
        return self.cover or self.whole


@dataclass(frozen=True)
class Corrections:
    """All corrections of a run, oldest first."""

    items: tuple[Correction, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __add__(self, later: Corrections) -> Corrections:
        return Corrections(self.items + later.items)

    def of(self, scene_key: str) -> Corrections:
        """Those of one scene, in order."""
        return self._by_scene.get(scene_key, Corrections())

    @cached_property
    def _by_scene(self) -> dict[str, Corrections]:
        items: dict[str, list[Correction]] = {}
        for item in self.items:
            items.setdefault(item.scene, []).append(item)
        return {key: Corrections(tuple(mine)) for key, mine in items.items()}

    @cached_property
    def corners(self) -> np.ndarray:
        """(n, 4) int64: left, top, right, bottom of each whole shape."""
        boxes = [item.whole.box for item in self.items]
        return np.array([(b.x, b.y, b.right, b.bottom) for b in boxes], dtype=np.int64).reshape(-1, 4)

    def near(self, box: Window, first: int = 0) -> list[Correction]:
        """Those from number `first` on whose boxes meet a window, in order."""
        return [self.items[k] for k in self.places_near(box, first)]

    def places_near(self, box: Window, first: int = 0) -> list[int]:
        """The numbers of what `near` gives."""
        x0, y0, x1, y1 = self.corners[first:].T
        meets = (x0 < box.right) & (x1 > box.x) & (y0 < box.bottom) & (y1 > box.y)
        return (first + np.flatnonzero(meets)).tolist()

    def renumbered(self, class_ids: Mapping[int, int]) -> Corrections:
        """With other class ids, for a class map in which classes were merged or dropped (-> 255)."""
        return Corrections(tuple(replace(i, class_id=class_ids.get(i.class_id, i.class_id)) for i in self.items))


def apply_to_raster(block: np.ndarray, window: Window, corrections: Corrections) -> np.ndarray:
    """A block (h, w) of a label raster with one scene's corrections painted over it; a copy, of the same dtype."""
    if block.shape != (window.height, window.width):
        raise ContractError(f"Label block: expected {(window.height, window.width)}, got {block.shape}.")
    block = block.copy()
    for item in corrections.near(window):
        common = window.intersect(item.shown.box)
        if common.area:
            if item.class_id > np.iinfo(block.dtype).max:
                raise ContractError(f"Class {item.class_id} does not fit {block.dtype}: widen the block before correcting it.")
            block[common.relative_to(window).slices()][item.shown.crop(common)] = item.class_id
    return block


def apply_to_instances(block: np.ndarray, window: Window, corrections: Corrections, ids: np.ndarray) -> np.ndarray:
    """A block (h, w) of object ids with one scene's corrections painted over it, by their `ids` from `corrected_ids`; a copy."""
    block = block.copy()
    for k in corrections.places_near(window):
        shown = corrections.items[k].shown
        common = window.intersect(shown.box)
        if common.area:
            block[common.relative_to(window).slices()][shown.crop(common)] = ids[k]
    return block


def apply_to_objects(objects: Objects, corrections: Corrections) -> Objects:
    """The automatic objects of a batch that no correction of their scene replaces."""
    mine = corrections.of(objects.scene)
    if not len(mine) or not len(objects):
        return objects
    (left, top), (right, bottom) = mine.corners[:, :2].min(axis=0), mine.corners[:, 2:].max(axis=0)
    x, y, width, height = objects.bbox.T
    maybe = (x < right) & (x + width > left) & (y < bottom) & (y + height > top)
    keep = [k for k in range(len(objects)) if not maybe[k] or not _replaced(objects, k, mine)]
    return objects if len(keep) == len(objects) else taken(objects, np.array(keep, dtype=np.int64))


def _replaced(objects: Objects, index: int, corrections: Corrections) -> bool:
    box = Window(*(int(v) for v in objects.bbox[index]))
    close = corrections.near(box)
    shape = Shape.of_runs(objects.code(index), box) if close else None
    if shape is None:
        return False
    labelled = objects.class_id[index] != IGNORE  # what shows no label hides nothing, and may get a class later
    if labelled and 2 * shape.covered([item.shown for item in close]) >= shape.area:
        return True
    for item in close:
        both = shape.overlap(item.whole)
        if 3 * both >= shape.area + item.whole.area:  # IoU >= 1/2
            return True
    return False


def taken(objects: Objects, which: np.ndarray) -> Objects:
    """The objects at these indices."""
    runs, offsets = rle.concatenate([objects.code(int(k)) for k in which])
    columns = ("id", "cluster_id", "class_id", "score", "predicted_iou", "stability_score", "bbox", "area")
    return replace(
        objects,
        **{name: getattr(objects, name)[which] for name in columns},
        status=tuple(objects.status[int(k)] for k in which),
        runs=runs,
        offsets=offsets,
    )


def corrected_batches(scene_key: str, batches: Iterable[Objects], corrections: Corrections) -> Iterator[Objects]:
    """A scene's objects as they are after correction: the automatic ones that stay, then the corrected ones.

    Corrected objects have status "corrected", cluster -1, scores 1, and ids from `FIRST_ID` by their place in
    `corrections`, which must be all of the run's.
    """
    mine = corrections.of(scene_key)
    for objects in batches:
        yield apply_to_objects(objects, mine)
    ids = corrected_ids(scene_key, corrections).tolist()
    visible = [(number, item) for number, item in zip(ids, mine.items, strict=True) if number]
    for start in range(0, len(visible), _BATCH):
        yield _as_objects(scene_key, visible[start : start + _BATCH])


def corrected_ids(scene_key: str, corrections: Corrections) -> np.ndarray:
    """The object id of each correction of a scene, (n,) int64: `FIRST_ID` + its place among all; 0 where it shows no object."""
    mine = corrections.of(scene_key)
    places = [k for k, item in enumerate(corrections.items) if item.scene == scene_key]
    shows = [i.class_id != IGNORE and not _superseded(i, mine.near(i.whole.box, k + 1)) for k, i in enumerate(mine.items)]
    return np.where(shows, FIRST_ID + np.array(places, dtype=np.int64), 0)


def _superseded(item: Correction, later: list[Correction]) -> bool:
    """Whether later corrections that meet this one put something else in its place."""
    if not later:
        return False
    if 2 * item.whole.covered([other.shown for other in later]) >= item.whole.area:
        return True
    return any(3 * item.whole.overlap(other.whole) >= item.whole.area + other.whole.area for other in later)


def _as_objects(scene_key: str, numbered: list[tuple[int, Correction]]) -> Objects:
    n = len(numbered)
    shapes = [item.whole for _, item in numbered]
    runs, offsets = rle.concatenate([shape.runs for shape in shapes])
    ones = np.ones(n, dtype=np.float32)
    return Objects(
        scene_key,
        np.array([number for number, _ in numbered], dtype=np.int64),
        np.full(n, -1, dtype=np.int32),
        np.array([item.class_id for _, item in numbered], dtype=np.int32),
        ones,
        ones,
        ones,
        ("corrected",) * n,
        np.array([(s.box.x, s.box.y, s.box.width, s.box.height) for s in shapes], dtype=np.int64).reshape(n, 4),
        np.array([s.area for s in shapes], dtype=np.int64),
        runs,
        offsets,
    )


def save_corrections(path: Path, corrections: Corrections) -> None:
    """Write all corrections as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(record_of(item), ensure_ascii=True) + "\n" for item in corrections.items))


def load_corrections(path: Path) -> Corrections:
    """Read what `save_corrections` wrote; none when there is no file. A damaged line raises `RunError` naming it."""
    if not path.exists():
        return Corrections()
    items = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                items.append(correction_of(json.loads(line)))
            except (ValueError, KeyError, TypeError, InputError) as error:
                raise RunError(f"{path}, line {number}: not a correction ({error}); restore the file from a copy.") from error
    return Corrections(tuple(items))


def record_of(item: Correction) -> dict[str, Any]:
    """A correction as a JSON object: one line of the file."""

    def shape(value: Shape) -> dict[str, Any]:
        return {"box": [value.box.x, value.box.y, value.box.width, value.box.height], "counts": value.counts}

    record: dict[str, Any] = {"scene": item.scene, "class_id": item.class_id, "kind": item.kind, "whole": shape(item.whole)}
    if item.cover is not None:
        record["cover"] = shape(item.cover)
    return {**record, "author": item.author, "time": item.time, "source": item.source}


def correction_of(record: Mapping[str, Any]) -> Correction:
    """The inverse of `record_of`; raises `ValueError`, `KeyError` or `InputError` for what is none."""

    def shape(value: dict[str, Any]) -> Shape:
        x, y, width, height = (int(v) for v in value["box"])
        made = Shape(Window(x, y, width, height), str(value["counts"]))
        if min(x, y) < 0 or min(width, height) < 1 or made.runs.min() < 0 or made.runs.sum() != width * height:
            raise ValueError("run lengths do not fill the box")
        return made

    if record["kind"] not in _KINDS:
        raise ValueError(f"kind {record['kind']!r}")
    class_id = int(record["class_id"])
    if not 0 <= class_id < 65535:
        raise ValueError(f"class {class_id}")
    cover = shape(record["cover"]) if "cover" in record else None
    who = {name: str(record.get(name, "")) for name in ("author", "time", "source")}
    return Correction(str(record["scene"]), class_id, shape(record["whole"]), cover, str(record["kind"]), **who)
