"""Verbs on labelled data sets: list the formats, check a folder, cut a release into crops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["datasets"]

datasets = typer.Typer(help="Labelled data sets: formats, a look at one, crops of a release.", no_args_is_help=True)

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
def datasets_check(
    folder: FolderArgument,
    format: FormatOption = "auto",
    classes: Annotated[Path | None, typer.Option("--classes", help="Class file in place of the set's own.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Folder or COCO file of labels, when elsewhere.")] = None,
    ignore: Annotated[str, typer.Option("--ignore", help="Stored values that mean no label, comma-separated.")] = "",
    threshold: Annotated[int | None, typer.Option("--threshold", help="Masks: that and more is class 1.")] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Two classes: whether a pixel has a label or none.")] = False,
    sample: Annotated[int, typer.Option("--sample", help="Images whose labels are read; 0 for all.", min=0)] = 50,
) -> int:
    """Format, splits, classes and their share of the pixels; what cannot be used, with the reason. Exit code 2 then.

    Example: `terralabel datasets check data/potsdam`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.errors import SettingsError
    from terralabel.imagery.datasets.checking import check_labelled, checkup_text
    from terralabel.imagery.datasets.opening import open_labelled

    words = [word.strip() for word in ignore.split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise SettingsError(f"--ignore: expected whole numbers, comma-separated; got {ignore!r}.")
    reading: dict[str, Any] = {"format": format, "classes": classes, "labels": labels, "threshold": threshold, "binary": binary}
    dataset = open_labelled(folder, ignore=[int(word) for word in words], **reading)
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
