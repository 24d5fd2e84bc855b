"""The demo: generated scenes with known truth through the whole way, in a minute, without any file of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.grid import Window
from terralabel.export.picture import colorize, overlay, panels, save_picture
from terralabel.imagery.painter import write_demo
from terralabel.recipes.curate import align_run
from terralabel.recipes.evaluation import evaluate_labels, truth_pairs
from terralabel.recipes.label import label
from terralabel.recipes.run import Run, export_run, report_run
from terralabel.runs.progress import Progress, Silent

__all__ = ["run_demo"]

#: Clusters of the demo: a few more than the six classes that are painted, as one would ask for on real imagery.
CLUSTERS = 12


def run_demo(out: Path, *, scenes: int = 4, size: int = 512, seed: int = 0, progress: Progress | None = None) -> str:
    """Paint scenes, label them, name the clusters by the truth, measure, export, report and draw; returns what to print.

    Everything goes into `out`.
    """
    progress = progress or Silent()
    out = Path(out)
    progress.say(f"painting {scenes} scenes of {size} x {size} pixels")
    images, truth = write_demo(out, seed=seed, scenes=scenes, size=size)
    run = label(images, out / "run", clusters=str(CLUSTERS), seed=seed, overwrite=True, progress=progress)
    classes = Classes.from_json((out / "classes.json").read_text(encoding="utf-8"))
    align_run(run, truth, match="majority", names=classes, progress=progress)
    report = evaluate_labels(run, truth, match="none")  # clusters are classes now
    report.write_json(out / "scores.json")
    export_run(run, ["geotiff", "geopackage", "coco"], out / "export", progress)
    page = report_run(run, out / "report.html", out / "scores.json")
    picture = _picture(run, truth, out / "demo.png")
    return "\n".join(
        [
            run.summary(),
            "",
            report.to_text(),
            "",
            f"matched mIoU {report.miou:.3f} ({CLUSTERS} clusters, each named after the true class it shares most pixels with)",
            f"picture  {picture}",
            f"labels   {out / 'export'} (GeoTIFF, GeoPackage, COCO)",
            f"report   {page}",
        ]
    )


def _picture(run: Run, truth: Path, final: Path) -> Path:
    """Image | truth | labels, a row per scene."""
    from terralabel.evaluate.rasters import open_labels

    pairs, _, _ = truth_pairs(run, truth)
    predicted = {scene.key: run.label_path(scene.key) for scene in run.scenes}
    classes = run.classes
    rows = []
    for scene in run.scenes[:4]:
        true_path = next(true for ours, true in pairs if ours == predicted[scene.key])
        image = run.read_rgb(scene.key, Window(0, 0, scene.width, scene.height))
        with open_labels(true_path) as theirs, open_labels(predicted[scene.key]) as ours:
            true = np.concatenate(list(theirs.strips()))
            found = np.concatenate(list(ours.strips()))
        rows.append([image, colorize(true, classes), overlay(image, found, classes)])
    return save_picture(final, panels(rows, ["image", "truth", "labels"], classes))
