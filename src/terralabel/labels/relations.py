"""Which of the things that were found a phrase means: conditions and picks on map geometry.

Distances are between outlines, in metres on the ground where the image has a coordinate system. A thing lies east of another if
the way from the nearest point of the other's outline to the thing's centroid leads within 45 degrees of east. All meanings:
`docs/refer.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import shapely

from terralabel.errors import ContractError, SettingsError
from terralabel.labels.phrase_words import UNITS, UNITS_OF_AREA
from terralabel.labels.phrases import Condition, Phrase, Pick

__all__ = ["Ground", "Resolved", "Things", "resolve"]

_HALF = np.sqrt(0.5)
#: Unit vectors (x, y), y upwards, of the sides on the map and in the picture.
_MAP = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
_MAP |= {f"{ns}-{ew}": (_HALF * _MAP[ew][0], _HALF * _MAP[ns][1]) for ns in ("north", "south") for ew in ("east", "west")}
_PICTURE = {"up": (0, 1), "down": (0, -1), "right": (1, 0), "left": (-1, 0)}
_PICTURE |= {f"{v}-{h}": (_HALF * _PICTURE[h][0], _HALF * _PICTURE[v][1]) for v in ("up", "down") for h in ("left", "right")}
#: Sides of the picture as people say them.
_SPOKEN = {"up": "above", "down": "below"}
#: Outlines this many pixels apart still touch.
_TOUCH = 1.5
#: Distances are right to their last digits only.
_EXACT = 1 + 1e-9


@dataclass(frozen=True)
class Ground:
    """Where an image lies: its size in pixels, its corners (4, 2) on the map, and what the map counts in ("m", or "px" if nothing
    is known but the picture)."""

    width: int
    height: int
    corners: np.ndarray
    unit: str


@dataclass(frozen=True)
class Things:
    """`n` things that were found by one name.

    `shapes` (n,) shapely geometries on the map: x east, y north, in the ground's unit; `drawn` the same in the picture: x right, y
    up, in pixels; `area` (n,) in square units; `pixels` (n,) int64; `score` (n,) the locator's.
    """

    shapes: np.ndarray
    drawn: np.ndarray
    area: np.ndarray
    pixels: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.shapes, self.drawn, self.area, self.pixels, self.score)}
        if len(lengths) != 1:
            raise ContractError(f"Things: columns of one length expected, got {sorted(lengths)}.")

    def __len__(self) -> int:
        return len(self.area)

    def take(self, which: np.ndarray) -> Things:
        """Those at `which`, in that order."""
        return replace(self, **{name: getattr(self, name)[which] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Resolved:
    """`which` (k,) int64 of the phrase's own thing are meant, best first; `steps`: how that came, a sentence each."""

    which: np.ndarray
    steps: tuple[str, ...]


def resolve(phrase: Phrase, found: Mapping[str, Things], ground: Ground) -> Resolved:
    """What a phrase means among what was `found` (by the names of `phrases.things_of`).

    `SettingsError` where a length or an area in metres is asked of an image that lies nowhere.
    """
    things = found[phrase.thing]
    which = np.arange(len(things))
    steps = [f"{len(things):,} {phrase.thing!r} found"]
    for condition in phrase.conditions:
        other, inner = _other(condition.to, found, ground)
        steps += inner
        which = which[_holds(condition, things.take(which), other, ground)]
        steps.append(f"{len(which):,} {phrase.thing!r} {_told(condition)}")
    if phrase.pick is not None:
        other, inner = _other(phrase.pick.to, found, ground)
        steps += inner
        which = which[_picked(phrase.pick, things.take(which), other)]
        steps.append(f"{len(which):,} {phrase.thing!r} picked: {_told_pick(phrase.pick)}")
    return Resolved(which, tuple(steps))


def _other(phrase: Phrase | None, found: Mapping[str, Things], ground: Ground) -> tuple[Things | None, tuple[str, ...]]:
    if phrase is None:
        return None, ()
    inner = resolve(phrase, found, ground)
    return found[phrase.thing].take(inner.which), inner.steps


def _told(condition: Condition) -> str:
    """A condition in words."""
    to = repr(condition.to.thing) if condition.to else ""
    amount = f"{condition.amount:g} {condition.unit}" if condition.unit else to
    return {
        "side": f"{_SPOKEN.get(condition.name, f'{condition.name} of')} {to}",
        "place": "in the " + condition.name.replace("up", "upper").replace("down", "lower"),
        "within": f"within {amount} of {to}",
        "larger": f"larger than {amount}",
        "smaller": f"smaller than {amount}",
    }.get(condition.kind, f"{condition.kind} {to}")


def _told_pick(pick: Pick) -> str:
    """A pick in words."""
    most, least = {
        "area": ("largest", "smallest"),
        "length": ("longest", "shortest"),
        "score": ("best", "worst"),
        "distance": ("farthest from", "nearest to"),
    }.get(pick.by, (f"farthest {_SPOKEN.get(pick.by, pick.by)}", ""))
    to = f" {pick.to.thing!r}" if pick.to else ""
    return (most if pick.most else least) + to + (f", from number {pick.first}" if pick.first > 1 else "")


