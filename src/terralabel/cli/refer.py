"""The verb `refer`: what a text says, as masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from terralabel.cli.classes import evaluate
from terralabel.cli.options import Quiet, gather, with_settings
from terralabel.recipes.refer.settings import ReferSettings
from terralabel.train.referring.settings import DecoderSettings, FitSettings

__all__ = ["evaluate_referring", "refer"]


class _Either(TyperGroup):
    """`refer SOURCE ...` is `refer run SOURCE ...`, unless the word is that of another verb."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put `run` before what is no verb."""
        known = not args or args[0] in self.commands or args[0] in ("--help", "-h")
        return super().parse_args(ctx, args if known else ["run", *args])


refer = typer.Typer(
    cls=_Either,
    help="Segment what a text says: `refer SOURCE... --text TEXT --out RUN`, short for `refer run`; and teach: a locator by `refer fit`, a mask decoder by `refer fit-decoder`.",
    no_args_is_help=True,
)


@refer.command("run")
@with_settings(ReferSettings)
def refer_run(
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
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Segment what a text says: boxes, masks, and relations such as "largest" or "east of" settled on the map.

    Resumes by default. Where nothing is meant the label is empty. Exit code 2 when some images or boxes could not be used.

    Example: `terralabel refer run mosaic.tif --text "the three largest buildings" --boxes buildings.gpkg --out run --explain`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.refer.queries import asked_for
    from terralabel.recipes.refer.recipe import refer as recipe

    settings = gather(ReferSettings, flags, config)
    asked = asked_for(text, queries)
    progress = terminal_progress(quiet)
    run = recipe(
        list(sources), asked, out, boxes=boxes, explain=explain, overwrite=overwrite, progress=progress, settings=settings
    )
    print(run.summary(list_failures=False))
    return 2 if run.failures or run.manifest["problems"] else 0


@refer.command("fit")
@with_settings(FitSettings)
def refer_fit(
    source: Annotated[
        Path, typer.Argument(help="Set of texts with boxes (RRSIS-D, RefSegRS), or a table of triplets.", metavar="TRIPLETS")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the locator: made if new, gone on with if it is there.")],
    start: Annotated[
        str,
        typer.Option(
            "--start", help="small: from nothing; or grounding-dino, owlv2, with :FOLDER if their weights lie in one."
        ),
    ] = "small",
    config: Annotated[Path | None, typer.Option("--config", help="YAML of settings; flags win.")] = None,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Teach a locator what texts mean, on triplets of image, text and box. Goes on where it stopped.

    A table has the columns image, text, x0, y0, x1, y1 and, if you like, split (.csv, .jsonl).

    Example: `terralabel refer fit triplets.csv --out locator`, then `terralabel refer images --text "..." --locator fitted:locator --out run`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.refer.fit import refer_fit as recipe

    settings = gather(FitSettings, flags, config)
    found = recipe(source, out, start=start, progress=terminal_progress(quiet), settings=settings)
    print(found.text)
    return 2 if found.problems else 0


@refer.command("fit-decoder")
@with_settings(DecoderSettings)
def refer_fit_decoder(
    source: Annotated[
        Path,
        typer.Argument(
            help="Images with true masks: a set of texts, a COCO file, a run, images/ beside masks/.", metavar="MASKS"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the weights: made if new, gone on with if it is there.")],
    masks: Annotated[str, typer.Option("--masks", help="Whose decoder: a SAM by name, file or folder, or nano.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Where the masks lie, if elsewhere: folder of rasters, raster, COCO file, or outlines in a GeoPackage or GeoJSON.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML of settings; flags win.")] = None,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Fit the mask decoder of a SAM or of nano to a share of true masks; the image encoder rests. Goes on where it stopped.

    Prompts are the masks' boxes with moved sides, boxes with a point, and points. The file that comes out is weights like any others.

    Example: `terralabel refer fit-decoder images --labels masks --masks sam_vit_b --share 0.1 --out decoder`, then
    `terralabel refer images --text "..." --boxes boxes.json --masks decoder/model.safetensors --out run`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.refer.fit_decoder import refer_fit_decoder as recipe

    settings = gather(DecoderSettings, flags, config)
    found = recipe(source, out, masks=masks, labels=labels, progress=terminal_progress(quiet), settings=settings)
    print(found.text)
    return 2 if found.problems else 0


@evaluate.command("referring")
@with_settings(ReferSettings)
def evaluate_referring(
    data: Annotated[Path, typer.Argument(help="Set of texts with masks (RRSIS-D, RRSIS-M, RefSegRS).", metavar="DATA")],
    split: Annotated[str, typer.Option("--split", help="Texts of this split; all: every one.")] = "test",
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Folder of masks KEY.png made elsewhere; nothing is found then.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the masks here, and go on with those there.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Show the published table of RRSIS-D beside.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML of settings; flags win.")] = None,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """mIoU, oIoU and Pr@.5 to .9 of masks of texts, at 480 px, as published, and at native size.

    `--locator truth` takes the set's own boxes: the second stage alone.

    Example: `terralabel evaluate referring rrsis-d --locator grounding-dino --masks sam_vit_h --out masks --published`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.evaluate.referring import beside_published, write_reports
    from terralabel.recipes.refer.evaluation import evaluate_referring as measure

    settings = gather(ReferSettings, flags, config)
    reports = measure(data, split=split, predictions=predictions, out=out, settings=settings, progress=terminal_progress(quiet))
    if json is not None:
        write_reports(reports, json)
    for report in reports:
        print(report.to_text())
    if published:
        print(beside_published(reports[1]))
    return 0
