"""The queue: labels that a gate sent to review, worst first; what a person says of them becomes corrections of the run."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.quality import EMPTY
from terralabel.errors import InputError
from terralabel.export.corrections import Correction, record_of
from terralabel.export.markup import plain
from terralabel.export.shapes import Shape
from terralabel.review.desk import Desk
from terralabel.review.judged import SOURCE, JudgedLabels
from terralabel.review.state import State
from terralabel.runs.journal import Conflict, Entry

__all__ = ["DECISIONS", "PAGE", "SORTS", "Queue", "Wanted", "outline"]

DECISIONS = ("accept", "reject", "class", "fix", "add")
#: "worst": by the quality that is expected; "gain": by the pixels that are expected to be wrong.
SORTS = ("worst", "gain")
PAGE = 30
#: Masks from clicks that are remembered until they are saved.
_REMEMBERED = 64


@dataclass(frozen=True)
class Wanted:
    """Which labels are listed: in what order, on which page, with decided ones or without; of a class (-1: all), of scenes whose name has `q`."""

    sort: str = "worst"
    page: int = 1
    decided: bool = False
    of: int = -1
    q: str = ""


class Queue:
    """The judged labels of a run, as a person works through them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.labels = desk, JudgedLabels(desk)
        self._fixes: OrderedDict[str, Shape] = OrderedDict()

    # ---------------------------------------------------------------------------------------------------------- order

    @cached_property
    def _orders(self) -> dict[str, np.ndarray]:
        """(n,) rows sent to review, by how they are sorted."""
        verdicts = self.labels.verdicts
        assert verdicts is not None
        worst = verdicts.worst_first
        sent = np.array([verdicts.decision[i] == "review" for i in worst.tolist()], dtype=bool)
        worst = worst[sent]
        gain = self.gain[worst]
        return {"worst": worst, "gain": worst[np.argsort(-gain, kind="stable")]}

    @cached_property
    def gain(self) -> np.ndarray:
        """(n,) float64: what a decision on each label is worth, the pixels of it that are expected to be wrong.

        With an expected IoU of q, of the pixels that the label and the truth have together 1 - q are in one of them only; a label
        without a score counts as wrong.
        """
        verdicts = self.labels.verdicts
        assert verdicts is not None
        wrong = 1 - np.nan_to_num(verdicts.quality.astype(np.float64))
        return np.asarray(wrong * verdicts.units.area)

    def listed(self, state: State, wanted: Wanted | None = None) -> dict[str, Any]:
        """A page of those that are wanted, and how far the work is."""
        wanted = wanted or Wanted()
        self.labels.follow()
        sort = wanted.sort if wanted.sort in SORTS else "worst"
        page = max(wanted.page, 1)
        told = {"sort": sort, "page": page, "of": wanted.of, "q": wanted.q, "everything": wanted.decided}
        if self.labels.verdicts is None:
            return {"units": [], "more": False, **told, **self.progress(state)}
        rows: list[dict[str, Any]] = []
        skip = (page - 1) * PAGE
        for row in self._chosen(state, sort, wanted).tolist():
            if wanted.decided or self.labels.key(row) not in state.people:
                if skip:
                    skip -= 1
                elif len(rows) == PAGE:
                    return {"units": rows, "more": True, **told, **self.progress(state)}
                else:
                    rows.append(self.row(row, state))
        return {"units": rows, "more": False, **told, **self.progress(state)}

    def _chosen(self, state: State, sort: str, wanted: Wanted) -> np.ndarray:
        """Rows in order, decided or not, of the class and the scenes that are wanted; labels whose class was dropped are none."""
        order, labels = self._orders[sort], self.labels
        assert labels.verdicts is not None
        table = labels.class_table(state)
        judged = labels.verdicts.units.class_id[order]
        known, place = np.unique(judged, return_inverse=True)
        now = np.array([table.get(k, IGNORE) for k in known.tolist()], dtype=np.int64)[place]
        kept = (now == wanted.of) if wanted.of >= 0 else (now != IGNORE) | (judged == EMPTY)
        text = wanted.q.lower().strip()
        if text:
            found = [index for index, key in enumerate(labels.scenes) if text in key.lower()]
            kept &= np.isin(labels.scene_index[order], found)
        return np.asarray(order[kept])

    def progress(self, state: State) -> dict[str, Any]:
        """How many are decided, and the share of the labelled area that is sure: accepted by the gate or by a person."""
        if self.labels.verdicts is None:
            return {"judged": False, "total": 0, "decided": 0, "sure": None}
        total, sure = self._areas
        sure += sum(p.get("area", 0) for p in state.people.values() if p.get("was") != "accept")
        done = sum(1 for p in state.people.values() if p.get("was") == "review")
        return {"judged": True, "total": len(self._orders["worst"]), "decided": done, "sure": min(sure / max(total, 1), 1.0)}

    def open_in(self, state: State) -> np.ndarray:
        """(scenes,) int64: how many labels of each scene wait for a person."""
        count = len(self.desk.run.scenes)
        if self.labels.verdicts is None:
            return np.zeros(count, dtype=np.int64)
        there = self.labels.scene_index[self._orders["worst"]]
        left = np.bincount(there[there >= 0], minlength=count)
        for key, said in state.people.items():
            index = self.desk.index_of.get(key.rsplit("|", 3)[0])
            if index is not None and said.get("was") == "review":
                left[index] -= 1
        return np.maximum(left, 0)

    @cached_property
    def _areas(self) -> tuple[int, int]:
        """(pixels of all judged labels, of those that the gate accepted)."""
        verdicts = self.labels.verdicts
        assert verdicts is not None
        accepted = np.array([d == "accept" for d in verdicts.decision], dtype=bool)
        return int(verdicts.units.area.sum()), int(verdicts.units.area[accepted].sum())

    # ----------------------------------------------------------------------------------------------------- one label

    def row(self, row: int, state: State) -> dict[str, Any]:
        """A judged label for people; `InputError` for one that does not exist."""
        verdicts = self.labels.checked(row)
        class_id = self.labels.class_of(row, state)
        quality = float(verdicts.quality[row])
        window = self.labels.window(row)
        return {
            "row": row,
            "scene": self.desk.index_of[verdicts.scene[row]],
            "name": plain(verdicts.scene[row], 120),
            "class_id": None if class_id == IGNORE else class_id,
            "class": next((plain(e.name, 120) for e in state.classes if e.id == class_id), "nothing labelled"),
            "quality": None if np.isnan(quality) else round(quality, 4),
            "area": int(verdicts.units.area[row]),
            "gain": round(float(self.gain[row])),
            "reasons": plain(verdicts.reasons[row], 600),
            "window": [window.x, window.y, window.width, window.height],
            "box": verdicts.units.box[row].tolist(),
            "decided": state.people.get(self.labels.key(row), {}).get("decision", ""),
        }

    # ------------------------------------------------------------------------------------------------------- decisions

    def remember(self, shape: Shape) -> str:
        """Keep a mask from a click until it is saved; returns its name."""
        token = uuid.uuid4().hex
        self._fixes[token] = shape
        while len(self._fixes) > _REMEMBERED:
            self._fixes.popitem(last=False)
        return token

    def decide(self, row: int, decision: str, *, class_id: int | None = None, mask: str = "", seen: int) -> Entry:
        """Accept, reject, give another class ("class"), or another mask ("fix", named by `remember`); or "add" that mask as a label of its own.

        What a person accepted or corrected becomes a correction, which every rerun keeps; what was rejected gets no label. After
        "add" the label in whose picture that was is as open as before.
        """
        desk = self.desk
        with desk.turn():
            self.labels.follow()
            verdicts, state, key = self.labels.checked(row), desk.now(), self.labels.key(row)
            since = [entry for entry in desk.journal.entries(seen) if f"unit {key}" in entry.keys]
            if since:
                raise Conflict(since)
            now = self.labels.class_of(row, state) if class_id is None else class_id
            known = {entry.id: entry.name for entry in state.classes}
            if decision in ("class", "fix", "add") and now not in known:
                raise InputError(f"No class {now}: choose one of the run's.", "unknown-class")
            source = f"{SOURCE}{uuid.uuid4().hex[:16]}"
            items = self._corrections(row, decision, now, mask, source, state)
            record = {
                "decision": "reject" if decision == "reject" else "accept",
                "class_id": now,
                "who": desk.author,
                "area": int(verdicts.units.area[row]),
                "was": verdicts.decision[row],
                "source": source,
            }
            added = [record_of(item) for item in items]
            what: dict[str, Any] = {"corrections": {"add": added, "remove": []}}
            back: dict[str, Any] = {"corrections": {"add": [], "remove": [source] if added else []}}
            if decision != "add":
                what["verdicts"], back["verdicts"] = {key: record}, {key: state.people.get(key)}
            words = {
                "accept": "accepted",
                "reject": "rejected",
                "class": f"is “{known.get(now, now)}”",
                "fix": "has another mask",
                "add": f"has “{known.get(now, now)}” beside it",
            }
            said = f"label {row} in {verdicts.scene[row]} {words[decision]}"
            return desk.journal.append(what, back, keys=[f"unit {key}"], said=said, who=desk.author, seen=seen)

    def _corrections(self, row: int, decision: str, class_id: int, mask: str, source: str, state: State) -> list[Correction]:
        scene, before = self.labels.scene(row).key, self.labels.shape(row, state)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def made(kind: str, class_id: int, shape: Shape) -> Correction:
            return Correction(scene, class_id, shape, None, kind, self.desk.author, when, source)

        if decision in ("fix", "add"):
            drawn = self._fixes.get(mask)
            if drawn is None:
                raise InputError("That mask is not remembered any more: click again.", "unknown-mask")
            if decision == "add":
                return [made("drawn", class_id, drawn)]
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
