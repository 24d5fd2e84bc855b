"""Objects of a group of scenes: links across seams, stitched objects, their features.

Stage functions, see `measuring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.grid import TilePlan, Window
from terralabel.core.masks import Masks
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.labels.objects import assemble, feature_of_objects, last_tiles, object_areas
from terralabel.labels.paint import paint_core
from terralabel.labels.stitch import Pieces, alone, link, neighbours, own, resolve
from terralabel.recipes.mask_store import MaskStore
from terralabel.recipes.plan import Group
from terralabel.runs.parts import Part, Ragged, read_part, stream_part, write_part

__all__ = ["LinkJob", "ObjectJob", "gather_objects", "link_shard", "scene_tiles"]


@dataclass(frozen=True)
class LinkJob:
    """Which masks of a shard's tiles are one object with those of tiles that come later in the scene."""

    group: Group
    shard: int  # position in the group
    mask_paths: tuple[Path, ...]
    out: Path
    agree: float = 0.5


def link_shard(job: LinkJob) -> dict[str, Any]:
    """Links of the shard's tiles to their later neighbours, as rows (tile, other tile, mask, other mask, strength)."""
    store = MaskStore(job.mask_paths)
    rows: list[np.ndarray] = []
    strengths: list[np.ndarray] = []
    scenes: list[np.ndarray] = []
    for index, (_, tiles) in enumerate(scene_tiles(job.group)):
        plans = [plan for _, _, plan in tiles]
        for a, b in neighbours(plans) if len(plans) > 1 else []:
            if tiles[a][0] != job.shard:
                continue
            masks_a, masks_b = (store.shard(tiles[i][0])[tiles[i][1]] for i in (a, b))
            if not len(masks_a) or not len(masks_b):
                continue
            pairs, strength = link(plans[a], masks_a, plans[b], masks_b, job.agree)
            rows.append(np.column_stack([np.full(len(pairs), a), np.full(len(pairs), b), pairs]).astype(np.int32))
            strengths.append(strength)
            scenes.append(np.full(len(pairs), index, np.int32))
    pairs = np.concatenate([np.zeros((0, 4), np.int32), *rows])
    columns = {"pair": pairs, "strength": np.concatenate([np.zeros(0, np.float32), *strengths])}
    write_part(job.out, {**columns, "scene": np.concatenate([np.zeros(0, np.int32), *scenes])}, {})
    return {"links": len(pairs)}


def scene_tiles(group: Group) -> Iterator[tuple[Scene, list[tuple[int, int, TilePlan]]]]:
    """Each scene of a group with its tiles in plan order: (shard position, position in the shard, plan)."""
    tiles: dict[str, list[tuple[int, int, TilePlan]]] = {scene.key: [] for scene in group.scenes}
    for s, shard in enumerate(group.shards):
        for i, plan in enumerate(shard.tiles):
            tiles[plan.scene].append((s, i, plan))
    for scene in group.scenes:
        yield scene, tiles[scene.key]


# ------------------------------------------------------------------------------------------------------------- objects


@dataclass(frozen=True)
class ObjectJob:
    """The objects of a group, from the masks, features and links of its shards; none where it was `set_aside`."""

    group: Group
    mask_paths: tuple[Path, ...]
    feature_paths: tuple[Path, ...]
    link_paths: tuple[Path, ...]  # none where every scene is one tile
    painted: Path
    objects: Path
    features: Path
    set_aside: bool = False

    @property
    def is_done(self) -> bool:
        """True when all three parts are there."""
        return self.painted.exists() and self.objects.exists() and self.features.exists()


def gather_objects(job: ObjectJob) -> dict[str, Any]:
    """Write three parts, streamed scene after scene: which object each pixel shows, the objects, and their features.

    Objects and features are row for row; a row of the painted part is the core of one tile.
    """
    masks: MaskStore | _NoMasks = _NoMasks(job.group)
    vectors = _FeatureStore(job.feature_paths)
    if not job.set_aside:
        masks = MaskStore(job.mask_paths, keep=5)  # a tile and its neighbours in the rows above and below
    notes: dict[str, Any] = {"numbers": [], "rows": []}
    with (
        stream_part(job.painted, {}) as paint,
        stream_part(job.objects, notes) as append,
        stream_part(job.features, {}) as measure,
    ):
        paint(
            {
                "scene": np.zeros(0, np.int32),
                "core": np.zeros((0, 4), np.int64),
                "number": Ragged(np.zeros(0, np.int32), np.zeros(1, int)),
            }
        )
        append(_object_columns(0, Objects(**_no_objects()), np.zeros(0, np.int64)))
        measure({"feature": np.zeros((0, vectors.width), np.float32)})
        for index, (scene, tiles) in enumerate(scene_tiles(job.group)):
            found = _stitched(tiles, masks, _links_of(job, index, tiles))
            seen = np.zeros(len(found.last), dtype=np.int32)
            for core, numbers in _paint(tiles, masks, found):
                shown = numbers[numbers >= 0]
                low = int(shown.min()) if shown.size else 0
                pixels = np.bincount(shown - low)  # the numbers of a tile lie near one another
                seen[low : low + len(pixels)] += pixels.astype(np.int32)
                row = {"scene": np.array([index], np.int32), "core": np.array([[core.x, core.y, core.width, core.height]])}
                paint({**row, "number": Ragged(numbers.ravel(), np.array([0, numbers.size]))})
            rows = 0
            stream = ((plan, masks.shard(s)[i], pieces) for (s, i, plan), pieces in zip(tiles, found.pieces, strict=True))
            for batch in assemble(scene.key, stream, found.last, first_id=0):
                append(_object_columns(index, batch, seen[batch.id].astype(np.int64)))
                rows += len(batch)
            notes["numbers"].append(len(found.last))
            notes["rows"].append(rows)
            parts = ((vectors.tile(s, i), pieces) for (s, i, _), pieces in zip(tiles, found.pieces, strict=True))
            for _, means in feature_of_objects(parts, found.last):
                measure({"feature": means})
    return {"objects": sum(notes["rows"])}


