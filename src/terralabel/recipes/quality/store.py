"""Verdicts on labels as a part of a run: written once, read by `export`, `report` and `status`, kept by reruns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.quality import Signals, Units, Verdicts
from terralabel.imagery.sources import content_hash
from terralabel.recipes.quality.following import classes_now, followed
from terralabel.recipes.quality.people import decided_by_people, load_people
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.parts import Part, read_part, write_part

if TYPE_CHECKING:
    from terralabel.export.judged import QualityPage

__all__ = [
    "Judged",
    "label_hashes",
    "load_judged",
    "load_signals",
    "load_verdicts",
    "quality_page",
    "quality_parts",
    "save_verdicts",
]

_STAGE = "quality"
_COLUMNS = ("scene", "window", "class_id", "component", "box", "area", "quality", "decision", "reasons", "signals")


@dataclass(frozen=True)
class Judged:
    """What a run knows of the quality of its labels.

    `notes`: "judge" (its sha256, or "rules"), "gate", "labels" (scene key -> sha256 of the raster that was judged), and what
    else the writer put there. `stale`: keys of the scenes whose rasters are not those that were judged.
    """

    verdicts: Verdicts
    notes: Mapping[str, Any]
    stale: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Counts by decision, the gate and the judge, JSON-able."""
        known = {name: self.notes[name] for name in ("gate", "judge") if name in self.notes}
        return {**self.verdicts.counts, **known, "stale scenes": list(self.stale)}

    def lines(self) -> list[str]:
        """What a person wants to know, a sentence a line."""
        counts = self.verdicts.counts
        total = max(len(self.verdicts), 1)
        shares = ", ".join(f"{n:,} {name} ({n / total:.0%})" for name, n in counts.items())
        out = [f"{len(self.verdicts):,} labels judged: {shares}"]
        if note := self.notes.get("judge_note"):
            out.append(f"judge: {note}")
        if self.stale:
            out.append(f"{len(self.stale):,} scenes have other labels since (the first: {self.stale[0]}): judge them again")
        return out


def label_hashes(paths: Mapping[str, Path]) -> dict[str, str]:
    """Scene key -> sha256 of its label raster."""
    return {key: content_hash(path) for key, path in paths.items()}


def quality_parts(folder: RunFolder) -> set[Path]:
    """The parts with verdicts; at most one, if no process was killed between two."""
    return set((folder.path / "parts" / _STAGE).glob("*.parquet"))


def quality_page(judged: Judged, scratch: Path) -> QualityPage:
    """What the report shows of it; the diagrams of the judge are drawn into the folder `scratch`."""
    from terralabel.evaluate.calibration import reliability_picture, risk_coverage_picture
    from terralabel.export.judged import QualityPage

    notes = judged.notes
    predicted, true = (np.array(column, dtype=np.float64) for column in notes.get("held_out", ((), ())))
    pictures = []
    if len(true):
        pictures = [
            ("reliability", reliability_picture(scratch / "reliability.png", predicted, true)),
            ("risk and coverage", risk_coverage_picture(scratch / "risk_coverage.png", predicted, true)),
        ]
    told = [*judged.lines()[1:], str(notes.get("gate", {}).get("note", ""))]
    lines = [line[:1].upper() + line[1:] + "." for line in told if line]
    return QualityPage(judged.verdicts, lines, pictures)


def save_verdicts(folder: RunFolder, verdicts: Verdicts, notes: Mapping[str, Any], signals: Signals) -> Path:
    """Store the verdicts, and the signals they rest on, in place of those before; returns the part.

    `notes` should hold "labels" (`label_hashes`): where a raster is another one later, its verdicts are known to be stale; and
    "measured": the settings of the signals, or {"by": NAME, "units": ...} where whoever made the labels measured them.
    """
    notes = {**notes, "signals": list(signals.names)}
    units = verdicts.units
    columns = {
        "scene": np.array(verdicts.scene, dtype=str),
        "window": verdicts.window,
        "class_id": units.class_id,
        "component": units.component,
        "box": units.box,
        "area": units.area,
        "quality": verdicts.quality,
        "decision": np.array(verdicts.decision, dtype=str),
        "reasons": np.array(verdicts.reasons, dtype=str),
        "signals": signals.values,
    }
    shown = [
        signals.values.tobytes().hex(),
        verdicts.quality.tobytes().hex(),
        list(verdicts.decision),
        list(verdicts.reasons),
        list(verdicts.scene),
    ]
    path = folder.part_path(_STAGE, "all", digest([dict(notes), units.box.tolist(), units.class_id.tolist(), *shown]))
    write_part(path, columns, notes)
    for old in quality_parts(folder) - {path}:
        old.unlink()
    return path


def load_verdicts(folder: RunFolder) -> tuple[Verdicts, Mapping[str, Any]] | None:
    """The verdicts and the notes of a run; None when nobody has judged it."""
    paths = quality_parts(folder)
    if not paths:
        return None
    part = read_part(_latest(paths), [name for name in _COLUMNS if name != "signals"])
    return _verdicts(part), part.notes


def load_signals(folder: RunFolder) -> tuple[Verdicts, Signals, Mapping[str, Any]] | None:
    """As `load_verdicts`, with the signals; None where there are none that are whole."""
    paths = quality_parts(folder)
    if not paths:
        return None
    part = read_part(_latest(paths))
    verdicts = _verdicts(part)
    names, values = tuple(part.notes.get("signals", ())), np.asarray(part.columns["signals"])
    return verdicts, Signals(names, values.reshape(len(verdicts), len(names)), verdicts.units), part.notes


def _latest(paths: set[Path]) -> Path:
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _verdicts(part: Part) -> Verdicts:
    columns = {name: np.asarray(column) for name, column in part.columns.items()}
    units = Units(columns["class_id"], columns["component"], columns["box"].reshape(-1, 4), columns["area"])
    scene, decision, reasons = (tuple(columns[name].tolist()) for name in ("scene", "decision", "reasons"))
    return Verdicts(scene, columns["window"].reshape(-1, 4), units, columns["quality"], decision, reasons)


def load_judged(folder: RunFolder, label_paths: Mapping[str, Path]) -> Judged | None:
    """The verdicts of a run, under its classes of now, and the scenes whose label raster has changed since; None when nobody judged it."""
    found = load_verdicts(folder)
    if found is None:
        return None
    verdicts, notes = found
    verdicts = decided_by_people(verdicts, load_people(folder))
    if "clusters" in notes:
        verdicts = followed(verdicts, classes_now(notes, Classes.from_json(folder.classes_path.read_text(encoding="utf-8"))))
    known = notes.get("labels", {})
    stale = [key for key, path in label_paths.items() if key in known and known[key] != content_hash(path)]
    return Judged(verdicts, notes, tuple(sorted(stale)))
