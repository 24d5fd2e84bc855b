"""A finished run over small painted scenes, and a desk at which it is reviewed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra terralabel[review]")

from terralabel.imagery.painter import write_demo
from terralabel.recipes.label import label
from terralabel.recipes.run import Run, open_run
from terralabel.recipes.survey import survey_clusters
from terralabel.review.desk import Desk


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
