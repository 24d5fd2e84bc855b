"""A raw release of iSAID or Potsdam as crops: over workers, resumable, in the folders that mmsegmentation reads, too."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from terralabel.core.files import write_text
from terralabel.core.labelled import ByColor, LabelledSet
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.imagery.datasets.crops import STYLES, CropJob, crop_scene
from terralabel.imagery.datasets.opening import open_labelled, recognised
from terralabel.runs.engine import Crash, engine_for
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress, Silent

__all__ = ["Cropped", "crop_dataset"]


@dataclass(frozen=True)
class Cropped:
    """What `crop_dataset` did: scenes cut, crops there are now, those written by this call, and sentences on what failed."""

    out: Path
    scenes: int
    crops: int
    written: int
    failures: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for a person."""
        kept = f", {self.crops - self.written:,} were there" if self.crops > self.written else ""
        failed = f"; {len(self.failures)} scenes failed" if self.failures else ""
        return f"{self.out}: {self.crops:,} crops of {self.scenes:,} scenes ({self.written:,} written{kept}){failed}"


def crop_dataset(
    folder: str | Path,
    out: str | Path,
    *,
    format: str = "auto",
    size: int | None = None,
    overlap: int | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Cropped:
    """Cut the labelled scenes of a raw release into `out`/img_dir and `out`/ann_dir; crops that are there stay.

    `size` and `overlap` in pixels, by default those of the papers: iSAID 896 and 384, Potsdam 512 and 0. A scene that cannot be
    cut is a failure and the others go on. Images without labels are left where they are.
    Raises `SettingsError` for a set that has no crops, `RunError` when `out` holds other crops or lies in `folder`.
    """
    progress = progress or Silent()
    out = Path(os.path.abspath(out))
    dataset, jobs = _jobs(Path(folder), out, format, size, overlap)
    store = RunFolder(out)
    _claim(store, jobs[0])
    with store.lock(progress.say):
        write_text(out / "classes.json", dataset.classes.to_json())
        progress.start("crop", len(jobs), "scenes")
        crops, written, failures = _cut(jobs, workers, progress)
        progress.finish()
    return Cropped(out, len(jobs), crops, written, tuple(failures))


def _jobs(folder: Path, out: Path, format: str, size: int | None, overlap: int | None) -> tuple[LabelledSet, list[CropJob]]:
    style = recognised(folder) if format == "auto" else format
    if style not in STYLES:
        raise SettingsError(f"{folder} is of format {style!r}; crops are made of {' and '.join(sorted(STYLES))}.")
    if Path(os.path.abspath(folder)) in (out, *out.parents):
        raise RunError(f"{out} lies inside {folder}, and its crops would be read as scenes: choose a folder beside it.")
    dataset = open_labelled(folder, format=style)
    if not isinstance(dataset.to_ids, ByColor) or (folder / "img_dir").is_dir():
        raise InputError(f"{folder} holds crops, not the raw release: they can be used as they are.", "crops")
    size = STYLES[style].size if size is None else size
    overlap = (STYLES[style].overlap if size == STYLES[style].size else 0) if overlap is None else overlap
    if size < 1 or not 0 <= overlap < size:
        raise SettingsError(f"crops of {size} pixels with an overlap of {overlap}: expected 0 <= overlap < size.")
    to_ids = dataset.to_ids
    return dataset, [CropJob(item, style, size, overlap, dataset.classes, to_ids, out) for item in dataset.labelled.images]


def _claim(store: RunFolder, job: CropJob) -> None:
    """Note what the folder holds; refuse one that holds something else."""
    note = {"format": job.style, "size": job.size, "overlap": job.overlap}
    path = store.path / "crops.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): delete it, or choose another folder.") from error
    if before is not None and before != note:
        raise RunError(f"{store.path} holds crops made with {before}, not {note}: choose another folder, or the same settings.")
    if before is None:
        if store.path.is_dir() and any(not p.name.startswith(".") for p in store.path.iterdir()):
            raise RunError(f"{store.path} is not empty and holds no crops.json: give a new or an empty folder.")
        write_text(path, json.dumps(note) + "\n")


def _cut(jobs: list[CropJob], workers: int, progress: Progress) -> tuple[int, int, list[str]]:
    engine = engine_for(workers)
    crops = written = 0
    failures = []
    try:
        for job, result in engine.map(_try, jobs):
            if isinstance(result, Crash):
                result = f"{job.item.image}: {result.reason} [crash]"
            if isinstance(result, str):
                failures.append(result)
                progress.say(f"failed: {result}")
            else:
                crops, written = crops + result[0], written + result[1]
            progress.advance()
    finally:
        engine.close()
    return crops, written, sorted(failures)


def _try(job: CropJob) -> tuple[int, int] | str:
    try:
        return crop_scene(job)
    except InputError as error:
        return f"{error} [{error.status}]"
