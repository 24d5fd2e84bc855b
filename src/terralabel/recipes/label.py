"""ALPS, the labelling half (arXiv 2406.10855, section III): imagery in, class rasters out.

imagery -> masks -> filtering gate -> features -> stitched objects -> clusters -> painted labels
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.contracts import Clusterer
from terralabel.core.files import atomic_path
from terralabel.core.settings import changed
from terralabel.errors import RunError
from terralabel.recipes import ingest
from terralabel.recipes.backends import make_clusterer, make_extractor, make_generator
from terralabel.recipes.layout import Backends, Layout
from terralabel.recipes.learning import fit_extractor, weight_of
from terralabel.recipes.measuring import MeasureJob, measure_shard, probe_tile
from terralabel.recipes.networks import as_recorded, inexact_modes, release_networks, settle, shard_tiles, worker_count
from terralabel.recipes.relabel import (
    GroupsCrashed,
    assign,
    corrections_digest,
    refresh_labels,
    run_missing,
    scenes_of,
    settle_classes,
)
from terralabel.recipes.reviewed import journal_path, settle_review
from terralabel.recipes.run import Run, open_run
from terralabel.recipes.settings import LabelSettings, stored
from terralabel.recipes.stitching import LinkJob, ObjectJob, gather_objects, link_shard
from terralabel.runs.engine import Crash, Engine, engine_for
from terralabel.runs.folder import FORMAT, RunFolder
from terralabel.runs.parts import iterate_part, read_notes
from terralabel.runs.progress import Progress, Silent

__all__ = ["estimate", "label", "label_settings"]


def label(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Label imagery without labels; resumes a run that is there.

    `sources`: images, folders, list files, an mmseg root, or a list of them; `out`: the run folder;
    `settings`: any field of `LabelSettings` by name. Returns the run. Raises `TerraLabelError` when nothing could start;
    inputs and tiles that fail are rows of the run (`run.failures`), never exceptions.

        >>> import terralabel as tl
        >>> run = tl.label("images", "run", clusters=12)
        >>> run.finished
        True
    """
    paths = [sources] if isinstance(sources, (str, Path)) else list(sources)
    return label_settings(paths, Path(out), LabelSettings(**settings), overwrite=overwrite, progress=progress)


