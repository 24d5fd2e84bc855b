"""The demo: everything it promises is there, and a second time gives the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from terralabel.core.classes import Classes
from terralabel.recipes.demo import run_demo
from terralabel.recipes.run import open_run
from terralabel.runs.engine import InlineEngine


def test_the_demo_leaves_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("label", "curate"):
        monkeypatch.setattr(f"terralabel.recipes.{module}.engine_for", lambda workers: InlineEngine())
    out = tmp_path / "demo"
    text = run_demo(out, scenes=1, size=160, seed=1)
    scores = json.loads((out / "scores.json").read_text())
    assert f"matched mIoU {scores['miou']:.3f}" in text and 0.2 < scores["miou"] < 1
    painted = Classes.from_json((out / "classes.json").read_text())
    named = {entry.id: entry.name for entry in open_run(out / "run").classes}
    assert {entry.id: entry.name for entry in painted}.items() <= named.items(), "classes carry the painted names"
    assert {p.suffix for p in (out / "export").rglob("*")} >= {".tif", ".qml", ".gpkg", ".json"}
    assert (out / "demo.png").stat().st_size > 10_000
    assert painted.entries[0].name in (out / "report.html").read_text(encoding="utf-8")
    assert run_demo(out, scenes=1, size=160, seed=1) == text
