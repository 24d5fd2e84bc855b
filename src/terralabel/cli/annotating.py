"""Verbs that label the rest from a few: annotate fit, annotate apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.options import Quiet, gather, with_settings
from terralabel.cli.reading import with_reading
from terralabel.train.annotation.settings import AnnotateSettings, ApplySettings

__all__ = ["annotate"]

annotate = typer.Typer(
    help="Label an archive from a few labelled images: `fit` learns from these, `apply` labels the rest.", no_args_is_help=True
)

_Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags win over it.")]


@annotate.command("fit")
@with_settings(AnnotateSettings)
@with_reading
def fit(
    images: Annotated[Path, typer.Argument(help="Folder of images, of which some have labels.", metavar="IMAGES")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the model: made if new, gone on with if it is there.")],
    reading: dict[str, Any],
    config: _Config = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew although the folder holds another model.")] = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Learn from the labelled images of a folder. Goes on where it stopped: run the same command again.

    Example: `terralabel annotate fit images --labels labels --out model`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.annotate.fit import annotate_fit

    settings = gather(AnnotateSettings, flags, config)
    fitted = annotate_fit(images, out, settings, reading=reading, overwrite=overwrite, progress=terminal_progress(quiet))
    print(fitted.text)
    return 0


@annotate.command("apply")
@with_settings(ApplySettings)
def apply(
    model: Annotated[Path, typer.Argument(help="Folder that `annotate fit` made.", metavar="MODEL")],
    sources: Annotated[
        list[Path], typer.Argument(help="Images, folders, a text file that lists images, or one mosaic.", metavar="SOURCE...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: made if new, gone on with if it is there.")],
    config: _Config = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Go on although model or settings are not those of the run.")
    ] = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Label images of any size with a model. Exit code 2 when some images failed.

    Example: `terralabel annotate apply model archive/ --out run`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.annotate.apply import annotate_apply

    settings = gather(ApplySettings, flags, config)
    run = annotate_apply(model, sources, out, settings, overwrite=overwrite, progress=terminal_progress(quiet))
    print(run.summary())
    return 2 if run.failures else 0
