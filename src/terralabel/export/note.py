"""What a file of ours says about itself, so that edits can be told from differences of export."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from terralabel.contracts import RunView
from terralabel.core.classes import Classes
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.features import Outlines

__all__ = ["Note"]


@dataclass(frozen=True)
class Note:
    """The run and the scenes a file was exported from, the class map of that time, and how outlines were simplified."""

    run_id: str = ""
    model: str = ""
    scenes: tuple[str, ...] = ()
    classes: Classes | None = None
    outlines: Outlines = field(default_factory=Outlines)

    @classmethod
    def of(cls, run: RunView, scenes: Iterable[Scene], outlines: Outlines) -> Note:
        """The note of an export of some of a run's scenes."""
        return cls(run.id, run.masks_name, tuple(scene.key for scene in scenes), run.classes, outlines)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run_id": self.run_id,
            "model": self.model,
            "scenes": list(self.scenes),
            "classes": json.loads(self.classes.to_json()) if self.classes else None,
            "simplify": self.outlines.simplify,
            "max_vertices": self.outlines.max_vertices,
        }

    @classmethod
    def read(cls, data: Any, run_id: str, path: object) -> Note | None:
        """The note in a file; None when there is none that makes sense. One of another run than `run_id` is refused."""
        if not isinstance(data, dict):
            return None
        try:
            classes = Classes.from_json(json.dumps(data["classes"])) if data.get("classes") else None
            outlines = Outlines(float(data.get("simplify", 0)), int(data.get("max_vertices", 0)))
            note = cls(str(data["run_id"]), str(data.get("model", "")), tuple(map(str, data["scenes"])), classes, outlines)
        except (KeyError, TypeError, ValueError, InputError):
            return None
        if run_id and note.run_id != run_id:
            raise InputError(f"{path} was exported from run {note.run_id}, not {run_id}: import it there.", "other-run")
        return note
