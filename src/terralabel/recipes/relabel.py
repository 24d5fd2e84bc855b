"""From clusters to classes to label rasters: what runs at the end of `label` and after every change by a person."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.core.files import write_text
from terralabel.errors import RunError
from terralabel.recipes.layout import Layout
from terralabel.recipes.painting import PaintJob, cluster_blocks, paint_group
from terralabel.runs.engine import Crash, Engine
from terralabel.runs.progress import Progress

__all__ = [
    "cluster_count",
    "corrections_digest",
    "is_automatic",
    "paint_job",
    "read_classes",
    "refresh_labels",
    "settle_classes",
    "write_classes",
]

_AUTOMATIC = re.compile(r"cluster \d+")


def is_automatic(entry: ClassEntry) -> bool:
    """True for a class nobody named."""
    return _AUTOMATIC.fullmatch(entry.name) is not None


def cluster_count(layout: Layout) -> int:
    """Clusters of the run: those that were fitted and those a person split off."""
    with np.load(layout.clusterer_path(), allow_pickle=False) as arrays:
        count = len(arrays["centres"])
    path = layout.splits_path()
    if path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            count += sum(len(arrays[name]) - 1 for name in arrays.files)
    return count


def read_classes(layout: Layout) -> Classes:
    """The run's class map."""
    return Classes.from_json(layout.folder.classes_path.read_text(encoding="utf-8"))


def write_classes(layout: Layout, classes: Classes, *, touched: bool) -> None:
    """Store the class map; `touched` says that a person changed it, so that no later fit may throw it away."""
    write_text(layout.folder.classes_path, classes.to_json() + "\n")
    manifest = layout.folder.manifest()
    touched = touched or manifest.get("classes", {}).get("touched", False)
    layout.folder.write_manifest({**manifest, "classes": {"clusterer": layout.clusterer_digest(), "touched": touched}})


def settle_classes(layout: Layout, progress: Progress) -> None:
    """Make sure there is a class map for the clusters as they are now.

    New clusters get a class each. Where a person named, merged or dropped classes of earlier clusters, each new cluster
    joins the class that most of its pixels had.
    """
    about = layout.folder.manifest().get("classes", {})
    if layout.folder.classes_path.is_file() and about.get("clusterer") == layout.clusterer_digest():
        return
    classes = Classes.of_clusters(cluster_count(layout))
    if layout.folder.classes_path.is_file() and about.get("touched"):
        progress.say("clusters have changed: carrying the named classes over by where they lie")
        classes = _carried_over(layout, read_classes(layout))
    write_classes(layout, classes, touched=False)


def _carried_over(layout: Layout, old: Classes) -> Classes:
    """The old classes over the new clusters, by overlap of the old label rasters with the new clusters."""
    count = cluster_count(layout)
    overlap = _overlap(layout, count)
    named = {entry.id for entry in old if not is_automatic(entry)}
    members: dict[int, list[int]] = {entry.id: [] for entry in old if entry.id in named}
    loose: list[int] = []
    for cluster in range(count):
        best = int(np.argmax(overlap[cluster])) if overlap[cluster].any() else -1
        if 2 * overlap[cluster].max(initial=0) < overlap[cluster].sum() or best < 0:
            loose.append(cluster)
        elif best in named:
            members[best].append(cluster)
        elif best != IGNORE:
            loose.append(cluster)  # an earlier cluster without a name; 255, a dropped one, stays dropped
    entries = [ClassEntry(e.id, e.name, e.color, tuple(members[e.id])) for e in old if e.id in named]
    taken = set(named)
    for cluster in loose:
        new_id = next(i for i in range(cluster, 65535) if i not in taken and i != IGNORE)
        taken.add(new_id)
        entries.append(ClassEntry(new_id, f"cluster {cluster}", distinct_color(new_id), (cluster,)))
    return Classes().with_entries(entries)


def _overlap(layout: Layout, count: int) -> np.ndarray:
    """(clusters, 65536) pixels of each new cluster under each id of the old label rasters."""
    import rasterio
    from rasterio.windows import Window as RasterWindow

    total = np.zeros((count, 65536), dtype=np.int64)
    for group in layout.groups:
        for scene, blocks in cluster_blocks(paint_job(layout, group.name)):
            path = layout.label_path(scene)
            if not path.is_file():
                continue
            with rasterio.open(path) as labels:
                if (labels.width, labels.height) != (scene.width, scene.height):
                    continue
                for window, clusters in blocks:
                    before = labels.read(1, window=RasterWindow(window.x, window.y, window.width, window.height))
                    seen = clusters >= 0
                    np.add.at(total, (clusters[seen], before[seen].astype(np.int64)), 1)
    return total


def paint_job(layout: Layout, group_name: str) -> PaintJob:
    """The painting of one group as things stand now."""
    group = layout.groups[int(group_name)]
    text = (
        layout.folder.classes_path.read_text(encoding="utf-8") if layout.folder.classes_path.is_file() else Classes().to_json()
    )
    return PaintJob(
        layout.folder.path,
        group,
        layout.mask_paths(group),
        layout.pieces_path(group),
        layout.objects_path(group),
        layout.assigned_path(group),
        Classes.from_json(text),
        tuple(layout.label_path(scene) for scene in group.scenes),
        layout.marker_path(group, text, corrections_digest(layout)),
    )


def corrections_digest(layout: Layout) -> str:
    """Names what a person drew: every file under corrections/ but the splits, which are in the clusters already."""
    folder: Path = layout.folder.corrections_path
    content = hashlib.sha256()
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.name.startswith("splits-"):
            content.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()


def refresh_labels(layout: Layout, engine: Engine, progress: Progress) -> None:
    """Paint the rasters that do not show the clusters, classes and corrections as they are now; remove those of no scene."""
    jobs = [paint_job(layout, group.name) for group in layout.groups]
    todo = [job for job in jobs if not (job.marker.exists() and all(path.exists() for path in job.labels))]
    progress.start("labels", len(jobs), "groups", len(jobs) - len(todo))
    for _, summary in engine.map(paint_group, todo):
        if isinstance(summary, Crash):
            raise RunError(f"labels: {summary.reason}; run the same command again.")
        progress.advance()
    progress.finish()
    _remove_strangers(layout)


def _remove_strangers(layout: Layout) -> None:
    stems = {scene.key for scene in layout.scenes}
    for path in sorted(layout.folder.labels_path.glob("*")):
        if not any(path.name[:n] in stems for n in _dots(path.name)):
            path.unlink()


def _dots(name: str) -> list[int]:
    """Where a file name may end its stem: a scene's key may hold dots itself."""
    return [i for i, letter in enumerate(name) if letter == "."]
