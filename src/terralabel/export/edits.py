"""Edited features against the run's own objects: what stayed, what a person changed, what cannot be used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.export.corrections import Correction, Corrections, taken
from terralabel.export.features import Outlines
from terralabel.export.polygons import object_polygons
from terralabel.export.segments import compress
from terralabel.export.shapes import Shape, rasterized

__all__ = ["Edit", "Imported", "Index", "ObjectLookup", "Reject", "fingerprint", "known_class", "resolve"]

#: Batches of a scene's objects, corrections applied, as `RunView.objects` gives them.
ObjectLookup = Callable[[str], Iterable[Objects]]


@dataclass(frozen=True)
class Reject:
    """A feature or annotation that was left out: its `item` as the file names it, a machine-readable status, the reason."""

    item: str
    status: str
    reason: str


@dataclass(frozen=True)
class Edit:
    """What a file says of one object: `id` None for a new one; `class_id` and `shape` None when unchanged."""

    item: str
    id: int | None
    scene: str
    class_id: int | None
    shape: Shape | None


@dataclass(frozen=True)
class Imported:
    """What came out of a file.

    `classes` is set when the file was a class map. `unknown_classes` counts features by a class the run does not have;
    they are also in `rejected`. `unchanged` counts features that are as the run has them.
    """

    corrections: Corrections = field(default_factory=Corrections)
    rejected: tuple[Reject, ...] = ()
    unknown_classes: tuple[tuple[str, int], ...] = ()
    unchanged: int = 0
    classes: Classes | None = None

    def counts(self) -> dict[str, int]:
        """Corrections by kind, with "unchanged" and "rejected"."""
        kinds = Counter(item.kind for item in self.corrections.items)
        return {**dict(sorted(kinds.items())), "unchanged": self.unchanged, "rejected": len(self.rejected)}


def fingerprint(data: bytes) -> int:
    """63 bits that tell unchanged geometry from changed."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Index:
    """Every object of the run, (n,) int64 each: id (ascending), scene number, class as it was when the file was written, and
    fingerprint of what was written."""

    id: np.ndarray
    scene: np.ndarray
    class_id: np.ndarray
    print: np.ndarray

    @classmethod
    def build(
        cls,
        scenes: Iterable[Scene],
        objects: ObjectLookup,
        prints: Callable[[Objects, Scene], list[int]],
        exported: Classes | None,
    ) -> Index:
        """One pass over all objects; 32 bytes are kept of each. `exported` is the class map the file was written with."""
        then = exported.of_cluster if exported else {}
        parts = [np.zeros((0, 4), dtype=np.int64)]
        for number, scene in enumerate(scenes):
            for batch in objects(scene.key):
                rows = np.empty((len(batch), 4), dtype=np.int64)
                rows[:, 0], rows[:, 1], rows[:, 3] = batch.id, number, prints(batch, scene)
                rows[:, 2] = batch.class_id
                if exported is not None:  # the class map may have changed since
                    auto = batch.cluster_id >= 0
                    rows[auto, 2] = [then.get(int(k), IGNORE) for k in batch.cluster_id[auto]]
                parts.append(rows)
        table = np.concatenate(parts)
        table = table[np.argsort(table[:, 0], kind="stable")]
        return cls(*(np.ascontiguousarray(column) for column in table.T))

    def find(self, object_id: int) -> int | None:
        """Row of an id, or None."""
        row = int(np.searchsorted(self.id, object_id))
        return row if row < len(self.id) and self.id[row] == object_id else None


def known_class(
    classes: Classes, class_id: int | None, name: str | None, before: int | None, exported: Classes | None = None
) -> int:
    """The class a feature asks for: an id that was changed wins over a name, a changed name over an old id.

    `before` is the class the object had in the file as it was written (None for a new one), with the class map `exported`.
    `KeyError` with the offending id or name for a class that `classes`, the run's of today, does not have.
    """
    ids = {entry.id for entry in classes} | {IGNORE}
    by_name = {entry.name: entry.id for entry in reversed(classes.entries)} | {"": IGNORE, "no class": IGNORE}
    if class_id is not None and class_id != before:
        if class_id not in ids:
            raise KeyError(str(class_id))
        return class_id
    names_of_before = (
        {"", "no class"} if before == IGNORE else {e.name for e in (*classes, *(exported or ())) if e.id == before}
    )
    if name is not None and name not in names_of_before and not (before is None and class_id is not None):
        if name not in by_name:
            raise KeyError(name)
        return by_name[name]
    if before is None:
        raise KeyError("(none given)")
    return before


@dataclass
class _Target:
    """An object that was edited or deleted, with its mask and what lies on top of it."""

    edits: list[Edit]
    whole: Shape | None = None
    scene: str = ""
    class_id: int = IGNORE
    above: list[Shape] = field(default_factory=list)


def resolve(
    edits: list[Edit],
    missing: np.ndarray,
    scenes: Iterable[Scene],
    objects: ObjectLookup,
    outlines: Outlines,
    signature: tuple[str, str, str],
) -> tuple[Corrections, int]:
    """Corrections from edits and from ids that are missing in the file; also how many edits turned out to be none.

    Two passes over the objects: one for the masks of edited ones, one for what lies on top of them. `signature` is (author,
    time, source).
    """
    targets: dict[int, _Target] = {int(k): _Target([]) for k in missing}
    for edit in edits:
        if edit.id is not None:
            targets.setdefault(edit.id, _Target([])).edits.append(edit)
    by_key = {scene.key: scene for scene in scenes}
    same = _find_masks(targets, by_key, objects, outlines)
    changed = {number: target for number, target in targets.items() if target.whole is not None}
    _find_above(changed, by_key, objects)
    made = [c for number in sorted(changed) for c in _corrections_of(changed[number], signature)]
    made.sort(key=lambda c: (c.kind != "deleted", -c.whole.area))  # as labels are painted: large first
    author, time, source = signature
    drawn = [
        Correction(edit.scene, edit.class_id, edit.shape, None, "drawn", author, time, source)
        for edit in edits
        if edit.id is None and edit.shape is not None and edit.class_id is not None
    ]
    made += sorted(drawn, key=lambda c: -c.whole.area)
    return Corrections(tuple(made)), same


