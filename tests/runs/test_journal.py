from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from terralabel.errors import RunError, SpaceError
from terralabel.runs.journal import Conflict, Journal

WRITER = """
import sys
from pathlib import Path
from terralabel.runs.journal import Journal
journal = Journal(Path(sys.argv[1]))
for i in range(10000):
    entry = journal.append({"n": i}, {"n": i - 1}, keys=[f"k{i}"], said=f"n is {i}", seen=journal.version)
    print(entry.version, flush=True)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "review" / "journal.sqlite")


def add(journal: Journal, n: int, *keys: str, seen: int | None = None) -> int:
    seen = journal.version if seen is None else seen
    return journal.append({"n": n}, {"n": n - 1}, keys=keys or ("n",), said=f"n is {n}", who="ada", seen=seen).version


def test_rows_say_who_when_and_what(journal: Journal) -> None:
    add(journal, 1)
    with Journal(journal.path) as again:
        (entry,) = again.entries()
    assert (entry.version, entry.who, entry.kind, entry.said) == (1, "ada", "do", "n is 1")
    assert entry.what == {"n": 1} and entry.back == {"n": 0} and entry.keys == ("n",) and entry.time.endswith("Z")


def test_undo_and_redo_are_rows(journal: Journal) -> None:
    for n in (1, 2):
        add(journal, n)
    journal.undo(seen=2)
    journal.undo(seen=3)
    journal.undo(seen=4, redo=True)
    replayed = 0
    for entry in journal.entries():
        replayed = entry.what["n"]
    assert replayed == 1 and [e.kind for e in journal.entries()] == ["do", "do", "undo", "undo", "redo"]
    assert journal.stacks() == (1, 2)
    add(journal, 7)
    assert journal.stacks() == (6, 0)
    with pytest.raises(RunError, match="nothing to redo"):
        journal.undo(seen=6, redo=True)


def test_two_tabs_never_overwrite_one_another(journal: Journal) -> None:
    add(journal, 1, "class 3", seen=0)
    add(journal, 1, "class 4", seen=0)  # something else: fine
    with pytest.raises(Conflict, match="n is 1") as caught:
        add(journal, 2, "class 3", "class 9", seen=0)
    assert [entry.version for entry in caught.value.entries] == [1]
    with pytest.raises(Conflict):
        journal.undo(seen=1)
    assert journal.version == 2


def test_nothing_can_be_changed_or_deleted(journal: Journal) -> None:
    add(journal, 1)
    with sqlite3.connect(journal.path) as file:
        for statement in ("UPDATE changes SET who = 'eve'", "DELETE FROM changes"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                file.execute(statement)
    file.close()


@pytest.mark.parametrize("rows", [3, 11, 24])
def test_what_was_acknowledged_survives_kill_9(journal: Journal, rows: int) -> None:
    command = [sys.executable, "-c", WRITER, str(journal.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline()) for _ in range(rows)]
        os.kill(writer.pid, signal.SIGKILL)
        seen += [int(line) for line in writer.stdout if line.endswith("\n")]
    there = [entry.version for entry in journal.entries()]
    assert there[: len(seen)] == seen and len(there) <= len(seen) + 1
    add(journal, 0)


def test_a_refused_undo_leaves_no_row(journal: Journal) -> None:
    add(journal, 1)

    def refuse(entry: object) -> None:
        raise RunError("not that one")

    with pytest.raises(RunError, match="not that one"):
        journal.undo(seen=1, check=refuse)
    assert journal.version == 1


def test_a_full_disk_is_one_line_and_no_row(journal: Journal) -> None:
    add(journal, 1)
    pages = journal._file.execute("PRAGMA page_count").fetchone()[0]
    journal._file.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(SpaceError, match="Disk full while writing"):
        journal.append({"x": "y" * 50_000}, {}, keys=["n"], said="large", seen=1)
    assert journal.version == 1
    journal._file.execute("PRAGMA max_page_count=100000")
    assert add(journal, 2) == 2


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunError, match="cannot be used"):
        Journal(path)


def test_settled_is_remembered(journal: Journal) -> None:
    assert journal.settled == 0
    add(journal, 1)
    journal.settle(1)
    with Journal(journal.path) as again:
        assert again.settled == 1
