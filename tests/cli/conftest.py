"""A run over one painted scene, made once, and the command as a person types it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from terralabel.cli.main import run as terralabel
from terralabel.imagery.painter import write_demo
from terralabel.recipes.label import label


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`say("status", folder)` runs the command in this process."""

    def call(*words: object) -> Said:
        with pytest.raises(SystemExit) as left:
            terralabel([str(word) for word in words])
        code = left.value.code
        return Said(code if isinstance(code, int) else -1, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, truth/ and classes.json of one painted scene of 128 px."""
    folder = tmp_path_factory.mktemp("painted")
    write_demo(folder, seed=5, scenes=1, size=128)
    return folder


@pytest.fixture(scope="session")
def finished(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    label(painted / "images", out, clusters=4, workers=0)
    return out


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """A run that was stopped before its clusters were fitted."""
    out = tmp_path / "stopped"
    shutil.copytree(finished, out)
    for late in ("clusters", "assigned", "labels"):
        shutil.rmtree(out / "parts" / late)
    shutil.rmtree(out / "labels")
    (out / "classes.json").unlink()
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    return out
