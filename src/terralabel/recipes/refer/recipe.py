"""Segment what a text says: boxes by a locator, masks by box, point and boundary, and the meaning of relations on the map.

    find:  tiles -> boxes of every thing that the texts name -> joined across seams -> a mask each        (heavy, kept)
    mean:  outlines on the ground -> what each text means among them -> labels                            (light)

After PSLG-SAM (arXiv 2506.10503); `docs/refer.md`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from terralabel import registry
from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color, plain_name
from terralabel.core.files import write_text
from terralabel.core.scene import Scene
from terralabel.errors import RunError, SettingsError
from terralabel.imagery.sources import content_hash
from terralabel.labels.phrases import parse, things_of
from terralabel.masks.located import GivenBoxes
from terralabel.recipes import ingest
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.networks import free_memory, on_device, release_networks, settle, worker_count
from terralabel.recipes.refer.boxes import given_boxes
from terralabel.recipes.refer.finding import (
    FindJob,
    gather_scene,
    locate_jobs,
    locate_tiles,
    make_locator,
    mask_jobs,
    mask_windows,
)
from terralabel.recipes.refer.meaning import MeanJob, Query, label_path, mean_scene
from terralabel.recipes.refer.run import FORMAT, ReferRun, is_referred
from terralabel.recipes.refer.settings import ReferSettings
from terralabel.runs.engine import Crash, Engine, engine_for
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.parts import read_notes
from terralabel.runs.progress import Progress, Silent

__all__ = ["refer"]

#: Versions of the two steps' code: part of the digests of their parts.
_FIND, _MEAN = 1, 1
#: What a worker with a locator's network may need, bytes.
_LOCATOR_BYTES = 4_000_000_000
#: Longest name of a class, letters.
_NAME = 120


def refer(
    sources: Sequence[str | Path] | str | Path,
    text: str | Mapping[str, str],
    out: str | Path,
    *,
    boxes: str | Path | None = None,
    explain: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    settings: ReferSettings | None = None,
    **values: Any,
) -> ReferRun:
    """Segment what a text says in images; returns the run, which exports like any other.

    `text`: one, or several as text -> class (an ontology). `boxes`: a GeoPackage, GeoJSON, COCO file or DOTA's text files whose
    boxes are found by their class, in place of a locator with weights. `explain` writes pictures of every step into
    `OUT/explain`. `settings`, or the fields of `ReferSettings` as `values`. An image in which nothing is meant gets an empty label.
    Raises `SettingsError` for an empty text and for relations that are not understood, `InputError` for boxes that cannot be
    read, `RunError` when `out` was made with other settings (unless `overwrite`; what was found is used again where it fits).

    >>> import terralabel as tl
    >>> files = tl.export_run(tl.open_run("run"), ["coco"], "boxes")
    >>> name = tl.open_run("run").classes.entries[0].name
    >>> found = tl.refer("images", f"the largest {name}", "largest", boxes="boxes/annotations/instances.json", masks="tree", workers=0)
    >>> found.object_count() <= len(found.scenes)
    True
    """
    progress = progress or Silent()
    asked = settings or ReferSettings(**values)
    queries, classes = _queries(text, asked)
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    folder = RunFolder(Path(os.path.abspath(out)))
    asked = _settled(asked, folder, boxes, progress)
    made_by = _made_by(asked, boxes)
    found = ingest.find(named, folder.path, asked.labelling)
    _claim(folder, asked, queries, classes, made_by, overwrite)
    workers = _workers(asked, boxes is None)
    if workers:
        release_networks()  # each worker loads its own
        make_locator.cache_clear()
    engine = engine_for(workers)
    try:
        with folder.lock(progress.say):
            scenes = ingest.ingest(folder, found, asked.labelling, engine, progress).scenes
            run = _run(folder, scenes, asked, queries, classes, boxes, made_by, engine, progress)
    finally:
        engine.close()
    if explain:
        from terralabel.recipes.refer.explain import write_explanations

        write_explanations(run, queries, progress)
    return run


# ------------------------------------------------------------------------------------------------------------- what is asked


def _queries(text: str | Mapping[str, str], settings: ReferSettings) -> tuple[tuple[Query, ...], Classes]:
    """The texts as phrases, and a class for each name, from 1 on."""
    asked = {_sound(words): name for words, name in ({text: text} if isinstance(text, str) else text).items()}
    if not asked:
        raise SettingsError("No texts: give one, or a mapping of texts to classes.")
    phrases = {words: parse(words, relations=settings.relations) for words in asked}
    names = list(dict.fromkeys(_class_name(name) for name in asked.values()))
    if len(names) >= IGNORE:
        raise SettingsError(f"{len(names)} classes; labels hold at most {IGNORE - 1}: give more texts the same class.")
    ids = {name: number for number, name in enumerate(names, 1)}
    classes = Classes(tuple(ClassEntry(number, name, distinct_color(number - 1)) for name, number in ids.items()))
    return tuple(Query(words, phrases[words], ids[_class_name(name)]) for words, name in asked.items()), classes


def _sound(text: str) -> str:
    """A text that can be written down: what is no letter of any script (bytes that were cut apart) becomes "?"."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def _class_name(name: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in _sound(name)).split())
    if not line:
        raise SettingsError("A text or its class is empty: say what to find, and what to call it.")
    return line if len(line) <= _NAME else f"{line[: _NAME - 1]}…"


