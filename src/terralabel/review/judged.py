"""The judged labels of a run as they are now: where each lies, its class after all that people did, its mask."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from terralabel.core import rle
from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.quality import EMPTY, Verdicts
from terralabel.core.scene import Scene
from terralabel.errors import InputError, RunError
from terralabel.export.corrections import Correction
from terralabel.export.features import read_labels
from terralabel.export.shapes import Shape
from terralabel.export.verdicts import unit_mask
from terralabel.recipes.quality.following import classes_now
from terralabel.recipes.quality.people import unit_key
from terralabel.recipes.quality.store import load_verdicts, quality_parts
from terralabel.review.desk import Desk
from terralabel.review.state import State

__all__ = ["SOURCE", "JudgedLabels"]

#: What is shown around a label, and the largest part of a scene shown at once, pixels.
_MARGIN, _LARGEST = 48, 1200
#: The source of corrections that were made in the queue begins with this.
SOURCE = "review "


class JudgedLabels:
    """`verdicts` as the gate left them, None where nobody has judged the run; a label is named by its row in them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.scenes = {scene.key: scene for scene in desk.run.scenes}
        self.verdicts: Verdicts | None = None
        self._notes: Mapping[str, Any] = {}
        self._parts: set[Any] = set()
        self._table: tuple[State, dict[int, int]] | None = None
        self.follow()

    def follow(self) -> None:
        """Look again at what the run knows of its labels; `RunError` where others were judged since."""
        parts = quality_parts(self.desk.run.folder)
        if parts == self._parts:
            return
        found = load_verdicts(self.desk.run.folder)
        if self.verdicts is not None and (found is None or not _same(self.verdicts, found[0])):
            raise RunError("The labels were judged anew since: start `terralabel review` again.")
        if found is not None:
            self.verdicts, self._notes = found
        self._parts, self._table = parts, None

    def checked(self, row: int) -> Verdicts:
        """The verdicts; `InputError` for a row that does not exist."""
        if self.verdicts is None or not 0 <= row < len(self.verdicts):
            raise InputError(f"There is no judged label {row}.", "unknown-label")
        if self.verdicts.scene[row] not in self.scenes:
            raise InputError(f"Judged label {row} lies in a scene that the run no longer has.", "unknown-scene")
        return self.verdicts

    def key(self, row: int) -> str:
        """`unit_key` of a row."""
        assert self.verdicts is not None
        return unit_key(self.verdicts, row)

    @cached_property
    def scene_index(self) -> np.ndarray:
        """(n,) int64 number of the scene in which each label lies; -1 where the run no longer has it."""
        number = {key: index for index, key in enumerate(self.scenes)}
        return np.array([number.get(key, -1) for key in self.verdicts.scene] if self.verdicts else [], dtype=np.int64)

    # ---------------------------------------------------------------------------------------------------------- classes

    def class_table(self, state: State) -> dict[int, int]:
        """Class when it was judged -> class of now; 255: dropped, or nothing labelled."""
        if self._table is None or self._table[0] is not state:
            noted = {int(k): clusters for k, clusters in self._notes.get("clusters", {}).items() if clusters}
            now = {k: self.desk.class_of(state, clusters) for k, clusters in noted.items()}
            self._table = state, {**self.desk.shown(state)[0], **now, EMPTY: IGNORE}
        return self._table[1]

    def class_of(self, row: int, state: State) -> int:
        """The class that a label has now, as a person or else the class map says; 255 for none."""
        assert self.verdicts is not None
        said = state.people.get(self.key(row), {})
        if said.get("decision") == "accept" and said.get("class_id") in {entry.id for entry in state.classes}:
            return int(said["class_id"])
        return self.class_table(state).get(int(self.verdicts.units.class_id[row]), IGNORE)

    # ------------------------------------------------------------------------------------------------------------ places

    def scene(self, row: int) -> Scene:
        """The scene in which a label lies."""
        return self.scenes[self.checked(row).scene[row]]

    def window(self, row: int) -> Window:
        """What is shown of the scene: the label with a margin, at most 1,200 pixels of each side."""
        scene = self.scene(row)
        assert self.verdicts is not None
        x, y, w, h = self.verdicts.units.box[row].tolist()
        width, height = (
            min(max(side + 2 * _MARGIN, 256), _LARGEST, whole) for side, whole in ((w, scene.width), (h, scene.height))
        )
        left = min(max(x + w // 2 - width // 2, 0), scene.width - width)
        top = min(max(y + h // 2 - height // 2, 0), scene.height - height)
        return Window(left, top, width, height)

    def shape(self, row: int, state: State) -> Shape | None:
        """The label's mask: as a person left it, else as the raster shows it without what people decided of other labels."""
        verdicts, scene = self.checked(row), self.scene(row)
        drawn = [item for item in self.desk.reader.corrections().of(scene.key).items if item.source.startswith(SOURCE)]
        source = state.people.get(self.key(row), {}).get("source")
        own = [item for item in drawn if item.source == source]
        if own:
            return _unit_of(own)
        class_id = int(verdicts.units.class_id[row])
        box = Window(*verdicts.units.box[row].tolist()).intersect(Window(0, 0, scene.width, scene.height))
        if class_id == EMPTY or not box.area:
            return None
        painted = classes_now(self._notes, state.painted).get(class_id, (class_id,))
        there = np.isin(read_labels(self.desk.run.label_path(scene.key), box), painted)
        mask = unit_mask(there.astype(np.uint8), 1, int(verdicts.units.component[row]))
        if not mask.any():
            return None
        found = Shape.of_runs(rle.encode(mask), box)
        others = [item.shown for item in drawn if item.shown.box.intersect(box).area]
        return found.minus(others) if found and others else found


def _same(one: Verdicts, other: Verdicts) -> bool:
    """Whether both are of the same labels."""
    mine, theirs = one.units, other.units
    return one.scene == other.scene and all(
        np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("class_id", "component", "box")
    )


def _unit_of(items: list[Correction]) -> Shape:
    """The mask of a label after its own corrections: the one that was drawn, else the one that got a class or was rejected."""
    return next((item for item in items if item.kind == "shape"), items[0]).whole
