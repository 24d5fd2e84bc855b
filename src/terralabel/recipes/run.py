"""A run as people and exporters see it: read-only, whatever its size."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel import registry
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.core.quality import Verdicts
from terralabel.core.scene import Scene
from terralabel.core.settings import from_mapping
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.recipes.ingest import Failure, load_radiometry, load_scenes
from terralabel.recipes.layout import Layout, recorded
from terralabel.recipes.painting import shown_numbers
from terralabel.recipes.plan import Group
from terralabel.recipes.quality.store import Judged, load_judged
from terralabel.recipes.settings import LabelSettings
from terralabel.recipes.stitching import scene_tiles
from terralabel.runs.folder import RunFolder
from terralabel.runs.parts import Ragged, iterate_part, read_notes, read_part
from terralabel.runs.progress import Progress, Silent

if TYPE_CHECKING:
    from terralabel.export.corrections import Corrections
    from terralabel.imagery.radiometry import Radiometry
    from terralabel.imagery.raster import Raster
    from terralabel.recipes.detected_run import DetectedRun
    from terralabel.recipes.folder_run import FolderRun
    from terralabel.recipes.labels_run import LabelsRun

__all__ = ["Run", "TileRow", "export_run", "open_run", "report_run", "require_finished"]


@dataclass(frozen=True)
class TileRow:
    """What the ledger says of one tile: `status` is "ok", "empty", "nodata", "failed", or "pending" before its turn."""

    key: str
    window: Window
    core: Window
    status: str
    reason: str
    masks: int
    dropped: dict[str, int]


class Run:
    """A run folder, opened; implements `contracts.RunView`. Made by `open_run` and `label`."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.path
        self.manifest: dict[str, Any] = folder.manifest()
        self.settings: LabelSettings = from_mapping(LabelSettings, self.manifest["settings"], f"{folder.manifest_path}: ")
        ingested = load_scenes(folder)
        self.scenes: tuple[Scene, ...] = ingested.scenes
        self.failed_sources: tuple[Failure, ...] = ingested.failures
        self.layout = Layout(folder, self.settings, self.scenes, recorded(self.manifest))
        self._raster: tuple[str, Raster] | None = None  # the image last read, kept open

    # ----------------------------------------------------------------------------------------------- what it is made of

    @property
    def id(self) -> str:
        """16 hex digits: equal for equal inputs, settings and backends."""
        return str(self.manifest["run_id"])

    @property
    def masks_name(self) -> str:
        """Name of the mask generator."""
        return self.layout.backends.masks.split()[0]

    @property
    def classes(self) -> Classes:
        """The class map as it stands."""
        try:
            return Classes.from_json(self.folder.classes_path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} has no classes yet: finish it with the same `terralabel label` command.") from error

    @property
    def finished(self) -> bool:
        """True when `label` has come to its end."""
        return bool(self.manifest.get("finished"))

    @cached_property
    def _scene(self) -> dict[str, Scene]:
        return {scene.key: scene for scene in self.scenes}

    @cached_property
    def _group_of(self) -> dict[str, tuple[Group, int]]:
        return {scene.key: (group, i) for group in self.layout.groups for i, scene in enumerate(group.scenes)}

    def source_path(self, scene_key: str) -> Path:
        """The input image."""
        return Path(self._scene[scene_key].source)

    def label_path(self, scene_key: str) -> Path:
        """The label raster: GeoTIFF on the source grid, class ids, nodata 255."""
        path = self.layout.label_path(self._scene[scene_key])
        if not path.is_file():
            raise RunError(f"{path} is not there yet: finish the run with the same `terralabel label` command.")
        return path

    # ------------------------------------------------------------------------------------------------------------ ledger

    def tiles(self, scene_key: str) -> Iterator[TileRow]:
        """The tiles of a scene in the order of processing."""
        group, index = self._group_of[scene_key]
        _, tiles = list(scene_tiles(group))[index]
        rows: dict[int, list[dict[str, Any]]] = {}
        for shard, position, plan in tiles:
            if shard not in rows:
                path = self.layout.masks_path(group.shards[shard])
                rows[shard] = list(read_notes(path)["tiles"]) if path.exists() else []
            if rows[shard]:
                row = rows[shard][position]
                yield TileRow(plan.key, plan.window, plan.core, row["status"], row["reason"], row["masks"], row["dropped"])
            else:
                yield TileRow(plan.key, plan.window, plan.core, "pending", "", 0, {})

    @cached_property
    def tile_counts(self) -> Counter[str]:
        """Tiles by status; the counts add up to all tiles."""
        counts: Counter[str] = Counter()
        for _, shard in self.layout.shards():
            path = self.layout.masks_path(shard)
            if path.exists():
                counts.update(row["status"] for row in read_notes(path)["tiles"])
            else:
                counts["pending"] += len(shard.tiles)
        return counts

    @cached_property
    def failed_tiles(self) -> tuple[Failure, ...]:
        """Tiles that failed, with their reasons."""
        out = []
        for _, shard in self.layout.shards():
            path = self.layout.masks_path(shard)
            if path.exists():
                rows = [row for row in read_notes(path)["tiles"] if row["status"] == "failed"]
                out += [Failure(row["key"], row["reason"].partition(":")[0], row["reason"]) for row in rows]
        return tuple(out)

    @cached_property
    def failed_scenes(self) -> tuple[Failure, ...]:
        """Scenes over which a worker died after their masks were made."""
        crashes = self.layout.crashes()
        groups = [group for group in self.layout.groups if group.name in crashes]
        return tuple(Failure(s.key, "crash", f"crash: {crashes[group.name]}") for group in groups for s in group.scenes)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Everything that gave no labels though it was asked to: inputs, then tiles, then scenes left without objects."""
        return self.failed_sources + self.failed_tiles + self.failed_scenes

    # ----------------------------------------------------------------------------------------------------------- objects

    @cached_property
    def _first_ids(self) -> dict[str, int]:
        """The id of object number 0 of every scene."""
        first, out = 1, {}
        for group in self.layout.groups:
            numbers = read_notes(self.layout.objects_path(group))["numbers"]
            for scene, count in zip(group.scenes, numbers, strict=True):
                out[scene.key] = first
                first += count
        return out

    def objects(self, scene_key: str) -> Iterator[Objects]:
        """The scene's objects in batches, class map and corrections applied, always in the same order."""
        from terralabel.export.corrections import corrected_batches

        return corrected_batches(scene_key, self.automatic_objects(scene_key), self.corrections)

    @property
    def corrections(self) -> Corrections:
        """What a person drew or changed."""
        from terralabel.export.corrections import load_corrections

        return load_corrections(self.layout.corrections_path())

    def automatic_objects(self, scene_key: str) -> Iterator[Objects]:
        """As `objects`, without corrections."""
        group, index = self._group_of[scene_key]
        table = self.classes.of_cluster
        assigned = read_part(self.layout.assigned_path(group)).columns
        cluster, score = np.asarray(assigned["cluster"]), np.asarray(assigned["score"])
        row = 0
        for batch in iterate_part(self.layout.objects_path(group), rows=4096):
            count = len(np.asarray(batch["scene"]))
            rows, row = slice(row, row + count), row + count
            keep = np.flatnonzero(np.asarray(batch["scene"]) == index)
            if len(keep):
                yield self._batch(scene_key, batch, keep, cluster[rows][keep], score[rows][keep], table)

    def _batch(
        self, scene_key: str, batch: Any, keep: np.ndarray, cluster: np.ndarray, score: np.ndarray, table: dict[int, int]
    ) -> Objects:
        runs = batch["runs"]
        assert isinstance(runs, Ragged)
        lengths = np.diff(runs.offsets)[keep]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(runs.offsets[keep] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Objects(
            scene=scene_key,
            id=np.asarray(batch["number"])[keep].astype(np.int64) + self._first_ids[scene_key],
            cluster_id=cluster,
            class_id=np.array([table.get(c, IGNORE) for c in cluster.tolist()], dtype=np.int32),
            score=score,
            predicted_iou=np.asarray(batch["predicted_iou"])[keep],
            stability_score=np.asarray(batch["stability_score"])[keep],
            status=("auto",) * len(keep),
            bbox=np.asarray(batch["bbox"])[keep],
            area=np.asarray(batch["area"])[keep],
            runs=runs.values[source],
            offsets=offsets,
        )

    def instances(self, scene_key: str) -> Iterator[tuple[Window, np.ndarray]]:
        """(window, (h, w) int64 id of the object each pixel shows, 0 for none), corrections applied, tile core by tile core.

        Every id is one of `objects`; what a correction leaves over of an object that it replaces is 0.
        """
        from terralabel.export.corrections import apply_to_instances, corrected_ids

        group, index = self._group_of[scene_key]
        corrections = self.corrections
        mine, ids = corrections.of(scene_key), corrected_ids(scene_key, corrections)
        first, count = self._first_ids[scene_key], read_notes(self.layout.objects_path(group))["numbers"][index]
        id_of = np.append(np.arange(first, first + count, dtype=np.int64), 0)  # the last: no object
        if len(mine):
            there = np.concatenate([batch.id for batch in self.objects(scene_key)])
            id_of[~np.isin(id_of, there)] = 0
        for window, numbers in shown_numbers(self.layout.painted_path(group), index):
            yield window, apply_to_instances(id_of[numbers], window, mine, ids)

    def object_count(self) -> int:
        """Objects found, before corrections."""
        return sum(sum(read_notes(self.layout.objects_path(group))["rows"]) for group in self.layout.groups)

    # ---------------------------------------------------------------------------------------------------------- pictures

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 of a window with the run's radiometry, shrunk so that no side exceeds `max_size`."""
        from terralabel.export.picture import display_rgb, fit

        try:
            pixels, valid = self._opened(scene_key).read(window)
        except InputError:
            self.close()
            raise
        image = display_rgb(self._radiometry.apply(pixels, valid))
        return image if max_size is None else fit(image, max_size)

    @cached_property
    def _radiometry(self) -> Radiometry:
        return load_radiometry(self.folder)

    def _opened(self, scene_key: str) -> Raster:
        """The scene's raster. One stays open, so that files that store whole rows are not decoded anew for every crop."""
        if self._raster is None or self._raster[0] != scene_key:
            self.close()
            raster = self._radiometry.open(self.source_path(scene_key), follow_vrt=self.settings.follow_vrt)
            self._raster = (scene_key, raster)
        return self._raster[1]

    def close(self) -> None:
        """Close the image that `read_rgb` keeps open; the run stays usable."""
        if self._raster is not None:
            self._raster[1].close()
            self._raster = None

    # ----------------------------------------------------------------------------------------------------------- quality

    @cached_property
    def judged(self) -> Judged | None:
        """What is known of the quality of the labels; None when nobody has judged them (`quality score`)."""
        there = {scene.key: path for scene in self.scenes if (path := self.layout.label_path(scene)).is_file()}
        return load_judged(self.folder, there)

    @property
    def verdicts(self) -> Verdicts | None:
        """The verdicts on the labels, if there are any."""
        return None if self.judged is None else self.judged.verdicts

    # ---------------------------------------------------------------------------------------------------------- in words

    def facts(self) -> dict[str, Any]:
        """Counts of everything, JSON-able."""
        counts = self.tile_counts
        facts: dict[str, Any] = {
            "run": str(self.path),
            "run_id": self.id,
            "finished": self.finished,
            "scenes": len(self.scenes),
            "tiles": {name: counts.get(name, 0) for name in ("ok", "empty", "nodata", "failed", "pending")},
            "failures": [asdict(failure) for failure in self.failures],
        }
        if self.finished:
            facts["objects"] = self.object_count()
            facts["classes"] = [{"id": e.id, "name": e.name, "clusters": list(e.clusters)} for e in self.classes]
            if self.judged is not None:
                facts["quality"] = self.judged.facts()
        return facts

    def status_json(self) -> str:
        """`facts` as JSON text."""
        return json.dumps(self.facts(), indent=2)

    def summary(self, list_failures: bool = True) -> str:
        """What a person wants to know at the end, and where the files are; failures one by one, or only how many."""
        facts = self.facts()
        tiles = facts["tiles"]
        lines = [
            f"run {self.path} ({'finished' if self.finished else 'unfinished'})",
            f"  scenes   {facts['scenes']:,}"
            + (f" and {len(self.failed_sources):,} inputs that failed" if self.failed_sources else ""),
            f"  tiles    {sum(tiles.values()):,}: " + ", ".join(f"{n:,} {name}" for name, n in tiles.items() if n),
        ]
        if self.finished:
            named = [e.name for e in self.classes]
            shown = ", ".join(named[:8]) + (f", ... ({len(named)})" if len(named) > 8 else "")
            lines += [
                f"  objects  {facts['objects']:,} in {len(named)} classes: {shown}",
                f"  labels   {self.folder.labels_path}/*.tif",
            ]
            lines += [f"  quality  {text}" for text in self.judged.lines()] if self.judged else []
            lines.append(
                f"  next     terralabel export {self.path} --format geopackage --out DIR · terralabel report {self.path}"
            )
        else:
            lines.append("  next     run the same `terralabel label` command to go on")
        return "\n".join([*lines, *(self._failure_lines() if list_failures else self._failure_count())])

    def _failure_lines(self, most: int = 10) -> list[str]:
        lines = [f"  failed   {f.source}: {' '.join(f.reason.split())}" for f in self.failures[:most]]
        if len(self.failures) > most:
            lines.append(f"  failed   ... and {len(self.failures) - most:,} more: terralabel status {self.path} --json")
        return lines

    def _failure_count(self) -> list[str]:
        kinds = ((self.failed_sources, "input"), (self.failed_tiles, "tile"), (self.failed_scenes, "scene"))
        counts = [f"{len(failed):,} {what}{'s' * (len(failed) != 1)}" for failed, what in kinds if failed]
        if not counts:
            return []
        return [f"  failed   {' and '.join(counts)}; the reasons: terralabel status {self.path}"]


def open_run(path: str | Path) -> Run:
    """Open a run folder, finished or not; `RunError` when it is none or of another version.

    >>> import terralabel as tl
    >>> tl.open_run("run").finished
    True
    """
    from terralabel.recipes.detected_run import is_detected
    from terralabel.recipes.labels_run import is_labels
    from terralabel.recipes.refer.run import is_referred

    folder = RunFolder(path)
    if is_referred(folder):
        raise RunError(
            f"{folder.path} is a run of `refer`: `status`, `export` and `report` work on it, this is for runs of `label`."
        )
    if is_detected(folder):
        raise RunError(f"{folder.path} holds labels from boxes: `status` and `export` work on it, this is for runs of `label`.")
    if is_labels(folder):
        raise RunError(
            f"{folder.path} holds finished labels: `status`, `export` and `report` work on it, this is for runs of `label`."
        )
    return Run(folder)


def require_finished(run: Run | FolderRun, verb: str) -> None:
    """Raise `RunError`, in one line, where there is nothing to `verb` because the run has not come to its end."""
    if not run.finished:
        command = "`terralabel label` command" if isinstance(run, Run) else "command that began it"
        raise RunError(f"{run.path} is not finished, nothing to {verb}: run the same {command} to go on.")


def export_run(run: Run | FolderRun, formats: Sequence[str], out: str | Path, progress: Progress | None = None) -> list[Path]:
    """Write a run in each of `formats` (names of `registry.names("export")`) into `out`; returns the files.

    Several formats get a folder each. Raises `SettingsError` for an unknown format, `RunError` for a run that is not
    finished, `SpaceError` when the disk is full.

        >>> import terralabel as tl
        >>> files = tl.export_run(tl.open_run("run"), ["geopackage", "coco"], "exported")
    """
    progress = progress or Silent()
    if not formats:
        raise SettingsError(f"--format: expected one or more of {', '.join(registry.names('export'))}.")
    from terralabel.recipes.reviewed import settled

    exporters = [registry.create("export", name) for name in formats]
    require_finished(run, "export")
    settled(run, progress)
    written: list[Path] = []
    progress.start("export", len(exporters), "formats")
    for name, exporter in zip(formats, exporters, strict=True):
        folder = Path(out) / name if len(formats) > 1 else Path(out)
        written += exporter.export(run, folder)
        progress.advance(note=name)
    progress.finish()
    return written


def report_run(run: Run | LabelsRun | DetectedRun, out: Path | None = None, evaluation: Path | None = None) -> Path:
    """Write the HTML report, by default RUN/report.html; returns its path.

    evaluation: the JSON of `evaluate_labels(...).write_json`, to be shown in it. Raises `RunError` for a run that is not
    finished, `SettingsError` for an evaluation that is no JSON.

        >>> import terralabel as tl
        >>> page = tl.report_run(tl.open_run("run"))
    """
    from terralabel.export.report import write_report
    from terralabel.recipes.quality.store import quality_page
    from terralabel.recipes.reviewed import settled

    require_finished(run, "report on")
    settled(run)
    scores = None
    if evaluation is not None:
        try:
            scores = json.loads(evaluation.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"--evaluation {evaluation}: not a JSON file ({error}); make one with `terralabel evaluate labels --json`."
            ) from error
    final = out or run.path / "report.html"
    with tempfile.TemporaryDirectory(prefix="terralabel-report-") as scratch:
        quality = None if run.judged is None else quality_page(run.judged, Path(scratch))
        write_report(run, final, evaluation=scores, quality=quality, history=run.folder.history())
    return final