def label_settings(
    sources: Sequence[str | Path],
    out: Path,
    settings: LabelSettings,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """`label` with the settings in one value."""
    progress = progress or Silent()
    found = ingest.find(sources, out, settings)
    settings, why = settle(settings, out)
    generator, extractor = make_generator(settings), make_extractor(settings)  # a wrong name or bad weights stop here
    if settings.workers:
        release_networks()  # each worker has its own
    workers = worker_count(settings)
    source, settings = settings.masks, as_recorded(settings, out, f"{generator.name} {generator.version}")
    cut = shard_tiles(settings, out)
    folder = RunFolder(out)
    folder.create()
    with (
        folder.lock(progress.say),
        _noted(folder, sources, settings, workers) as note,
        closing(engine_for(workers)) as engine,
    ):
        _check_settings(folder, settings, overwrite)
        if why:
            progress.say(why)
        _take_in_review(folder, progress)
        with note("ingest"):
            ingested = ingest.ingest(folder, found, settings, engine, progress, refit=overwrite)
        clusterer = make_clusterer(settings, getattr(extractor, "scaling", "standard"))
        with note("fit features"):
            fitted = fit_extractor(folder, settings, ingested.scenes, extractor, progress)
        layout = Layout(folder, settings, ingested.scenes, Backends.of(generator, extractor, clusterer.name, fitted, cut))
        folder.write_manifest(_manifest(layout, settings, ingested))
        with note("masks and features"):
            note.add(_measure(layout, source, engine, progress))
        layout.take_back()
        while not _labelled(layout, clusterer, engine, progress, note):
            pass
        folder.remove_unused_parts(layout.kept(folder.classes_path.read_text(encoding="utf-8"), corrections_digest(layout)))
        folder.write_manifest({**folder.manifest(), "finished": True})
        if modes := inexact_modes(settings):
            progress.say(modes)
    return open_run(out)


def _take_in_review(folder: RunFolder, progress: Progress) -> None:
    """What a person did in the browser, while the clusters are still those it speaks of; what cannot be taken in now waits."""
    if journal_path(folder).is_file() and (run := open_run(folder.path)).finished:
        try:
            settle_review(run, progress)
        except RunError as error:
            progress.say(f"changes made in the browser wait: {error}")


def estimate(sources: Sequence[str | Path], settings: LabelSettings, out: Path) -> str:
    """What `--dry-run` prints: images, tiles, memory, disk; writes nothing."""
    from terralabel.recipes.dry_run import dry_run

    found = ingest.find(sources, out, settings)
    settings, why = settle(settings, out)
    return dry_run(found, settings, out) + (f"\n  {why}" if why else "")


# -------------------------------------------------------------------------------------------------------------- stages


def _measure(layout: Layout, source: str, engine: Engine, progress: Progress) -> dict[str, float]:
    """Masks and features of every tile; tiles that kill their worker are quarantined alone.

    `source`: what makes the masks, where weights lie today.
    """
    made_by, settings = layout.backends.masks, replace(layout.settings, masks=source)
    jobs = [replace(layout.measure_job(*each), made_by=made_by, settings=settings) for each in layout.shards()]
    _forget_healed(jobs, engine, progress)
    todo = [job for job in jobs if not (job.masks.exists() and job.features.exists())]
    tiles = sum(len(job.shard.tiles) for job in jobs)
    progress.start("masks", tiles, "tiles", tiles - sum(len(job.shard.tiles) for job in todo))
    clock: dict[str, float] = {}
    used: dict[str, int] = {}  # what memory held: changes no byte, so it is told in the history only
    masks, began = 0, time.perf_counter()
    for job, summary in engine.map(measure_shard, todo):
        if isinstance(summary, Crash):
            summary = _quarantine(job, summary, engine, progress)
        for name, seconds in summary["clock"].items():
            clock[name] = clock.get(name, 0.0) + seconds
        for row in summary["failed"]:
            progress.say(f"failed: tile {row['key']}: {row['reason']}")
        masks += summary["masks"]
        used = {**used, **{name: min(count, used.get(name, count)) for name, count in summary["used"].items()}}
        progress.advance(summary["tiles"], f"{masks / max(time.perf_counter() - began, 1e-6):.3g} masks/s")
    progress.finish()
    _refuse_changed(layout, todo, engine, progress)
    return {**{f"{name}_cpu_s": round(seconds, 2) for name, seconds in clock.items()}, **used}


def _forget_healed(jobs: Sequence[MeasureJob], engine: Engine, progress: Progress) -> None:
    """Try again, alone, the tiles that failed in an earlier invocation; where one works now, its shard is done afresh."""
    again = []
    for job in jobs:
        if job.masks.exists():
            failed = {row["key"] for row in read_notes(job.masks)["tiles"] if row["status"] == "failed"}
            again += [replace(job, shard=replace(job.shard, tiles=(t,))) for t in job.shard.tiles if t.key in failed]
    if again:
        progress.say(f"trying {len(again):,} tiles again that failed before")
    for job, works in engine.map(probe_tile, again):
        if works is True:
            job.features.unlink(missing_ok=True)
            job.masks.unlink(missing_ok=True)


def _refuse_changed(layout: Layout, measured: Sequence[MeasureJob], engine: Engine, progress: Progress) -> None:
    """Tiles of images that were changed after they were hashed fail: nobody knows what was read of them."""
    changed_sources = ingest.changed_since(layout.folder)
    keys = {scene.key for scene in layout.scenes if scene.source in changed_sources}
    again = []
    for job in measured:
        reason = "changed: the image was changed while it was being labelled; run the same command again"
        skip = tuple((tile.key, reason) for tile in job.shard.tiles if tile.scene in keys)
        if skip:
            job.features.unlink(missing_ok=True)
            job.masks.unlink(missing_ok=True)
            again.append(replace(job, skip=skip))
    for _, summary in engine.map(measure_shard, again):
        if isinstance(summary, Crash):
            raise RunError(f"masks: {summary.reason}; run the same command again.")
        for row in summary["failed"]:
            progress.say(f"failed: tile {row['key']}: {row['reason']}")


def _quarantine(job: MeasureJob, crash: Crash, engine: Engine, progress: Progress) -> dict[str, Any]:
    """Find, one by one, the tiles of a shard that kill their worker; do the shard without them."""
    progress.say(f"shard {job.shard.name}: {crash.reason}; looking for the tile")
    alone = [replace(job, shard=replace(job.shard, tiles=(tile,))) for tile in job.shard.tiles]
    outcomes = {probe.shard.tiles[0].key: outcome for probe, outcome in engine.map(probe_tile, alone)}
    guilty = tuple((key, f"crash: {o.reason}") for key, o in sorted(outcomes.items()) if isinstance(o, Crash))
    for _, summary in engine.map(measure_shard, [replace(job, skip=guilty)]):
        if not isinstance(summary, Crash):
            return summary
    everything = tuple((tile.key, f"crash: {crash.reason}") for tile in job.shard.tiles)
    for _, summary in engine.map(measure_shard, [replace(job, skip=everything)]):
        if not isinstance(summary, Crash):
            return summary
    raise RunError(
        f"Worker processes keep dying in shard {job.shard.name} ({crash.reason}): try --workers 1 or a smaller --tile-size."
    )


def _labelled(layout: Layout, clusterer: Clusterer, engine: Engine, progress: Progress, note: _Note) -> bool:
    """Objects, clusters, labels. False where workers died over groups: they are set aside, and the others go on without them."""
    try:
        with note("objects"):
            _stitch(layout, engine, progress)
        with note("clusters"):
            _cluster(layout, clusterer, engine, progress)
        with note("labels"):
            settle_classes(layout, progress)
            refresh_labels(layout, engine, progress)
    except GroupsCrashed as crash:
        before = layout.crashes()
        names = {group.name for group, _ in crash.groups}
        if names & set(before) or len(names) + len(before) == len(layout.groups):
            raise  # without its masks, too; or nothing would be left
        for group, reason in crash.groups:
            progress.say(f"failed: {scenes_of(group)}: {reason}; going on without, the same command tries again")
            layout.set_aside(group, reason)
        return False
    return True


def _stitch(layout: Layout, engine: Engine, progress: Progress) -> None:
    """One object across seams: links per shard, then objects per group."""
    if any(layout.has_seams(group) for group in layout.groups):
        engine.close()  # fresh workers: what a mosaic's objects need shall not come on top of what its masks left behind
    links = [
        LinkJob(group, position, layout.mask_paths(group), layout.link_path(group, shard))
        for group in layout.groups
        if layout.link_paths(group)
        for position, shard in enumerate(group.shards)
    ]
    run_missing("seams", "shards", link_shard, links, lambda job: job.out.exists(), engine, progress)
    objects = [
        ObjectJob(
            group,
            layout.mask_paths(group),
            layout.feature_paths(group),
            layout.link_paths(group),
            layout.painted_path(group),
            layout.objects_path(group),
            layout.object_features_path(group),
            layout.crash_path(group).is_file(),
        )
        for group in layout.groups
    ]
    run_missing("objects", "groups", gather_objects, objects, lambda job: job.is_done, engine, progress)


def _cluster(layout: Layout, clusterer: Clusterer, engine: Engine, progress: Progress) -> None:
    """Fit once, here; then every group looks up its objects."""
    state = layout.clusterer_path()
    if not state.exists():
        progress.start("clusters", 1, "fits")
        clusterer.fit(lambda: _training_features(layout), progress=lambda line: progress.advance(0, line))
        with atomic_path(state) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **dict(clusterer.state()))  # type: ignore[arg-type]
        progress.advance()
        progress.finish()
    assign(layout, engine, progress)


