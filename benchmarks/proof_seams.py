"""Tiled against untiled: object counts, one id per object, and the same classes, on real images.

usage: proof_seams.py --data ../shared/data [--json FILE] [--tile-sizes 512 576 640 768 896] [--overlap 192]

Each image is labelled whole and in tiles. Counts must agree within 1 % over the images; the objects of both are put into
the same clusters (those fitted on the whole image), and at least 98 % of the pixels must have the same class.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio

from terralabel.recipes.label import label
from terralabel.recipes.painting import AssignJob, assign_group, paint_group
from terralabel.recipes.relabel import paint_job
from terralabel.recipes.run import Run

IMAGES = ("multiclass/loveda/images/*", "fields/images/*", "houses/images/*")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as labels:
        return labels.read(1)


def one_id_each(run: Run) -> bool:
    ids = [int(i) for scene in run.scenes for batch in run.objects(scene.key) for i in batch.id]
    return len(ids) == len(set(ids))


def with_clusters_of(whole: Run, tiled: Run, scratch: Path) -> np.ndarray:
    """The tiled run's raster, its objects in the clusters that were fitted on the whole image."""
    (group,) = tiled.layout.groups
    job = AssignJob(
        group,
        tiled.layout.object_features_path(group),
        whole.layout.clusterer_path(),
        whole.layout.backends.clusters,
        scratch / "none",
        scratch / "assigned.parquet",
    )
    assign_group(job)
    painted = replace(
        paint_job(tiled.layout, group),
        assigned=job.out,
        classes=whole.classes,
        labels=(scratch / "labels.tif",),
        marker=scratch / "m" / "marker.parquet",
    )
    paint_group(painted)
    return read(scratch / "labels.tif")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tile-sizes", type=int, nargs="+", default=[512, 576, 640, 768, 896])
    parser.add_argument("--overlap", type=int, default=192)
    options = parser.parse_args()
    images = [sorted(options.data.glob(pattern))[0] for pattern in IMAGES]
    counts: dict[int, int] = dict.fromkeys([0, *options.tile_sizes], 0)
    equal: dict[int, list[float]] = {size: [] for size in options.tile_sizes}
    with tempfile.TemporaryDirectory() as folder:
        for index, image in enumerate(images):
            whole = label(image, Path(folder) / f"{index}-whole", tile_size=4096, overlap=0, workers=0, clusters=8)
            counts[0] += whole.object_count()
            for size in options.tile_sizes:
                out = Path(folder) / f"{index}-{size}"
                tiled = label(image, out, tile_size=size, overlap=options.overlap, workers=0, clusters=8)
                assert one_id_each(tiled)
                counts[size] += tiled.object_count()
                (scene,) = whole.scenes
                share = float((read(whole.label_path(scene.key)) == with_clusters_of(whole, tiled, out / "compare")).mean())
                equal[size].append(share)
                change = tiled.object_count() / whole.object_count() - 1
                print(
                    f"{image.parent.parent.name:<10} tiles of {size}: {tiled.object_count():>5} objects ({change:+.2%}), class equal on {share:.2%}",
                    flush=True,
                )
    result = {
        size: {"objects": counts[size], "change": counts[size] / counts[0] - 1, "class_equal": float(np.mean(equal[size]))}
        for size in options.tile_sizes
    }
    for size, row in result.items():
        print(
            f"all        tiles of {size}: {row['objects']:>5} of {counts[0]} objects ({row['change']:+.2%}), class equal on {row['class_equal']:.2%}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"whole": counts[0], "overlap": options.overlap, "tiles": result}, indent=2))
    good = all(abs(row["change"]) <= 0.01 and row["class_equal"] >= 0.98 for row in result.values())
    print(
        "holds"
        if good
        else "DOES NOT HOLD: counts differ by more than 1 %, or fewer than 98 % of the pixels have the same class"
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
