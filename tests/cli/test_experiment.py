"""experiment run: the plan, a mistake in the file, and cells that fail, as a person meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """One cell, whose data are not there."""
    path = tmp_path / "grid.yaml"
    path.write_text("data:\n  mine: {folder: absent}\nnetworks: upernet-r18\nseeds: 0\n")
    return path


def test_a_dry_run_lists_the_cells_and_writes_nothing(grid: Path, tmp_path: Path, say: Callable[..., Any]) -> None:
    said = say("experiment", "run", grid, "--out", tmp_path / "out", "--dry-run")
    assert said.out == (
        "to do mine, upernet-r18, none, all images, seed 0\n1 cells, 0 done; 0 pre-trainings on labels (none)\n"
    )
    assert said.code == 0 and not (tmp_path / "out").exists()


def test_failed_cells_are_exit_code_2(grid: Path, tmp_path: Path, say: Callable[..., Any]) -> None:
    said = say("experiment", "run", grid, "--out", tmp_path / "out", "--data", tmp_path, "-q")
    assert said.code == 2 and "0 of 1 cells done" in said.out
    assert f"failed  mine, upernet-r18, none, seed 0: {tmp_path / 'absent'} does not exist" in said.out
    assert "## Failed" in (tmp_path / "out" / "table.md").read_text()


def test_a_mistake_in_the_file_is_one_line(grid: Path, tmp_path: Path, say: Callable[..., Any]) -> None:
    grid.write_text(grid.read_text() + "netwroks: a\n")
    said = say("experiment", "run", grid, "--out", tmp_path / "out")
    assert (said.code, said.err) == (1, f"error: {grid}:5: unknown setting 'netwroks'. Did you mean 'networks'?\n")
    assert not (tmp_path / "out").exists()