def _picked(pick: Pick, things: Things, other: Things | None) -> np.ndarray:
    value = _value(pick.by, things, other)
    value = -value if pick.most else value
    order = np.argsort(value, kind="stable")
    order = order[np.isfinite(value[order])]
    stop = None if pick.count is None else pick.first - 1 + pick.count
    return order[pick.first - 1 : stop]


def _value(by: str, things: Things, other: Things | None) -> np.ndarray:
    """(n,) what the things are ordered by."""
    if by == "area":
        return np.asarray(things.area, dtype=np.float64)
    if by == "score":
        return np.asarray(things.score, dtype=np.float64)
    if by == "length":
        return _length(things.shapes)
    if by == "distance":
        assert other is not None
        return _nearest(things.shapes, other.shapes)[1]
    shapes, toward = (things.shapes, _MAP[by]) if by in _MAP else (things.drawn, _PICTURE[by])
    return _points(shapes) @ np.array(toward)


def _points(shapes: np.ndarray) -> np.ndarray:
    """(n, 2) centroids."""
    return shapely.get_coordinates(shapely.centroid(shapes)).reshape(-1, 2)


def _length(shapes: np.ndarray) -> np.ndarray:
    """(n,) longer side of the smallest rectangle round each."""
    out = np.zeros(len(shapes))
    for k, shape in enumerate(shapes):
        corners = shapely.get_coordinates(shapely.oriented_envelope(shape))
        if len(corners) > 1:
            out[k] = np.hypot(*np.diff(corners, axis=0).T).max()
    return out


def _nearest(shapes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) which of the others is nearest to each, itself left out, and how far: -1 and infinite where there is none."""
    which, far = np.full(len(shapes), -1), np.full(len(shapes), np.inf)
    if len(shapes) and len(others):
        pairs, distance = shapely.STRtree(others).query_nearest(shapes, exclusive=True, return_distance=True, all_matches=False)
        which[pairs[0]], far[pairs[0]] = pairs[1], distance
    return which, far


def _holds(condition: Condition, things: Things, other: Things | None, ground: Ground) -> np.ndarray:
    """(n,) bool."""
    kind = condition.kind
    if kind == "place":
        return _in_place(condition.name, things, ground)
    if kind in ("larger", "smaller"):
        return _sized(condition, things, other, ground)
    assert other is not None
    if kind == "side":
        return _on_side(condition.name, things, other)
    if kind == "inside":
        points = shapely.centroid(things.shapes)
        inside = np.zeros(len(things), dtype=bool)
        if len(other) and len(things):
            pairs = shapely.STRtree(other.shapes).query(points, predicate="within")
            own = shapely.equals(things.shapes[pairs[0]], other.shapes[pairs[1]])
            inside[pairs[0][~own]] = True
        return inside
    if kind == "touching" or UNITS[condition.unit] == 0:
        limit = _TOUCH if kind == "touching" else condition.amount
        return _nearest(things.drawn, other.drawn)[1] <= limit * _EXACT
    _must_be_placed(ground, condition.amount, condition.unit)
    return _nearest(things.shapes, other.shapes)[1] <= condition.amount * UNITS[condition.unit] * _EXACT


def _must_be_placed(ground: Ground, amount: float, unit: str) -> None:
    if ground.unit != "m":
        raise SettingsError(f"{amount:g} {unit}: the image has no coordinate system, so nothing is known of metres: ask in px.")


def _sized(condition: Condition, things: Things, other: Things | None, ground: Ground) -> np.ndarray:
    if other is not None:
        if not len(other):
            return np.zeros(len(things), dtype=bool)
        return things.area > other.area.max() if condition.kind == "larger" else things.area < other.area.min()
    factor = UNITS_OF_AREA[condition.unit]
    if factor:
        _must_be_placed(ground, condition.amount, condition.unit)
    values, limit = (things.area, condition.amount * factor) if factor else (things.pixels, condition.amount)
    return values > limit if condition.kind == "larger" else values < limit


def _on_side(side: str, things: Things, other: Things) -> np.ndarray:
    on_map = side in _MAP
    mine, theirs = (things.shapes, other.shapes) if on_map else (things.drawn, other.drawn)
    nearest, _ = _nearest(mine, theirs)
    there = np.flatnonzero(nearest >= 0)
    out = np.zeros(len(things), dtype=bool)
    if len(there):
        ways = shapely.shortest_line(theirs[nearest[there]], shapely.centroid(mine[there]))
        ends = shapely.get_coordinates(ways).reshape(-1, 2, 2)
        way = ends[:, 1] - ends[:, 0]
        toward = np.array((_MAP if on_map else _PICTURE)[side])
        length = np.hypot(*way.T)
        out[there] = (length > 0) & (way @ toward >= (_HALF - 1e-9) * length)
    return out


def _in_place(place: str, things: Things, ground: Ground) -> np.ndarray:
    if place in _MAP:
        low, high, toward, points = ground.corners.min(0), ground.corners.max(0), _MAP[place], _points(things.shapes)
    else:
        low, high = np.array([0.0, -ground.height]), np.array([ground.width, 0.0])
        toward, points = _PICTURE.get(place, (0, 0)), _points(things.drawn)
    share = (points - low) / (high - low)  # (n, 2), 0 to 1
    if place == "middle":
        return ((share >= 1 / 3) & (share <= 2 / 3)).all(axis=1)
    return np.all([(share[:, axis] - 0.5) * toward[axis] > 0 for axis in (0, 1) if toward[axis]], axis=0)
