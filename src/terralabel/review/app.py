"""The server: pages for people, the same as JSON for programs, and the few changes that either may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from terralabel.errors import InputError, RunError, SettingsError, SpaceError, TerraLabelError
from terralabel.export.markup import plain
from terralabel.review import classes as class_page
from terralabel.review.answers import Json, Site, Whole, entry_json
from terralabel.review.desk import Desk
from terralabel.review.map_routes import add_map
from terralabel.review.queue_routes import add_queue
from terralabel.review.security import Guard, House
from terralabel.runs.journal import Conflict, Entry

__all__ = ["create_app"]

_KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_JOURNAL_PAGE = 100


class ClassChange(BaseModel):
    """What `POST /api/classes` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    action: Literal["name", "color", "merge", "drop", "restore", "move", "split", "new"]
    seen: Whole
    classes: list[Whole] = Field(default_factory=list, max_length=2000)
    clusters: list[Whole] = Field(default_factory=list, max_length=2000)
    name: str | None = Field(default=None, max_length=1000)
    color: str = Field(default="", max_length=20)
    parts: int = Field(default=2, ge=2, le=64)


class Seen(BaseModel):
    """What undo and redo take."""

    model_config = ConfigDict(extra="forbid", strict=True)
    seen: Whole


def create_app(desk: Desk, house: House) -> Guard:
    """The page of one run as an ASGI app behind its guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="terralabel review", default_response_class=Json)
    site = Site(desk)
    app.state.site = site
    _add_errors(app, site)
    _add_static(app)
    _add_pages(app, site)
    _add_changes(app, site)
    _add_crops(app, site)
    add_map(app, site)
    add_queue(app, site)
    guard = Guard(app, house)  # type: ignore[arg-type]
    guard.api = app  # type: ignore[attr-defined]
    return guard


# -------------------------------------------------------------------------------------------------------------- errors

_STATUS: Mapping[type[TerraLabelError], int] = {
    Conflict: 409,
    SpaceError: 507,
    RunError: 409,
    InputError: 400,
    SettingsError: 400,
}


def _add_errors(app: FastAPI, site: Site) -> None:
    @app.exception_handler(TerraLabelError)
    def _ours(request: Request, error: TerraLabelError) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
        content: dict[str, Any] = {"error": plain(error, 1000)}
        if isinstance(error, Conflict):
            content["changes"] = [entry_json(entry) for entry in error.entries[-20:]]
        return _told(site, request, status, content)

    @app.exception_handler(RequestValidationError)
    def _wrong(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ())[1:]) or "body"
        return _told(site, request, 400, {"error": plain(f"{where}: {first.get('msg', 'not as expected')}.")})

    @app.exception_handler(HTTPException)
    def _missing(request: Request, error: HTTPException) -> Response:
        text = "There is no such page." if error.status_code == 404 else plain(error.detail)
        return _told(site, request, error.status_code, {"error": text})


def _told(site: Site, request: Request, status: int, content: dict[str, Any]) -> Response:
    """An error as JSON, or as a page for a browser that asked for one."""
    if request.method == "GET" and "text/html" in request.headers.get("accept", "") and not request.url.path.endswith(".json"):
        answer = site.page("error.html", status=status, text=content["error"])
        answer.status_code = status
        return answer
    return Json(content, status)


# --------------------------------------------------------------------------------------------------------------- pages


def _add_static(app: FastAPI) -> None:
    """Scripts and styles, read once: a name is looked up, never opened."""
    folder = files("terralabel.review") / "static"
    known = {
        item.name: item.read_bytes() for place in (folder, folder / "leaflet") for item in place.iterdir() if item.is_file()
    }

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        kind = _KINDS.get(name.rpartition(".")[2])
        if name not in known or kind is None:
            raise HTTPException(404)
        return Response(known[name], media_type=kind, headers={"cache-control": "no-cache"})


def _add_pages(app: FastAPI, site: Site) -> None:
    desk = site.desk

    @app.get("/")
    def start() -> Response:
        return RedirectResponse("/classes", 303)

    @app.get("/state.json")
    def status() -> Response:
        return Json(site.status())

    def listed(q: str, sort: str, page: int) -> dict[str, Any]:
        sort = sort if sort in class_page.SORTS else "size"
        state = desk.now()
        cards = class_page.class_cards(desk, state, q, sort)
        shown, pages = class_page.page_of(cards, page)
        suggestions = class_page.merge_suggestions(desk.survey, state.classes)
        named = sum(1 for card in cards if not card.dropped and not card.name.startswith("cluster "))
        return {
            "cards": shown,
            "pages": pages,
            "page": min(max(page, 1), pages),
            "count": len(cards),
            "named": named,
            "q": q,
            "sort": sort,
            "suggestions": suggestions,
        }

    @app.get("/classes")
    def classes(q: str = "", sort: str = "size", page: int = 1) -> Response:
        found = listed(q[:200], sort, page)
        return site.page("classes.html", **found, sorts=class_page.SORTS, clustered=desk.clustered is not None)

    @app.get("/classes.json")
    def classes_json(q: str = "", sort: str = "size", page: int = 1) -> Response:
        found = listed(q[:200], sort, page)
        return Json({**found, "cards": [class_page.as_json(card) for card in found["cards"]], **site.status()})

    def rows(before: int) -> list[dict[str, Any]]:
        top = before if 0 < before < 2**53 else None
        return [entry_json(entry) for entry in desk.journal.latest(_JOURNAL_PAGE, top)]

    @app.get("/journal")
    def journal(before: int = 0) -> Response:
        found = rows(before)
        return site.page("journal.html", rows=found, more=found[-1]["version"] if len(found) == _JOURNAL_PAGE else 0)

    @app.get("/journal.json")
    def journal_json(before: int = 0) -> Response:
        return Json({"rows": rows(before), **site.status()})


def _add_crops(app: FastAPI, site: Site) -> None:
    @app.get("/crops/{cluster:int}/{kind}/{n:int}.jpg")
    def crop(cluster: int, kind: str, n: int) -> Response:
        survey = site.desk.survey
        if survey is None or cluster not in survey.cards or kind not in ("typical", "uncertain"):
            raise HTTPException(404)
        shelf = getattr(survey.cards[cluster], kind)
        if n >= len(shelf):
            raise HTTPException(404)
        data = site.pictures.crop(shelf[n])
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})


# ------------------------------------------------------------------------------------------------------------- changes


def _add_changes(app: FastAPI, site: Site) -> None:
    desk = site.desk

    def done(entry: Entry) -> Response:
        return Json({"entry": entry_json(entry), **site.status()})

    @app.post("/api/classes")
    def change(change: ClassChange) -> Response:
        values = change.model_dump(exclude={"action"})
        return done(desk.change_classes(change.action, **values))

    def back(redo: bool, seen: Seen) -> Response:
        return done(desk.undo(seen.seen, redo=redo))

    @app.post("/api/undo")
    def undo(seen: Seen) -> Response:
        return back(False, seen)

    @app.post("/api/redo")
    def redo(seen: Seen) -> Response:
        return back(True, seen)

    @app.post("/api/write")
    def write() -> Response:
        desk.write()
        return Json(site.status())
