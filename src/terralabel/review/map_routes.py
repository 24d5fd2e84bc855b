"""The routes of the map: scenes, thumbnails, tiles made on the fly, what is under the cursor."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from terralabel.core.scene import Scene
from terralabel.review import maps
from terralabel.review.answers import Json, Site
from terralabel.review.pictures import paint_table

__all__ = ["add_map"]

_LASTING = {"cache-control": "private, max-age=3600"}


def add_map(app: FastAPI, site: Site) -> None:
    """Add the routes; a scene is named by its number."""
    _add_pages(app, site)
    _add_pictures(app, site)


def _scene(site: Site, index: int) -> Scene:
    if not 0 <= index < len(site.desk.run.scenes):
        raise HTTPException(404)
    return site.desk.run.scenes[index]


def _add_pages(app: FastAPI, site: Site) -> None:
    desk = site.desk

    @app.get("/scenes")
    def scenes(q: str = "", only: str = "all", page: int = 1) -> Response:
        found = maps.scene_rows(desk, site.queue.open_in(desk.now()), q[:200], only, page)
        return site.page("scenes.html", **found, filters=maps.FILTERS, current="/scenes")

    @app.get("/scenes.json")
    def scenes_json(q: str = "", only: str = "all", page: int = 1) -> Response:
        return Json({**maps.scene_rows(desk, site.queue.open_in(desk.now()), q[:200], only, page), **site.status()})

    @app.get("/map/{scene:int}.json")
    def about(scene: int) -> Response:
        found = _scene(site, scene)
        return Json({**maps.scene_about(desk, scene, found, desk.now()), **site.status()})

    @app.get("/map/{scene:int}")
    def shown(scene: int) -> Response:
        found = _scene(site, scene)
        return site.page("map.html", about=maps.scene_about(desk, scene, found, desk.now()), current="/scenes")

    @app.get("/grid/{scene:int}.json")
    def grid(scene: int) -> Response:
        return Json({"tiles": maps.grid(desk, _scene(site, scene))})

    @app.get("/at/{scene:int}.json")
    def at(scene: int, x: float = 0.0, y: float = 0.0) -> Response:
        found = _scene(site, scene)
        if not (abs(x) < 1e9 and abs(y) < 1e9):
            raise HTTPException(404)
        return Json(maps.place(desk, found, desk.now(), x, y))


def _add_pictures(app: FastAPI, site: Site) -> None:
    desk, pictures = site.desk, site.pictures

    @app.get("/thumbs/{scene:int}.jpg")
    def thumbnail(scene: int) -> Response:
        return Response(pictures.thumbnail(_scene(site, scene)), media_type="image/jpeg", headers=_LASTING)

    @app.get("/tiles/{scene:int}/image/{z:int}/{x:int}/{y:int}.jpg")
    def image(scene: int, z: int, x: int, y: int) -> Response:
        return _found(pictures.image_tile(_scene(site, scene), z, x, y), "image/jpeg")

    @app.get("/tiles/{scene:int}/labels/{z:int}/{x:int}/{y:int}.png")
    def labels(scene: int, z: int, x: int, y: int, hide: str = "") -> Response:
        found, state = _scene(site, scene), desk.now()
        hidden = frozenset(int(part) for part in hide[:4000].split(",") if part.isascii() and part.isdigit() and len(part) < 6)
        table = paint_table(state.painted, desk.shown(state)[0], state.classes, hidden)
        stamp = f"{desk.run.label_path(found.key).stat().st_mtime_ns} {table.tobytes().hex() if len(table) < 64 else hash(table.tobytes())}"
        return _found(pictures.label_tile(found, z, x, y, table, stamp), "image/png")


def _found(data: Any, kind: str) -> Response:
    if data is None:
        raise HTTPException(404)
    return Response(data, media_type=kind, headers=_LASTING)
