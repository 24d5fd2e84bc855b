"""Judged labels whose classes a person merged, split, moved or dropped since: which classes hold their pixels now.

Units keep the class ids under which they were judged, so that what people said of them stays theirs. Beside them the run notes
which clusters each of these classes had; the class map of now says where those are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.quality import Units, Verdicts

__all__ = ["classes_now", "followed", "noted_clusters"]


def noted_clusters(
    notes: Mapping[str, Any], classes: Classes, splits: Iterable[tuple[int, Sequence[int]]] = ()
) -> dict[str, list[int]]:
    """Class id when it was judged -> its clusters, for the notes of the verdicts.

    `notes` are those before and `classes` the map before a change, which counts where nothing is noted yet; of a cluster that is split
    into several ((cluster, ids of its parts), oldest first) all parts belong to whom it belonged.
    """
    told = notes.get("clusters") or {str(entry.id): list(entry.clusters) for entry in classes}
    for cluster, parts in splits:
        told = {name: [*has, *sorted(set(parts) - set(has))] if cluster in has else has for name, has in told.items()}
    return told


def classes_now(notes: Mapping[str, Any], classes: Classes) -> dict[int, tuple[int, ...]]:
    """Class id when it was judged -> the classes that hold its pixels now, that of its first cluster first; empty: dropped.

    Classes that are not in it are what they were.
    """
    now = classes.of_cluster
    told = notes.get("clusters", {})
    return {
        int(name): tuple(dict.fromkeys(now[k] for k in clusters if k in now)) for name, clusters in told.items() if clusters
    }


def followed(verdicts: Verdicts, now: Mapping[int, tuple[int, ...]]) -> Verdicts:
    """Verdicts under the classes of now: a unit that lies in several has a row for each, one whose class was dropped has none."""
    targets = [now.get(k, (k,)) for k in verdicts.units.class_id.tolist()]
    if all(row == (k,) for row, k in zip(targets, verdicts.units.class_id.tolist(), strict=True)):
        return verdicts
    rows = np.repeat(np.arange(len(verdicts)), [len(row) for row in targets])
    found = verdicts.take(rows)
    class_id = np.array([k for row in targets for k in row], dtype=np.int32)
    units = found.units
    return replace(found, units=Units(class_id, units.component, units.box, units.area))
