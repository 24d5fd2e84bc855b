"""What people did in the browser, brought into the run's own files.

The journal (`RUN/review/journal.sqlite`) holds every change the moment it is acknowledged; the class map, the corrections and
the label rasters follow when something needs them: `export`, `report`, `label`, `clusters`, `align`, `import`, `evaluate`, or the
page's button. Until then the rows past `Journal.settled` are the difference between what the page shows and what the files say.

A row's `what` may have:
    clusterer     digest of the clusters it speaks of
    classes       class id -> {"name", "color", "clusters"} as it is now, None when it is no more
    corrections   {"add": [records of `export.corrections`, each with a source of its own], "remove": [sources]}
    split         a person's split of a cluster, as `split_record` gives it
    reclass       identity of a correction (`identity`) -> the class id it has now
    verdicts      key of a judged label (`quality_people.unit_key`) -> {"decision", "class_id", "who"}, None when it is open again
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.clusters.kmeans import OnlineKMeans
from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.files import write_text
from terralabel.export.corrections import Correction, Corrections, correction_of, load_corrections, record_of, save_corrections
from terralabel.imagery.sources import content_hash
from terralabel.recipes.painting import ClusterSplit, load_splits, save_splits
from terralabel.recipes.quality.following import noted_clusters
from terralabel.recipes.quality.people import load_people, save_people
from terralabel.recipes.quality.store import label_hashes, load_signals, save_verdicts
from terralabel.recipes.relabel import assign, moved_classes, refresh_labels, write_classes
from terralabel.runs.engine import InlineEngine, engine_for
from terralabel.runs.folder import RunFolder
from terralabel.runs.journal import Entry, Journal
from terralabel.runs.progress import Progress, Silent

if TYPE_CHECKING:
    from terralabel.recipes.folder_run import FolderRun
    from terralabel.recipes.run import Run

__all__ = [
    "class_effect",
    "clusterer_of",
    "identity",
    "journal_path",
    "replayed_classes",
    "replayed_corrections",
    "replayed_verdicts",
    "settle_review",
    "settled",
    "split_record",
    "still_judged",
    "store_splits",
]


def journal_path(folder: RunFolder) -> Path:
    """Where the journal of a run lies."""
    return folder.path / "review" / "journal.sqlite"


def clusterer_of(run: Run | FolderRun) -> str:
    """Digest of the clusters that the class map speaks of; "" for labels without clusters."""
    layout = getattr(run, "layout", None)
    return "" if layout is None else str(layout.clusterer_digest())


# ------------------------------------------------------------------------------------------------- what a row means


def class_effect(
    before: Classes, after: Classes, clusterer: str, corrections: Corrections
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(what, back, keys) of a changed class map; corrections follow their classes."""
    old, new = ({entry.id: _fields(entry) for entry in classes} for classes in (before, after))
    ids = sorted(i for i in {*old, *new} if old.get(i) != new.get(i))
    moved = moved_classes(before, after)
    followed = [item for item in corrections.items if item.class_id in moved]
    what = {"clusterer": clusterer, "classes": {str(i): new.get(i) for i in ids}}
    back = {"clusterer": clusterer, "classes": {str(i): old.get(i) for i in ids}}
    if followed:
        what["reclass"] = {identity(item): moved[item.class_id] for item in followed}
        back["reclass"] = {identity(item): item.class_id for item in followed}
    return what, back, [f"class {i}" for i in ids]


def _fields(entry: ClassEntry) -> dict[str, Any]:
    return {"name": entry.name, "color": entry.color, "clusters": list(entry.clusters)}


def identity(item: Correction) -> str:
    """Names a correction whatever class it has."""
    record = {**record_of(item), "class_id": 0}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]


def replayed_classes(classes: Classes, entries: Iterable[Entry], clusterer: str) -> Classes:
    """A class map after rows of the journal. Of rows about other clusters, names and colours count, where the class is still there."""
    held: dict[int, dict[str, Any]] = {entry.id: _fields(entry) for entry in classes}
    for entry in entries:
        known = entry.what.get("clusterer") == clusterer
        for text, fields in entry.what.get("classes", {}).items():
            class_id = int(text)
            if known and fields is None:
                held.pop(class_id, None)
            elif known:
                held[class_id] = dict(fields)
            elif fields is not None and class_id in held:
                held[class_id] |= {"name": fields["name"], "color": fields["color"]}
    return classes.with_entries(ClassEntry(i, f["name"], f["color"], tuple(f["clusters"])) for i, f in held.items())


def replayed_corrections(corrections: Corrections, entries: Iterable[Entry]) -> Corrections:
    """Corrections after rows of the journal; a row that was taken in before changes nothing."""
    items = list(corrections.items)
    for entry in entries:
        told = entry.what.get("corrections", {})
        gone = {*told.get("remove", ()), *(record["source"] for record in told.get("add", ()))}
        if gone:
            items = [item for item in items if item.source not in gone] + [correction_of(r) for r in told.get("add", ())]
        reclass = entry.what.get("reclass", {})
        if reclass:
            items = [replace(item, class_id=reclass.get(identity(item), item.class_id)) for item in items]
    return Corrections(tuple(items))


def replayed_verdicts(verdicts: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, Any]:
    """What people said of judged labels, by `unit_key`, after rows of the journal."""
    held = dict(verdicts)
    for entry in entries:
        for key, said in entry.what.get("verdicts", {}).items():
            if said is None:
                held.pop(key, None)
            else:
                held[key] = said
    return held


# --------------------------------------------------------------------------------------------------------------- splits