def _find_masks(targets: dict[int, _Target], scenes: dict[str, Scene], objects: ObjectLookup, outlines: Outlines) -> int:
    """Fill in the targets' masks; targets whose edits change nothing are taken out. Returns how many edits those were."""
    same = 0
    wanted = np.array(sorted(targets), dtype=np.int64)
    for key in sorted(scenes):
        for batch in objects(key):
            for index in np.flatnonzero(np.isin(batch.id, wanted)):
                target = targets[int(batch.id[index])]
                target.whole = _shape_of(batch, int(index))
                target.scene, target.class_id = key, int(batch.class_id[index])
                edits = [_without_equal_shape(e, target, batch, int(index), scenes[key], outlines) for e in target.edits]
                if len(edits) == 1 and edits[0].shape is None and edits[0].class_id in (None, target.class_id):
                    same += 1
                    target.whole = None  # nothing to do
                target.edits = edits
    return same


def _without_equal_shape(edit: Edit, target: _Target, batch: Objects, index: int, scene: Scene, outlines: Outlines) -> Edit:
    """The edit without its shape when that is the object's own mask, or its outline as it was simplified for the export."""
    if edit.shape is None or edit.scene != target.scene:
        return edit
    same = edit.shape == target.whole
    if not same and (outlines.simplify > 0 or outlines.max_vertices > 0):
        polygon = object_polygons(
            taken(batch, np.array([index])), simplify=outlines.simplify, max_vertices=outlines.max_vertices
        )[0]
        again = rasterized(polygon, scene.width, scene.height)
        differ = again is None or again.area + edit.shape.area - 2 * again.overlap(edit.shape)
        same = differ <= 0.02 * edit.shape.area  # coordinates that went through another system may tip single pixels
    return Edit(edit.item, edit.id, edit.scene, edit.class_id, None) if same else edit


def _shape_of(batch: Objects, index: int) -> Shape | None:
    return Shape.of_runs(batch.code(index), Window(*(int(v) for v in batch.bbox[index])))


def _find_above(targets: dict[int, _Target], scenes: dict[str, Scene], objects: ObjectLookup) -> None:
    """Collect, for each target, the smaller objects that meet it: they are painted on top and keep their pixels."""
    for key in sorted(scenes):
        mine = [(number, target) for number, target in sorted(targets.items()) if target.scene == key]
        if not mine:
            continue
        reach = np.array([_reach(target) for _, target in mine], dtype=np.int64)  # left, top, right, bottom, area
        for batch in objects(key):
            for index, row in _meetings(batch, reach):
                number, target = mine[row]
                if int(batch.id[index]) != number and int(batch.id[index]) not in targets:
                    shape = _shape_of(batch, index)
                    if shape is not None:
                        target.above.append(shape)


def _reach(target: _Target) -> tuple[int, int, int, int, int]:
    """The box around a target and its new outlines, and the largest area among them."""
    shapes = [s for s in (target.whole, *(edit.shape for edit in target.edits)) if s is not None]
    boxes = [shape.box for shape in shapes]
    return (
        min(b.x for b in boxes),
        min(b.y for b in boxes),
        max(b.right for b in boxes),
        max(b.bottom for b in boxes),
        max(shape.area for shape in shapes),
    )


def _meetings(batch: Objects, reach: np.ndarray) -> Iterator[tuple[int, int]]:
    """(object index, row of reach) of labelled objects that are smaller and whose boxes meet."""
    box = batch.bbox
    right, bottom = box[:, 0] + box[:, 2], box[:, 1] + box[:, 3]
    for row, (x0, y0, x1, y1, area) in enumerate(reach.tolist()):
        near = (box[:, 0] < x1) & (right > x0) & (box[:, 1] < y1) & (bottom > y0)
        near &= (batch.area < area) & (batch.class_id != IGNORE)
        for index in np.flatnonzero(near):
            yield int(index), row


def _corrections_of(target: _Target, signature: tuple[str, str, str]) -> Iterator[Correction]:
    """A deletion, another class, or the old outline deleted and the new ones drawn."""
    author, time, source = signature
    if target.whole is None:
        return
    cover = _uncovered(target.whole, target.above)
    reshaped = any(edit.shape is not None for edit in target.edits)
    if not target.edits or reshaped:
        yield Correction(target.scene, IGNORE, target.whole, cover, "deleted", author, time, source)
    for edit in target.edits:
        shape = edit.shape or target.whole
        kind = "shape" if reshaped else "class"
        class_id = target.class_id if edit.class_id is None else edit.class_id
        yield Correction(edit.scene, class_id, shape, _uncovered(shape, target.above), kind, author, time, source)


def _uncovered(shape: Shape, above: list[Shape]) -> Shape | None:
    """The part that smaller objects leave (maybe without a pixel), or None when that is all of it."""
    over = [other for other in above if other.area < shape.area and shape.box.intersect(other.box).area]
    rest = shape.minus(over) if over else shape
    if rest is None:
        return Shape(shape.box, compress(np.array([shape.box.area]), np.array([0, 1]))[0])
    return None if rest == shape else rest
