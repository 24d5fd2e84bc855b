"""Objects of a scene, assembled from the pieces of its tiles, and their features; both as streams.

Tiles come in plan order. An object leaves as soon as its last tile has passed, so only open ones are in memory, and both
streams give the same objects in the same order: by last tile, then by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from terralabel.core.grid import TilePlan
from terralabel.core.masks import Masks
from terralabel.core.objects import Objects
from terralabel.errors import ContractError
from terralabel.labels.spans import Spans, encode, unite
from terralabel.labels.stitch import Pieces, piece_spans

__all__ = ["ObjectLabels", "assemble", "feature_of_objects", "last_tiles", "object_areas"]


@dataclass(frozen=True)
class ObjectLabels:
    """What clustering says of the objects of a scene: columns indexed by object number, dtypes as in `Objects`."""

    cluster_id: np.ndarray
    class_id: np.ndarray
    score: np.ndarray

    @classmethod
    def unknown(cls, n: int) -> ObjectLabels:
        """Before clustering: cluster -1, class 255, score 0."""
        return cls(np.full(n, -1, np.int32), np.full(n, 255, np.int32), np.zeros(n, np.float32))


def last_tiles(counts: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """The position of the last tile that has a mask of each object, (number of objects,) int32.

    counts (t,) masks per tile in plan order, objects (sum(counts),) int32 from `stitch.resolve`.
    """
    last = np.zeros(int(objects.max(initial=-1)) + 1, dtype=np.int32)
    end = 0
    for tile, count in enumerate(np.asarray(counts).tolist()):
        last[objects[end : end + count]] = tile
        end += count
    if end != len(objects):
        raise ContractError(f"last_tiles: the counts add up to {end} masks, got {len(objects)} objects numbers.")
    return last


def object_areas(pieces: Iterable[Pieces], n: int) -> np.ndarray:
    """Pixels of each of `n` objects, (n,) int64, from the pieces of all tiles in any order; 0 for one without a piece."""
    areas = np.zeros(n, dtype=np.int64)
    for tile in pieces:
        np.add.at(areas, tile.object, tile.area)
    return areas


def assemble(
    scene: str,
    tiles: Iterable[tuple[TilePlan, Masks, Pieces]],
    last: np.ndarray,
    labels: ObjectLabels | None = None,
    *,
    first_id: int = 1,
) -> Iterator[Objects]:
    """The objects of a scene, one batch for each tile that ends some, each object once and united from its pieces.

    `tiles` are all tiles of the scene in plan order, `last` is from `last_tiles`; an object has the id `first_id` + number, and
    its labels are looked up by number. Never makes an array of the size of a scene, a tile or a box: the cost is in spans.
    """
    labels = ObjectLabels.unknown(len(last)) if labels is None else labels
    waiting: dict[int, list[tuple[Spans, np.ndarray]]] = {}
    for position, (plan, masks, pieces) in enumerate(tiles):
        spans = piece_spans(plan, masks, pieces)
        spans = spans.owned_by(pieces.object.astype(np.int64))
        quality = np.stack([pieces.object, masks.predicted_iou[pieces.mask], masks.stability_score[pieces.mask]], 1)
        ends, piece_ends = last[spans.owner], last[pieces.object]
        for end in np.unique(piece_ends).tolist():
            waiting.setdefault(end, []).append((spans.take(ends == end), quality[piece_ends == end]))
        if position in waiting:
            parts = waiting.pop(position)
            yield _batch(scene, Spans.join([p for p, _ in parts]), np.concatenate([q for _, q in parts]), labels, first_id)
    if waiting:
        raise ContractError(
            f"assemble: {scene} ended before tile {min(waiting)}, which some of its objects reach: give all tiles."
        )


def _batch(scene: str, spans: Spans, quality: np.ndarray, labels: ObjectLabels, first_id: int) -> Objects:
    """One batch of finished objects: spans owned by object number, quality rows (number, predicted iou, stability)."""
    number, owner = np.unique(spans.owner, return_inverse=True)
    whole = unite(Spans(owner, spans.column, spans.first, spans.stop))
    runs, offsets, bbox = encode(whole, len(number))
    # the best piece is the one of highest predicted iou; of equals the most stable
    quality = quality[np.lexsort((-quality[:, 2], -quality[:, 1], quality[:, 0]))]
    best = quality[np.searchsorted(quality[:, 0], number)]
    return Objects(
        scene=scene,
        id=number + first_id,
        cluster_id=labels.cluster_id[number],
        class_id=labels.class_id[number],
        score=labels.score[number],
        predicted_iou=best[:, 1].astype(np.float32),
        stability_score=best[:, 2].astype(np.float32),
        status=("auto",) * len(number),
        bbox=bbox,
        area=whole.areas(len(number)),
        runs=runs,
        offsets=offsets,
    )


def feature_of_objects(tiles: Iterable[tuple[np.ndarray, Pieces]], last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The mean feature of each object, its pieces weighted by their area: batches (numbers (k,) int64, means (k, d) float32).

    `tiles` gives, for all tiles of a scene in plan order, the features (n, d) float32 of the tile's n masks and its pieces.
    The batches hold the same objects in the same order as those of `assemble`. Sums are float64, in plan order.
    """
    waiting: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for position, (features, pieces) in enumerate(tiles):
        ends = last[pieces.object]
        for end in np.unique(ends).tolist():
            which = ends == end
            part = pieces.take(which)
            waiting.setdefault(end, []).append((part.object.astype(np.int64), part.area, features[part.mask]))
        if position in waiting:
            number, area, feature = (np.concatenate(column) for column in zip(*waiting.pop(position), strict=True))
            order = np.argsort(number, kind="stable")
            number, head = np.unique(number[order], return_index=True)
            weight = area[order].astype(np.float64)
            total = np.add.reduceat(feature[order].astype(np.float64) * weight[:, None], head)
            yield number, (total / np.add.reduceat(weight, head)[:, None]).astype(np.float32)
    if waiting:
        raise ContractError(f"feature_of_objects: the scene ended before tile {min(waiting)}: give all tiles.")
