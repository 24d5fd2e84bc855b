"""What people decided about judged labels; it wins over any gate, now and after every rerun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from terralabel.core.files import write_text
from terralabel.core.quality import Verdicts
from terralabel.errors import RunError
from terralabel.runs.folder import RunFolder

__all__ = ["decided_by_people", "load_people", "save_people", "unit_key"]


def unit_key(verdicts: Verdicts, row: int) -> str:
    """Names a judged unit by where it lies, so that what a person said of it survives another judging."""
    units = verdicts.units
    box = ",".join(str(v) for v in units.box[row].tolist())
    return f"{verdicts.scene[row]}|{int(units.class_id[row])}|{int(units.component[row])}|{box}"


def load_people(folder: RunFolder) -> dict[str, Any]:
    """`unit_key` -> {"decision", "class_id", "who"} of the units that a person decided."""
    path = folder.corrections_path / "verdicts.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): restore it from a copy.") from error


def save_people(folder: RunFolder, people: Mapping[str, Any]) -> None:
    """Store what `load_people` reads."""
    write_text(folder.corrections_path / "verdicts.json", json.dumps(people, indent=1, sort_keys=True) + "\n")


def decided_by_people(verdicts: Verdicts, people: Mapping[str, Any]) -> Verdicts:
    """The verdicts with a person's decision where there is one; their reason says so."""
    if not people:
        return verdicts
    said = [people.get(unit_key(verdicts, row)) for row in range(len(verdicts))]
    decision = tuple(s["decision"] if s else d for s, d in zip(said, verdicts.decision, strict=True))
    reasons = tuple("decided by a person" if s else r for s, r in zip(said, verdicts.reasons, strict=True))
    return replace(verdicts, decision=decision, reasons=reasons)
