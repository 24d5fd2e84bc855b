"""`terralabel label` and `terralabel demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.options import Quiet, gather, with_settings
from terralabel.recipes.settings import LabelSettings

__all__ = ["demo", "detect", "detect_label", "label"]


@with_settings(LabelSettings)
def label(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders, a text file that lists images, one mosaic, or an mmseg root.", metavar="SOURCE..."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: made if new, resumed if it is there.")],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags win over it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and what it needs; write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Go on although the settings differ from the run's; corrections are kept.")
    ] = False,
    quiet: Quiet = False,
    **flags: Any,
) -> int:
    """Label imagery without labels: masks, features, clusters, class rasters.

    Resumes by default: run the same command again after a crash. Exit code 2 when some inputs failed.

    Example: `terralabel label images/ --out run --clusters 12`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.label import estimate, label_settings

    settings = gather(LabelSettings, flags, config)
    if dry_run:
        print(estimate(sources, settings, out))
        return 0
    progress = terminal_progress(quiet)
    run = label_settings(sources, out, settings, overwrite=overwrite, progress=progress)
    print(run.summary(list_failures=False))
    return 2 if run.failures else 0


def detect(
    sources: Annotated[
        list[Path], typer.Argument(help="Images, folders, or a text file that lists images.", metavar="SOURCE...")
    ],
    detector: Annotated[
        str, typer.Option("--detector", help="Folder or hub name of a transformers detector, or torchvision:MODEL:FILE.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="COCO file to write.")],
    threshold: Annotated[float, typer.Option("--threshold", help="Drop boxes with a lower score.")] = 0.3,
    nms: Annotated[
        float, typer.Option("--nms", help="Drop boxes that overlap a better one of their class by more (IoU).")
    ] = 0.5,
    tile_size: Annotated[int, typer.Option("--tile-size", help="Side of the windows of large images, pixels.")] = 1024,
    overlap: Annotated[int, typer.Option("--overlap", help="Overlap of neighbouring windows, pixels.")] = 256,
    device: Annotated[str, typer.Option("--device", help="Where networks run: auto, cpu, cuda, mps.")] = "auto",
    quiet: Quiet = False,
) -> int:
    """Find boxes with a detector of your own and write them as COCO, for `detect-label`. Exit code 2 when some images failed.

    Example: `terralabel detect images/ --detector my-detr --out boxes.json`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.detecting import detect as recipe

    how: dict[str, Any] = {"threshold": threshold, "nms": nms, "tile_size": tile_size, "overlap": overlap, "device": device}
    done = recipe(list(sources), detector, out, progress=terminal_progress(quiet), **how)
    print(done.text)
    return 2 if done.failures else 0


def detect_label(
    sources: Annotated[
        list[Path], typer.Argument(help="Images, folders, or a text file that lists images.", metavar="SOURCE...")
    ],
    boxes: Annotated[
        Path, typer.Option("--boxes", help="COCO file, or DOTA's text files (a folder of them): upright or rotated boxes.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: made if new, resumed if it is there.")],
    masks: Annotated[
        str, typer.Option("--masks", help="What the boxes prompt: tree, nano, a SAM by name or file, auto.")
    ] = "auto",
    classes: Annotated[Path | None, typer.Option("--classes", help="Class map with the names in the file of boxes.")] = None,
    tile_size: Annotated[int, typer.Option("--tile-size", help="Side of the windows of large images, pixels.")] = 1024,
    overlap: Annotated[int, typer.Option("--overlap", help="Overlap of windows; larger boxes get their own.")] = 256,
    device: Annotated[str, typer.Option("--device", help="Where networks run: auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option("--workers", help="Processes; -1: as many as fit, 0: this one.")] = -1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Go on with other boxes or settings than the run's.")] = False,
    quiet: Quiet = False,
) -> int:
    """Label imagery that has boxes: one mask for each box, of the box's class, 255 elsewhere (as SAMRS was made).

    Resumes by default. Exit code 2 when some images or boxes could not be used.

    Example: `terralabel detect-label images/ --boxes instances.json --masks sam_vit_h --out run`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.detected import detect_label as recipe

    how = {"masks": masks, "tile_size": tile_size, "overlap": overlap, "device": device, "workers": workers}
    run = recipe(list(sources), boxes, out, classes=classes, overwrite=overwrite, progress=terminal_progress(quiet), **how)
    print(run.summary(list_failures=False))
    return 2 if run.failures or run.manifest["problems"] else 0


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images, run, exports, report and picture.")] = Path(
        "demo"
    ),
    scenes: Annotated[int, typer.Option(help="Number of generated scenes.", min=1, max=100)] = 4,
    size: Annotated[int, typer.Option(help="Side of a scene, pixels.", min=128, max=4096)] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the scenes and of the clusters.", min=0)] = 0,
) -> int:
    """Label generated scenes with known truth, and leave a picture, a report and the files that GIS programs open.

    Example: `terralabel demo --out demo`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.demo import run_demo

    print(run_demo(out, scenes=scenes, size=size, seed=seed, progress=terminal_progress()))
    return 0
