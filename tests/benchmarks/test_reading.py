"""The benchmark of reading measures what it says, on small files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from terralabel.imagery.painter import write_demo

_PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "reading.py"
_SPEC = importlib.util.spec_from_file_location("benchmark_reading", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
reading = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reading)


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_a_file_is_read_row_by_row(tmp_path: Path) -> None:
    images, _ = write_demo(tmp_path, scenes=1, size=128)
    found = reading.read(images / "scene_1.tif")
    assert set(found) == {"row", "last", "peak"} and found["peak"] > 10 and 0 <= found["row"] < 10


def test_every_kind_of_number_is_mapped() -> None:
    speeds = reading.mapping_speed(64)
    assert set(speeds) == {"uint8", "uint16", "int32", "float32", "float64"} and min(speeds.values()) > 0
