"""From clusters to classes: names from a few labelled images, and the edits a person makes on the class map.

Every edit is a function from `Classes` to `Classes`; nothing is changed in place.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from terralabel.clusters.kmeans import OnlineKMeans
from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.core.matching import majority, one_to_one
from terralabel.errors import InputError, SettingsError

__all__ = [
    "Split",
    "added",
    "align",
    "aligned",
    "drop",
    "find",
    "merge",
    "move",
    "name",
    "recolor",
    "restore",
    "split",
    "with_split",
]


def align(
    counts: np.ndarray, clusters: Sequence[int], classes: Sequence[int], match: str = "majority"
) -> dict[int, int | None]:
    """Cluster -> class from the (len(clusters), len(classes)) pixel counts of a few labelled images.

    "majority": the class a cluster shares most pixels with, so several clusters may have one class; "hungarian": one
    to one, agreeing in most pixels. None for a cluster that was never seen beside the truth, and for one left over.
    Of equal counts the first class wins.
    """
    if match not in ("majority", "hungarian"):
        raise SettingsError(f"match {match!r}: expected majority or hungarian.")
    counts = np.asarray(counts)
    if counts.shape != (len(clusters), len(classes)):
        raise InputError(f"Counts {counts.shape}: expected {len(clusters)} clusters x {len(classes)} classes.", "wrong-size")
    columns = majority(counts) if match == "majority" else one_to_one(counts)
    return {int(k): int(classes[c]) if c >= 0 else None for k, c in zip(clusters, columns, strict=True)}


def aligned(classes: Classes, mapping: Mapping[int, int | None], truth: Classes) -> Classes:
    """The class map with `truth`'s ids, names and colours, each with the clusters that `mapping` gives it.

    Clusters that mapping does not name stay in their class, which moves to a free id if the truth has its id.
    Classes of the truth without clusters are kept, so that the ids of the truth stay known.
    """
    known = {entry.id for entry in truth}
    foreign = sorted({t for t in mapping.values() if t is not None} - known)
    if foreign:
        raise InputError(f"The mapping names class {foreign[0]}, which the truth's class map lacks.", "unknown-class")
    named = {k for k, t in mapping.items() if t is not None}
    entries = [replace(entry, clusters=tuple(sorted({k for k, t in mapping.items() if t == entry.id}))) for entry in truth]
    taken = set(known)
    for entry in classes:
        rest = tuple(k for k in entry.clusters if k not in named)
        if rest:
            free = _free_id(taken, entry.id)
            taken.add(free)
            entries.append(replace(entry, id=free, clusters=rest))
    return classes.with_entries(entries)


def find(classes: Classes, key: int | str) -> ClassEntry:
    """The class of this id or exact name; `InputError` with the nearest name, or when two classes have the name."""
    text = str(key).strip()
    by_id = [entry for entry in classes if str(entry.id) == text]
    if by_id:
        return by_id[0]
    by_name = [entry for entry in classes if entry.name == text]
    if len(by_name) == 1:
        return by_name[0]
    if by_name:
        ids = ", ".join(str(entry.id) for entry in by_name)
        raise InputError(f"Several classes are named {text!r}: ids {ids}. Give the id.", "ambiguous-class")
    near = difflib.get_close_matches(text, [entry.name for entry in classes], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known ids: {', '.join(str(e.id) for e in classes) or 'none'}."
    raise InputError(f"No class {text!r}.{hint}", "unknown-class")


def name(classes: Classes, key: int | str, new_name: str) -> Classes:
    """Rename a class; `InputError` for an empty name, one with control characters, or another class' name."""
    entry = find(classes, key)
    new_name = new_name.strip()
    if not new_name or not new_name.isprintable() or len(new_name) > 200:
        raise InputError(f"Class name {new_name[:40]!r}: expected 1 to 200 printable characters.", "bad-class-name")
    twins = [other.id for other in classes if other.name == new_name and other.id != entry.id]
    if twins:
        raise InputError(f"Class {twins[0]} is named {new_name!r} already: merge {twins[0]} and {entry.id}.", "ambiguous-class")
    return _with(classes, replace(entry, name=new_name))


def added(classes: Classes, new_name: str) -> Classes:
    """With one class more, which has no clusters: for what a person draws. Errors as of `name`."""
    new = _free_id({entry.id for entry in classes}, max((entry.id for entry in classes), default=-1) + 1)
    empty = ClassEntry(new, f"class {new}", distinct_color(new))
    return name(_with(classes, empty), new, new_name)


def recolor(classes: Classes, key: int | str, color: str) -> Classes:
    """Give a class another colour "#rrggbb"."""
    return _with(classes, replace(find(classes, key), color=color.lower()))


def merge(classes: Classes, keys: Sequence[int | str]) -> Classes:
    """Gather the clusters of several classes in the first of them, which keeps its id, name and colour."""
    found = [find(classes, key) for key in keys]
    ids = [entry.id for entry in found]
    if len(found) < 2 or len(set(ids)) < len(ids):
        raise InputError(
            f"Merging classes {', '.join(map(str, ids)) or 'none'}: expected two or more different ones.", "bad-merge"
        )
    gathered = tuple(sorted(k for entry in found for k in entry.clusters))
    rest = [entry for entry in classes if entry.id not in ids]
    return classes.with_entries([*rest, replace(found[0], clusters=gathered)])


