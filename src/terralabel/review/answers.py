"""What all routes answer with: pages from templates, JSON that no name breaks."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from fastapi.responses import Response
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from pydantic import Field

from terralabel.export.markup import histogram, number, percent, plain
from terralabel.review.desk import Desk
from terralabel.review.pictures import Pictures
from terralabel.review.queue import Queue
from terralabel.runs.journal import Entry

__all__ = ["Json", "Site", "Whole", "entry_json"]

#: Whole numbers that SQLite and JavaScript both know.
Whole = Annotated[int, Field(ge=0, le=2**53 - 1)]
#: (name, address) of the pages in every header.
NAVIGATION = (("Classes", "/classes"), ("Map", "/scenes"), ("Queue", "/queue"), ("Journal", "/journal"))


class Json(Response):
    """JSON in pure ASCII, so that no name, however broken, breaks an answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


class Site:
    """What all routes share: the desk, the pictures, the queue, the templates."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.pictures, self.queue = desk, Pictures(desk.run), Queue(desk)
        self.pages = Environment(
            loader=PackageLoader("terralabel.review"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self.pages.filters["plain"] = plain
        self.pages.filters["number"] = number
        self.pages.filters["percent"] = lambda share: Markup(percent(share, 1.0))  # noqa: S704
        self.pages.filters["histogram"] = _histogram

    def page(self, name: str, **values: Any) -> Response:
        """A template as an HTML answer."""
        html = self.pages.get_template(name).render(
            run=self.desk.run.path.name, state=self.desk.now(), here=name, nav=NAVIGATION, **values
        )
        return Response(html.encode("utf-8", "replace"), media_type="text/html; charset=utf-8")

    def status(self) -> dict[str, Any]:
        """What every page shows below: versions, undo, what is not written yet."""
        state, writing = self.desk.now(), self.desk.writing
        return {
            "version": state.version,
            "pending": state.pending,
            "undo": plain(state.undo),
            "redo": plain(state.redo),
            "writing": {"active": writing.active, "stage": writing.stage, "done": writing.done, "total": writing.total},
            "error": plain(writing.error),
        }


def _histogram(sizes: list[int]) -> Markup:
    return Markup(histogram(np.array(sizes), "objects by size in pixels"))  # noqa: S704


def entry_json(entry: Entry) -> dict[str, Any]:
    """A row of the journal as a JSON object, without what only machines need."""
    return {
        "version": entry.version,
        "time": entry.time,
        "who": plain(entry.who),
        "kind": entry.kind,
        "of": entry.of,
        "said": plain(entry.said),
    }
