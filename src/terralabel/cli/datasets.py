"""Verbs on labelled data sets: list the formats, check a folder, make labels of drawn shapes, cut a release into crops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.options import gather, with_settings
from terralabel.cli.reading import with_reading
from terralabel.recipes.drawn.settings import DrawnSettings

__all__ = ["datasets"]

datasets = typer.Typer(
    help="Labelled data sets: formats, a look at one, labels drawn in a GIS, crops of a release.", no_args_is_help=True
)

FolderArgument = Annotated[Path, typer.Argument(help="Folder of the data set, a run, or a COCO file.", metavar="FOLDER")]
FormatOption = Annotated[str, typer.Option("--format", help="A name of `datasets list`; auto looks at the layout.")]


@datasets.command("list")
def datasets_list() -> int:
    """The formats that are read.

    Example: `terralabel datasets list`
    """
    from terralabel.registry import create, names

    for name in names("datasets"):
        print(f"{name:10s} {(type(create('datasets', name)).__doc__ or '').splitlines()[0].replace('`', '')}")
    return 0


@datasets.command("check")
@with_reading
def datasets_check(
    folder: FolderArgument,
    reading: dict[str, Any],
    sample: Annotated[int, typer.Option("--sample", help="Images whose labels are read; 0 for all.", min=0)] = 50,
) -> int:
    """Format, splits, classes and their share of the pixels; what cannot be used, with the reason. Exit code 2 then.

    Example: `terralabel datasets check data/potsdam`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.errors import SettingsError
    from terralabel.export.drawn import is_drawing
    from terralabel.imagery.datasets.checking import check_labelled, checkup_text
    from terralabel.imagery.datasets.opening import open_labelled

    if "drawn" in reading or (reading["labels"] is not None and is_drawing(reading["labels"])):
        raise SettingsError(
            "shapes drawn in a GIS become rasters first: terralabel datasets draw IMAGES --drawing FILE --out DIR; then check with"
            " --labels DIR/labels --classes DIR/classes.json."
        )
    dataset = open_labelled(folder, **reading)
    progress = terminal_progress()
    total = len(dataset.labelled)
    progress.start("look", min(total, sample) if sample else total, "labels")
    found = check_labelled(dataset, sample, advance=progress.advance)
    progress.finish()
    print(checkup_text(dataset, found))
    return 2 if found.failures or dataset.problems else 0


@datasets.command("crop")
def datasets_crop(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for img_dir and ann_dir.")],
    format: FormatOption = "auto",
    size: Annotated[int | None, typer.Option("--size", help="Pixels a side; default 896 (iSAID), 512 (Potsdam).")] = None,
    overlap: Annotated[int | None, typer.Option("--overlap", help="Pixels; default 384 (iSAID), 0 (Potsdam).")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes; 0: this one.", min=0)] = 0,
) -> int:
    """Cut a raw release of iSAID or Potsdam into the crops that networks are trained on; run again to go on.

    Example: `terralabel datasets crop data/isaid --out data/isaid-crops --workers 4`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.crops import crop_dataset

    done = crop_dataset(folder, out, format=format, size=size, overlap=overlap, workers=workers, progress=terminal_progress())
    print(done.text)
    return 2 if done.failures else 0


@datasets.command("draw")
@with_settings(DrawnSettings)
def datasets_draw(
    sources: Annotated[list[Path], typer.Argument(help="Images, or folders of them.", metavar="IMAGES...")],
    drawing: Annotated[Path, typer.Option("--drawing", help="GeoPackage, GeoJSON, GeoParquet or Shapefile with shapes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for label rasters and class map.")],
    classes: Annotated[Path | None, typer.Option("--classes", help="Class map in place of numbers of its own.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags win over it.")] = None,
    **flags: Any,
) -> int:
    """Make label rasters of what was drawn in a GIS: polygons, points and boxes. Exit code 2 when shapes were left out.

    Example: `terralabel datasets draw images/ --drawing roofs.gpkg --rest background --out drawn`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.drawn.labels import drawn_labels

    progress = terminal_progress()
    drawn = drawn_labels(sources, drawing, out, gather(DrawnSettings, flags, config), classes=classes, progress=progress)
    names = ", ".join(f"{entry.id} {entry.name}" for entry in drawn.classes)
    print(f"drawn    {len(drawn.labelled)} of {len(drawn)} images have a label: {out / 'labels'}/*.tif")
    print(f"classes  {names}; 255 no label")
    return 2 if drawn.problems else 0
