from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from terralabel.core.files import TEMPORARY_PREFIX, atomic_path, space_error, write_text
from terralabel.errors import SpaceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    final = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent and temporary.suffix == ".txt"
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        temporary.write_text("half")
        assert not final.exists()
    assert final.read_text() == "half" and names(final.parent) == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    write_text(final, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(final) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert final.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failing_call_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    final = tmp_path / "a.txt"
    write_text(final, "old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError if code == errno.EIO else SpaceError):
        write_text(final, "new")
    assert final.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call, left", [("fsync", ["a.txt", "old"]), ("replace", ["a.txt", "old"])])
def test_killed_between_write_and_rename(tmp_path: Path, call: str, left: list[str]) -> None:
    """The final name holds the old file; what is left beside it has a temporary name."""
    final = tmp_path / "a.txt"
    write_text(final, left[1])
    code = (
        f"import os, sys; from pathlib import Path; from terralabel.core.files import write_text\n"
        f"os.{call} = lambda *a: os._exit(9)\nwrite_text(Path(sys.argv[1]), 'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(final)]).returncode == 9
    assert final.read_text() == left[1]
    rest = [name for name in names(tmp_path) if name != left[0]]
    assert len(rest) == 1 and rest[0].startswith(TEMPORARY_PREFIX)


def test_the_longest_names_have_room_for_a_temporary_one(tmp_path: Path) -> None:
    final = tmp_path / ("ä" * 125 + ".json")  # 255 bytes
    write_text(final, "x")
    assert final.read_text() == "x"


def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path) -> None:
    error = space_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "a")
    assert error is not None and "Disk full while writing" in str(error) and "MB free" in str(error)
    assert space_error(OSError(errno.EIO, "I/O error"), tmp_path / "a") is None
    assert "Read-only file system" in str(space_error(OSError(errno.EROFS, ""), tmp_path / "a"))


def test_two_processes_never_share_a_temporary_name(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    code = (
        "import sys; from pathlib import Path; from terralabel.core.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t: print(t.name); t.write_text('x')"
    )
    other = subprocess.run([sys.executable, "-c", code, str(final)], capture_output=True, text=True).stdout.strip()
    with atomic_path(final) as temporary:
        temporary.write_text("y")
        assert temporary.name != other and other.startswith(TEMPORARY_PREFIX)


def test_a_full_disk_tells_what_is_needed_where_that_is_known(tmp_path):
    def fail():
        raise OSError(errno.ENOSPC, "no space")

    with (
        pytest.raises(SpaceError, match=r"MB free, at most 2,500\.0 MB needed for this file\): free some"),
        atomic_path(tmp_path / "a", 2_500_000_000),
    ):
        fail()
    with pytest.raises(SpaceError, match=r"MB free\): free some"), atomic_path(tmp_path / "a"):
        fail()
    assert list(tmp_path.iterdir()) == []
