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
from terralabel.core.grid import TilePlan, Window
from terralabel.core.masks import Masks
from terralabel.core.scene import Scene
from terralabel.labels.paint import paint_core
from terralabel.labels.stitch import Pieces
from terralabel.recipes.mask_store import MaskStore
from terralabel.recipes.plan import Group
from terralabel.recipes.stitching import read_pieces, scene_tiles
from terralabel.runs.parts import iterate_part, read_notes, read_part, write_part

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
]


@dataclass(frozen=True)
class AssignJob:
    """The cluster of every object of a group."""

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

    run: Path
    group: Group
    mask_paths: tuple[Path, ...]
    pieces: Path
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
    blocks = _ClassBlocks(job)
    for stale in sorted(job.marker.parent.glob(f"{job.group.name}-*.parquet")):
        stale.unlink()  # it speaks of rasters that are about to be replaced
    for index, (scene, tiles) in enumerate(scene_tiles(job.group)):
        stream = (
            (window, apply_to_raster(block, window, corrections.of(scene.key)))
            for window, block in blocks.of_scene(index, scene, tiles, job.classes.of_cluster)
        )
        write_label_raster(job.labels[index], scene, job.classes, stream)
    write_part(job.marker, {"scene": np.arange(len(job.labels), dtype=np.int32)}, {})
    return {"pixels": sum(s.width * s.height for s in job.group.scenes)}


class _ClassBlocks:
    """Painted cores of a group's tiles, one after the other."""

    def __init__(self, job: PaintJob) -> None:
        self.masks = MaskStore(job.mask_paths)
        self.pieces = read_pieces(job.pieces)
        self.numbers = read_notes(job.objects)["numbers"]
        part = read_part(job.objects, ["scene", "number", "area"]).columns
        self.scene, self.number, self.area = (np.asarray(part[name]) for name in ("scene", "number", "area"))
        self.cluster = np.asarray(read_part(job.assigned, ["cluster"]).columns["cluster"])

    def of_scene(
        self, index: int, scene: Scene, tiles: list[tuple[int, int, TilePlan]], table: Mapping[int, int] | None
    ) -> Iterator[tuple[Window, np.ndarray]]:
        """(window, class ids) of each tile's core; with `table` None, cluster ids (-1 where there is none)."""
        rows = self.scene == index
        values = np.full(self.numbers[index], IGNORE if table is not None else -1, dtype=np.int32)
        values[self.number[rows]] = _looked_up(self.cluster[rows], table)
        areas = np.zeros(self.numbers[index], dtype=np.int64)
        areas[self.number[rows]] = self.area[rows]
        place = {(plan.row, plan.column): k for k, (_, _, plan) in enumerate(tiles)}
        for _, _, plan in tiles:
            near = [place.get((plan.row + down, plan.column + right)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            around = [self._tile(*tiles[k]) for k in near if k is not None]
            fill = IGNORE if table is not None else -1
            yield plan.core, paint_core(plan, around, values, areas, fill=fill, dtype=np.int32)

    def _tile(self, shard: int, position: int, plan: TilePlan) -> tuple[TilePlan, Masks, Pieces]:
        nothing = Pieces(*(np.zeros(0, dtype) for dtype in (np.int32, np.int32, bool, np.int64)))
        return plan, self.masks.shard(shard)[position], self.pieces.get((shard, position), nothing)


def _looked_up(clusters: np.ndarray, table: Mapping[int, int] | None) -> np.ndarray:
    if table is None:
        return clusters
    lut = np.full(max([int(clusters.max(initial=-1)), *table]) + 2, IGNORE, dtype=np.int32)  # the last entry: no cluster
    for cluster, class_id in table.items():
        lut[cluster] = class_id
    return lut[np.where(clusters < 0, len(lut) - 1, clusters)]


def cluster_blocks(job: PaintJob) -> Iterator[tuple[Scene, Iterator[tuple[Window, np.ndarray]]]]:
    """Each scene of a group with its painted cluster ids, tile core by tile core: what `align` counts."""
    blocks = _ClassBlocks(job)
    for index, (scene, tiles) in enumerate(scene_tiles(job.group)):
        yield scene, blocks.of_scene(index, scene, tiles, None)
