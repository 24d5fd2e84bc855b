"""log.csv and its curves."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from terralabel.train.segmentation.logs import Log, read_log
from terralabel.train.segmentation.loop import draw_training


def test_lines_after_the_step_that_is_gone_on_from_are_dropped(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (10, 20, 30):
        log.add({"step": step, "loss": 1 / step, "miou": 0.5})
    log.close()
    with open(tmp_path / "log.csv", "a") as handle:
        handle.write("40,0.")  # cut off by a crash
    again = Log(tmp_path, 20)
    again.add({"step": 30, "loss": 0.1})
    again.close()
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[-1] == {"step": 30, "loss": 0.1}


def test_no_log_no_curves(tmp_path: Path) -> None:
    assert draw_training(tmp_path) is None
    log = Log(tmp_path, 0)
    log.add({"step": 1, "loss": 2.0, "miou": 0.1, "val_miou": 0.2})
    log.close()
    assert draw_training(tmp_path) == tmp_path / "curves.png"


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path, 0)
    for step in (10, 20, 30):
        log.add({"step": step, "loss": 1 / step})
    log.close()
    again = Log(tmp_path, 20)
    again.add({"step": 30, "loss": 0.25, "val_miou": 0.5})
    again.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [10, 20, 30]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([0.1, 0.05, 0.25])
    assert [(e.step, e.value) for e in events.Scalars("val_miou")] == [(30, 0.5)]
