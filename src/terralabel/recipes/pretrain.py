"""Train a network on labels that nobody drew: those of a run, or any labelled folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terralabel.core.labelled import LabelledSet
from terralabel.errors import RunError, SettingsError
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.radiometry import Radiometry
from terralabel.recipes.drawn.labels import drawn_labels, is_drawing
from terralabel.recipes.drawn.settings import DrawnSettings
from terralabel.recipes.reviewed_labels import sure_labels
from terralabel.recipes.training import Start, Trained, fitted_radiometry, needs_torch, train
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress, Silent
from terralabel.train.segmentation.settings import TrainSettings

__all__ = ["opened", "pretrain", "run_radiometry"]


def pretrain(
    source: str | Path | LabelledSet,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    start: str | Path | None = None,
    load: str = "overall",
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> Trained:
    """Train a segmentation network on the labels of a run (its pseudo-labels) or of a labelled folder.

    `source`: a run of `label`, or a data set that `imagery.datasets.open_labelled` reads; `reading` are keywords for that, such as
    {"format": "mmseg"}. `settings`, or its fields as `values`. `start` and `load`: weights to begin with, see `finetune`. Resumes; raises
    `SettingsError` where the training in `out` was started differently, unless `overwrite`, which starts anew. With the same seed
    on a CPU the same weights come out, however often it was interrupted.

        >>> import terralabel as tl
        >>> settings = tl.TrainSettings(network="segformer-mit-b0", steps=2, batch_size=2, crop=64)  # thousands of steps, in earnest
        >>> trained = tl.pretrain("run", "pretrained", settings)
        >>> trained.checkpoint.step
        2
    """
    needs_torch()
    settings = settings or TrainSettings(**values)
    progress = progress or Silent()
    labelled = (
        source
        if isinstance(source, LabelledSet)
        else opened(source, progress, reading, out=Path(out), sensor=settings.sensor, bands=settings.bands)
    )
    radiometry = None if isinstance(source, LabelledSet) else run_radiometry(Path(source))
    radiometry = radiometry or fitted_radiometry(labelled.labelled, settings, progress)
    begin = Start(Path(start), load) if start is not None else None
    return train("pretrain", labelled, radiometry, Path(out), settings, start=begin, overwrite=overwrite, progress=progress)


def opened(
    source: str | Path,
    progress: Progress,
    reading: Mapping[str, Any] | None = None,
    *,
    out: Path | None = None,
    sensor: str = "optical",
    bands: tuple[int, ...] | None = None,
) -> LabelledSet:
    """The set in a folder; says what was left out of it.

    `reading`: keywords of `open_labelled`. Where its "labels" are shapes drawn in a GIS, they become rasters in `out`/drawn, and "drawn" are
    the settings of that (`DrawnSettings`); `sensor` and `bands` are how points and boxes are looked at. Where they are a run whose labels were
    judged, what a gate or a person accepted or corrected becomes rasters in `out`/sure, 255 elsewhere.
    """
    given = dict(reading or {})
    given |= {name: Path(given[name]).absolute() for name in ("labels", "classes") if given.get(name) is not None}
    drawn = given.pop("drawn", None) or {}
    if out is not None and given.get("labels") is not None and is_drawing(given["labels"]):
        settings = DrawnSettings(**{"sensor": sensor, "bands": bands, **drawn})
        return drawn_labels(source, given["labels"], out / "drawn", settings, classes=given.get("classes"), progress=progress)
    if drawn:
        raise SettingsError(
            f"{', '.join(drawn)}: only for labels that are shapes drawn in a GIS: --labels FILE.gpkg (or .geojson, .parquet, .shp)."
        )
    if out is not None and given.get("labels") is not None and RunFolder(given["labels"]).exists:
        given["labels"] = sure_labels(given["labels"], out / "sure", progress)
    found = open_labelled(Path(source).absolute(), **given)
    for problem in found.problems:
        progress.say(f"left out: {problem}")
    return found


def run_radiometry(folder: Path) -> Radiometry | None:
    """The radiometry of a run of `label`; None where the folder is none."""
    run = RunFolder(folder)
    if not run.exists:
        return None
    try:
        return Radiometry.from_json(run.radiometry_path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{run.radiometry_path} is missing: run `terralabel label` again with the same settings.") from error
