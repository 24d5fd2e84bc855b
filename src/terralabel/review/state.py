"""What the page shows: the run's own files and, on top, the rows of the journal that they do not show yet."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from terralabel.core.classes import Classes
from terralabel.export.corrections import Corrections, load_corrections
from terralabel.recipes.folder_run import FolderRun
from terralabel.recipes.quality.people import load_people
from terralabel.recipes.reviewed import clusterer_of, replayed_classes, replayed_corrections, replayed_verdicts
from terralabel.recipes.run import Run
from terralabel.runs.journal import Journal

__all__ = ["Reader", "State"]


@dataclass(frozen=True)
class State:
    """A run as people left it, at one version of its journal.

    `painted`: the class map that the label rasters show; `pending`: rows that the files do not show yet; `undo`, `redo`: what
    they would do, in words, "" for nothing.
    """

    version: int
    settled: int
    painted: Classes
    classes: Classes
    people: Mapping[str, Any]
    undo: str
    redo: str

    @property
    def pending(self) -> int:
        """Rows past `settled`."""
        return self.version - self.settled


class Reader:
    """Gives the state of now; what has not changed is not read again."""

    def __init__(self, run: Run | FolderRun, journal: Journal) -> None:
        self.run, self.journal = run, journal
        self._mutex = threading.RLock()
        self._stamp: tuple[Any, ...] = ()
        self._state: State | None = None
        self._drawn: tuple[tuple[int, int], int, Corrections] = (-1, -1), 0, Corrections()

    def now(self) -> State:
        """The state of now, also of what other processes did."""
        with self._mutex:
            version, settled = self.journal.version, self.journal.settled
            stamp = (settled, *self._files())
            state = self._state
            if state is None or stamp != self._stamp:
                state = self._base(settled)
            if state.version != version:
                state = self._advanced(state, version)
            self._state, self._stamp = state, stamp
            return state

    def _files(self) -> tuple[Any, ...]:
        found = self.run.folder.classes_path.stat()
        return found.st_mtime_ns, found.st_ino

    def _base(self, settled: int) -> State:
        classes = self.run.classes
        return self._named(State(settled, settled, classes, classes, load_people(self.run.folder), "", ""))

    def _advanced(self, state: State, version: int) -> State:
        entries = self.journal.entries(state.version)
        classes = replayed_classes(state.classes, entries, clusterer_of(self.run))
        people = replayed_verdicts(state.people, entries)
        return self._named(replace(state, version=version, classes=classes, people=people))

    def _named(self, state: State) -> State:
        said = []
        for target in self.journal.stacks():
            entries = self.journal.entries(target - 1, 1) if target else []
            said.append(entries[0].said if entries else "")
        return replace(state, undo=said[0], redo=said[1])

    def corrections(self) -> Corrections:
        """What people drew, with what only the journal has."""
        path = self.run.folder.corrections_path / "corrections.jsonl"
        with self._mutex:
            version, settled = self.journal.version, self.journal.settled
            base = (settled, path.stat().st_mtime_ns if path.is_file() else 0)
            before, known, drawn = self._drawn
            if before != base:
                known, drawn = settled, load_corrections(path)
            entries = self.journal.entries(known)
            self._drawn = base, version, replayed_corrections(drawn, entries) if entries else drawn
            return self._drawn[2]
