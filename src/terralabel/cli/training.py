"""Verbs that train networks and use them: pretrain, finetune, predict, evaluate segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.classes import evaluate
from terralabel.cli.options import Quiet, gather, with_settings
from terralabel.cli.reading import with_reading
from terralabel.train.segmentation.settings import PredictSettings, TrainSettings

__all__ = ["evaluate_segmentation", "finetune", "predict", "pretrain"]

_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the training: made if new, gone on with if it is there.")]
_Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags win over it.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew although the folder holds another training.")]
_From = Annotated[
    Path | None, typer.Option("--from", help="Weights to begin with: folder or checkpoint of a training, or a weights file.")
]
_Load = Annotated[str, typer.Option("--load", help="What of them: overall (all that fits), backbone or head.")]


@with_settings(TrainSettings)
@with_reading
def pretrain(
    source: Annotated[Path, typer.Argument(help="Run folder of `label`, or a labelled folder.", metavar="RUN|FOLDER")],
    out: _Out,
    reading: dict[str, Any],
    start: _From = None,
    load: _Load = "overall",
    config: _Config = None,
    overwrite: _Overwrite = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Train a network on labels that nobody drew: those of a run (or on any labelled folder).

    Goes on where it stopped: run the same command again. `torchrun --nproc-per-node 8 -m terralabel pretrain ...` uses 8 GPUs.

    Example: `terralabel pretrain run --out pretrained --network upernet-r18 --steps 2000`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.pretrain import pretrain as train

    settings = gather(TrainSettings, flags, config)
    progress = terminal_progress(quiet)
    trained = train(source, out, settings, start=start, load=load, reading=reading, overwrite=overwrite, progress=progress)
    print(trained.text)
    return 0


@with_settings(TrainSettings)
@with_reading
def finetune(
    source: Annotated[Path, typer.Argument(help="Labelled folder.", metavar="FOLDER")],
    out: _Out,
    reading: dict[str, Any],
    start: _From = None,
    load: _Load = "overall",
    images: Annotated[int, typer.Option("--images", help="Learn from so many images, drawn by --seed; 0: all.", min=0)] = 0,
    config: _Config = None,
    overwrite: _Overwrite = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Train a pre-trained network on labels that somebody drew, few or many.

    Goes on where it stopped: run the same command again.

    Example: `terralabel finetune labelled --from pretrained --load overall --out tuned --steps 400`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.finetune import finetune as train

    settings = gather(TrainSettings, flags, config)
    progress = terminal_progress(quiet)
    trained = train(
        source, out, settings, start=start, load=load, images=images, reading=reading, overwrite=overwrite, progress=progress
    )
    print(trained.text)
    return 0


@with_settings(PredictSettings)
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a training, or a checkpoint in it.", metavar="CHECKPOINT")],
    sources: Annotated[
        list[Path], typer.Argument(help="Images, folders, a text file that lists images, or one mosaic.", metavar="SOURCE...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into; scenes that are there are not done again.")],
    config: _Config = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Go on although checkpoint or settings are not those of the folder.")
    ] = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Label images with a trained network, whatever their size. Exit code 2 when some images failed.

    Example: `terralabel predict tuned images/ --out predicted --probabilities`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.predict import predict as write

    settings = gather(PredictSettings, flags, config)
    found = write(checkpoint, sources, out, settings, overwrite=overwrite, progress=terminal_progress(quiet))
    print(found.text)
    return 2 if found.failures else 0


@evaluate.command("segmentation")
def evaluate_segmentation(
    prediction: Annotated[Path, typer.Argument(help="What `predict` wrote, or a folder of class-id masks.", metavar="PRED")],
    truth: Annotated[Path, typer.Option("--truth", help="Folder of true class-id masks with equal stems.")],
    ignore: Annotated[str, typer.Option("--ignore", help="Truth ids to leave out, comma-separated.")] = "255",
    background: Annotated[int | None, typer.Option("--background", help="Id of the background class, if there is one.")] = None,
    with_background: Annotated[
        bool, typer.Option("--with-background/--without-background", help="Background in the means, or left out.")
    ] = True,
    absent: Annotated[
        str, typer.Option("--absent", help="Classes that neither side has: left-out (of means), or zero.")
    ] = "left-out",
    threshold: Annotated[
        int | None, typer.Option("--threshold", help="Truth is grey masks: class 1 where at least this, else 0.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Write the confusion matrix as a PNG.")] = None,
) -> int:
    """Per-class IoU, mIoU with its convention, mAcc, F1 and boundary F of predictions against truth.

    Example: `terralabel evaluate segmentation predicted --truth masks --background 0 --without-background --json scores.json`
    """
    from terralabel.cli.classes import ids
    from terralabel.evaluate.picture import confusion_picture
    from terralabel.recipes.evaluation import evaluate_segmentation as measure

    report = measure(
        prediction,
        truth,
        ignore=ids(ignore),
        background=background,
        with_background=with_background,
        absent=absent,
        threshold=threshold,
    )
    if json is not None:
        report.write_json(json)
    if picture is not None:
        confusion_picture(report.labels, picture)
    print(report.to_text())
    return 0
