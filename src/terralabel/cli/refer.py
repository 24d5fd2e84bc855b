"""The verb `refer`: what a text says, as masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.options import gather, with_settings
from terralabel.recipes.refer_settings import ReferSettings

__all__ = ["refer"]


@with_settings(ReferSettings)
def refer(
    sources: Annotated[
        list[Path], typer.Argument(help="Images, folders, or a text file that lists images.", metavar="SOURCE...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: made if new, resumed if it is there.")],
    text: Annotated[
        str | None, typer.Option("--text", "-t", help='What to find, as in "the largest building east of the river".')
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="YAML or JSON of several texts, each with its class: `text: class`.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option("--boxes", help="Your own boxes, found by their class: GeoPackage, GeoJSON, COCO, or DOTA's text files."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Write pictures of every step into OUT/explain.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="YAML of settings; flags win.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Go on with other texts, boxes or settings than the run's.")
    ] = False,
    **flags: Any,
) -> int:
    """Segment what a text says: boxes, masks, and relations such as "largest" or "east of" settled on the map.

    Resumes by default. Where nothing is meant the label is empty. Exit code 2 when some images or boxes could not be used.

    Example: `terralabel refer mosaic.tif --text "the three largest buildings" --boxes buildings.gpkg --out run --explain`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.refer import refer as recipe
    from terralabel.recipes.refer_queries import asked_for

    settings = gather(ReferSettings, flags, config)
    asked = asked_for(text, queries)
    progress = terminal_progress()
    run = recipe(
        list(sources), asked, out, boxes=boxes, explain=explain, overwrite=overwrite, progress=progress, settings=settings
    )
    print(run.summary(list_failures=False))
    return 2 if run.failures or run.manifest["problems"] else 0