def _training_features(layout: Layout) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Features of the objects that clusters are fitted on, with their weights: all, or train only where there are splits."""
    splits = {scene.split for group in layout.groups for scene in group.scenes}
    train_only = "train" in splits and not layout.settings.transductive
    for group in layout.groups:
        wanted = np.array([scene.split in (None, "train") or not train_only for scene in group.scenes])
        if not wanted.any():
            continue
        owners = iterate_part(layout.objects_path(group), ["scene", "seen"])
        for rows, batch in zip(owners, iterate_part(layout.object_features_path(group)), strict=True):
            keep = wanted[np.asarray(rows["scene"])]
            features = np.asarray(batch["feature"])
            if features.shape[1] and keep.any():
                yield features[keep], weight_of(np.asarray(rows["seen"])[keep], layout.settings.clusters)


# ------------------------------------------------------------------------------------------------------------ manifest


def _check_settings(folder: RunFolder, settings: LabelSettings, overwrite: bool) -> None:
    """Refuse to go on with other settings than the run's, unless asked to."""
    if not folder.exists:
        return
    different = changed(folder.manifest()["settings"], settings)
    if different and not overwrite:
        raise RunError(
            f"{folder.path} was made with other settings ({'; '.join(different)}): use the same ones, another --out,"
            " or --overwrite to relabel (finished parts that still fit are reused, corrections are kept)."
        )


def _manifest(layout: Layout, settings: LabelSettings, ingested: ingest.Ingested) -> dict[str, Any]:
    before = layout.folder.manifest() if layout.folder.exists else {}
    return {
        "format": FORMAT,
        "terralabel": version("terralabel"),
        "run_id": layout.run_id,
        "settings": stored(settings),
        "backends": asdict(layout.backends),
        "scenes": len(ingested.scenes),
        "failed_sources": len(ingested.failures),
        "finished": False,
        **({"classes": before["classes"]} if "classes" in before else {}),
    }


class _Note:
    """Collects what goes into history.jsonl: seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Any:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.perf_counter() - began, 2)

    def add(self, seconds: dict[str, float]) -> None:
        self.seconds.update(seconds)


@contextmanager
def _noted(folder: RunFolder, sources: Sequence[str | Path], settings: LabelSettings, workers: int) -> Any:
    """One line of history per invocation, however it ends (but for a kill)."""
    note, outcome = _Note(), "failed"
    began = time.perf_counter()
    try:
        yield note
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        entry = {
            "verb": "label",
            "sources": [str(s) for s in sources],
            "settings": stored(settings),
            "workers": workers,
        }
        folder.note_history(
            {**entry, "outcome": outcome, "seconds": round(time.perf_counter() - began, 2), "stages": note.seconds}
        )
