"""From clusters to classes to label rasters: what runs at the end of `label` and after every change by a person."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.core.files import write_text
from terralabel.errors import RunError
from terralabel.export.corrections import load_corrections
from terralabel.recipes.layout import Layout
from terralabel.recipes.painting import AssignJob, PaintJob, assign_group, cluster_blocks, load_splits, paint_group
from terralabel.recipes.plan import Group
from terralabel.runs.engine import Crash, Engine
from terralabel.runs.progress import Progress

__all__ = [
    "GroupsCrashed",
    "cluster_count",
    "corrections_digest",
    "is_automatic",
    "moved_classes",
    "paint_job",
    "read_classes",
    "refresh_labels",
    "run_missing",
    "scenes_of",
    "settle_classes",
    "write_classes",
]

_AUTOMATIC = re.compile(r"cluster \d+")


class GroupsCrashed(RunError):
    """Workers died over some groups of scenes; those that could be done are done. `groups`: each with the reason."""

    def __init__(self, groups: Sequence[tuple[Group, str]]) -> None:
        self.groups = groups
        told = "; ".join(f"{scenes_of(group)}: {reason}" for group, reason in groups[:3])
        more = f"; and {len(groups) - 3:,} more" if len(groups) > 3 else ""
        super().__init__(f"{told}{more}; run the same command again, with fewer --workers if memory is short.")


def scenes_of(group: Group) -> str:
    """The scenes of a group, for a message."""
    keys = [scene.key for scene in group.scenes]
    return f"scene {keys[0]}" if len(keys) == 1 else f"scenes {keys[0]} to {keys[-1]} ({len(keys):,})"


def run_missing(
    stage: str,
    unit: str,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    done: Callable[[Any], bool],
    engine: Engine,
    progress: Progress,
) -> None:
    """Run the jobs that are not `done` yet, each of which has a `group`; `GroupsCrashed`, at the end, names those that died."""
    todo = [job for job in jobs if not done(job)]
    if not todo:
        return
    progress.start(stage, len(jobs), unit, len(jobs) - len(todo))
    crashed: dict[str, tuple[Group, str]] = {}
    for job, summary in engine.map(function, todo):
        if isinstance(summary, Crash):
            crashed[job.group.name] = job.group, f"{stage}: {summary.reason}"
        progress.advance()
    progress.finish()
    if crashed:
        raise GroupsCrashed([crashed[name] for name in sorted(crashed)])


def assign(layout: Layout, engine: Engine, progress: Progress) -> None:
    """The cluster of every object, where it is not known yet."""
    jobs = [
        AssignJob(
            group,
            layout.object_features_path(group),
            layout.clusterer_path(),
            layout.backends.clusters,
            layout.splits_path(),
            layout.assigned_path(group),
        )
        for group in layout.groups
    ]
    run_missing("assign", "groups", assign_group, jobs, lambda job: job.out.exists(), engine, progress)


def is_automatic(entry: ClassEntry) -> bool:
    """True for a class nobody named."""
    return _AUTOMATIC.fullmatch(entry.name) is not None


def cluster_count(layout: Layout) -> int:
    """Clusters of the run: those that were fitted and those a person split off."""
    with np.load(layout.clusterer_path(), allow_pickle=False) as arrays:
        count = len(arrays["centres"])
    return count + sum(len(split.ids) - 1 for split in load_splits(layout.splits_path()))


def read_classes(layout: Layout) -> Classes:
    """The run's class map."""
    return Classes.from_json(layout.folder.classes_path.read_text(encoding="utf-8"))


def write_classes(layout: Layout, classes: Classes, *, touched: bool) -> None:
    """Store the class map; `touched` says that a person changed it, so that no later fit may throw it away."""
    write_text(layout.folder.classes_path, classes.to_json() + "\n")
    manifest = layout.folder.manifest()
    touched = touched or manifest.get("classes", {}).get("touched", False)
    layout.folder.write_manifest(
        {**manifest, "classes": {"clusterer": layout.clusterer_digest(), "clusters": cluster_count(layout), "touched": touched}}
    )


