"""Reading labels back after people edited them elsewhere: GeoPackage, GeoParquet, GeoJSON, COCO, or a class map."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from terralabel.core.classes import Classes
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.edits import Imported, Index, ObjectLookup, Reject, resolve
from terralabel.export.note import Note
from terralabel.export.reading_coco import CocoFile
from terralabel.export.reading_vectors import VectorFile

__all__ = ["read_corrections"]

#: JSON files are read whole; larger ones are refused.
_LARGEST_JSON = 4 << 30


def read_corrections(
    path: Path,
    scenes: Iterable[Scene],
    classes: Classes,
    objects: ObjectLookup,
    *,
    run_id: str = "",
    author: str = "",
    time: str = "",
) -> Imported:
    """What a person changed in a file that was exported from the run, or drew into any vector or COCO file.

    Compared with `objects` (the run's own, corrections applied): another `class_id` or `class_name`, another outline, new
    features (without `id`), features split in two, and missing ones. Missing features count as deleted only when the file
    itself says that it holds the whole export of this run: a subset saved elsewhere deletes nothing.
    Features may come in any coordinate system. What cannot be used is in `Imported.rejected` with its reason; the rest goes
    on. `time` defaults to the file's own. Raises `InputError` when nothing in the file can be used at all.
    """
    path, scenes = Path(path), tuple(scenes)
    if not path.is_file():
        raise InputError(f"{path}: no such file.", "missing")
    time = time or datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    note: Note | None = None
    with path.open("rb") as file:
        head = file.read(64)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        data = _json(path)
        if "classes" in data and "annotations" not in data and "features" not in data:
            return Imported(classes=Classes.from_json(json.dumps(data)))
        if "annotations" in data:
            return _compare(CocoFile(path, data, scenes, run_id), scenes, classes, objects, (author, time, path.name))
        if data.get("type") != "FeatureCollection":
            raise InputError(f"{path}: JSON, but not GeoJSON features, COCO annotations or a class map.", "not-labels")
        note = Note.read(data.get("terralabel"), run_id, path)
        del data
    elif not head.startswith((b"SQLite format 3\x00", b"PAR1")):
        raise InputError(f"{path}: expected a GeoPackage, GeoParquet, GeoJSON, COCO JSON or class map.", "not-labels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # GDAL's remarks on odd files; what matters becomes an error
        return _compare(VectorFile(path, scenes, run_id, note), scenes, classes, objects, (author, time, path.name))


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{path}: JSON of more than 4 GB; split it by image, or use GeoPackage.", "too-large")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}).", "damaged") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(data).__name__}.", "not-labels")
    return data


def _compare(
    source: CocoFile | VectorFile,
    scenes: tuple[Scene, ...],
    classes: Classes,
    objects: ObjectLookup,
    signature: tuple[str, str, str],
) -> Imported:
    """The steps that all formats share: index the run, read the edits, resolve them."""
    index = Index.build(scenes, objects, source.prints, source.note.classes)
    edits, rejected, seen, unchanged = source.edits(index, classes)
    missing = source.missing(index, seen)
    corrections, same = resolve(edits, missing, scenes, objects, source.note.outlines, signature)
    return Imported(corrections, tuple(rejected), _unknown(rejected), unchanged + same)


def _unknown(rejected: list[Reject]) -> tuple[tuple[str, int], ...]:
    """The unknown classes among rejects, with counts; their reason starts with the name in quotes."""
    names = Counter(reject.reason.split("'")[1] for reject in rejected if reject.status == "unknown-class")
    return tuple(sorted(names.items()))
