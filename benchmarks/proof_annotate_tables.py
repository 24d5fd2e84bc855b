"""The tables and pictures of `proof_annotate.py`, from its cells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.files import write_text
from terralabel.evaluate.bars import Bar, Group, draw_bars
from terralabel.evaluate.calibration import quality_report, reliability_picture, risk_coverage_picture
from terralabel.testing.coarse import KINDS

__all__ = ["Cell", "read_cells", "write_results"]

_STARTS = ("D0", "D1", "D2", "D3", "D4", "forest", "unet")
_MEASURES = (("target", "target IoU"), ("miou", "mIoU"), ("precision", "P"), ("recall", "R"), ("f1", "F1"))


@dataclass(frozen=True)
class Cell:
    """One figure: its set, what it is ("judge", "D0" .. "D4", "forest", "unet", or a kind of coarse labels), the seed."""

    data_set: str
    what: str
    seed: int

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.data_set}-{self.what}-{self.seed}"


def read_cells(out: Path) -> dict[Cell, dict[str, Any]]:
    """Cell -> what was found, of all that are done."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "cells").glob("*.json"))]
    return {Cell(**record["cell"]): record for record in records}


def write_results(out: Path) -> str:
    """`annotate.md`, and the pictures of what is there; returns the tables as Markdown."""
    cells = read_cells(out)
    parts = [protocol_table(cells), measures_table(cells), judge_table(cells), enhance_table(cells), cost(cells)]
    text = "\n\n".join(part for part in parts if part)
    write_text(out / "annotate.md", text + "\n")
    groups = _protocol_bars(cells)
    if groups:
        draw_bars(out / "protocol.png", "target IoU on test images, %", groups)
    groups = _enhance_bars(cells)
    if groups:
        draw_bars(out / "enhance.png", "IoU to the truth before and after, %", groups)
    found = list(_judged(cells, _sets(cells)).values())
    predicted, true = (np.concatenate([entry[i] for entry in found] or [np.zeros(0)]) for i in (0, 1))
    if len(true) > 1:
        reliability_picture(out / "reliability.png", predicted, true)
        risk_coverage_picture(out / "risk_coverage.png", predicted, true)
    return text


def _sets(cells: Mapping[Cell, Any]) -> list[str]:
    return sorted({cell.data_set for cell in cells})


def _of(cells: Mapping[Cell, dict[str, Any]], name: str, what: str) -> dict[int, dict[str, Any]]:
    """Seed -> what was found."""
    return {cell.seed: found for cell, found in cells.items() if (cell.data_set, cell.what) == (name, what)}


def _values(cells: Mapping[Cell, dict[str, Any]], name: str, what: str, measure: str) -> dict[int, float]:
    return {seed: float(found["measures"][measure]) for seed, found in _of(cells, name, what).items()}


