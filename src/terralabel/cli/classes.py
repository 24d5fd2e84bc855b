"""Verbs that turn clusters into classes and measure them: clusters, align, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terralabel.cli.results import RunArgument

__all__ = ["align", "clusters", "evaluate", "ids"]

evaluate = typer.Typer(help="Measure labels against truth.", no_args_is_help=True)


def clusters(
    run: RunArgument,
    action: Annotated[str, typer.Argument(help="list, name, merge, drop, restore, split, color, move or new.")] = "list",
    arguments: Annotated[list[str] | None, typer.Argument(help="Cluster ids, and the name or colour.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the merged class.")] = None,
    parts: Annotated[int, typer.Option("--parts", help="Into how many clusters to split.", min=2, max=64)] = 2,
) -> int:
    """List a run's clusters, or name, merge, drop, restore, split and recolour them; label rasters follow.

    Of a run of `annotate apply` or `enhance`, whose classes were learned: list, name and color.

    Examples: `terralabel clusters run` · `clusters run name 3 building` · `clusters run merge 3 17 --name building` ·
    `clusters run drop 5` · `clusters run restore 5` · `clusters run split 4 --parts 3` · `clusters run color 3 "#e31a1c"` ·
    `clusters run new "swimming pool"`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.curate import change_clusters
    from terralabel.recipes.detected_run import open_any
    from terralabel.recipes.labels_run import LabelsRun
    from terralabel.recipes.run import open_run

    opened = open_any(run)
    found = opened if isinstance(opened, LabelsRun) else open_run(run)
    print(change_clusters(found, action, arguments or [], name=name, parts=parts, progress=terminal_progress()))
    return 0


def align(
    run: RunArgument,
    truth: Annotated[Path, typer.Option("--truth", help="Folder of class-id masks with the images' stems.")],
    match: Annotated[
        str, typer.Option("--match", help="majority (many clusters to a class) or hungarian (one to one).")
    ] = "majority",
    names: Annotated[str, typer.Option("--names", help="Class names: 1=building,2=road or a class map JSON.")] = "",
    ignore: Annotated[str, typer.Option("--ignore", help="Truth ids that mean 'no label', comma-separated.")] = "255",
) -> int:
    """Name clusters from a few labelled images.

    Example: `terralabel align run --truth masks --names 1=building,2=road`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.curate import align_run
    from terralabel.recipes.run import open_run

    print(align_run(open_run(run), truth, match=match, names=names, ignore=ids(ignore), progress=terminal_progress()))
    return 0


@evaluate.command("labels")
def evaluate_labels(
    source: Annotated[Path, typer.Argument(help="Run folder, or a folder of class-id masks.", metavar="RUN|DIR")],
    truth: Annotated[Path, typer.Option("--truth", help="Folder of true class-id masks with equal stems.")],
    ignore: Annotated[str, typer.Option("--ignore", help="Truth ids to leave out, comma-separated.")] = "255",
    match: Annotated[str, typer.Option("--match", help="majority, hungarian, or none (ids are classes already).")] = "majority",
    json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Write the confusion matrix as a PNG.")] = None,
) -> int:
    """Confusion, per-class IoU, mIoU, ARI, NMI, purity and boundary F of labels against truth.

    Example: `terralabel evaluate labels run --truth masks --ignore 0,255 --match hungarian --json scores.json`
    """
    from terralabel.recipes.evaluation import evaluation_text

    print(evaluation_text(source, truth, ignore=ids(ignore), match=match, json_path=json, picture=picture))
    return 0


def ids(text: str) -> tuple[int, ...]:
    """The ids of an --ignore flag."""
    from terralabel.errors import SettingsError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"--ignore: expected class ids such as 0,255; got {text!r}.") from error
