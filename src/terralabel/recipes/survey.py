"""What a person needs to see of clusters before naming them: counts, crops to show, how far apart they lie, which touch.

One pass over the objects and one over their features, in memory that does not grow with the run; kept in the run's cache
under a digest of what was surveyed, so that the page opens at once the next time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.objects import Objects
from terralabel.errors import RunError
from terralabel.export.specimens import SIZE_BINS, Shelf, Specimen, by_id, size_bins
from terralabel.recipes.painting import cluster_blocks
from terralabel.recipes.relabel import paint_job
from terralabel.recipes.run import Run
from terralabel.runs.folder import digest
from terralabel.runs.parts import Ragged, iterate_part, read_part, write_part
from terralabel.runs.progress import Progress, Silent

__all__ = ["ClusterCard", "Survey", "survey_clusters"]

_VERSION = 1
#: Specimens kept of each kind; a third of them may show the same place as another.
ROOM = 36
#: Pixels that are looked at to see which clusters touch.
_TOUCHED = 48_000_000
#: More clusters than this are not compared with one another.
_COMPARED = 2000


@dataclass
class ClusterCard:
    """One cluster.

    `objects`, `area` (pixels of its objects), `sizes` (`SIZE_BINS`,) as in `export.specimens`, `certainty` the mean score;
    `typical` and `uncertain` specimens, best first; `centre` (d,) float32 and `spread` (root mean square distance from it) in
    features that are scaled to mean 0 and deviation 1 over the run.
    """

    cluster: int
    objects: int = 0
    area: int = 0
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(SIZE_BINS, np.int64))
    certainty: float = 0.0
    typical: list[Specimen] = field(default_factory=list)
    uncertain: list[Specimen] = field(default_factory=list)
    centre: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    spread: float = 0.0


@dataclass
class Survey:
    """The clusters of a run by id, and `touching`: {(a, b), a < b: share of the shorter border that they have in common}."""

    cards: dict[int, ClusterCard]
    touching: dict[tuple[int, int], float]

    @property
    def area(self) -> int:
        """Pixels of all objects."""
        return sum(card.area for card in self.cards.values())

    @cached_property
    def distances(self) -> tuple[list[int], np.ndarray]:
        """(clusters, (k, k) float64: distance of two centres over the sum of their spreads); infinite on the diagonal.

        Below 1 the clusters run into one another.
        """
        cards = [card for card in self.cards.values() if len(card.centre)][:_COMPARED]
        centres = np.array([card.centre for card in cards], dtype=np.float64).reshape(len(cards), -1)
        spread = np.array([card.spread for card in cards])
        square = (centres**2).sum(axis=1)
        distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * centres @ centres.T, 0))
        both = spread[:, None] + spread[None]
        apart = np.divide(distance, both, out=np.full_like(distance, np.inf), where=both > 0)
        np.fill_diagonal(apart, np.inf)
        return [card.cluster for card in cards], apart


# ---------------------------------------------------------------------------------------------------------- surveying


def survey_clusters(
    run: Run, progress: Progress | None = None, known: Survey | None = None, wanted: Collection[int] = ()
) -> Survey:
    """The survey of a run, from its cache where it is there. Raises `RunError` for a run that is not finished.

    After a split, `known` is the survey before and `wanted` the clusters that changed: only these are looked at.
    """
    progress = progress or Silent()
    path = run.path / "review" / "cache" / f"survey-{_digest(run)}.parquet"
    if path.is_file():
        try:
            return _load(path)
        except RunError:
            path.unlink()  # a cache: damaged is as good as not there
    progress.start("look at clusters", 2 * len(run.layout.groups), "groups")
    cards = _counted(run, set(wanted), progress)
    _place(run, cards, progress)
    progress.finish()
    if known is None:
        found = Survey(cards, _touching(run))
    else:
        found = Survey({**known.cards, **cards}, known.touching)
    for old in path.parent.glob("survey-*.parquet"):
        old.unlink()
    _save(path, found)
    return found


def _digest(run: Run) -> str:
    return digest([_VERSION, ROOM, [run.layout.assigned_path(group).name for group in run.layout.groups]])


def _counted(run: Run, wanted: set[int], progress: Progress) -> dict[int, ClusterCard]:
    """Counts and specimens, one pass over the objects."""
    cards: dict[int, ClusterCard] = {}
    shelves: dict[int, tuple[Shelf, Shelf]] = {}
    for group in run.layout.groups:
        for scene in group.scenes:
            for objects in run.automatic_objects(scene.key):
                for cluster, rows in by_id(objects.cluster_id):
                    if not wanted or cluster in wanted:
                        card = cards.setdefault(cluster, ClusterCard(cluster))
                        _count(card, shelves.setdefault(cluster, (Shelf(ROOM), Shelf(ROOM))), objects, rows)
        progress.advance()
    for cluster, card in cards.items():
        card.certainty /= max(card.objects, 1)
        card.typical, card.uncertain = (shelf.best(ROOM // 3) for shelf in shelves[cluster])
    return dict(sorted(cards.items()))


def _count(card: ClusterCard, shelves: tuple[Shelf, Shelf], objects: Objects, rows: np.ndarray) -> None:
    score = np.nan_to_num(objects.score[rows].astype(np.float64))
    card.objects += len(rows)
    card.area += int(objects.area[rows].sum())
    card.sizes = card.sizes + size_bins(objects.area[rows])
    card.certainty += float(score.sum())
    shelves[0].offer(objects, rows, -score)
    shelves[1].offer(objects, rows, score)


def _place(run: Run, cards: Mapping[int, ClusterCard], progress: Progress) -> None:
    """Centres and spreads, one pass over the features."""
    count: dict[int, int] = {}
    sums: dict[int, np.ndarray] = {}
    squares: dict[int, np.ndarray] = {}
    for group in run.layout.groups:
        clusters = np.asarray(read_part(run.layout.assigned_path(group), ["cluster"]).columns["cluster"])
        row = 0
        for batch in iterate_part(run.layout.object_features_path(group)):
            features = np.asarray(batch["feature"]).astype(np.float64)
            if features.ndim != 2:  # a group without objects
                continue
            for cluster, rows in by_id(clusters[row : row + len(features)]):
                mine = features[rows]
                count[cluster] = count.get(cluster, 0) + len(rows)
                sums[cluster] = sums.get(cluster, 0) + mine.sum(axis=0)
                squares[cluster] = squares.get(cluster, 0) + (mine**2).sum(axis=0)
            row += len(features)
        progress.advance()
    if not count:
        return
    total = sum(count.values())
    mean = sum(sums.values()) / total  # type: ignore[operator]
    scale = np.sqrt(np.maximum(sum(squares.values()) / total - mean**2, 0))  # type: ignore[operator]
    scale = np.where(scale > 0, scale, 1.0)
    for cluster, card in cards.items():
        if cluster in count:
            centre = sums[cluster] / count[cluster]
            variance = np.maximum(squares[cluster] / count[cluster] - centre**2, 0) / scale**2
            card.centre = ((centre - mean) / scale).astype(np.float32)
            card.spread = float(np.sqrt(variance.sum()))


def _touching(run: Run) -> dict[tuple[int, int], float]:
    """Which clusters share borders, seen on groups of scenes that are spread over the run."""
    groups = [g for g in run.layout.groups if run.layout.painted_path(g).is_file()]
    average = max(sum(s.width * s.height for g in groups for s in g.scenes) // max(len(groups), 1), 1)
    step = max(-(-len(groups) * average // _TOUCHED), 1)
    shared: dict[tuple[int, int], int] = {}
    seen = 0
    for group in groups[::step]:
        for _, blocks in cluster_blocks(paint_job(run.layout, group)):
            for window, clusters in blocks:
                if seen < _TOUCHED:
                    _add_borders(clusters, shared)
                    seen += window.area
    border: dict[int, int] = {}
    for pair, pixels in shared.items():
        for cluster in pair:
            border[cluster] = border.get(cluster, 0) + pixels
    return {(a, b): pixels / min(border[a], border[b]) for (a, b), pixels in sorted(shared.items())}


def _add_borders(clusters: np.ndarray, shared: dict[tuple[int, int], int]) -> None:
    """Count neighbouring pixels of two clusters of an (h, w) block; -1 is no cluster."""
    for first, second in ((clusters[:, :-1], clusters[:, 1:]), (clusters[:-1], clusters[1:])):
        differ = (first != second) & (first >= 0) & (second >= 0)
        low, high = np.minimum(first, second)[differ].astype(np.int64), np.maximum(first, second)[differ].astype(np.int64)
        pairs, counts = np.unique(low << 32 | high, return_counts=True)
        for pair, pixels in zip(pairs.tolist(), counts.tolist(), strict=True):
            key = (pair >> 32, pair & 0xFFFFFFFF)
            shared[key] = shared.get(key, 0) + pixels


# ---------------------------------------------------------------------------------------------------------- the cache


def _save(path: Path, survey: Survey) -> None:
    rows = [
        (card.cluster, shelf, item)
        for card in survey.cards.values()
        for shelf, items in enumerate((card.typical, card.uncertain))
        for item in items
    ]
    masks = [np.packbits(item.mask) for *_, item in rows]
    offsets = np.concatenate([[0], np.cumsum([len(m) for m in masks])]).astype(np.int64)
    columns: dict[str, np.ndarray | Ragged] = {
        "cluster": np.array([row[0] for row in rows], dtype=np.int32),
        "shelf": np.array([row[1] for row in rows], dtype=np.int32),
        "scene": np.array([item.scene for *_, item in rows], dtype=str),
        "id": np.array([item.id for *_, item in rows], dtype=np.int64),
        "score": np.array([item.score for *_, item in rows], dtype=np.float64),
        "area": np.array([item.area for *_, item in rows], dtype=np.int64),
        "bbox": np.array([item.bbox for *_, item in rows], dtype=np.int64).reshape(-1, 4),
        "size": np.array([item.mask.shape for *_, item in rows], dtype=np.int64).reshape(-1, 2),
        "mask": Ragged(np.concatenate([np.zeros(0, np.uint8), *masks]), offsets),
    }
    cards = [_card_notes(card) for card in survey.cards.values()]
    write_part(path, columns, {"cards": cards, "touching": [[a, b, share] for (a, b), share in survey.touching.items()]})


def _card_notes(card: ClusterCard) -> dict[str, Any]:
    return {
        "cluster": card.cluster,
        "objects": card.objects,
        "area": card.area,
        "sizes": card.sizes.tolist(),
        "certainty": card.certainty,
        "centre": card.centre.tolist(),
        "spread": card.spread,
    }


def _load(path: Path) -> Survey:
    part = read_part(path)
    cards = {}
    for note in part.notes["cards"]:
        sizes, centre = np.array(note["sizes"], dtype=np.int64), np.array(note["centre"], dtype=np.float32)
        cards[note["cluster"]] = ClusterCard(**{**note, "sizes": sizes, "centre": centre})
    for cluster, shelf, item in _specimens(part.columns):
        (cards[cluster].uncertain if shelf else cards[cluster].typical).append(item)
    return Survey(cards, {(a, b): share for a, b, share in part.notes["touching"]})


def _specimens(columns: Mapping[str, Any]) -> Iterable[tuple[int, int, Specimen]]:
    packed = columns["mask"]
    for row, cluster in enumerate(columns["cluster"].tolist()):
        height, width = columns["size"][row].tolist()
        bits = np.unpackbits(packed.values[packed.offsets[row] : packed.offsets[row + 1]])[: height * width]
        x, y, w, h = columns["bbox"][row].tolist()
        scene, number = str(columns["scene"][row]), int(columns["id"][row])
        mask = bits.reshape(height, width).astype(bool)
        score, area = float(columns["score"][row]), int(columns["area"][row])
        yield cluster, int(columns["shelf"][row]), Specimen(scene, number, cluster, score, area, (x, y, w, h), mask)
