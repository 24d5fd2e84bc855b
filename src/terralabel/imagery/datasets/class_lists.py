"""Class lists beside a data set: a class map (JSON), one name a line, or the ids that its labels hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.core.labelled import ByColor, ByThreshold, ByValue, LabelledImage, ToIds
from terralabel.errors import InputError
from terralabel.imagery.datasets.reading import ids_of, label_values

__all__ = ["Meaning", "class_list", "find_classes", "named_classes", "read_classes", "seen_classes"]

_MAX_BYTES = 16 << 20
#: At most so many label files, evenly spread, are looked through for their ids.
MAX_SEEN = 500
#: More ids than these are not taken for classes unless a class map says so.
MAX_GUESSED = 64

#: The classes and how label files show them.
Meaning = tuple[Classes, ToIds]


def named_classes(names: Sequence[str], colors: Sequence[tuple[int, int, int]] | None = None, first: int = 0) -> Classes:
    """Classes `first`, `first` + 1, ... of these names; colours (red, green, blue) or distinct ones."""
    shown = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colors] if colors else [distinct_color(k) for k in range(len(names))]
    return Classes(tuple(ClassEntry(first + k, name, shown[k]) for k, name in enumerate(names)))


def read_classes(path: Path) -> Meaning:
    """A class file: `.txt` with one name a line (ids from 0), else a class map as in a run.

    A class map may say how labels show the classes: `"label_values": {"0": 255}` (what stored values mean),
    `"label_colors": true` (labels are painted in the classes' colours; `"label_ignore_colors": ["#000000"]` are no label), or
    `"label_threshold": 128` (that and more is class 1, less is class 0).
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large for a class file.", "bad-class-map")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a class file: {error}.", "bad-class-map") from error
    if path.suffix.lower() == ".txt":
        names = [line.strip() for line in text.splitlines() if line.strip()]
        return named_classes(names), None
    try:
        classes = Classes.from_json(text)
        return classes, _encoding(json.loads(text), classes)
    except InputError as error:
        raise InputError(f"{path}: {error}", error.status) from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: {error}; see the page on data sets for label_values and label_colors.", "bad-class-map"
        ) from error


def _encoding(data: dict[str, Any], classes: Classes) -> ToIds:
    if data.get("label_colors"):
        table = [(entry.rgb, entry.id) for entry in classes]
        table += [(ClassEntry(0, "", str(color)).rgb, IGNORE) for color in data.get("label_ignore_colors", [])]
        if len({color for color, _ in table}) < len(table):
            raise InputError("two classes have the same colour, so colours cannot tell them apart.", "bad-class-map")
        return ByColor(tuple(table))
    if data.get("label_threshold") is not None:
        return ByThreshold(int(data["label_threshold"]))
    values = data.get("label_values")
    return ByValue(tuple(sorted((int(k), int(v)) for k, v in values.items()))) if values else None


def find_classes(folder: Path) -> Path | None:
    """`classes.json` or `classes.txt` in a folder."""
    return next((folder / name for name in ("classes.json", "classes.txt") if (folder / name).is_file()), None)


def class_list(
    folder: Path, given: Path | None, items: Sequence[LabelledImage], ignore: Sequence[int], threshold: int | None
) -> Meaning:
    """The classes of a folder: of the file given, else of the one in the folder, else the ids in the labels.

    `ignore` are stored values that mean "no label"; `threshold` makes a grey mask classes 0 and 1.
    """
    path = given or (find_classes(folder) if threshold is None else None)
    if path is not None:
        classes, to_ids = read_classes(path)
        return classes, _ignoring(to_ids, ignore) if threshold is None else ByThreshold(threshold)
    if threshold is not None:
        return named_classes(["background", "foreground"]), ByThreshold(threshold)
    to_ids = _ignoring(None, ignore)
    return seen_classes(items, to_ids), to_ids


def _ignoring(to_ids: ToIds, ignore: Sequence[int]) -> ToIds:
    if not ignore:
        return to_ids
    if to_ids is not None and not isinstance(to_ids, ByValue):
        raise InputError(
            "values to ignore go with labels of one band of ids, not with colours or a threshold.", "bad-class-map"
        )
    before = to_ids.table if to_ids else ()
    return ByValue(tuple(sorted({**dict(before), **dict.fromkeys(ignore, IGNORE)}.items())))


def seen_classes(items: Sequence[LabelledImage], to_ids: ToIds) -> Classes:
    """One class for each id that the labels hold, "class ID"; at most 500 files, evenly spread, are looked at."""
    labels = [item.label for item in items if item.label is not None]
    step = max(len(labels) / MAX_SEEN, 1.0)
    assert to_ids is None or isinstance(to_ids, ByValue)
    ids: set[int] = set()
    for path in (labels[int(k * step)] for k in range(int(len(labels) / step))):
        ids |= {int(i) for i in ids_of(label_values(path)[None], to_ids).ravel()}
        if len(ids) > MAX_GUESSED:
            raise InputError(
                f"{path}: the labels hold more than {MAX_GUESSED} different values: instances, or a grey mask? Give a class map,"
                " or a threshold (1 and more is an object).",
                "not-class-ids",
            )
    known = sorted(ids - {IGNORE})
    if IGNORE in ids and known == [0]:
        raise InputError(
            f"{labels[0].parent}: the labels hold 0 and 255 only, and 255 is 'no label' here: a binary mask is read with a threshold"
            ' (of 128, say) or "label_values": {"255": 1} in a class map.',
            "binary-mask",
        )
    if known and known[-1] > IGNORE:
        raise InputError(
            f"{labels[0].parent}: the labels hold values up to {known[-1]}, past the class ids 0..254 (instances?): give a class map,"
            " or a threshold (1 and more is an object).",
            "not-class-ids",
        )
    return Classes(tuple(ClassEntry(i, f"class {i}", distinct_color(k)) for k, i in enumerate(known)))
