"""Classes: ids, names, colours, and which clusters they gather."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from terralabel.errors import InputError

__all__ = ["IGNORE", "ClassEntry", "Classes", "distinct_color", "plain_name"]

#: The label of a pixel that has none, and the nodata value of label rasters. A class never has this id.
IGNORE = 255

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def distinct_color(index: int) -> str:
    """A colour "#rrggbb" for the `index`-th class: golden-ratio hues in three rings, so that neighbours differ."""
    hue = (index * 0.618033988749895 + 0.02) % 1.0
    value, saturation = [(0.90, 0.75), (0.65, 0.85), (0.95, 0.45)][index // 8 % 3]
    r, g, b = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return f"#{r:02x}{g:02x}{b:02x}"


def plain_name(text: str) -> str:
    """A name without case, article and plural, for comparing: "the Buildings" and "building" are one."""
    words = text.casefold().split()
    words = words[1:] if words and words[0] in ("the", "a", "an") else words
    if not words:
        return ""
    last = words[-1]
    if last.endswith("ies") and len(last) > 4:
        last = f"{last[:-3]}y"
    elif last.endswith(("ches", "shes", "sses", "xes")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith("ss") and len(last) > 3:
        last = last[:-1]
    return " ".join([*words[:-1], last])


@dataclass(frozen=True)
class ClassEntry:
    """One class: `id` (0..65534, never 255), `name`, `color` "#rrggbb", and the ids of the clusters it gathers."""

    id: int
    name: str
    color: str
    clusters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.id < 65535 or self.id == IGNORE:
            raise InputError(f"Class id {self.id}: expected 0..65534 and not {IGNORE}, which means 'no label'.", "bad-class-id")
        if not _COLOR.fullmatch(self.color):
            raise InputError(f"Class {self.id} ({self.name!r}): colour {self.color!r} is not #rrggbb.", "bad-color")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """(red, green, blue), 0..255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


@dataclass(frozen=True)
class Classes:
    """The class map of a run: unique ids, ascending. A cluster belongs to at most one class; one in none is dropped."""

    entries: tuple[ClassEntry, ...] = field(default=())

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.entries]
        if ids != sorted(set(ids)):
            raise InputError("Class ids must be unique and ascending.", "bad-class-map")
        clusters = [c for entry in self.entries for c in entry.clusters]
        if len(clusters) != len(set(clusters)):
            twice = sorted({c for c in clusters if clusters.count(c) > 1})
            raise InputError(f"Cluster {twice[0]} belongs to two classes; a cluster has one class.", "bad-class-map")

    def __iter__(self):
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, class_id: int) -> ClassEntry:
        for entry in self.entries:
            if entry.id == class_id:
                return entry
        raise KeyError(class_id)

    @classmethod
    def of_clusters(cls, count: int) -> Classes:
        """One class per cluster, named "cluster K"; class ids equal cluster ids except that 255 is stepped over."""
        return cls(tuple(ClassEntry(k if k < IGNORE else k + 1, f"cluster {k}", distinct_color(k), (k,)) for k in range(count)))

    @property
    def of_cluster(self) -> dict[int, int]:
        """cluster id -> class id; dropped clusters are absent."""
        return {cluster: entry.id for entry in self.entries for cluster in entry.clusters}

    @property
    def dtype(self) -> str:
        """ "uint8", or "uint16" when an id is past 254: label rasters widen, they never wrap."""
        return "uint8" if all(entry.id < IGNORE for entry in self.entries) else "uint16"

    def with_entries(self, entries: Iterable[ClassEntry]) -> Classes:
        """The same map with these entries, sorted by id."""
        return replace(self, entries=tuple(sorted(entries, key=lambda e: e.id)))

    def to_json(self) -> str:
        """The class map file: ``{"version": 1, "ignore_index": 255, "classes": [...]}``."""
        return json.dumps(
            {
                "version": 1,
                "ignore_index": IGNORE,
                "classes": [{"id": e.id, "name": e.name, "color": e.color, "clusters": list(e.clusters)} for e in self.entries],
            },
            indent=2,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Classes:
        """Read a class map file; `InputError` names what does not fit. Written by hand, colours and clusters may be left out."""
        try:
            data = json.loads(text)
            entries = [
                ClassEntry(
                    int(c["id"]),
                    str(c["name"]),
                    str(c.get("color") or distinct_color(int(c["id"]))),
                    tuple(int(k) for k in c.get("clusters", ())),
                )
                for c in data["classes"]
            ]
        except (ValueError, KeyError, TypeError, OverflowError) as error:  # JSON's 1e400 is infinite
            raise InputError(
                f'Not a class map: {error}. Expected {{"classes": [{{"id": 0, "name": "road"}}, ...]}}, with "color" and "clusters" where wanted.',
                "bad-class-map",
            ) from error
        if data.get("version", 1) != 1:
            raise InputError(f"Class map version {data['version']} is newer than this TerraLabel; update it.", "bad-class-map")
        return cls(tuple(sorted(entries, key=lambda e: e.id)))