def shown(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """Mean and spread (n - 1) of what is no NaN; of one value there is no spread."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return ""
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):{sign}.{digits}f}{spread}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(row) + " |" for row in (head, *lines)]
    return "\n".join([rows[0], "|---|" + "--:|" * (len(head) - 1), *rows[1:]])


def protocol_table(cells: Mapping[Cell, dict[str, Any]]) -> str:
    """Target IoU of every start; D1 over D0, D1 - D4 and D3 - D2, seed by seed; the last row is over all sets and seeds."""
    lines, every = [], Compared([], [], [])
    for name in _sets(cells):
        values = {what: _values(cells, name, what, "target") for what in _STARTS}
        if not any(values.values()):
            continue
        found = Compared.of(values)
        every = every + found
        seeds = str(max(len(v) for v in values.values()))
        lines.append([name, seeds, *(shown(list(values[what].values())) for what in _STARTS), *found.cells])
    if len(lines) > 1:
        lines.append(["all sets", "", *[""] * len(_STARTS), *every.cells])
    head = ["set", "seeds", *_STARTS, "D1 / D0", "D1 - D4", "D3 - D2"]
    return _table(head, lines) if lines else ""


@dataclass(frozen=True)
class Compared:
    """D1 / D0, D1 - D4 and D3 - D2, a number for each seed that has both."""

    ratio: list[float]
    filtered: list[float]
    added: list[float]

    @classmethod
    def of(cls, values: Mapping[str, Mapping[int, float]]) -> Compared:
        """Of start -> seed -> target IoU."""

        def pairs(one: str, other: str) -> list[tuple[float, float]]:
            return [(values[one][seed], values[other][seed]) for seed in sorted(values[one].keys() & values[other].keys())]

        ratio = [a / b for a, b in pairs("D1", "D0") if b]
        return cls(ratio, *([a - b for a, b in pairs(*both)] for both in (("D1", "D4"), ("D3", "D2"))))

    def __add__(self, other: Compared) -> Compared:
        return Compared(self.ratio + other.ratio, self.filtered + other.filtered, self.added + other.added)

    @property
    def cells(self) -> list[str]:
        """Mean and spread of each."""
        return [shown(self.ratio, 2), shown(self.filtered, sign="+"), shown(self.added, sign="+")]


def measures_table(cells: Mapping[Cell, dict[str, Any]]) -> str:
    """All measures of every start, a row each."""
    lines = []
    for name in _sets(cells):
        for what in _STARTS:
            found = {measure: list(_values(cells, name, what, measure).values()) for measure, _ in _MEASURES}
            if found["target"]:
                images = [float(record["images"]) for record in _of(cells, name, what).values()]
                lines.append([name, what, f"{np.mean(images):.0f}", *(shown(found[measure]) for measure, _ in _MEASURES)])
    return _table(["set", "learned from", "images", *(title for _, title in _MEASURES)], lines) if lines else ""


def _judged(cells: Mapping[Cell, dict[str, Any]], names: Sequence[str]) -> dict[int, tuple[np.ndarray, np.ndarray, list[str]]]:
    """Seed -> predicted and true IoU, and the decision, of the labels of some sets."""
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for name in names:
        for seed, found in _of(cells, name, "judge").items():
            by_seed.setdefault(seed, []).extend(unit for unit in found["units"] if unit["true"] is not None)
    out = {}
    for seed, units in sorted(by_seed.items()):
        predicted, true = (np.array([unit[key] for unit in units], dtype=np.float64) for key in ("quality", "true"))
        out[seed] = predicted, true, [unit["decision"] for unit in units]
    return out


def judge_table(cells: Mapping[Cell, dict[str, Any]]) -> str:
    """The evaluator on B, which it has not seen: order, calibration, and how good what it accepted and rejected was; a judge a seed."""
    lines = []
    names = _sets(cells)
    for title, group in (*((name, [name]) for name in names), ("all sets", names)):
        found = [entry for entry in _judged(cells, group).values() if len(entry[1])]
        if found:
            reports = [quality_report(*entry) for entry in found]
            figures = [[r.mean_true, r.spearman, r.auc, r.ece, r.kept, r.reviewed, r.rejected] for r in reports]
            decisions = [decision for entry in found for decision in entry[2]]
            counts = f"{decisions.count('accept')} / {decisions.count('review')} / {decisions.count('reject')}"
            lines.append([title, str(len(decisions)), counts, *(shown(column) for column in zip(*figures, strict=True))])
    head = ["set", "labels", "accept / review / reject", "true IoU", "Spearman", "AUC", "ECE", "accepted", "review", "rejected"]
    return _table(head, lines) if lines else ""


def enhance_table(cells: Mapping[Cell, dict[str, Any]]) -> str:
    """IoU of coarse labels to the truth before and after."""
    lines = []
    for name in _sets(cells):
        for kind in (*KINDS, "exact"):
            found = _of(cells, name, kind).values()
            before, after = ([float(r[when]["target"]) for r in found] for when in ("before", "after"))
            if before:
                gain = [b - a for a, b in zip(before, after, strict=True)]
                lines.append([name, kind, str(len(before)), shown(before), shown(after), f"{np.mean(gain):+.3f}"])
    return _table(["set", "labels", "seeds", "before", "after", "gain"], lines) if lines else ""


def cost(cells: Mapping[Cell, dict[str, Any]]) -> str:
    """One line on what it took."""
    seconds = sum(float(record["cpu_seconds"]) for record in cells.values())
    return f"{len(cells)} cells, {seconds / 60:.0f} minutes of one core." if cells else ""


def _protocol_bars(cells: Mapping[Cell, dict[str, Any]]) -> list[Group]:
    groups = []
    for name in _sets(cells):
        found = {what: 100 * np.array(list(_values(cells, name, what, "target").values())) for what in _STARTS}
        bars = [Bar(what, float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else 0.0) for what, v in found.items() if len(v)]
        groups += [Group(name, bars)] if bars else []
    return groups


def _enhance_bars(cells: Mapping[Cell, dict[str, Any]]) -> list[Group]:
    groups = []
    for name in _sets(cells):
        for kind in KINDS:
            found = list(_of(cells, name, kind).values())
            if found:
                bars = [Bar(when, 100 * float(np.mean([r[when]["target"] for r in found]))) for when in ("before", "after")]
                groups.append(Group(f"{name} {kind}", bars))
    return groups
