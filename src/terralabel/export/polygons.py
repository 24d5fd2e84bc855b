"""Outlines of masks as exact, valid polygons along pixel edges, traced from run lengths.

Parts are 4-connected, as in GDAL's polygonize: pixels that touch at a corner are two parts of one MultiPolygon. Where an
outline touches itself at a corner it is cut there, so that every ring is simple and every geometry valid (OGC).

The method: a lattice point is a corner of the outline when the columns on its two sides do not start or stop there alike.
Corners of one column, sorted, are joined in pairs by vertical edges, those of one row by horizontal edges. So cost and
memory follow the outline, not the bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from terralabel.core.georeference import Georeference
from terralabel.core.objects import Objects
from terralabel.export.segments import Segments, object_segments

__all__ = ["object_polygons", "place", "simplified", "trace"]

#: What the left column (1) and the right column (4) do at a lattice point, added up: + starts, - stops.
_RIGHT_STARTS, _LEFT_STOPS, _NW_SE, _NE_SW = 4, -1, 3, -3


@dataclass(frozen=True)
class _Rings:
    """Closed rings as flat arrays: `xy` (n, 2) int64, `offsets` (r + 1,), and the mask each ring belongs to."""

    xy: np.ndarray
    offsets: np.ndarray
    owner: np.ndarray

    def signed_areas(self) -> np.ndarray:
        """(r,) int64, twice the area: positive for outlines, negative for holes."""
        after = np.arange(1, len(self.xy) + 1)
        after[self.offsets[1:] - 1] = self.offsets[:-1]
        x, y = self.xy[:, 0], self.xy[:, 1]
        return np.add.reduceat(x * y[after] - x[after] * y, self.offsets[:-1])


def trace(segments: Segments) -> np.ndarray:
    """One MultiPolygon per mask, (count,) shapely geometries in the segments' pixels; empty for an empty mask."""
    out = np.full(segments.count, shapely.MultiPolygon(), dtype=object)
    if not len(segments):
        return out
    rings = _split_touching(*_link(*_corners(segments)))
    polygons, owner = _polygons(rings)
    present, index = np.unique(owner, return_inverse=True)
    out[present] = shapely.multipolygons(polygons, indices=index)
    return out


