"""A finished run over small painted scenes, and a desk at which it is reviewed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra terralabel[review]")

from terralabel.core.grid import Window
from terralabel.core.quality import Signals, Units, Verdicts
from terralabel.export.features import read_labels
from terralabel.imagery.painter import write_demo
from terralabel.recipes.label import label
from terralabel.recipes.quality.store import save_verdicts
from terralabel.recipes.run import Run, open_run
from terralabel.recipes.survey import survey_clusters
from terralabel.review.desk import Desk
from terralabel.runs.engine import InlineEngine


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are painted in this process: starting workers takes longer than the work."""
    for module in ("terralabel.recipes.reviewed", "terralabel.recipes.curate"):
        monkeypatch.setattr(f"{module}.engine_for", lambda workers: InlineEngine())


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, truth/ and a finished run/, surveyed; tests must not change it."""
    folder = tmp_path_factory.mktemp("reviewed")
    write_demo(folder, seed=3, scenes=2, size=160)
    survey_clusters(label(folder / "images", folder / "run", clusters=6, workers=0))
    return folder


@pytest.fixture
def run(reviewed: Path, tmp_path: Path) -> Run:
    """A copy of the run that a test may change."""
    shutil.copytree(reviewed / "run", tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture
def desk(run: Run) -> Iterator[Desk]:
    made = Desk(run, author="ada")
    made.survey = survey_clusters(run)
    yield made
    made.close()


@pytest.fixture
def judged(run: Run) -> Run:
    """The run with a verdict on every class of every scene; every second one was sent to review."""
    rows, scenes, windows = [], [], []
    for scene in run.scenes:
        labels = read_labels(run.label_path(scene.key), Window(0, 0, scene.width, scene.height))
        for class_id in (k for k in np.unique(labels).tolist() if k != 255):
            there = np.argwhere(labels == class_id)
            (top, left), (bottom, right) = there.min(axis=0).tolist(), (there.max(axis=0) + 1).tolist()
            rows.append((class_id, 0, (left, top, right - left, bottom - top), len(there)))
            scenes.append(scene.key)
            windows.append((0, 0, scene.width, scene.height))
    units, n = Units.of_rows(rows), len(rows)
    quality = np.linspace(0.2, 0.9, n).astype(np.float32)
    decision = tuple("review" if k % 2 else "accept" for k in range(n))
    verdicts = Verdicts(tuple(scenes), np.array(windows), units, quality, decision, ("the views disagree",) * n)
    save_verdicts(run.folder, verdicts, {}, Signals(("area",), quality[:, None], units))
    return run
