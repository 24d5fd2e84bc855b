"""The map of a scene and the list of scenes: what lies where, as plain data."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.export import cards
from terralabel.export.markup import plain
from terralabel.review.desk import Desk
from terralabel.review.pictures import levels
from terralabel.review.state import State

__all__ = ["FILTERS", "failed_tiles", "grid", "place", "scene_about", "scene_rows"]

#: Which scenes are listed: with failed tiles, with labels that wait for a person.
FILTERS = ("all", "failed", "review")
#: Scenes on a page; tiles of a scene that the map outlines.
PAGE, _TILES = 60, 5000
_mutex = threading.Lock()


def failed_tiles(desk: Desk) -> dict[str, int]:
    """Scene key -> how many of its tiles failed."""
    counts: dict[str, int] = {}
    for failure in getattr(desk.run, "failed_tiles", ()):
        key = failure.source.rsplit(":", 2)[0]
        counts[key] = counts.get(key, 0) + 1
    return counts


def scene_rows(desk: Desk, waiting: np.ndarray, search: str, only: str, page: int) -> dict[str, Any]:
    """A page of the list of scenes that match. waiting: (scenes,) labels of each that wait for a person."""
    failed = failed_tiles(desk)
    wanted = search.lower().strip()
    found = [
        (index, scene)
        for index, scene in enumerate(desk.run.scenes)
        if wanted in scene.key.lower() and (only != "failed" or failed.get(scene.key)) and (only != "review" or waiting[index])
    ]
    pages = max(-(-len(found) // PAGE), 1)
    page = min(max(page, 1), pages)
    rows = [
        {
            "index": index,
            "name": plain(scene.stem, 120),
            "width": scene.width,
            "height": scene.height,
            "split": scene.split or "",
            "failed": failed.get(scene.key, 0),
            "review": int(waiting[index]),
        }
        for index, scene in found[(page - 1) * PAGE : page * PAGE]
    ]
    return {"scenes": rows, "count": len(found), "page": page, "pages": pages, "q": search, "only": only}


def scene_about(desk: Desk, index: int, scene: Scene, state: State) -> dict[str, Any]:
    """What the map of a scene needs; classes that are `mixed` are painted anew by `Paint labels` only."""
    _, mixed = desk.shown(state)
    by_class = {e.id: e for e in state.classes}
    area = dict.fromkeys(by_class, 0)
    if desk.survey:
        for cluster, card in desk.survey.cards.items():
            now = state.classes.of_cluster.get(cluster)
            if now is not None:
                area[now] += card.area
    total = max(sum(area.values()), 1)
    classes = [
        {"id": e.id, "name": plain(e.name, 120), "color": e.color, "share": area[e.id] / total if desk.survey else None}
        for e in sorted(state.classes, key=lambda e: (-area[e.id], e.id))
    ]
    georeference = scene.georeference
    return {
        "index": index,
        "scenes": len(desk.run.scenes),
        "name": plain(scene.stem, 200),
        "width": scene.width,
        "height": scene.height,
        "levels": levels(scene),
        "transform": list(georeference.transform) if georeference.is_placed else None,
        "crs": _crs_name(georeference.crs),
        "classes": classes,
        "mixed": [plain(state.painted[k].name, 80) for k in sorted(mixed)],
        "version": state.version,
    }


def grid(desk: Desk, scene: Scene) -> list[dict[str, Any]]:
    """The scene's tiles as the run cut them: core, status, reason; the failed ones first, at most 5,000."""
    rows = [
        {
            "x": t.core.x,
            "y": t.core.y,
            "width": t.core.width,
            "height": t.core.height,
            "status": t.status,
            "reason": plain(t.reason),
        }
        for t in desk.run.tiles(scene.key)  # type: ignore[union-attr]
    ]
    return sorted(rows, key=lambda row: row["status"] != "failed")[:_TILES]


def place(desk: Desk, scene: Scene, state: State, x: float, y: float) -> dict[str, Any]:
    """What is at a scene pixel: the class of now, and where that is on the Earth."""
    column, row = int(x), int(y)
    about: dict[str, Any] = {"x": column, "y": row, "class": None}
    if 0 <= column < scene.width and 0 <= row < scene.height:
        try:
            painted = int(cards.read_labels(desk.run.label_path(scene.key), Window(column, row, 1, 1), (1, 1))[0, 0])
        except (RunError, rasterio.errors.RasterioError):
            painted = IGNORE
        now = desk.shown(state)[0].get(painted, IGNORE)
        about["class"] = next(({"id": e.id, "name": plain(e.name, 120)} for e in state.classes if e.id == now), None)
    if scene.georeference.is_placed:
        east, north = (float(v) for v in scene.georeference.to_map(np.array([[x, y]]))[0])
        about["map"] = [east, north]
        lonlat = _lonlat(scene.georeference.crs, east, north)
        if lonlat:
            about["lonlat"] = lonlat
    return about


@lru_cache(maxsize=64)
def _crs_name(wkt: str | None) -> str:
    try:
        return plain(CRS.from_wkt(wkt).name, 120) if wkt else ""
    except ProjError:
        return "unknown"


@lru_cache(maxsize=8)
def _transformer(wkt: str) -> Transformer:
    return Transformer.from_crs(CRS.from_wkt(wkt), 4326, always_xy=True)


def _lonlat(wkt: str | None, east: float, north: float) -> list[float] | None:
    """[longitude, latitude] in degrees; None where the coordinate system says nothing of it."""
    if not wkt:
        return None
    try:
        with _mutex:  # a transformer is for one thread at a time
            lon, lat = _transformer(wkt).transform(east, north)
    except ProjError:
        return None
    return [float(lon), float(lat)] if np.isfinite([lon, lat]).all() else None