def _settled(settings: ReferSettings, folder: RunFolder, boxes: str | Path | None, progress: Progress) -> ReferSettings:
    """`locator` and `masks` without "auto"."""
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    if boxes is not None and settings.locator not in ("auto", "boxes"):
        raise SettingsError(f"Boxes are given and locator {settings.locator!r}, too: choose one of them.")
    if settings.locator in ("auto", "boxes"):
        if boxes is None:
            known = ", ".join(registry.names("locators"))
            more = f", or a locator that finds them: --locator {known}" if known else ""
            raise SettingsError(f"Nothing says where things are: give boxes (--boxes FILE){more}.")
        values["locator"] = "boxes"
    if settings.masks == "auto":
        if is_referred(folder):
            values["masks"] = json.loads(folder.manifest_path.read_text(encoding="utf-8"))["settings"]["masks"]
        else:
            settled, why = settle(settings.labelling, folder.path / "new")
            values["masks"] = settled.masks
            if why:
                progress.say(why)
    return ReferSettings(**values)


def _workers(settings: ReferSettings, locating: bool) -> int:
    """Processes; where nobody says how many, a locator's network wants memory in each, and a GPU to itself."""
    count = worker_count(settings.labelling)
    if not locating or settings.workers >= 0:
        return count
    return 1 if on_device(settings.labelling) != "cpu" else max(1, min(count, free_memory() // _LOCATOR_BYTES))


def _made_by(settings: ReferSettings, boxes: str | Path | None) -> dict[str, str]:
    """Name and version of what finds boxes and of what they prompt."""
    promptable = make_promptable(settings.labelling)
    if boxes is not None:
        path = Path(boxes)
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.is_file() else []
        locator = f"boxes {digest([(file.name, content_hash(file)) for file in files])}"
    else:
        made = make_locator(settings.locator, settings.device)
        locator = f"{made.name} {made.version}"
    return {"masks": f"{promptable.name} {promptable.version}", "locator": locator}


def _claim(
    folder: RunFolder,
    settings: ReferSettings,
    queries: Sequence[Query],
    classes: Classes,
    made_by: Mapping[str, str],
    overwrite: bool,
) -> None:
    """Note what the run is made with; refuse a folder that was made with something else."""
    asked = [{"text": query.text, "class_id": query.class_id, "class": classes[query.class_id].name} for query in queries]
    made = {"settings": settings.stored(), "queries": asked, **made_by}
    if folder.exists:
        if not is_referred(folder):
            raise RunError(f"{folder.path} is a run of another kind: choose another folder.")
        before = json.loads(folder.manifest_path.read_text(encoding="utf-8"))
        other = [name for name in made if before.get(name) != made[name]]
        begun = any((folder.path / "parts").rglob("*.parquet"))  # a run that failed at its boxes stands in nobody's way
        if other and begun and not overwrite:
            raise RunError(f"{folder.path} was made with other {', '.join(other)}: choose another folder, or give --overwrite.")
    folder.create()
    folder.write_manifest(
        {"format": FORMAT, "terralabel": version("terralabel"), "run_id": digest(made), "finished": False, "parts": {}, **made}
    )
    write_text(folder.classes_path, classes.to_json() + "\n")


# -------------------------------------------------------------------------------------------------------------- what is done


def _run(
    folder: RunFolder,
    scenes: Sequence[Scene],
    settings: ReferSettings,
    queries: tuple[Query, ...],
    classes: Classes,
    boxes: str | Path | None,
    made_by: Mapping[str, str],
    engine: Engine,
    progress: Progress,
) -> ReferRun:
    given, problems = given_boxes(Path(boxes), scenes) if boxes is not None else ({}, [])
    for text in problems:
        progress.say(f"problem: {text}")
    finding = _find_jobs(folder, scenes, settings, queries, given if boxes is not None else None, made_by)
    failures = _find(finding, engine, progress)
    for source in ingest.changed_since(folder):
        failures[source] = "changed: the image was changed while it was read; run the same command again"
    meaning = [_mean_job(folder, job, queries, classes) for job in finding if job.scene.source not in failures]
    failures |= _each("mean", mean_scene, meaning, _is_meant, engine, progress)
    done = [job for job in meaning if job.scene.source not in failures]
    folder.remove_unused_parts({job.part for job in done} | {job.part for job in finding if job.part.exists()})
    _finish(folder, done, queries, failures, problems, progress)
    return ReferRun(folder)


def _find(jobs: Sequence[FindJob], engine: Engine, progress: Progress) -> dict[str, str]:
    """Find everything in the scenes where it is not known yet; source -> why, of those that failed."""

    def left(failed: Mapping[str, str]) -> list[FindJob]:
        return [job for job in jobs if not job.part.exists() and job.scene.source not in failed]

    tasks = [task for job in left({}) for task in locate_jobs(job)]
    failures = _each("locate", locate_tiles, tasks, lambda task: task.part.exists(), engine, progress, "blocks of tiles")
    masks = [task for job in left(failures) for task in mask_jobs(job)]
    failures |= _each("masks", mask_windows, masks, lambda task: task.part.exists(), engine, progress, "blocks of windows")
    for job in left(failures):
        gather_scene(job)
    return failures


def _find_jobs(
    folder: RunFolder,
    scenes: Sequence[Scene],
    settings: ReferSettings,
    queries: Sequence[Query],
    given: Mapping[str, GivenBoxes] | None,
    made_by: Mapping[str, str],
) -> list[FindJob]:
    import numpy as np

    things = tuple({plain_name(t): t for query in reversed(queries) for t in reversed(things_of(query.phrase))}.values())[::-1]
    nothing = GivenBoxes(np.zeros((0, 4)), (), np.zeros(0, dtype=np.float32))
    radiometry = folder.radiometry_path.read_text(encoding="utf-8")
    jobs = []
    for scene in scenes:
        boxes = None if given is None else given.get(scene.key, nothing)
        own = [] if boxes is None else [boxes.xyxy.tolist(), list(boxes.names), boxes.score.tolist()]
        name = digest([scene.sha256, list(things), settings.stored(), dict(made_by), radiometry, own, _FIND])
        jobs.append(FindJob(folder.path, settings, scene, things, boxes, folder.part_path("found", scene.key, name)))
    return jobs


def _mean_job(folder: RunFolder, found: FindJob, queries: tuple[Query, ...], classes: Classes) -> MeanJob:
    asked = [[query.text, query.class_id] for query in queries]
    name = digest([found.part.name, asked, classes.to_json(), _MEAN])
    part = folder.part_path("detected", found.scene.key, name)
    return MeanJob(folder.path, found.scene, found.part, queries, classes, part)


def _is_meant(job: MeanJob) -> bool:
    return job.part.exists() and label_path(job.run, job.scene).exists()


def _each(
    step: str, function: Any, jobs: Sequence[Any], is_done: Any, engine: Engine, progress: Progress, unit: str = "scenes"
) -> dict[str, str]:
    """Every job that is not done yet; source -> why, of those that failed."""
    todo = [job for job in jobs if not is_done(job)]
    if not jobs:
        return {}
    progress.start(step, len(jobs), unit, len(jobs) - len(todo))
    failures: dict[str, str] = {}
    for job, why in engine.map(function, todo):
        why = f"crash: {why.reason}" if isinstance(why, Crash) else why
        if why:
            failures[job.scene.source] = why
            progress.say(f"failed: {why}")
        progress.advance()
    progress.finish()
    return failures


def _finish(
    folder: RunFolder,
    done: Sequence[MeanJob],
    queries: Sequence[Query],
    failures: Mapping[str, str],
    problems: Sequence[str],
    progress: Progress,
) -> None:
    """What was found and meant, in words, into the manifest and `referred.json`."""
    notes = {job.scene.key: read_notes(job.part) for job in done}
    told = {key: note["referred"] for key, note in sorted(notes.items())}
    write_text(folder.path / "referred.json", json.dumps(told, indent=1, ensure_ascii=True) + "\n")
    every = [*problems, *(text for note in notes.values() for text in note["problems"])]
    rows = [{"source": s, "status": why.partition(":")[0], "reason": why} for s, why in sorted(failures.items())]
    spoken = []
    for number, query in enumerate(queries):
        chosen = sum(len(rows[number]["chosen"]) for rows in told.values())
        spoken.append(f"{query.text[:200]!r}: {chosen:,} chosen in {len(told):,} scenes")
        if not chosen:
            progress.say(f"nothing in the images is {query.text[:200]!r}")
    manifest = json.loads(folder.manifest_path.read_text(encoding="utf-8"))
    made = {
        "finished": True,
        "parts": {job.scene.key: job.part.name for job in done},
        "found": {job.scene.key: job.found.name for job in done},
        "problems": every,
        "failures": rows,
        "boxes_used": sum(note["boxes"] for note in notes.values()),
        "notes": [*spoken, "A score is the locator's for the box; 1 for boxes that a person drew."],
    }
    folder.write_manifest({**manifest, **made, "run_id": digest([manifest["run_id"], made["parts"]])})
    folder.note_history({"verb": "refer", "outcome": "finished", "scenes": len(done), "failed": len(failures)})
