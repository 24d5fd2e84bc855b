"""Labels to be judged, whatever they are: a run, or masks of which a run is made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terralabel.errors import InputError, SettingsError
from terralabel.recipes.foreign_labels import LabelReading, adopt
from terralabel.recipes.labels_run import LabelsRun, is_labels
from terralabel.recipes.quality.settings import QualitySettings
from terralabel.recipes.run import Run, open_run, require_finished
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress

__all__ = ["opened_labels", "reopened"]


@contextmanager
def opened_labels(
    labels: Path,
    images: str | Path | None,
    out: str | Path | None,
    reading: LabelReading,
    settings: QualitySettings,
    progress: Progress,
) -> Iterator[Run | LabelsRun]:
    """The run that `labels` is, or one made of foreign labels in `out` (None: in a folder that goes away)."""
    folder = RunFolder(labels)
    if folder.exists:
        if out is not None:
            raise SettingsError(f"{labels} is a run, and its verdicts are stored in it: leave out --out.")
        run = LabelsRun(folder) if is_labels(folder) else open_run(labels)
        require_finished(run, "judge")
        yield run
        return
    if not labels.exists():
        raise InputError(f"{labels} does not exist: expected a run, or a folder of class-id masks.", "missing")
    place = None if images is None else Path(images)
    if place is None and (labels / "images").is_dir():
        place = labels / "images"
    with tempfile.TemporaryDirectory(prefix="terralabel-quality-") as scratch:
        target = RunFolder(Path(out) if out is not None else Path(scratch) / "run")
        yield adopt(_masks(labels), place, target, reading, background=settings.background, progress=progress)


def _masks(labels: Path) -> Path:
    """The folder of masks in a labelled folder (images/ beside masks/), else the folder itself."""
    if (labels / "images").is_dir():
        for name in ("masks", "annotations"):
            if (labels / name).is_dir():
                return labels / name
    return labels


def reopened(run: Run | LabelsRun) -> Run | LabelsRun:
    """The same run as it stands now."""
    return LabelsRun(run.folder) if isinstance(run, LabelsRun) else open_run(run.path)
