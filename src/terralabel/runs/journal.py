"""What people did to a run, one row each, for good: an append-only SQLite file on a local disk.

A row that `append` returned survives `kill -9` and a power cut: the file is a write-ahead log, synced at every commit. Rows are
never changed nor removed (triggers of the file itself refuse it); undo and redo are rows of their own. What a row means
is its writer's business: `what` is a JSON object, `back` the object that undoes it, `keys` name what it touches.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terralabel.core.files import disk_full
from terralabel.errors import RunError, SpaceError

__all__ = ["Conflict", "Entry", "Journal"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
    version INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL, of INTEGER NOT NULL,
    said TEXT NOT NULL, keys TEXT NOT NULL, what TEXT NOT NULL, back TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS settled (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL);
CREATE TRIGGER IF NOT EXISTS changes_stay BEFORE UPDATE ON changes BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS changes_last BEFORE DELETE ON changes BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


@dataclass(frozen=True)
class Entry:
    """One row: `kind` is "do", "undo" or "redo", `of` the version of the row that is undone or redone (0 for "do").

    `time` is ISO 8601, UTC; `said` a sentence for people. To replay the journal, apply every row's `what` in order.
    """

    version: int
    time: str
    who: str
    kind: str
    of: int
    said: str
    keys: tuple[str, ...]
    what: Mapping[str, Any]
    back: Mapping[str, Any]


class Conflict(RunError):
    """Somebody else changed the same thing since it was looked at; `entries` are those changes, oldest first."""

    def __init__(self, entries: Collection[Entry]) -> None:
        self.entries = tuple(entries)
        last = self.entries[-1]
        super().__init__(
            f"Changed since you looked: {last.said} (by {last.who or 'somebody'}, {last.time}); look again, then repeat."
        )


class Journal:
    """The journal of one run, opened; made when it is not there. Several processes and threads may use one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"Cannot open {path}: {error}; is the folder writable?") from error
        with self._told():
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=FULL")
            if self._file.execute("SELECT count(*) FROM sqlite_master WHERE name = 'changes_last'").fetchone()[0] == 0:
                self._file.executescript(_SCHEMA)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            with self._mutex:
                yield
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                raise disk_full(self.path) from error
            if "readonly" in text or "read-only" in text:
                raise SpaceError(f"Cannot write {self.path}: {text}. Choose a folder you may write to.") from error
            raise RunError(
                f"{self.path} cannot be used ({text}): restore it from a copy, or move it away to begin a new one."
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def version(self) -> int:
        """The newest row; 0 for none."""
        with self._told():
            return int(self._file.execute("SELECT coalesce(max(version), 0) FROM changes").fetchone()[0])

    @property
    def settled(self) -> int:
        """The newest row that the run's own files show."""
        with self._told():
            found = self._file.execute("SELECT version FROM settled").fetchone()
        return int(found[0]) if found else 0

    def entries(self, after: int = 0, most: int = -1) -> list[Entry]:
        """Rows past a version, oldest first."""
        with self._told():
            rows = self._file.execute("SELECT * FROM changes WHERE version > ? ORDER BY version LIMIT ?", (after, most))
            return [_entry(row) for row in rows.fetchall()]

    def latest(self, most: int, before: int | None = None) -> list[Entry]:
        """Rows below version `before`, newest first."""
        top = self.version + 1 if before is None else before
        with self._told():
            rows = self._file.execute("SELECT * FROM changes WHERE version < ? ORDER BY version DESC LIMIT ?", (top, most))
            return [_entry(row) for row in rows.fetchall()]

    def stacks(self) -> tuple[int, int]:
        """(version of the row that undo would undo, of the one that redo would redo); 0 for none."""
        done: list[int] = []
        undone: list[int] = []
        with self._told():
            rows = self._file.execute("SELECT version, kind FROM changes ORDER BY version").fetchall()
        for version, kind in rows:
            if kind == "do":
                done.append(version)
                undone.clear()
            elif kind == "undo":
                undone.append(done.pop())
            else:
                done.append(undone.pop())
        return done[-1] if done else 0, undone[-1] if undone else 0

    # ------------------------------------------------------------------------------------------------------- writing

    def append(
        self, what: Mapping[str, Any], back: Mapping[str, Any], *, keys: Collection[str], said: str, who: str = "", seen: int
    ) -> Entry:
        """Add a row; it is on disk when this returns.

        `seen`: the version its author looked at. Raises `Conflict` when a row since then touches one of `keys`, `SpaceError` on
        a full disk; then nothing was added.
        """
        with self._transaction():
            wanted = set(keys)
            since = [entry for entry in self.entries(seen) if wanted & set(entry.keys)]
            if since:
                raise Conflict(since)
            return self._insert("do", 0, said, keys, what, back, who)

    def undo(
        self, *, who: str = "", seen: int, redo: bool = False, check: Callable[[Entry], None] = lambda entry: None
    ) -> Entry:
        """Add a row that undoes the last one in force, or does again what was undone last.

        `check` may refuse, by raising, the row that would be undone. Raises `Conflict` when there are rows past `seen`, and
        `RunError` when there is nothing to undo.
        """
        with self._transaction():
            since = self.entries(seen)
            if since:
                raise Conflict(since)
            target = self.stacks()[1 if redo else 0]
            if not target:
                raise RunError(f"There is nothing to {'redo' if redo else 'undo'}.")
            (entry,) = self.entries(target - 1, 1)
            check(entry)
            what, back = (entry.what, entry.back) if redo else (entry.back, entry.what)
            word = "redo" if redo else "undo"
            return self._insert(word, target, f"{word}: {entry.said}", entry.keys, what, back, who)

    def _insert(
        self,
        kind: str,
        of: int,
        said: str,
        keys: Collection[str],
        what: Mapping[str, Any],
        back: Mapping[str, Any],
        who: str,
    ) -> Entry:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        texts = [json.dumps(value, separators=(",", ":")) for value in (list(keys), what, back)]
        cursor = self._file.execute(
            "INSERT INTO changes (time, who, kind, of, said, keys, what, back) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (now, who, kind, of, said, *texts),
        )
        return Entry(int(cursor.lastrowid or 0), now, who, kind, of, said, tuple(keys), what, back)

    def settle(self, version: int) -> None:
        """Note that the run's own files show everything up to a version."""
        with self._transaction():
            self._file.execute(
                "INSERT INTO settled VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET version = excluded.version", (version,)
            )


def _entry(row: tuple[Any, ...]) -> Entry:
    version, when, who, kind, of, said, keys, what, back = row
    return Entry(version, when, who, kind, of, said, tuple(json.loads(keys)), json.loads(what), json.loads(back))
