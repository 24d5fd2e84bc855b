"""The classes page: a card per class, with what its clusters look like and which of them might be one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from terralabel.core.classes import ClassEntry, Classes
from terralabel.export.specimens import SIZE_BINS, Specimen
from terralabel.recipes.survey import ClusterCard, Survey
from terralabel.review.desk import Desk
from terralabel.review.pictures import levels
from terralabel.review.state import State

__all__ = ["SORTS", "as_json", "class_cards", "merge_suggestions", "page_of"]

#: How cards may be ordered.
SORTS = ("size", "certainty", "separability", "name", "id")
#: Cards on a page, crops of each kind on a card, clusters listed on one.
PAGE, CROPS, CLUSTERS = 48, 8, 40
#: Names that are suggested for a class.
_NAMES = 3
#: Pairs of clusters, the nearest, that are looked at for suggestions.
_PAIRS = 400


@dataclass(frozen=True)
class Card:
    """A class as the page shows it; `dropped` for a cluster that is in no class, whose `id` is its cluster's.

    `suggested` are names with their shares, likeliest first; `margin` is how far the first leads the next.
    """

    id: int
    name: str
    color: str
    dropped: bool
    clusters: list[dict[str, Any]]
    cluster_count: int
    objects: int
    share: float
    certainty: float | None
    separability: float | None
    nearest: int | None
    sizes: list[int]
    typical: list[tuple[int, int, str]]
    uncertain: list[tuple[int, int, str]]
    suggested: list[tuple[str, float]]
    margin: float | None


def class_cards(desk: Desk, state: State, search: str = "", sort: str = "size") -> list[Card]:
    """The cards of all classes that match, and then those of dropped clusters."""
    survey = desk.survey
    near = _nearest(survey, state.classes) if survey else {}
    cards = [_card(desk, entry, survey, near.get(entry.id)) for entry in state.classes]
    if survey:
        there = state.classes.of_cluster
        gone = [ClassEntry(k if k != 255 else 65534, f"cluster {k}", "#888888", (k,)) for k in survey.cards if k not in there]
        cards += [_card(desk, entry, survey, None, dropped=True) for entry in gone]
    wanted = " ".join(search.lower().split())
    cards = [card for card in cards if wanted in card.name.lower() or wanted == str(card.id)]
    return sorted(cards, key=lambda card: (card.dropped, *_rank(card, sort)))


def _rank(card: Card, sort: str) -> tuple[Any, ...]:
    """Smallest first: large classes, doubtful ones, those that run into others."""
    if sort == "name":
        return card.name.lower(), card.id
    if sort in ("certainty", "separability"):
        value = getattr(card, sort)
        return float("inf") if value is None else value, card.id
    return (-card.share, card.id) if sort == "size" else (card.id,)


def page_of(cards: list[Card], page: int) -> tuple[list[Card], int]:
    """(the cards of page 1, 2, ..., number of pages)."""
    pages = max(-(-len(cards) // PAGE), 1)
    page = min(max(page, 1), pages)
    return cards[(page - 1) * PAGE : page * PAGE], pages


def _card(desk: Desk, entry: ClassEntry, survey: Survey | None, near: tuple[float, int] | None, dropped: bool = False) -> Card:
    members = [survey.cards.get(k, ClusterCard(k)) for k in entry.clusters] if survey else []
    members.sort(key=lambda card: (-card.area, card.cluster))
    area, objects = sum(c.area for c in members), sum(c.objects for c in members)
    total = max(survey.area, 1) if survey else 1
    suggested = _suggested(desk, members)
    sizes = sum((c.sizes for c in members), np.zeros(SIZE_BINS, np.int64))
    return Card(
        id=entry.clusters[0] if dropped else entry.id,
        name=entry.name,
        color=entry.color,
        dropped=dropped,
        clusters=[{"id": c.cluster, "objects": c.objects, "share": c.area / total} for c in members[:CLUSTERS]],
        cluster_count=len(entry.clusters),
        objects=objects,
        share=area / total,
        certainty=sum(c.certainty * c.objects for c in members) / objects if objects else None,
        separability=None if near is None else near[0],
        nearest=None if near is None else near[1],
        sizes=sizes.tolist(),
        typical=_crops(desk, members, "typical"),
        uncertain=_crops(desk, members, "uncertain"),
        suggested=suggested[:_NAMES],
        margin=suggested[0][1] - (suggested[1][1] if len(suggested) > 1 else 0.0) if suggested else None,
    )


def _crops(desk: Desk, members: Iterable[ClusterCard], kind: str) -> list[tuple[int, int, str]]:
    """(cluster, number, where it is on the map) of the crops of a card: the clusters take turns."""
    shelves = [[(card.cluster, n, item) for n, item in enumerate(getattr(card, kind))] for card in members]
    turns = [shelf[n] for n in range(CROPS) for shelf in shelves if n < len(shelf)]
    return [(cluster, n, _on_map(desk, item)) for cluster, n, item in turns[:CROPS]]


def _on_map(desk: Desk, item: Specimen) -> str:
    """The address of the map with an object in its middle."""
    index = desk.index_of.get(item.scene)
    if index is None:
        return "/scenes"
    x, y, width, height = item.bbox
    level = levels(desk.run.scenes[index])
    zoom = level + 1 - max((max(width, height) // 400).bit_length(), 0)
    return f"/map/{index}#{x + width // 2}/{y + height // 2}/{max(zoom, 0)}"


def _suggested(desk: Desk, members: list[ClusterCard]) -> list[tuple[str, float]]:
    """Names from labelled images, or by likeness to words, weighted with the objects' area; most likely first."""
    share: dict[str, float] = {}
    area = sum(card.area for card in members if card.cluster in desk.names)
    for card in members:
        for name, part in desk.names.get(card.cluster, []):
            share[name] = share.get(name, 0.0) + part * card.area / max(area, 1)
    return sorted(share.items(), key=lambda pair: (-pair[1], pair[0]))


