"""The verbs on the quality of labels: quality fit, quality score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.options import Quiet, gather, with_settings
from terralabel.recipes.quality.settings import QualitySettings

__all__ = ["quality"]

quality = typer.Typer(help="Which labels to trust: score them without truth.", no_args_is_help=True)

_Labels = Annotated[Path, typer.Argument(help="A run, or a folder (or one file) of class-id masks.", metavar="RUN|LABELS")]
_Images = Annotated[Path | None, typer.Option("--images", help="Folder of the images, where LABELS is one of masks.")]
_Classes = Annotated[Path | None, typer.Option("--classes", help="Class map JSON of the masks.")]
_Ignore = Annotated[str, typer.Option("--ignore", help="Stored values that mean 'no label', comma-separated.")]
_Threshold = Annotated[int | None, typer.Option("--threshold", help="Masks are grey: class 1 where at least this, else 0.")]
_Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags win over it.")]


@quality.callback()
def _group() -> None:
    """Which labels to trust: score them without truth."""


@quality.command("fit")
@with_settings(QualitySettings)
def fit(
    labels: _Labels,
    truth: Annotated[Path, typer.Option("--truth", help="Folder of true masks of equal stems, of some of the images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file of the judge; its pictures are written beside it.")],
    images: _Images = None,
    classes: _Classes = None,
    ignore: _Ignore = "",
    threshold: _Threshold = None,
    truth_threshold: Annotated[
        int | None, typer.Option("--truth-threshold", help="As --threshold, for the truth (default: the same).")
    ] = None,
    config: _Config = None,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Learn from labels with truth how good others are. The labels must not have been learned from that truth.

    Example: `terralabel quality fit labels/ --images images/ --truth truth/ --out judge.json`
    """
    from terralabel.cli.classes import ids
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.foreign_labels import LabelReading
    from terralabel.recipes.quality.recipe import quality_fit

    settings = gather(QualitySettings, flags, config)
    reading = LabelReading(classes, ids(ignore), threshold)
    wanted = LabelReading(classes, ids(ignore), threshold if truth_threshold is None else truth_threshold)
    fitted = quality_fit(
        labels,
        truth,
        out,
        images=images,
        reading=reading,
        truth_reading=wanted,
        settings=settings,
        progress=terminal_progress(quiet),
    )
    print(fitted.text)
    return 2 if fitted.failures else 0


@quality.command("score")
@with_settings(QualitySettings)
def score(
    labels: _Labels,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to make of masks; a run keeps its own.")] = None,
    images: _Images = None,
    judge: Annotated[
        Path | None, typer.Option("--judge", help="Judge of `quality fit`, or the folder of a model; none: rules only.")
    ] = None,
    promise: Annotated[
        str | None, typer.Option("--promise", help='What is to hold of the accepted: "mean IoU >= .85".')
    ] = None,
    review: Annotated[str | None, typer.Option("--review", help="Share that a person can look at, the worst: 20%.")] = None,
    classes: _Classes = None,
    ignore: _Ignore = "",
    threshold: _Threshold = None,
    config: _Config = None,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Score every label and decide: accept, review, reject, with reasons; `export` and `report` show them.

    Examples: `terralabel quality score run --judge judge.json --promise "mean IoU >= .85"` ·
    `terralabel quality score masks/ --images images/ --out judged --review 20%`
    """
    from terralabel.cli.classes import ids
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.foreign_labels import LabelReading
    from terralabel.recipes.quality.recipe import quality_score

    scored = quality_score(
        labels,
        out,
        images=images,
        judge=judge,
        promise=promise,
        review=review,
        reading=LabelReading(classes, ids(ignore), threshold),
        settings=gather(QualitySettings, flags, config),
        progress=terminal_progress(quiet),
    )
    print(scored.text)
    return 2 if scored.failures else 0
