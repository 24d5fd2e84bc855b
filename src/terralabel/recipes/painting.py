"""Clusters of objects, and the label rasters of a group. Stage functions, see `measuring`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel import registry
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.recipes.plan import Group
from terralabel.runs.parts import Ragged, iterate_part, read_notes, read_part, write_part

__all__ = [
    "AssignJob",
    "ClusterSplit",
    "PaintJob",
    "assign_group",
    "cluster_blocks",
    "load_clusterer",
    "load_splits",
    "paint_group",
    "save_splits",
    "shown_numbers",
]


@dataclass(frozen=True)
class AssignJob:
    """The cluster of every object of a group."""

    group: Group
    features: Path
    clusterer: Path
    name: str
    splits: Path  # need not be there
    out: Path


def load_clusterer(name: str, state: Path) -> Any:
    """The fitted clusterer `name` from its arrays."""
    with np.load(state, allow_pickle=False) as arrays:
        return type(registry.create("clusters", name)).from_state({key: arrays[key] for key in arrays.files})


@dataclass(frozen=True)
class ClusterSplit:
    """A person's split: objects of `cluster` go to `ids[part]`, the part being what `clusterer` says of their features."""

    cluster: int
    ids: tuple[int, ...]
    clusterer: Any

    def applied(self, clusters: np.ndarray, features: np.ndarray) -> np.ndarray:
        """(n,) int32 clusters after the split."""
        rows = np.flatnonzero(clusters == self.cluster)
        if not len(rows):
            return clusters
        parts, _ = self.clusterer.predict(features[rows])
        out = clusters.copy()
        out[rows] = np.where(parts < 0, self.cluster, np.array(self.ids, np.int32)[np.maximum(parts, 0)])
        return out


def save_splits(path: Path, splits: Sequence[ClusterSplit]) -> None:
    """Write splits, in the order they were made."""
    arrays: dict[str, np.ndarray] = {}
    for i, split in enumerate(splits):
        arrays[f"{i}/ids"] = np.array([split.cluster, *split.ids], dtype=np.int32)
        arrays |= {f"{i}/state/{name}": value for name, value in split.clusterer.state().items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]


def load_splits(path: Path) -> list[ClusterSplit]:
    """What `save_splits` wrote; none when there is no file."""
    if not path.is_file():
        return []
    from terralabel.clusters.kmeans import OnlineKMeans

    with np.load(path, allow_pickle=False) as arrays:
        out = []
        for i in range(sum(name.endswith("/ids") for name in arrays.files)):
            state = {name.removeprefix(f"{i}/state/"): arrays[name] for name in arrays.files if name.startswith(f"{i}/state/")}
            cluster, *ids = arrays[f"{i}/ids"].tolist()
            out.append(ClusterSplit(cluster, tuple(ids), OnlineKMeans.from_state(state)))
        return out


def assign_group(job: AssignJob) -> dict[str, Any]:
    """Write cluster (n,) int32 and score (n,) float32, row for row as the objects; a person's splits are applied."""
    clusterer = load_clusterer(job.name, job.clusterer)
    splits = load_splits(job.splits)
    clusters, scores = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    for batch in iterate_part(job.features):
        features = np.asarray(batch["feature"])
        ids, certainty = clusterer.predict(features)
        for split in splits:
            ids = split.applied(ids, features)
        clusters.append(ids)
        scores.append(certainty)
    write_part(job.out, {"cluster": np.concatenate(clusters), "score": np.concatenate(scores)}, {})
    return {}


@dataclass(frozen=True)
class PaintJob:
    """The label rasters of a group's scenes."""

    group: Group
    painted: Path
    objects: Path
    assigned: Path
    classes: Classes
    corrections: Path  # the file of what a person drew; it need not be there
    labels: tuple[Path, ...]  # one raster per scene
    marker: Path  # the part that says: these rasters are those of this digest


def paint_group(job: PaintJob) -> dict[str, Any]:
    """Write the label raster of every scene, a person's corrections on top, then the marker that says so."""
    from terralabel.export.corrections import apply_to_raster, load_corrections
    from terralabel.export.rasters import write_label_raster

    corrections = load_corrections(job.corrections)
    for stale in sorted(job.marker.parent.glob(f"{job.group.name}-*.parquet")):
        stale.unlink()  # it speaks of rasters that are about to be replaced
    for (scene, blocks), final in zip(_blocks(job, job.classes.of_cluster), job.labels, strict=True):
        mine = corrections.of(scene.key)
        write_label_raster(
            final, scene, job.classes, ((window, apply_to_raster(block, window, mine)) for window, block in blocks)
        )
    write_part(job.marker, {"scene": np.arange(len(job.labels), dtype=np.int32)}, {})
    return {"pixels": sum(s.width * s.height for s in job.group.scenes)}


def cluster_blocks(job: PaintJob) -> Iterator[tuple[Scene, Iterator[tuple[Window, np.ndarray]]]]:
    """Each scene of a group with its cluster ids (-1 for none), tile core by tile core."""
    return _blocks(job, None)


def shown_numbers(painted: Path, index: int) -> Iterator[tuple[Window, np.ndarray]]:
    """Of scene `index` of a group (window, (h, w) int32 object number of each pixel, -1 for none), tile core by tile core."""
    for row in iterate_part(painted, rows=1):
        if int(np.asarray(row["scene"])[0]) == index:
            core = Window(*np.asarray(row["core"])[0].tolist())
            numbers = row["number"]
            assert isinstance(numbers, Ragged)
            yield core, numbers.values.reshape(core.height, core.width)


def _blocks(job: PaintJob, table: Mapping[int, int] | None) -> Iterator[tuple[Scene, Iterator[tuple[Window, np.ndarray]]]]:
    """Each scene of a group with its painted pixels looked up: class ids by `table`, or cluster ids without one.

    The scenes come in the order of the group and each must be used up before the next.
    """
    columns = read_part(job.objects, ["scene", "number"]).columns
    owner, number = np.asarray(columns["scene"]), np.asarray(columns["number"])
    values = _looked_up(np.asarray(read_part(job.assigned, ["cluster"]).columns["cluster"]), table)
    counts = read_notes(job.objects)["numbers"]
    rows = iterate_part(job.painted, rows=1)
    waiting: list[Mapping[str, Any]] = []
    for index, scene in enumerate(job.group.scenes):
        of_number = np.full(counts[index] + 1, -1 if table is None else IGNORE, dtype=np.int32)  # the last: no object
        of_number[number[owner == index]] = values[owner == index]
        yield scene, _scene_blocks(index, of_number, rows, waiting)


def _scene_blocks(
    index: int, of_number: np.ndarray, rows: Iterator[Mapping[str, Any]], waiting: list[Mapping[str, Any]]
) -> Iterator[tuple[Window, np.ndarray]]:
    """The rows of one scene; the first row of the next one goes into `waiting`."""
    while True:
        row = waiting.pop() if waiting else next(rows, None)
        if row is None:
            return
        if int(row["scene"][0]) != index:
            waiting.append(row)
            return
        core = Window(*(int(v) for v in row["core"][0]))
        yield core, of_number[row["number"].values].reshape(core.height, core.width)


def _looked_up(clusters: np.ndarray, table: Mapping[int, int] | None) -> np.ndarray:
    if table is None:
        return clusters
    lut = np.full(max([int(clusters.max(initial=-1)), *table]) + 2, IGNORE, dtype=np.int32)  # the last entry: no cluster
    for cluster, class_id in table.items():
        lut[cluster] = class_id
    return lut[np.where(clusters < 0, len(lut) - 1, clusters)]
