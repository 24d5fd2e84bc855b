"""Small painted scenes, labelled once for all tests that only look at a run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from terralabel.imagery.painter import write_demo
from terralabel.recipes.label import label
from terralabel.recipes.run import Run, open_run


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ and truth/ of three painted scenes of 160 px."""
    folder = tmp_path_factory.mktemp("painted")
    write_demo(folder, seed=3, scenes=3, size=160)
    return folder


@pytest.fixture(scope="session")
def finished(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over the painted scenes; tests must not change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    label(painted / "images", out, clusters=6, workers=0)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return open_run(tmp_path / "run")


def tree_hashes(folder: Path, leave_out: tuple[str, ...] = ("history.jsonl", ".lock")) -> dict[str, str]:
    """Relative path -> sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave_out
    }
