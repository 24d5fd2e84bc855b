"""What class a drawn feature is of: which attribute says so, and which ids the names in it get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.errors import InputError
from terralabel.export.vector_features import Feature, VectorFeatures

__all__ = ["CLASS_FIELDS", "Meaning", "class_field_of", "class_of"]

#: Names of the attribute that holds the class, tried in this order when none is given.
CLASS_FIELDS = ("class_name", "class", "label", "category", "type", "name", "class_id")


def class_field_of(source: VectorFeatures, wanted: str) -> str:
    """The attribute that holds the class; "" where there is none and none was asked for."""
    if wanted:
        found = next((name for name in source.fields if name.lower() == wanted.lower()), None)
        if found is None:
            have = ", ".join(source.fields) or "none"
            raise InputError(f"{source.path}: has no attribute {wanted!r} for --class-field; it has: {have}.", "no-class-field")
        return found
    by_name = {name.lower(): name for name in source.fields}
    return next((by_name[name] for name in CLASS_FIELDS if name in by_name), "")


def class_of(feature: Feature, field: str, source: VectorFeatures) -> str:
    """The class a feature names; "" for none."""
    if not field:
        return source.layer or source.path.stem
    value = feature.attributes.get(field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # where some features have no number, the others are read as fractions
    return "" if value is None or value != value else str(value).strip()


@dataclass(frozen=True)
class Meaning:
    """What names in the file mean: ids; and the class of the rest."""

    classes: Classes
    ids: Mapping[str, int]
    rest: int

    @classmethod
    def of(cls, names: Sequence[str], rest: str, given: Classes | None) -> Meaning:
        classes = given or _numbered(set(names), rest)
        ids = {str(entry.id): entry.id for entry in classes} | {entry.name: entry.id for entry in classes}
        if rest and rest not in ids:
            raise InputError(
                f"--rest {rest}: expected a class of the class map: {', '.join(e.name for e in classes)}.", "unknown-class"
            )
        return cls(classes, ids, ids[rest] if rest else IGNORE)


def _numbered(names: set[str], rest: str) -> Classes:
    """Whole numbers are ids; names are numbered from 1 in alphabetical order, and the rest is 0."""
    numbers = names and all(name.isdigit() for name in names)
    if numbers:
        entries = {int(name): f"class {int(name)}" for name in names}
        if rest and not (rest.isdigit() and int(rest) in entries):
            free = int(rest) if rest.isdigit() else next(i for i in range(IGNORE) if i not in entries)
            entries[free] = f"class {free}" if rest.isdigit() else rest
    else:
        ordered = sorted(names - {rest}, key=lambda name: (name.casefold(), name))
        entries = dict(enumerate(([rest] if rest else []) + ordered, 0 if rest else 1))
    if len(entries) > IGNORE or max(entries, default=0) >= IGNORE:
        raise InputError(
            f"the drawn shapes have {len(entries)} classes, ids up to {max(entries)}: labels hold ids 0..254; is --class-field the"
            " attribute with the class?",
            "too-many-classes",
        )
    return Classes(tuple(ClassEntry(i, entries[i], distinct_color(k)) for k, i in enumerate(sorted(entries))))