def split_record(split: ClusterSplit) -> dict[str, Any]:
    """A split as a JSON object: its clusters and the arrays of its clusterer."""
    arrays = {
        name: [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]
        for name, array in ((name, np.asarray(value)) for name, value in split.clusterer.state().items())
    }
    return {"cluster": split.cluster, "ids": list(split.ids), "state": arrays}


def _split_of(record: Mapping[str, Any]) -> ClusterSplit:
    state = {
        name: np.frombuffer(base64.b64decode(data), dtype=np.dtype(kind)).reshape(shape).copy()
        for name, (kind, shape, data) in record["state"].items()
    }
    return ClusterSplit(int(record["cluster"]), tuple(record["ids"]), OnlineKMeans.from_state(state))


def store_splits(run: Run, entries: Iterable[Entry]) -> None:
    """Put the splits of journal rows with the run's own, unless they are there, and look up which objects they move.

    An undone split stays stored: its parts are clusters of one class again.
    """
    path, clusterer = run.layout.splits_path(), clusterer_of(run)
    splits = load_splits(path)
    records = [e.what["split"] for e in entries if "split" in e.what and e.what["clusterer"] == clusterer]
    fresh = [record for record in records if tuple(record["ids"]) not in {split.ids for split in splits}]
    if fresh:
        save_splits(path, [*splits, *(_split_of(record) for record in fresh)])
    if records:
        with closing(InlineEngine()) as engine:
            assign(run.layout, engine, Silent())


# ------------------------------------------------------------------------------------------------------ into the files


def settled(run: Run | FolderRun, progress: Progress | None = None) -> None:
    """Bring a run's files up to its journal, if it has one; waits for whoever holds the run."""
    progress = progress or Silent()
    if not journal_path(run.folder).is_file():
        return
    with Journal(journal_path(run.folder)) as journal:
        pending = journal.version > journal.settled
    if pending:
        with run.folder.lock(progress.say):
            settle_review(run, progress)


def settle_review(run: Run | FolderRun, progress: Progress) -> int:
    """As `settled`, with the lock held; returns how many rows were taken in.

    A row counts as taken in when the rasters show it. Killed before, it is taken in again, which changes nothing.
    """
    with Journal(journal_path(run.folder)) as journal:
        entries = journal.entries(journal.settled)
        if not entries:
            return 0
        progress.say(f"taking in {len(entries):,} changes that were made in the browser")
        before, splits = run.classes, [e.what["split"] for e in entries if "split" in e.what]
        after = replayed_classes(before, entries, clusterer_of(run))
        with still_judged(run, before, after, [(int(s["cluster"]), s["ids"]) for s in splits]):
            _write(run, entries)
            _repaint(run, progress)
        journal.settle(entries[-1].version)
        return len(entries)


def _write(run: Run | FolderRun, entries: list[Entry]) -> None:
    """The class map, the corrections, and what people said of judged labels."""
    folder, before = run.folder, run.classes
    layout = getattr(run, "layout", None)
    if layout is not None:
        store_splits(run, entries)  # type: ignore[arg-type]
    after = replayed_classes(before, entries, clusterer_of(run))
    path = folder.corrections_path / "corrections.jsonl"
    corrections = load_corrections(path)
    changed = replayed_corrections(corrections, entries)
    if changed != corrections:
        save_corrections(path, changed)
    people = load_people(folder)
    if (said := replayed_verdicts(people, entries)) != people:
        save_people(folder, said)
    if after != before and layout is not None:
        write_classes(layout, after, touched=True)
    elif after != before:
        write_text(folder.classes_path, after.to_json() + "\n")


@contextmanager
def still_judged(
    run: Run | FolderRun, before: Classes, after: Classes, splits: Iterable[tuple[int, Sequence[int]]] = ()
) -> Iterator[None]:
    """Labels that were judged count as judged when the block is left: what changes in them, a person decided.

    A block that turns the class map `before` into `after` belongs in here; `splits` are the clusters that it divides, with the ids of their parts.
    """
    _note_clusters(run, before, after, splits)
    found = load_signals(run.folder)
    known = dict(found[2].get("labels", {})) if found else {}
    paths = {key: run.folder.labels_path / f"{key}.tif" for key in known}
    fresh = {key: path for key, path in paths.items() if path.is_file() and content_hash(path) == known[key]}
    yield
    now = {**known, **label_hashes(fresh)}
    if found and now != known:
        verdicts, signals, notes = found
        save_verdicts(run.folder, verdicts, {**notes, "labels": now}, signals)


def _note_clusters(run: Run | FolderRun, before: Classes, after: Classes, splits: Iterable[tuple[int, Sequence[int]]]) -> None:
    """Before clusters go to other classes: which ones the classes had when they were judged."""
    found = load_signals(run.folder)
    if found is None or {e.id: e.clusters for e in before} == {e.id: e.clusters for e in after}:
        return
    verdicts, signals, notes = found
    told = noted_clusters(notes, before, splits)
    if told != notes.get("clusters"):
        save_verdicts(run.folder, verdicts, {**notes, "clusters": told}, signals)


def _repaint(run: Run | FolderRun, progress: Progress) -> None:
    """Label rasters that show the class map and the corrections as they are now."""
    layout = getattr(run, "layout", None)
    if layout is None:
        from terralabel.recipes.reviewed_labels import repaint_labels

        repaint_labels(run, progress)  # type: ignore[arg-type]
        return
    with closing(engine_for(layout.settings.worker_count)) as engine:
        assign(layout, engine, progress)
        refresh_labels(layout, engine, progress)
