"""Where people's changes come in: each is checked, journalled, and only then acknowledged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from terralabel.core.classes import IGNORE, Classes
from terralabel.errors import InputError, RunError, SettingsError, TerraLabelError
from terralabel.recipes.curate import changed_classes, split_cluster
from terralabel.recipes.folder_run import FolderRun
from terralabel.recipes.reviewed import class_effect, clusterer_of, journal_path, settle_review, split_record, store_splits
from terralabel.recipes.run import Run
from terralabel.recipes.survey import Survey, survey_clusters
from terralabel.review.state import Reader, State
from terralabel.runs.journal import Conflict, Entry, Journal

__all__ = ["Desk"]

#: Seconds that a change waits for another process to let go of the run.
_PATIENCE = 3.0


class Desk:
    """One run under review. Thread-safe; other processes may work on the same run.

    `author`: who is at the desk, kept with every change; `names`: cluster -> [(name, share)] as suggestions.
    """

    def __init__(self, run: Run | FolderRun, author: str = "", names: dict[int, list[tuple[str, float]]] | None = None) -> None:
        self.run, self.author, self.names = run, author, names or {}
        self.journal = Journal(journal_path(run.folder))
        self.reader = Reader(run, self.journal)
        self.index_of = {scene.key: index for index, scene in enumerate(run.scenes)}
        self.survey: Survey | None = None
        self.writing = Writing()
        self._mutex = threading.RLock()

    @property
    def clustered(self) -> Run | None:
        """The run, where its labels come from clusters."""
        return self.run if isinstance(self.run, Run) else None

    def now(self) -> State:
        """The state of now."""
        return self.reader.now()

    def shown(self, state: State) -> tuple[dict[int, int], set[int]]:
        """(painted class -> the class of now, painted classes whose clusters lie in several classes now).

        255 for what is dropped. The rasters show such a class, until they are painted, as what most of its area is now.
        """
        table, mixed = {}, set()
        there = {entry.id for entry in state.classes}
        for entry in state.painted:
            area = self._areas(state, entry.clusters) or {entry.id if entry.id in there else IGNORE: 1}
            table[entry.id] = max(area, key=lambda k: (area[k], -k))
            if len(area) > 1:
                mixed.add(entry.id)
        return table, mixed

    def class_of(self, state: State, clusters: Sequence[int]) -> int:
        """The class of now in which most of some clusters lie; 255 for none."""
        area = self._areas(state, clusters) or {IGNORE: 1}
        return max(area, key=lambda k: (area[k], -k))

    def _areas(self, state: State, clusters: Sequence[int]) -> dict[int, int]:
        """Class of now (255: dropped) -> pixels of these clusters in it."""
        area: dict[int, int] = {}
        for cluster in clusters:
            card = self.survey.cards.get(cluster) if self.survey else None
            now = state.classes.of_cluster.get(cluster, IGNORE)
            area[now] = area.get(now, 0) + (card.area if card else 1)
        return area

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    # ----------------------------------------------------------------------------------------------------- class map

    def change_classes(
        self,
        action: str,
        *,
        classes: Sequence[int] = (),
        clusters: Sequence[int] = (),
        name: str | None = None,
        color: str = "",
        parts: int = 2,
        seen: int,
    ) -> Entry:
        """Name, color, merge, drop, restore, move, split, or new; the same changes as `terralabel clusters`.

        `classes` are those meant: one for name, color and move, two or more for merge (into the first), those to drop; `clusters`
        those to restore, to move, or the one to split. `seen`: the version that was looked at. Raises `Conflict` when somebody changed
        one of these since.
        """
        with self.turn():
            state = self.now()
            self._refuse_changed(seen, [f"class {i}" for i in classes])
            if self.clustered is None and action not in ("name", "color"):
                raise SettingsError(f"{self.run.path} has labels without clusters: classes can be named and coloured only.")
            if action == "split":
                return self._split(state, clusters, parts, seen)
            words = _words(state.classes, action, classes, clusters, name, color)
            after = changed_classes(self.run, state.classes, action, words, name=name if action == "merge" else None)  # type: ignore[arg-type]
            return self._append(state, after, _said(state.classes, action, classes, clusters, name, color), seen)

    def _append(self, state: State, after: Classes, said: str, seen: int, more: dict[str, Any] | None = None) -> Entry:
        what, back, keys = class_effect(state.classes, after, clusterer_of(self.run), self.reader.corrections())
        if not keys:
            raise InputError("Nothing would change.", "no-change")
        self._refuse_changed(seen, keys)
        return self.journal.append({**what, **(more or {})}, back, keys=keys, said=said, who=self.author, seen=seen)

    def _split(self, state: State, clusters: Sequence[int], parts: int, seen: int) -> Entry:
        """The row holds the fitted split, so that what was acknowledged is never half there."""
        run = self.clustered
        assert run is not None
        if len(clusters) != 1:
            raise SettingsError(f"split: expected one cluster; got {len(clusters)}.")
        self._refuse_changed(seen, [f"class {state.classes.of_cluster.get(clusters[0], -1)}"])
        after, made = split_cluster(run, state.classes, clusters[0], parts)
        said = f"cluster {clusters[0]} split into {len(made.ids)}"
        entry = self._append(state, after, said, seen, {"split": split_record(made)})
        store_splits(run, [entry])
        if self.survey is not None:
            self.survey = survey_clusters(run, known=self.survey, wanted=made.ids)
        return entry

    def _refuse_changed(self, seen: int, keys: Collection[str]) -> None:
        since = [entry for entry in self.journal.entries(seen) if set(keys) & set(entry.keys)]
        if since:
            raise Conflict(since)

    # ---------------------------------------------------------------------------------------------------- undo, write

    def undo(self, seen: int, redo: bool = False) -> Entry:
        """Undo the last change in force, or do again what was undone last."""
        with self.turn():
            state = self.now()

            def check(entry: Entry) -> None:
                expected = entry.back if redo else entry.what
                if "classes" in expected and expected.get("clusterer") != clusterer_of(self.run):
                    raise RunError("The clusters are others since that change: it cannot be undone any more.")
                there = {str(e.id): {"name": e.name, "color": e.color, "clusters": list(e.clusters)} for e in state.classes}
                for class_id, fields in expected.get("classes", {}).items():
                    if there.get(class_id) != fields:
                        raise RunError("The class map was changed elsewhere since (`terralabel clusters`): change it by hand.")

            return self.journal.undo(who=self.author, seen=seen, redo=redo, check=check)

    def write(self) -> None:
        """Bring the run's files up to the journal, in a thread of its own; `writing` tells how far it is."""
        with self._mutex:
            if not self.writing.active:
                self.writing.begin()
                threading.Thread(target=self._write, name="terralabel-write", daemon=True).start()

    def _write(self) -> None:
        try:
            with self.run.folder.lock(self.writing.say):
                self.writing.holding = True
                settle_review(self.run, self.writing)
                self.writing.holding = False
            self.writing.end()
        except (TerraLabelError, OSError) as error:
            self.writing.end(str(error))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One change at a time, in this process and among processes; `RunError` where another works on the run."""
        with self._mutex, self._held():
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The run is ours for a moment, or our own thread's that writes it; `RunError` where another process works on it."""
        deadline = time.monotonic() + _PATIENCE
        while not self.writing.holding:
            with self.run.folder.brief_lock() as free:
                if free:
                    self._refuse_another_run()
                    yield
                    return
            if time.monotonic() > deadline:
                raise RunError(
                    f"Another process is working on {self.run.path}: repeat this when it has finished. Nothing was changed."
                )
            time.sleep(0.1)
        yield

    def _refuse_another_run(self) -> None:
        """`RunError` where the run was removed, or labelled anew, since it was opened."""
        try:
            manifest = json.loads(self.run.folder.manifest_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            manifest = {}
        if manifest.get("run_id") != self.run.id or not manifest.get("finished"):
            raise RunError(
                f"{self.run.path} is another run now, or not finished: start `terralabel review` on it again. Nothing was changed."
            )


class Writing:
    """The `runs.progress.Progress` of a thread that writes, to be looked at from others; `holding`: it has the run's lock."""

    def __init__(self) -> None:
        self.active, self.holding, self.stage, self.done, self.total, self.error = False, False, "", 0, 0, ""

    def begin(self) -> None:
        """It starts."""
        self.active, self.error, self.stage, self.done, self.total = True, "", "waiting", 0, 0

    def end(self, error: str = "") -> None:
        """It is over."""
        self.active, self.holding, self.error = False, False, error

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """See `Progress.start`."""
        self.stage, self.total, self.done = stage, total, done

    def advance(self, amount: int = 1, note: str = "") -> None:
        """See `Progress.advance`."""
        self.done += amount

    def finish(self) -> None:
        """See `Progress.finish`."""

    def say(self, text: str) -> None:
        """See `Progress.say`."""


def _words(
    classes: Classes, action: str, ids: Sequence[int], clusters: Sequence[int], name: str | None, color: str
) -> list[str]:
    """The arguments of `recipes.curate.changed_classes`."""
    named = [str(i) for i in ids]
    if action == "name":
        return [*named, name or ""]
    if action == "new":
        return [name or ""]
    if action == "color":
        return [*named, color]
    if action == "drop":
        there = {entry.id: entry for entry in classes}
        missing = [i for i in ids if i not in there]
        if missing:
            raise InputError(f"No class {missing[0]}.", "unknown-class")
        return [str(k) for i in ids for k in there[i].clusters]
    if action == "move":
        return [*(str(k) for k in clusters), *named[:1]]
    return [str(k) for k in clusters] if action == "restore" else named


def _said(classes: Classes, action: str, ids: Sequence[int], clusters: Sequence[int], name: str | None, color: str) -> str:
    """A sentence on a change."""
    known = {entry.id: entry.name for entry in classes}
    quoted = ", ".join(f"“{known.get(i, i)}”" for i in ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    numbers = ", ".join(map(str, clusters[:6]))
    sentences = {
        "name": f"{quoted} is now “{name}”",
        "color": f"{quoted} has the colour {color}",
        "merge": f"{quoted} merged",
        "drop": f"{quoted} dropped",
        "restore": f"cluster {numbers} is back",
        "move": f"cluster {numbers} moved to {quoted}",
        "new": f"“{name}” is a class, too",
    }
    return sentences[action]
