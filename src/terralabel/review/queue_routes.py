"""The routes of the queue: judged labels one by one, masks from clicks, decisions."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from terralabel.errors import InputError
from terralabel.export.picture import encode_jpeg
from terralabel.review.answers import Json, Site, Whole, entry_json
from terralabel.review.prompting import Prompter
from terralabel.review.queue import SORTS, Queue, Wanted, outline

__all__ = ["add_queue"]

Coordinate = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class Prompt(BaseModel):
    """What `POST /api/prompt` takes: points (x, y, 1 object or 0 background) and a box, in scene pixels; neither: only look."""

    model_config = ConfigDict(extra="forbid")
    row: Whole
    points: list[tuple[Coordinate, Coordinate, Literal[0, 1]]] = Field(default_factory=list, max_length=50)
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None


class Decision(BaseModel):
    """What `POST /api/verdict` takes; `mask` is what a prompt was answered with."""

    model_config = ConfigDict(extra="forbid", strict=True)
    row: Whole
    decision: Literal["accept", "reject", "class", "fix", "add"]
    class_id: Annotated[int, Field(ge=0, le=65534)] | None = None
    mask: str = Field(default="", max_length=64)
    seen: Whole


def add_queue(app: FastAPI, site: Site) -> None:
    """Add the routes; a judged label is named by its row."""
    desk, queue, prompter = site.desk, site.queue, Prompter(site.desk.run)
    labels = queue.labels

    def found(sort: str, page: int, decided: bool, of: int, q: str) -> dict[str, Any]:
        return queue.listed(desk.now(), Wanted(sort, min(page, 10**6), decided, max(min(of, 65535), -1), q[:200]))

    @app.get("/queue")
    def shown(sort: str = "worst", page: int = 1, decided: bool = False, of: int = -1, q: str = "") -> Response:
        classes = [{"id": entry.id, "name": entry.name} for entry in desk.now().classes]
        return site.page(
            "queue.html",
            **found(sort, page, decided, of, q),
            sorts=SORTS,
            classes=classes,
            clustered=desk.clustered is not None,
        )

    @app.get("/queue.json")
    def listed(sort: str = "worst", page: int = 1, decided: bool = False, of: int = -1, q: str = "") -> Response:
        return Json({**found(sort, page, decided, of, q), **site.status()})

    @app.get("/units/{row:int}.json")
    def unit(row: int) -> Response:
        _known(queue, row)
        state = desk.now()
        return Json({**queue.row(row, state), "outline": outline(labels.shape(row, state), labels.window(row))})

    @app.get("/units/{row:int}.jpg")
    def picture(row: int) -> Response:
        _known(queue, row)
        data = encode_jpeg(site.pictures.read_rgb(labels.scene(row).key, labels.window(row)), 90)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    @app.post("/api/prompt")
    def prompt(prompt: Prompt) -> Response:
        began, window = time.perf_counter(), labels.window(prompt.row)
        scene = labels.scene(prompt.row)
        if not prompt.points and prompt.box is None:
            prompter.look(scene, window)
            return Json({"mask": "", "outline": "", "ms": round(1000 * (time.perf_counter() - began))})
        shape, expected = prompter.mask(scene, window, prompt.points, prompt.box)
        if shape is None:
            raise InputError("Nothing was found there: click elsewhere, or draw a box.", "no-mask")
        return Json(
            {
                "mask": queue.remember(shape),
                "outline": outline(shape, window),
                "area": shape.area,
                "expected": round(expected, 3),
                "ms": round(1000 * (time.perf_counter() - began)),
            }
        )

    @app.post("/api/verdict")
    def decide(decision: Decision) -> Response:
        values = decision.model_dump()
        entry = queue.decide(values.pop("row"), values.pop("decision"), **values)
        return Json({"entry": entry_json(entry), **queue.progress(desk.now()), **site.status()})


def _known(queue: Queue, row: int) -> None:
    if queue.labels.verdicts is None or row >= len(queue.labels.verdicts):
        raise HTTPException(404)