def _corners(segments: Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(owner, x, y, kind) of every corner, sorted by owner, x, y; where two outlines touch the corner comes twice."""
    x0, y0 = segments.column.min(), segments.top.min()
    columns, rows = int(segments.column.max() - x0) + 2, int(segments.bottom.max() - y0) + 1
    line = segments.owner * columns + segments.column - x0
    key = np.stack([line * rows + segments.top - y0, line * rows + segments.bottom - y0], 1).ravel()
    sign = np.tile(np.array([1, -1], dtype=np.int64), len(segments))
    keys = np.concatenate([key, key + rows])  # seen from the line left of the column, and from the one right of it
    order = np.argsort(keys, kind="stable")
    keys, kinds = keys[order], np.concatenate([4 * sign, sign])[order]
    head = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    keys, kinds = keys[head], np.add.reduceat(kinds, head)
    times = np.where(np.isin(kinds, (0, 5, -5)), 0, np.where(np.abs(kinds) == 3, 2, 1))
    keys, kinds = np.repeat(keys, times), np.repeat(kinds, times)
    line, row = np.divmod(keys, rows)
    owner, column = np.divmod(line, columns)
    return owner, column + x0, row + y0, kinds


def _link(owner: np.ndarray, x: np.ndarray, y: np.ndarray, kind: np.ndarray) -> tuple[_Rings, np.ndarray]:
    """Join corners to rings: clockwise on the screen around pixels of the mask, the other way around holes.

    Also tells, for every vertex, whether two outlines touch there.
    """
    upper = np.arange(0, len(x), 2)
    mask_on_right = np.isin(kind[upper], (_RIGHT_STARTS, _LEFT_STOPS, _NW_SE))
    start, end = np.where(mask_on_right, upper + 1, upper), np.where(mask_on_right, upper, upper + 1)
    # of two corners at one point the first ends the edge above; which of them holds the edge to the left?
    second = np.concatenate([[False], (x[1:] == x[:-1]) & (y[1:] == y[:-1]) & (owner[1:] == owner[:-1])])
    tie = second ^ (kind == _NE_SW)
    columns, rows = int(x.max() - x.min()) + 1, int(y.max() - y.min()) + 1
    by_row = np.argsort(((owner * rows + y - y.min()) * columns + x - x.min()) * 2 + tie, kind="stable")
    partner = np.empty_like(by_row)
    partner[by_row[0::2]], partner[by_row[1::2]] = by_row[1::2], by_row[0::2]
    edges, ring_starts = _cycles((partner[end] // 2).tolist())
    edges_array = np.array(edges, dtype=np.int64)
    vertices = np.stack([start[edges_array], end[edges_array]], 1).ravel()
    offsets = 2 * np.array([*ring_starts, len(edges)], dtype=np.int64)
    rings = _Rings(np.stack([x[vertices], y[vertices]], 1), offsets, owner[vertices[offsets[:-1]]])
    return rings, np.abs(kind[vertices]) == 3


def _cycles(after: list[int]) -> tuple[list[int], list[int]]:
    """The cycles of a permutation, one after the other, and where each begins."""
    order: list[int] = []
    starts: list[int] = []
    seen = bytearray(len(after))
    for first in range(len(after)):
        if seen[first]:
            continue
        starts.append(len(order))
        current = first
        while not seen[current]:
            seen[current] = 1
            order.append(current)
            current = after[current]
    return order, starts


def _split_touching(rings: _Rings, meets: np.ndarray) -> _Rings:
    """Cut rings that pass a point twice into simple ones; `meets` marks the vertices where that may be."""
    lengths = np.diff(rings.offsets)
    ring = np.repeat(np.arange(len(lengths)), lengths)
    x, y, at = rings.xy[meets, 0], rings.xy[meets, 1], ring[meets]
    order = np.lexsort((y, x, at))
    twice = (np.diff(at[order]) == 0) & (np.diff(x[order]) == 0) & (np.diff(y[order]) == 0)
    touching = np.unique(at[order][1:][twice])
    if not touching.size:
        return rings
    parts = [_simple_loops(rings.xy[rings.offsets[k] : rings.offsets[k + 1]]) for k in touching.tolist()]
    loops = [loop for part in parts for loop in part]
    whole = np.ones(len(lengths), dtype=bool)
    whole[touching] = False
    owner = np.concatenate([rings.owner[whole], np.repeat(rings.owner[touching], [len(part) for part in parts])])
    lengths = np.concatenate([lengths[whole], [len(loop) for loop in loops]])
    return _sorted_by_owner(np.concatenate([rings.xy[whole[ring]], *loops]), lengths, owner)


def _sorted_by_owner(xy: np.ndarray, lengths: np.ndarray, owner: np.ndarray) -> _Rings:
    """Rings in the order of their masks."""
    order = np.argsort(owner, kind="stable")
    first = (np.cumsum(lengths) - lengths)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    index = np.arange(len(xy)) + np.repeat(first - offsets[:-1], lengths[order])
    return _Rings(xy[index], offsets, owner[order])


def _simple_loops(xy: np.ndarray) -> list[np.ndarray]:
    """The simple loops of one ring, innermost first."""
    loops: list[np.ndarray] = []
    path: list[tuple[int, int]] = []
    position: dict[tuple[int, int], int] = {}
    for point in map(tuple, xy.tolist()):
        if point in position:
            cut = position[point]
            loops.append(np.array(path[cut:], dtype=np.int64))
            for passed in path[cut:]:
                del position[passed]
            del path[cut:]
        position[point] = len(path)
        path.append(point)
    return [*loops, np.array(path, dtype=np.int64)]


def _polygons(rings: _Rings) -> tuple[np.ndarray, np.ndarray]:
    """(polygons, owner of each): every hole in the smallest outline around it, outlines in ring order."""
    area = rings.signed_areas()
    outer, holes = np.flatnonzero(area > 0), np.flatnonzero(area < 0)
    shape = np.repeat(np.arange(len(rings.owner)), np.diff(rings.offsets))
    lines = shapely.linearrings(rings.xy.astype(np.float64), indices=shape)
    home = np.zeros(len(area), dtype=np.int64)  # index into `outer`
    home[outer] = np.arange(len(outer))
    first_of_owner = np.searchsorted(rings.owner[outer], rings.owner[holes])
    home[holes] = first_of_owner
    parts = np.bincount(rings.owner[outer], minlength=int(rings.owner.max()) + 1)
    shared = holes[parts[rings.owner[holes]] > 1]
    for owner in np.unique(rings.owner[shared]):
        mine, candidates = shared[rings.owner[shared] == owner], outer[rings.owner[outer] == owner]
        home[mine] = home[candidates[_smallest_around(_inner_pixels(rings, mine), lines[candidates], area[candidates])]]
    order = np.lexsort((area < 0, home))
    return shapely.polygons(lines[order], indices=home[order]), rings.owner[outer]


def _inner_pixels(rings: _Rings, which: np.ndarray) -> np.ndarray:
    """A pixel centre of the mask beside the first edge of each ring: to its right on the screen, seen along the edge."""
    first, second = rings.xy[rings.offsets[which]], rings.xy[rings.offsets[which] + 1]
    direction = np.sign(second - first)
    return first + 0.5 * direction + 0.5 * np.stack([-direction[:, 1], direction[:, 0]], 1)


def _smallest_around(points: np.ndarray, outlines: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Index of the smallest outline that contains each point."""
    tree = shapely.STRtree(shapely.polygons(outlines))
    point, outline = tree.query(shapely.points(points), predicate="within")
    order = np.lexsort((area[outline], point))
    _, head = np.unique(point[order], return_index=True)
    return outline[order][head]


def object_polygons(objects: Objects, *, simplify: float = 0.0, max_vertices: int = 0) -> np.ndarray:
    """One MultiPolygon per object, in scene pixels; see `simplified` for the settings."""
    return simplified(trace(object_segments(objects)), simplify, max_vertices)


def simplified(polygons: np.ndarray, simplify: float = 0.0, max_vertices: int = 0) -> np.ndarray:
    """Polygons with fewer vertices that stay valid and keep their parts.

    `simplify` is the distance in pixels an outline may move (Douglas-Peucker; 0 keeps pixel edges). Polygons with more than
    `max_vertices` (0: no limit) are simplified with doubling distance until they fit or nothing more can go.
    """
    if simplify > 0:
        polygons = _valid_or_before(polygons, simplify)
    distance = max(simplify, 0.5)
    while max_vertices > 0 and distance < 1e6:
        large = shapely.get_num_coordinates(polygons) > max_vertices
        if not np.any(large):
            break
        polygons = polygons.copy()
        polygons[large] = _valid_or_before(polygons[large], distance)
        distance *= 2
    return polygons


def _valid_or_before(polygons: np.ndarray, distance: float) -> np.ndarray:
    """Simplified polygons; where that broke one, it is left as it was."""
    after = shapely.simplify(polygons, distance, preserve_topology=True)
    single = shapely.get_type_id(after) == shapely.GeometryType.POLYGON  # GEOS unwraps a MultiPolygon of one part
    after[single] = shapely.multipolygons(after[single], indices=np.arange(np.count_nonzero(single)))
    whole = shapely.get_num_geometries(after) == shapely.get_num_geometries(polygons)
    return np.where(whole & shapely.is_valid(after) & ~shapely.is_empty(after), after, polygons)


def place(geometries: np.ndarray, georeference: Georeference) -> np.ndarray:
    """Geometries in scene pixels -> map coordinates.

    A scene without any placement gets (column, -row): where QGIS and other programs show such an image.
    """
    if not georeference.is_placed:
        return shapely.transform(geometries, lambda xy: xy * np.array([1.0, -1.0]))
    return shapely.transform(geometries, georeference.to_map)