def drop(classes: Classes, clusters: Sequence[int]) -> Classes:
    """Put clusters into no class: their pixels get no label. A class that loses its last cluster goes, too."""
    for cluster in clusters:
        if cluster not in classes.of_cluster:
            raise InputError(f"Cluster {cluster} is in no class: nothing to drop.", "unknown-cluster")
    return _without(classes, clusters)


def move(classes: Classes, clusters: Sequence[int], key: int | str) -> Classes:
    """Put clusters (of other classes, or dropped ones) into a class."""
    entry = find(classes, key)
    gathered = tuple(sorted({*entry.clusters, *clusters}))
    return _with(_without(classes, clusters, keep=entry.id), replace(entry, clusters=gathered))


def restore(classes: Classes, clusters: Sequence[int], count: int) -> Classes:
    """Give each of these dropped clusters a class of its own again; `count` is the run's number of clusters."""
    for cluster in clusters:
        if not 0 <= cluster < count:
            raise InputError(f"Cluster {cluster} does not exist: this run has 0..{count - 1}.", "unknown-cluster")
        if cluster in classes.of_cluster:
            raise InputError(f"Cluster {cluster} is in class {classes.of_cluster[cluster]}: nothing to restore.", "not-dropped")
        free = _free_id({entry.id for entry in classes}, cluster)
        classes = classes.with_entries([*classes, ClassEntry(free, f"cluster {cluster}", distinct_color(cluster), (cluster,))])
    return classes


@dataclass(frozen=True)
class Split:
    """One cluster in parts: `parts` (n,) int32, the part of each vector, -1 for vectors that are not finite;

    `clusterer`, fitted on the vectors, predicts the part of others, and its `state()` has the parts' centres.
    """

    parts: np.ndarray
    clusterer: OnlineKMeans

    @property
    def centres(self) -> np.ndarray:
        """(k, e) float32; fewer than asked for where there were fewer distinct vectors."""
        return self.clusterer.centres


def split(features: np.ndarray, seed: int = 0, parts: int = 2, scale: str = "standard", pca: int | None = None) -> Split:
    """Cluster the (n, d) vectors of one cluster into `parts`, scaled among themselves."""
    if parts < 2:
        raise SettingsError(f"parts {parts}: expected at least 2.")
    clusterer = OnlineKMeans(parts, seed=seed, scale=scale, pca=pca).fit(lambda: [features])
    if len(clusterer.centres) < 2:
        raise InputError(f"The cluster's {len(features)} vectors are all alike: it cannot be split.", "cannot-split")
    return Split(clusterer.predict(features)[0], clusterer)


def with_split(classes: Classes, cluster: int, new_clusters: Sequence[int]) -> Classes:
    """The class map after `cluster` became `new_clusters` (which may include its own id).

    The first part stays in the class; each other part gets a class of its own, named after it.
    """
    if cluster not in classes.of_cluster:
        raise InputError(f"Cluster {cluster} is in no class: restore it before splitting it.", "unknown-cluster")
    strangers = sorted(k for k in new_clusters if k != cluster and k in classes.of_cluster)
    if strangers or len(set(new_clusters)) < 2 or len(set(new_clusters)) < len(new_clusters):
        raise InputError(f"Splitting cluster {cluster} into {list(new_clusters)}: expected two or more new ids.", "bad-split")
    entry = classes[classes.of_cluster[cluster]]
    kept = tuple(sorted({*entry.clusters, new_clusters[0]} - ({cluster} - {new_clusters[0]})))
    classes = _with(classes, replace(entry, clusters=kept))
    names = {other.name for other in classes}
    for part, new in enumerate(new_clusters[1:], start=2):
        title = next(t for t in (f"{entry.name} / {part + i}" for i in range(len(names) + 1)) if t not in names)
        names.add(title)
        free = _free_id({other.id for other in classes}, new)
        classes = classes.with_entries([*classes, ClassEntry(free, title, distinct_color(new), (new,))])
    return classes


def _with(classes: Classes, entry: ClassEntry) -> Classes:
    """The class map with `entry` in place of the one of its id."""
    return classes.with_entries([entry, *(other for other in classes if other.id != entry.id)])


def _without(classes: Classes, clusters: Sequence[int], keep: int | None = None) -> Classes:
    """The class map without these clusters, and without the classes (but `keep`) that lose their last one by it."""
    gone = set(clusters)
    entries = []
    for entry in classes:
        rest = tuple(k for k in entry.clusters if k not in gone)
        if rest or not entry.clusters or entry.id == keep:
            entries.append(replace(entry, clusters=rest))
    return classes.with_entries(entries)


def _free_id(taken: set[int], wanted: int) -> int:
    """`wanted` if it is free, else the lowest free id; 255 is never free."""
    blocked = taken | {IGNORE}
    return wanted if wanted not in blocked else next(i for i in range(len(blocked) + 1) if i not in blocked)
