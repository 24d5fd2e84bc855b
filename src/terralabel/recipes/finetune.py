"""Train a pre-trained network on few labels that somebody drew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.radiometry import Radiometry
from terralabel.recipes.pretrain import opened, run_radiometry
from terralabel.recipes.training import Start, Trained, checkpoint_of, few_images, fitted_radiometry, needs_torch, train
from terralabel.runs.progress import Progress, Silent
from terralabel.train.segmentation.settings import TrainSettings

__all__ = ["finetune"]


def finetune(
    source: str | Path | LabelledSet,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    start: str | Path | None = None,
    load: str = "overall",
    images: int = 0,
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> Trained:
    """Train a segmentation network on a labelled folder, beginning with the weights of another training.

    `start`: a checkpoint of `pretrain` (folder or file), or a weights file of another program; None begins with random weights.
    `load`: "overall" (all that fits), "backbone" or "head"; what has one entry a class starts anew unless the classes are the
    same. The checkpoint's radiometry is used, where the images are of its kind. `images`: learn from so many of the labelled
    images, drawn by the seed; 0: all. Everything else as in `pretrain`. Raises `WeightsError` when nothing fits.

        >>> import terralabel as tl
        >>> few = {"steps": 2, "batch_size": 2, "crop": 64}  # thousands of steps, in earnest
        >>> pretrained = tl.pretrain("run", "pretrained", network="segformer-mit-b0", **few)
        >>> drawn = {"labels": "truth", "classes": "classes.json"}
        >>> tuned = tl.finetune("images", "tuned", start="pretrained", load="overall", reading=drawn, **few)
        >>> tuned.checkpoint.record["network"]["name"]
        'segformer-mit-b0'
    """
    needs_torch()
    settings = settings or TrainSettings(**values)
    progress = progress or Silent()
    labelled = (
        source
        if isinstance(source, LabelledSet)
        else opened(source, progress, reading, out=Path(out), sensor=settings.sensor, bands=settings.bands)
    )
    labelled = few_images(labelled.labelled, images, settings.seed)
    begin = Start(Path(start), load) if start is not None else None
    own = None if isinstance(source, LabelledSet) else run_radiometry(Path(source))
    radiometry = own or _inherited(begin, labelled, progress) or fitted_radiometry(labelled, settings, progress)
    return train("finetune", labelled, radiometry, Path(out), settings, start=begin, overwrite=overwrite, progress=progress)


def _inherited(start: Start | None, labelled: LabelledSet, progress: Progress) -> Radiometry | None:
    """The radiometry of the checkpoint that a training begins with, if it is one of ours and the images are of its kind."""
    checkpoint = checkpoint_of(start)
    if checkpoint is None:
        return None
    radiometry = checkpoint.radiometry
    try:
        for item in labelled.images[:1]:
            with radiometry.open(item.image) as raster:
                radiometry.apply(*raster.read(Window(0, 0, 1, 1)))
    except InputError as error:
        progress.say(f"the checkpoint's radiometry is not for these images, another one is fitted: {error}")
        return None
    return radiometry
