"""The benchmark runs, compares like with like, and writes what it printed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench.py"
_SPEC = importlib.util.spec_from_file_location("bench", _PATH)
bench = importlib.util.module_from_spec(_SPEC)
sys.modules["bench"] = bench  # dataclasses look their module up
_SPEC.loader.exec_module(bench)


def test_pooling_painting_and_stitching_run_tiny_and_agree_with_their_references(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = bench.main(["--quick", "--only", "pooling", "painting", "stitch", "--json", str(tmp_path / "out" / "bench.json")])
    printed = capsys.readouterr().out
    assert "same labels: True" in printed and bench.machine().split(",")[0] in printed
    difference = next(row.note for row in rows if row.part == "pooling").split()[2].rstrip(";")
    assert float(difference) < 1e-5
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert written["quick"] and [row["part"] for row in written["rows"]] == [row.part for row in rows]
    assert all(row["ratio"] > 1 for row in written["rows"] if row["theirs"])


def test_functions_take_turns() -> None:
    calls: list[str] = []
    timings = bench.interleaved(3, lambda: calls.append("a"), lambda: calls.append("b"))
    assert calls == ["a", "b"] * 3
    assert all(t.low <= t.median <= t.high and t.repeats == 3 for t in timings)
