"""The queue: labels that a gate sent to review, worst first; what a person says of them becomes corrections of the run."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from terralabel.core import rle
from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.quality import EMPTY, Verdicts
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.corrections import Correction, record_of
from terralabel.export.features import read_labels
from terralabel.export.markup import plain
from terralabel.export.shapes import Shape
from terralabel.export.verdicts import unit_mask
from terralabel.recipes.quality.people import unit_key
from terralabel.recipes.quality.store import load_verdicts
from terralabel.review.desk import Desk
from terralabel.review.state import State
from terralabel.runs.journal import Conflict, Entry

__all__ = ["DECISIONS", "SORTS", "Queue", "outline"]

DECISIONS = ("accept", "reject", "class", "fix")
#: "worst": by the quality that is expected; "gain": by the pixels that are expected to be wrong.
SORTS = ("worst", "gain")
PAGE = 30
#: What is shown around a unit, and the largest part of a scene shown at once, pixels.
_MARGIN, _LARGEST = 48, 1200
#: Masks from clicks that are remembered until they are saved.
_REMEMBERED = 64


class Queue:
    """The judged labels of a run. `verdicts` as the gate left them; None where nobody has judged them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        found = load_verdicts(desk.run.folder)
        self.verdicts: Verdicts | None = None if found is None else found[0]
        self._scenes = {scene.key: scene for scene in desk.run.scenes}
        self._fixes: OrderedDict[str, Shape] = OrderedDict()

    # ---------------------------------------------------------------------------------------------------------- order

    @cached_property
    def _orders(self) -> dict[str, np.ndarray]:
        """(n,) rows sent to review, by how they are sorted."""
        if self.verdicts is None:
            return {name: np.zeros(0, dtype=np.int64) for name in SORTS}
        worst = self.verdicts.worst_first
        sent = np.array([self.verdicts.decision[i] == "review" for i in worst.tolist()], dtype=bool)
        worst = worst[sent]
        wrong = (1 - np.nan_to_num(self.verdicts.quality[worst])) * self.verdicts.units.area[worst]
        return {"worst": worst, "gain": worst[np.argsort(-wrong, kind="stable")]}

    def listed(self, state: State, sort: str = "worst", page: int = 1, decided: bool = False) -> dict[str, Any]:
        """A page of those that are open (or, with `decided`, of all), and how far the work is."""
        order = self._orders[sort if sort in SORTS else "worst"].tolist()
        skip, rows = (max(page, 1) - 1) * PAGE, []
        for row in order:
            if decided or self.key(row) not in state.people:
                if skip:
                    skip -= 1
                    continue
                rows.append(self.row(row, state))
                if len(rows) == PAGE:
                    break
        return {"units": rows, "sort": sort, "page": max(page, 1), **self.progress(state)}

    def progress(self, state: State) -> dict[str, Any]:
        """How many are decided, and the share of the labelled area that is sure: accepted by the gate or by a person."""
        if self.verdicts is None:
            return {"judged": False, "total": 0, "decided": 0, "sure": None}
        total, sure = self._areas
        sure += sum(p.get("area", 0) for p in state.people.values() if p.get("was") != "accept")
        done = sum(1 for p in state.people.values() if p.get("was") == "review")
        return {"judged": True, "total": len(self._orders["worst"]), "decided": done, "sure": min(sure / max(total, 1), 1.0)}

    @cached_property
    def _areas(self) -> tuple[int, int]:
        """(pixels of all judged labels, of those that the gate accepted)."""
        assert self.verdicts is not None
        area = self.verdicts.units.area
        accepted = np.array([d == "accept" for d in self.verdicts.decision], dtype=bool)
        return int(area.sum()), int(area[accepted].sum())

    def key(self, row: int) -> str:
        """`unit_key` of a row."""
        assert self.verdicts is not None
        return unit_key(self.verdicts, row)

    # ----------------------------------------------------------------------------------------------------- one label

    def row(self, row: int, state: State) -> dict[str, Any]:
        """A judged label for people; `InputError` for one that does not exist."""
        verdicts = self._checked(row)
        class_id = self._class_of(row, state)
        quality = float(verdicts.quality[row])
        window = self.window(row)
        return {
            "row": row,
            "scene": list(self._scenes).index(verdicts.scene[row]),
            "name": plain(verdicts.scene[row], 120),
            "class_id": None if class_id == IGNORE else class_id,
            "class": next((plain(e.name, 120) for e in state.classes if e.id == class_id), "nothing labelled"),
            "quality": None if np.isnan(quality) else round(quality, 4),
            "area": int(verdicts.units.area[row]),
            "reasons": plain(verdicts.reasons[row], 600),
            "window": [window.x, window.y, window.width, window.height],
            "box": verdicts.units.box[row].tolist(),
            "decided": state.people.get(self.key(row), {}).get("decision", ""),
        }

    def _checked(self, row: int) -> Verdicts:
        if self.verdicts is None or not 0 <= row < len(self.verdicts):
            raise InputError(f"There is no judged label {row}.", "unknown-label")
        if self.verdicts.scene[row] not in self._scenes:
            raise InputError(f"Judged label {row} lies in a scene that the run no longer has.", "unknown-scene")
        return self.verdicts

    def scene(self, row: int) -> Scene:
        """The scene in which a label lies."""
        return self._scenes[self._checked(row).scene[row]]

    def _class_of(self, row: int, state: State) -> int:
        """The class that a label has now; 255 for none."""
        assert self.verdicts is not None
        painted = int(self.verdicts.units.class_id[row])
        return IGNORE if painted == EMPTY else self.desk.shown(state)[0].get(painted, IGNORE)

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

    def shape(self, row: int) -> Shape | None:
        """The label as the raster shows it: all of the class in its picture, or the one part with the unit's box."""
        scene, verdicts = self.scene(row), self._checked(row)
        class_id = int(verdicts.units.class_id[row])
        box = Window(*verdicts.units.box[row].tolist()).intersect(Window(0, 0, scene.width, scene.height))
        if class_id == EMPTY or not box.area:
            return None
        labels = read_labels(self.desk.run.label_path(scene.key), box)
        mask = unit_mask(labels, class_id, int(verdicts.units.component[row]))
        return Shape.of_runs(rle.encode(mask), box) if mask.any() else None

    # ------------------------------------------------------------------------------------------------------- decisions

    def remember(self, shape: Shape) -> str:
        """Keep a mask from a click until it is saved; returns its name."""
        token = uuid.uuid4().hex
        self._fixes[token] = shape
        while len(self._fixes) > _REMEMBERED:
            self._fixes.popitem(last=False)
        return token

    def decide(self, row: int, decision: str, *, class_id: int | None = None, mask: str = "", seen: int) -> Entry:
        """Accept, reject, give another class ("class"), or another mask ("fix", named by `remember`).

        What a person accepted or corrected becomes a correction, which every rerun keeps; what was rejected gets no label.
        """
        desk = self.desk
        with desk.turn():
            verdicts, state, key = self._checked(row), desk.now(), self.key(row)
            since = [entry for entry in desk.journal.entries(seen) if f"unit {key}" in entry.keys]
            if since:
                raise Conflict(since)
            now = self._class_of(row, state) if class_id is None else class_id
            known = {entry.id: entry.name for entry in state.classes}
            if decision in ("class", "fix") and now not in known:
                raise InputError(f"No class {now}: choose one of the run's.", "unknown-class")
            source = f"review {uuid.uuid4().hex[:16]}"
            items = self._corrections(row, decision, now, mask, source)
            record = {
                "decision": "reject" if decision == "reject" else "accept",
                "class_id": now,
                "who": desk.author,
                "area": int(verdicts.units.area[row]),
                "was": verdicts.decision[row],
            }
            added = [record_of(item) for item in items]
            what = {"verdicts": {key: record}, "corrections": {"add": added, "remove": []}}
            back = {"verdicts": {key: state.people.get(key)}, "corrections": {"add": [], "remove": [source] if added else []}}
            words = {
                "accept": "accepted",
                "reject": "rejected",
                "class": f"is “{known.get(now, now)}”",
                "fix": "has another mask",
            }
            said = f"label {row} in {verdicts.scene[row]} {words[decision]}"
            return desk.journal.append(what, back, keys=[f"unit {key}"], said=said, who=desk.author, seen=seen)

    def _corrections(self, row: int, decision: str, class_id: int, mask: str, source: str) -> list[Correction]:
        scene, before = self.scene(row).key, self.shape(row)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def made(kind: str, class_id: int, shape: Shape) -> Correction:
            return Correction(scene, class_id, shape, None, kind, self.desk.author, when, source)

        if decision == "fix":
            drawn = self._fixes.get(mask)
            if drawn is None:
                raise InputError("That mask is not remembered any more: click again.", "unknown-mask")
            rest = before.minus([drawn]) if before else None
            return [*([made("deleted", IGNORE, rest)] if rest else []), made("shape", class_id, drawn)]
        if before is None:
            return []
        if decision == "reject":
            return [made("deleted", IGNORE, before)]
        return [made("class", class_id, before)] if class_id != IGNORE else []


def outline(shape: Shape | None, frame: Window) -> str:
    """The outline of a mask as an SVG path in pixels of a frame; "" for no mask."""
    if shape is None:
        return ""
    common = shape.box.intersect(frame)
    if not common.area:
        return ""
    mask = np.pad(shape.crop(common).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    x, y = common.x - frame.x, common.y - frame.y
    rings = [((ring[:, 0] - 0.5) / 2 + (x, y)).round(1).tolist() for ring in contours if len(ring) > 2]
    return "".join("M" + "L".join(f"{a:g} {b:g}" for a, b in ring) + "Z" for ring in rings)
