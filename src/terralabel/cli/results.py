"""Verbs on a finished or unfinished run: status, export, import, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export", "import_corrections", "report", "status"]

RunArgument = Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]


def status(
    run: RunArgument,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> int:
    """What a run holds: scenes, tiles, failures with their reasons, objects, classes. Exit code 2 when something failed.

    Example: `terralabel status run`
    """
    from terralabel.recipes.detected_run import open_any

    opened = open_any(run)
    print(opened.status_json() if json else opened.summary())
    return 2 if opened.failures else 0


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="One or more of geotiff, instances, geopackage, geopackage-wgs84, geoparquet, geojson, coco, yolo, mmseg, png, sure, comma-separated.",
        ),
    ] = "geotiff,geopackage",
) -> int:
    """Write a run's labels in formats other programs open.

    Example: `terralabel export run --format geopackage,coco --out exported`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.detected_run import open_any
    from terralabel.recipes.run import export_run

    names = [name.strip() for name in format.split(",") if name.strip()]
    for path in export_run(open_any(run), names, out, progress=terminal_progress()):
        print(path)
    return 0


def import_corrections(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="Corrected GeoPackage, GeoJSON, COCO file or class map.", metavar="FILE")],
    author: Annotated[str, typer.Option("--author", help="Who corrected; kept with the corrections.")] = "",
) -> int:
    """Bring corrections made elsewhere back; they survive every rerun. Exit code 2 when some were refused.

    Example: `terralabel import run corrected.gpkg`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.curate import import_file
    from terralabel.recipes.run import open_run

    outcome = import_file(open_run(run), file, author=author, progress=terminal_progress())
    print(outcome.text)
    return 2 if outcome.refused else 0


def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; default RUN/report.html.")] = None,
    evaluation: Annotated[Path | None, typer.Option("--evaluation", help="JSON of `evaluate labels` to show.")] = None,
) -> int:
    """One self-contained HTML file: settings, counts, typical and doubtful crops per cluster, overlays.

    Example: `terralabel report run`
    """
    from terralabel.recipes.detected_run import open_any
    from terralabel.recipes.run import report_run

    print(report_run(open_any(run), out, evaluation))
    return 0
