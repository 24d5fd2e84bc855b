"""docs/write-a-backend.md is one program; it must run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write-a-backend.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_the_example_runs(tmp_path: Path) -> None:
    """As a script of its own: backends must be picklable, so they live in a module."""
    program = tmp_path / "example.py"
    program.write_text("\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "masks; {'area': " in done.stdout and "'stability_score'" in done.stdout


def test_the_page_names_every_check_and_group() -> None:
    import tomllib

    from terralabel import testing

    text = PAGE.read_text(encoding="utf-8")
    assert all(name in text for name in testing.__all__ if name.startswith("check_"))
    groups = tomllib.loads("\n".join(blocks("toml")))["project"]["entry-points"]
    assert set(groups) == {"terralabel.masks", "terralabel.features"}