@dataclass(frozen=True)
class _Stitched:
    pieces: list[Pieces]
    last: np.ndarray


def _paint(
    tiles: list[tuple[int, int, TilePlan]], masks: MaskStore | _NoMasks, found: _Stitched
) -> Iterator[tuple[Window, np.ndarray]]:
    """(core, object number of each of its pixels, -1 for none): largest objects first, guests from next door included."""
    areas = object_areas(found.pieces, len(found.last))
    numbers = np.arange(len(areas), dtype=np.int32)
    place = {(plan.row, plan.column): k for k, (_, _, plan) in enumerate(tiles)}
    for _, _, plan in tiles:
        near = [place.get((plan.row + down, plan.column + right)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        around = [(tiles[k][2], masks.shard(tiles[k][0])[tiles[k][1]], found.pieces[k]) for k in near if k is not None]
        yield plan.core, paint_core(plan, around, numbers, areas, fill=-1, dtype=np.int32)


def _stitched(
    tiles: list[tuple[int, int, TilePlan]], masks: MaskStore | _NoMasks, links: tuple[np.ndarray, np.ndarray]
) -> _Stitched:
    """The pieces of every tile of one scene, and the last tile of every object number."""
    counts = np.array([len(masks.shard(s)[i]) for s, i, _ in tiles], dtype=np.int64)
    objects = resolve(counts, *_global_pairs(counts, links))
    single = alone(objects)
    ends = np.cumsum(counts)
    pieces = []
    for (s, i, plan), end, count in zip(tiles, ends.tolist(), counts.tolist(), strict=True):
        share = slice(end - count, end)
        pieces.append(own(plan, masks.shard(s)[i], objects[share], single[share]))
    return _Stitched(pieces, last_tiles(counts, objects))


def _global_pairs(counts: np.ndarray, links: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (tile, other tile, mask, other mask) -> pairs of positions among all masks of the scene."""
    rows, strength = links
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)  # `resolve` refuses scenes of more masks than that
    pairs = np.empty((len(rows), 2), dtype=np.int32)
    for side in (0, 1):
        np.add(offsets[rows[:, side]], rows[:, side + 2], out=pairs[:, side])
    return pairs, strength


def _links_of(job: ObjectJob, index: int, tiles: list[tuple[int, int, TilePlan]]) -> tuple[np.ndarray, np.ndarray]:
    """The links of a scene; only a scene of several tiles has any."""
    if len(tiles) < 2 or not job.link_paths:
        return np.zeros((0, 4), np.int32), np.zeros(0, np.float32)
    parts = [read_part(path).columns for path in job.link_paths]
    rows = [np.asarray(part["pair"])[np.asarray(part["scene"]) == index] for part in parts]
    strengths = [np.asarray(part["strength"])[np.asarray(part["scene"]) == index] for part in parts]
    return np.concatenate(rows), np.concatenate(strengths)


class _NoMasks:
    """Stands for the `MaskStore` of a group that was set aside."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def shard(self, index: int) -> list[Masks]:
        """No mask in any tile."""
        return [Masks.empty((plan.window.height, plan.window.width)) for plan in self.group.shards[index].tiles]


class _FeatureStore:
    """Features of tiles out of parts, one shard in memory."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        self._index = -1
        self._part: Part | None = None

    @property
    def width(self) -> int:
        """d, 0 when there are no masks anywhere in the group."""
        from terralabel.runs.parts import column_width

        return max(column_width(path, "feature") for path in self.paths)

    def tile(self, shard: int, position: int) -> np.ndarray:
        """(n, d) float32 of one tile."""
        if self._index != shard:
            self._part, self._index = read_part(self.paths[shard]), shard
        assert self._part is not None
        ends = np.cumsum(self._part.notes["counts"])
        return np.asarray(self._part.columns["feature"])[ends[position] - self._part.notes["counts"][position] : ends[position]]


def _object_columns(scene: int, batch: Objects, seen: np.ndarray) -> dict[str, np.ndarray | Ragged]:
    return {
        "scene": np.full(len(batch), scene, dtype=np.int32),
        "number": batch.id.astype(np.int32),
        "predicted_iou": batch.predicted_iou,
        "stability_score": batch.stability_score,
        "bbox": batch.bbox,
        "area": batch.area,
        "seen": seen,
        "runs": Ragged(batch.runs, batch.offsets),
    }


def _no_objects() -> dict[str, Any]:
    nothing = {
        "scene": "",
        "status": (),
        "bbox": np.zeros((0, 4), np.int64),
        "area": np.zeros(0, np.int64),
        "id": np.zeros(0, np.int64),
    }
    nothing |= {name: np.zeros(0, np.float32) for name in ("score", "predicted_iou", "stability_score")}
    nothing |= {name: np.zeros(0, np.int32) for name in ("cluster_id", "class_id")}
    return {**nothing, "runs": np.zeros(0, np.uint32), "offsets": np.zeros(1, np.int64)}