# --------------------------------------------------------------------------------------------------------- likeness


def _nearest(survey: Survey, classes: Classes) -> dict[int, tuple[float, int]]:
    """Class -> (how far apart it is from the nearest other class, that class)."""
    ids, apart = survey.distances
    owner = np.array([classes.of_cluster.get(int(k), -1) for k in ids], dtype=np.int64)
    found: dict[int, tuple[float, int]] = {}
    for entry in classes:
        mine, others = np.flatnonzero(owner == entry.id), np.flatnonzero((owner != entry.id) & (owner >= 0))
        if len(mine) and len(others):
            part = apart[np.ix_(mine, others)]
            best = int(part.argmin())
            value = float(part.flat[best])
            if np.isfinite(value):
                found[entry.id] = value, int(owner[others[best % len(others)]])
    return found


def merge_suggestions(survey: Survey | None, classes: Classes, most: int = 8) -> list[dict[str, Any]]:
    """Pairs of classes that may be one, best first: their centres are near for their spread, and they share borders."""
    if survey is None:
        return []
    ids, apart = survey.distances
    there = classes.of_cluster
    pairs: dict[tuple[int, int], tuple[float, float, float]] = {}
    rows, columns = np.triu_indices(len(ids), 1)
    for at in np.argsort(apart[rows, columns], kind="stable")[:_PAIRS].tolist():
        a, b, value = ids[rows[at]], ids[columns[at]], float(apart[rows[at], columns[at]])
        first, second = there.get(a), there.get(b)
        if first is None or second is None or first == second or not np.isfinite(value):
            continue
        touch = survey.touching.get((min(a, b), max(a, b)), 0.0)
        key = (min(first, second), max(first, second))
        pairs[key] = min(pairs.get(key, (np.inf, 0.0, 0.0)), (value * (1 - 0.5 * touch), value, touch))
    best = sorted(pairs.items(), key=lambda pair: (pair[1][0], pair[0]))[:most]
    names = {entry.id: entry.name for entry in classes}
    return [
        {"classes": list(pair), "names": [names[k] for k in pair], "apart": values[1], "touching": values[2]}
        for pair, values in best
        if values[0] < 1.0
    ]


def as_json(card: Card) -> dict[str, Any]:
    """A card as a JSON object."""
    return asdict(card)
