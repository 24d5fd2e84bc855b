"""What a person does to a run: name, merge, drop and split clusters, align them with truth, bring corrections back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from terralabel.clusters import align as class_maps
from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.errors import InputError, SettingsError
from terralabel.evaluate.confusion import Confusion
from terralabel.evaluate.rasters import open_labels
from terralabel.export.corrections import Corrections, save_corrections
from terralabel.export.edits import Imported
from terralabel.export.reading import read_corrections
from terralabel.recipes.evaluation import truth_pairs
from terralabel.recipes.label_classes import change_label_classes
from terralabel.recipes.labels_run import LabelsRun
from terralabel.recipes.painting import ClusterSplit, load_splits, paint_group, save_splits
from terralabel.recipes.relabel import assign, cluster_count, moved_classes, paint_job, refresh_labels, write_classes
from terralabel.recipes.reviewed import settled, still_judged
from terralabel.recipes.run import Run, require_finished
from terralabel.runs.engine import engine_for
from terralabel.runs.parts import iterate_part, read_part
from terralabel.runs.progress import Progress, Silent

__all__ = [
    "ACTIONS",
    "Outcome",
    "align_run",
    "change_clusters",
    "changed_classes",
    "import_file",
    "name_shares",
    "split_cluster",
]


# ------------------------------------------------------------------------------------------------------------ clusters


def change_clusters(
    run: Run | LabelsRun,
    action: str = "list",
    arguments: Sequence[str] = (),
    *,
    name: str | None = None,
    parts: int = 2,
    progress: Progress | None = None,
) -> str:
    """List a run's classes or change them; label rasters follow. Returns the list as text.

    action and arguments: ``list``; ``name CLASS NAME``; ``merge CLASS CLASS...`` (with `name`, renamed); ``drop CLUSTER...``;
    ``restore CLUSTER...``; ``split CLUSTER`` into `parts`; ``color CLASS #rrggbb``; ``move CLUSTER... CLASS``; ``new NAME``, a class for what is drawn.
    A CLASS is an id or a name. The classes of a run whose labels were learned or came from elsewhere are no clusters: they can be listed,
    named and coloured. Raises `SettingsError` for another action, `InputError` for what does not exist, `RunError`
    for a run that is not finished.

        >>> import terralabel as tl
        >>> run = tl.open_run("run")
        >>> table = tl.change_clusters(run, "merge", ["3", "5"], name="building")
    """
    progress = progress or Silent()
    if isinstance(run, LabelsRun):
        return change_label_classes(run, action, arguments, progress=progress)
    if action != "list" and action not in ACTIONS:
        raise SettingsError(f"clusters: unknown action {action!r}; known: list, {', '.join(ACTIONS)}.")
    require_finished(run, "show or change")
    settled(run, progress)
    if action == "list":
        return _table(run)
    with run.folder.lock(progress.say):
        before = run.classes
        _apply(run, changed_classes(run, before, action, arguments, name=name, parts=parts), before, progress)
    run.folder.note_history({"verb": f"clusters {action}", "arguments": list(arguments)})
    return _table(run)


#: What can be done to a class map.
ACTIONS = ("name", "merge", "drop", "restore", "color", "move", "split", "new")


def changed_classes(
    run: Run, classes: Classes, action: str, arguments: Sequence[str], *, name: str | None = None, parts: int = 2
) -> Classes:
    """The class map after one of `ACTIONS`; arguments and errors as of `change_clusters`. A split is also stored, with the lock held."""
    actions: Mapping[str, Callable[[], Classes]] = {
        "name": lambda: class_maps.name(classes, *_exactly(action, arguments, "CLASS NAME")),
        "merge": lambda: _merged(classes, arguments, name),
        "drop": lambda: class_maps.drop(classes, _cluster_ids(action, arguments)),
        "restore": lambda: class_maps.restore(classes, _cluster_ids(action, arguments), cluster_count(run.layout)),
        "color": lambda: class_maps.recolor(classes, *_exactly(action, arguments, "CLASS #RRGGBB")),
        "move": lambda: class_maps.move(classes, _cluster_ids(action, arguments[:-1]), arguments[-1]),
        "new": lambda: class_maps.added(classes, " ".join(arguments)),
        "split": lambda: _split(run, classes, _cluster_ids(action, arguments), parts),
    }
    return actions[action]()


def _exactly(action: str, arguments: Sequence[str], form: str) -> tuple[str, str]:
    if len(arguments) != 2:
        raise SettingsError(f"clusters {action}: expected {form}; got {' '.join(arguments) or 'nothing'}.")
    return arguments[0], arguments[1]


def _cluster_ids(action: str, arguments: Sequence[str]) -> list[int]:
    if not arguments or not all(str(a).strip().isdigit() for a in arguments):
        raise SettingsError(
            f"clusters {action}: expected cluster ids such as 3 17; got {' '.join(map(str, arguments)) or 'nothing'}."
        )
    return [int(a) for a in arguments]


def _merged(classes: Classes, arguments: Sequence[str], name: str | None) -> Classes:
    merged = class_maps.merge(classes, arguments)
    return merged if name is None else class_maps.name(merged, class_maps.find(classes, arguments[0]).id, name)


def _split(run: Run, classes: Classes, clusters: Sequence[int], parts: int) -> Classes:
    """Divide one cluster by the features of its objects, and store that."""
    if len(clusters) != 1:
        raise SettingsError(f"clusters split: expected one cluster id; got {' '.join(map(str, clusters))}.")
    after, made = split_cluster(run, classes, clusters[0], parts)
    path = run.layout.splits_path()
    save_splits(path, [*load_splits(path), made])
    return after


def split_cluster(run: Run, classes: Classes, cluster: int, parts: int) -> tuple[Classes, ClusterSplit]:
    """The class map after a cluster was divided by the features of its objects, and the split, which the caller stores.

    The new clusters get the next free ids. Raises `InputError` for a cluster that does not exist or cannot be divided.
    """
    count = cluster_count(run.layout)
    if not 0 <= cluster < count:
        raise InputError(f"Cluster {cluster} does not exist: this run has 0..{count - 1}.", "unknown-cluster")
    found = class_maps.split(_features_of(run, cluster), run.settings.seed, parts, run.layout.backends.scaling)
    ids = (cluster, *range(count, count + len(found.centres) - 1))
    return class_maps.with_split(classes, cluster, ids), ClusterSplit(cluster, ids, found.clusterer)


def _features_of(run: Run, cluster: int, most: int = 200_000) -> np.ndarray:
    """Features of the objects of a cluster, at most `most` of them (the first)."""
    found: list[np.ndarray] = []
    held = 0
    for group in run.layout.groups:
        ids = np.asarray(read_part(run.layout.assigned_path(group), ["cluster"]).columns["cluster"])
        row = 0
        for batch in iterate_part(run.layout.object_features_path(group)):
            features = np.asarray(batch["feature"])
            found.append(features[ids[row : row + len(features)] == cluster])
            row, held = row + len(features), held + len(found[-1])
        if held >= most:
            break
    return np.concatenate(found)[:most]


def _table(run: Run) -> str:
    """The classes as lines: id, name, colour, clusters, objects, share of the area."""
    area: dict[int, int] = {}
    count: dict[int, int] = {}
    for group in run.layout.groups:
        clusters = np.asarray(read_part(run.layout.assigned_path(group), ["cluster"]).columns["cluster"])
        areas = np.asarray(read_part(run.layout.objects_path(group), ["area"]).columns["area"])
        for cluster in np.unique(clusters).tolist():
            area[cluster] = area.get(cluster, 0) + int(areas[clusters == cluster].sum())
            count[cluster] = count.get(cluster, 0) + int((clusters == cluster).sum())
    total = max(sum(area.values()), 1)
    lines = [f"{'id':>5}  {'class':<24} {'color':<8} {'objects':>9} {'area':>7}  clusters"]
    classes = run.classes
    for entry in classes:
        objects, pixels = (sum(d.get(c, 0) for c in entry.clusters) for d in (count, area))
        ids = " ".join(map(str, entry.clusters)) or "-"
        lines.append(f"{entry.id:>5}  {entry.name:<24} {entry.color:<8} {objects:>9,} {pixels / total:>6.1%}  {ids}")
    dropped = sorted(set(range(cluster_count(run.layout))) - set(classes.of_cluster))
    if dropped:
        lines.append(f"dropped clusters: {' '.join(map(str, dropped))}  (terralabel clusters {run.path} restore {dropped[0]})")
    return "\n".join(lines)


def _apply(run: Run, classes: Classes, before: Classes, progress: Progress) -> None:
    """Store a changed class map, let corrections follow their classes, and repaint."""
    layout = run.layout
    corrections = run.corrections
    moved = moved_classes(before, classes)
    if len(corrections) and moved:
        save_corrections(layout.corrections_path(), corrections.renumbered(moved))
    known = set(before.of_cluster)
    splits = [(s.cluster, s.ids) for s in load_splits(layout.splits_path()) if not known.issuperset(s.ids)]
    with still_judged(run, before, classes, splits):
        write_classes(layout, classes, touched=True)
        with closing(engine_for(run.settings.worker_count)) as engine:
            assign(layout, engine, progress)
            refresh_labels(layout, engine, progress)


# --------------------------------------------------------------------------------------------------------------- align


def align_run(
    run: Run,
    truth: str | Path,
    *,
    match: str = "majority",
    names: str | Classes = "",
    ignore: Collection[int] = (IGNORE,),
    progress: Progress | None = None,
) -> str:
    """Name clusters from a few labelled images; returns the new class list as text.

    truth: a folder of class-id masks with the images' stems (any part of the images). match: "majority", several clusters
    to a class, or "hungarian", one to one. names: a class map, its JSON file, or "1=building,2=road". ignore: ids in the
    truth that mean "no label". Raises `RunError` for a run that is not finished, `InputError` when no image has truth.

        >>> import terralabel as tl
        >>> table = tl.align_run(tl.open_run("run"), "truth", names="1=building,2=road")
    """
    progress = progress or Silent()
    require_finished(run, "align")
    settled(run, progress)
    with run.folder.lock(progress.say):
        clusters, classes, counts = _shared_pixels(run, Path(truth), (*ignore, IGNORE), progress)
        mapping = class_maps.align(counts, clusters, classes, match)
        before = run.classes
        _apply(run, class_maps.aligned(before, mapping, _named(classes, names)), before, progress)
    run.folder.note_history({"verb": "align", "truth": str(truth), "match": match})
    return _table(run)


def name_shares(
    run: Run, truth: Path, names: str | Classes, progress: Progress | None = None
) -> dict[int, list[tuple[str, float]]]:
    """Cluster -> the true classes it shares pixels with, as (name, share of its pixels that have truth), most first.

    `truth` and `names` as of `align_run`.
    """
    clusters, class_ids, counts = _shared_pixels(run, truth, (IGNORE,), progress or Silent())
    named = {entry.id: entry.name for entry in _named(class_ids, names)}
    out = {}
    for cluster, row in zip(clusters, counts, strict=True):
        total = max(int(row.sum()), 1)
        order = np.argsort(-row, kind="stable")
        out[cluster] = [(named[class_ids[i]], float(row[i] / total)) for i in order.tolist() if row[i]]
    return out


def _shared_pixels(
    run: Run, truth: Path, ignore: tuple[int, ...], progress: Progress
) -> tuple[list[int], list[int], np.ndarray]:
    """(clusters, true classes, pixels they share): clusters are painted afresh for the images that have truth."""
    pairs, _, _ = truth_pairs(run, truth)
    true_of = {
        run.layout.label_path(scene): true
        for scene in run.scenes
        for ours, true in pairs
        if ours == run.layout.label_path(scene)
    }
    count = cluster_count(run.layout)
    plain = Classes.of_clusters(count)
    confusion = Confusion(ignore)
    progress.start("truth", len(true_of), "images")
    with tempfile.TemporaryDirectory(prefix="terralabel-align-") as scratch:
        for group in run.layout.groups:
            if not any(run.layout.label_path(scene) in true_of for scene in group.scenes):
                continue
            rasters = tuple(Path(scratch) / f"{group.name}-{i}.tif" for i in range(len(group.scenes)))
            nothing = Path(scratch) / "none"
            job = replace(
                paint_job(run.layout, group),
                classes=plain,
                labels=rasters,
                corrections=nothing,
                marker=Path(scratch) / "m" / "m.parquet",
            )
            paint_group(job)
            for scene, raster in zip(group.scenes, rasters, strict=True):
                true = true_of.get(run.layout.label_path(scene))
                if true is not None:
                    with open_labels(raster) as ours, open_labels(true) as theirs:
                        for prediction, wanted in zip(ours.strips(), theirs.strips(), strict=True):
                            confusion.add(prediction, wanted)
                    progress.advance()
    progress.finish()
    table = confusion.contingency()
    clusters = [plain[int(class_id)].clusters[0] for class_id in table.predicted]
    return clusters, table.true.tolist(), table.counts


def _named(class_ids: Sequence[int], names: str | Classes) -> Classes:
    """The truth's class map: every id with the name given for it, or "class ID"."""
    if isinstance(names, Classes):
        given = names
    elif names.strip().endswith(".json"):
        try:
            given = Classes.from_json(Path(names).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"--names {names}: {error.strerror}.") from error
    else:
        given = Classes().with_entries(_parse_names(names))
    have = {entry.id for entry in given}
    rest = [ClassEntry(i, f"class {i}", distinct_color(i)) for i in class_ids if i not in have]
    return given.with_entries([*(replace(entry, clusters=()) for entry in given), *rest])


