"""The verb that makes coarse labels better: enhance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.options import Quiet, gather, with_settings
from terralabel.cli.reading import with_reading
from terralabel.train.annotation.settings import EnhanceSettings

__all__ = ["enhance"]


@with_settings(EnhanceSettings)
@with_reading
def enhance(
    images: Annotated[Path, typer.Argument(help="Folder of images whose labels are coarse.", metavar="IMAGES")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: made if new, gone on with if it is there.")],
    reading: dict[str, Any],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags win over it.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew although the run was started differently.")
    ] = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Make coarse labels better: an old map, boxes, quick polygons, labels that lie off. No truth is needed.

    Every image is labelled by a network that learned from the labels of the others, and the coarse label has its say. The run
    holds the labels before and after, `changes.csv` and pictures. Goes on where it stopped.

    Example: `terralabel enhance images --labels old-map --out enhanced`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.annotate.enhance import enhance as mend

    settings = gather(EnhanceSettings, flags, config)
    run = mend(images, out, settings, reading=reading, overwrite=overwrite, progress=terminal_progress(quiet))
    print(run.summary())
    print(f"  changes  {run.path / 'changes.csv'}, {run.path / 'coarse'}/*.tif, {run.path / 'pictures'}/*.png")
    return 0