def settle_classes(layout: Layout, progress: Progress) -> None:
    """Make sure there is a class map for the clusters as they are now.

    New clusters get a class each. Where a person worked on earlier clusters (named, merged or dropped classes, corrected
    objects), each new cluster joins the class that most of its pixels had.
    """
    about = layout.folder.manifest().get("classes", {})
    there = layout.folder.classes_path.is_file()
    if there and about.get("clusterer") == layout.clusterer_digest():
        return
    corrections = load_corrections(layout.corrections_path())
    if there and (about.get("touched") or len(corrections)):
        progress.say("clusters have changed: carrying a person's classes over by where they lie")
        overlap = _overlap(layout, cluster_count(layout))
        old = read_classes(layout)
        dropped = len(old.of_cluster) < about.get("clusters", 0)
        classes = carried_over(old, overlap, {item.class_id for item in corrections.items}, dropped=dropped)
    else:
        classes = Classes.of_clusters(cluster_count(layout))
    write_classes(layout, classes, touched=False)


def moved_classes(before: Classes, after: Classes) -> dict[int, int]:
    """Old class id -> the id its first cluster has now (255 when it was dropped), for ids that changed."""
    now = after.of_cluster
    still = {entry.id: entry.name for entry in after}
    moved = {}
    for entry in before:
        if entry.clusters:
            new = now.get(entry.clusters[0], IGNORE)
            if new != entry.id:
                moved[entry.id] = new
        elif entry.id not in still:
            moved[entry.id] = IGNORE
    return moved


def carried_over(old: Classes, overlap: np.ndarray, used: Collection[int] = (), *, dropped: bool = False) -> Classes:
    """The old classes over new clusters.

    overlap (clusters, 65536): pixels of each new cluster under each old class id (255: under none). A class that a person
    named, or that a correction uses (`used`), keeps its id, name and colour, and gets the new clusters that lie mostly in
    it; where clusters had been `dropped`, a new one that lies mostly under 255 is dropped, too; every other new cluster
    gets a class of its own.
    """
    kept = {entry.id for entry in old if not is_automatic(entry) or entry.id in used}
    members: dict[int, list[int]] = {class_id: [] for class_id in kept}
    loose: list[int] = []
    for cluster, row in enumerate(overlap):
        best = int(np.argmax(row)) if row.any() else -1
        mostly = best >= 0 and 2 * row[best] >= row.sum()
        if mostly and best in kept:
            members[best].append(cluster)
        elif not (dropped and mostly and best == IGNORE):
            loose.append(cluster)
    entries = [replace(entry, clusters=tuple(members[entry.id])) for entry in old if entry.id in kept]
    taken = {*kept, IGNORE}
    for cluster in loose:
        new_id = cluster if cluster not in taken else next(i for i in range(65535) if i not in taken)
        taken.add(new_id)
        entries.append(ClassEntry(new_id, f"cluster {cluster}", distinct_color(new_id), (cluster,)))
    return Classes().with_entries(entries)


def _overlap(layout: Layout, count: int) -> np.ndarray:
    """(clusters, 65536) pixels of each new cluster under each id of the old label rasters."""
    import rasterio
    from rasterio.windows import Window as RasterWindow

    total = np.zeros((count, 65536), dtype=np.int64)
    for group in layout.groups:
        for scene, blocks in cluster_blocks(paint_job(layout, group)):
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


def paint_job(layout: Layout, group: Group) -> PaintJob:
    """The painting of one group as things stand now."""
    text = (
        layout.folder.classes_path.read_text(encoding="utf-8") if layout.folder.classes_path.is_file() else Classes().to_json()
    )
    return PaintJob(
        group,
        layout.painted_path(group),
        layout.objects_path(group),
        layout.assigned_path(group),
        Classes.from_json(text),
        layout.corrections_path(),
        tuple(layout.label_path(scene) for scene in group.scenes),
        layout.marker_path(group, text, corrections_digest(layout)),
    )


def corrections_digest(layout: Layout) -> str:
    """Names what a person drew; "" for nothing."""
    path = layout.corrections_path()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def refresh_labels(layout: Layout, engine: Engine, progress: Progress) -> None:
    """Paint the rasters that do not show the clusters, classes and corrections as they are now; remove those of no scene."""
    jobs = [paint_job(layout, group) for group in layout.groups]
    run_missing("labels", "groups", paint_group, jobs, _is_painted, engine, progress)
    _remove_strangers(layout)


def _is_painted(job: PaintJob) -> bool:
    return job.marker.exists() and all(path.exists() for path in job.labels)


def _remove_strangers(layout: Layout) -> None:
    stems = {scene.key for scene in layout.scenes}
    for path in sorted(layout.folder.labels_path.glob("*")):
        if not any(path.name[:n] in stems for n in _dots(path.name)):
            path.unlink()


def _dots(name: str) -> list[int]:
    """Where a file name may end its stem: a scene's key may hold dots itself."""
    return [i for i, letter in enumerate(name) if letter == "."]