def _parse_names(text: str) -> list[ClassEntry]:
    entries = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        number, equals, label = part.partition("=")
        if not equals or not number.strip().isdigit() or not label.strip():
            raise SettingsError(f"--names: expected 1=building,2=road; got {part!r}.")
        entries.append(ClassEntry(int(number), label.strip(), distinct_color(int(number))))
    return entries


# -------------------------------------------------------------------------------------------------------------- import


@dataclass(frozen=True)
class Outcome:
    """What an import did: a line for a person, and the number of entries that were refused."""

    text: str
    refused: int


def import_file(run: Run, file: str | Path, *, author: str = "", progress: Progress | None = None) -> Outcome:
    """Bring corrections back: a GeoPackage, GeoJSON or COCO file edited elsewhere, or a class map JSON.

    What differs from the run becomes corrections, which are stored by where they lie and so survive every rerun.
    author: kept with the corrections. Returns what it did, as text, and how many entries were refused. Raises `RunError`
    for a run that is not finished, `InputError` for a file that is none of these.

        >>> import terralabel as tl
        >>> outcome = tl.import_file(tl.open_run("run"), "corrected.gpkg", author="ada")
        >>> outcome.refused
        0
    """
    progress = progress or Silent()
    require_finished(run, "correct")
    settled(run, progress)
    with run.folder.lock(progress.say):
        before = run.classes
        found = read_corrections(Path(file), run.scenes, before, run.objects, run_id=run.id, author=author)
        if len(found.corrections):
            everything: Corrections = run.corrections + found.corrections
            save_corrections(run.layout.corrections_path(), everything)
        if found.classes is not None or len(found.corrections):
            _apply(run, found.classes or before, before, progress)
    run.folder.note_history({"verb": "import", "file": str(file), **found.counts()})
    return Outcome(_told(file, found), len(found.rejected))


def _told(file: str | Path, found: Imported) -> str:
    """What an import did, in lines."""
    counts = ", ".join(f"{n:,} {kind}" for kind, n in found.counts().items())
    lines = [f"{file}: {counts}" + (", class map taken over" if found.classes else "")]
    lines += [f"refused: {reject.item}: {reject.reason} [{reject.status}]" for reject in found.rejected[:20]]
    if len(found.rejected) > 20:
        lines.append(f"refused: ... and {len(found.rejected) - 20:,} more")
    lines += [
        f"class {name!r} is unknown to the run ({count:,} features): import a class map that has it first"
        for name, count in found.unknown_classes
    ]
    return "\n".join(lines)
