"""Time and peak memory of writing a label raster, exporting it and reading it back, for made-up objects of about 580 pixels:

    OMP_NUM_THREADS=1 python benchmarks/export_scale.py --objects 200000 --side 10000 --formats geopackage,coco --out /tmp/scale

Prints one line a step: CPU seconds, wall seconds, peak resident memory so far, bytes written. The folder is emptied first.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from terralabel.core import rle
from terralabel.core.classes import Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.export.rasters import write_label_raster
from terralabel.export.reading import read_corrections
from terralabel.registry import create

SIDE = 34  # of an object's box
CLASSES = Classes.of_clusters(16)


@dataclass(frozen=True)
class MadeUp:
    """A run whose objects are drawn from 50 blobs, the same on every pass."""

    path: Path
    scene: Scene
    count: int
    blobs: tuple[np.ndarray, ...]
    id: str = "made-up"
    masks_name: str = "none"
    classes: Classes = CLASSES

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The one scene."""
        return (self.scene,)

    def label_path(self, scene_key: str) -> Path:
        """Where its label raster is."""
        return self.path / f"{scene_key}.tif"

    def tiles(self, scene_key: str) -> Iterator[object]:
        """None."""
        return iter(())

    def objects(self, scene_key: str) -> Iterator[Objects]:
        """Batches of 4000."""
        rng = np.random.default_rng(1)
        areas = np.array([int(code[1::2].sum()) for code in self.blobs])
        for start in range(0, self.count, 4000):
            n = min(4000, self.count - start)
            which = rng.integers(0, len(self.blobs), n)
            runs, offsets = rle.concatenate([self.blobs[k] for k in which])
            bbox = np.concatenate([rng.integers(0, self.scene.width - SIDE, (n, 2)), np.full((n, 2), SIDE)], axis=1)
            kind, ones = rng.integers(0, 16, n).astype(np.int32), np.ones(n, dtype=np.float32)
            ids = np.arange(start + 1, start + n + 1)
            auto = ("auto",) * n
            yield Objects(scene_key, ids, kind, kind, ones, ones, ones, auto, bbox, areas[which], runs, offsets)


def step(name: str, out: Path, work: Callable[[], object]) -> None:
    """Do it and print what it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    told = work()
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{name:12} {cpu:8.1f} s CPU {wall:8.1f} s wall  peak {peak:6.0f} MB  folder {size:8.1f} MB  {told or ''}", flush=True
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=40_000)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--formats", default="geopackage,geoparquet,coco")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    side, rng = options.side, np.random.default_rng(0)
    smooth = [gaussian_filter(rng.random((SIDE, SIDE)), 4) for _ in range(50)]
    blobs = tuple(rle.encode(blob > np.median(blob)) for blob in smooth)
    place = Georeference((0.3, 0.0, 5e5, 0.0, -0.3, 5e6), "EPSG:32632")
    run = MadeUp(options.out, Scene("scene", "scene.tif", "scene", side, side, place), options.objects, blobs)
    bits = [gaussian_filter(rng.normal(size=(1024, 1024)), sigma) > 0 for sigma in (12, 20, 30)]
    texture = (bits[0] + 2 * bits[1] + 4 * bits[2]).astype(np.uint8)

    def blocks() -> Iterator[tuple[Window, np.ndarray]]:
        for y in range(0, side, 1000):
            for x in range(0, side, 1000):
                w, h = min(1000, side - x), min(1000, side - y)
                yield Window(x, y, w, h), texture[:h, :w]

    step("raster", options.out, lambda: write_label_raster(run.label_path("scene"), run.scene, CLASSES, blocks()) and None)
    for name in options.formats.split(","):
        step(name, options.out, lambda n=name: create("export", n).export(run, options.out / n) and None)  # type: ignore[misc]
    package = options.out / "geopackage" / "labels.gpkg"
    if package.exists():
        step(
            "read back",
            options.out,
            lambda: read_corrections(package, run.scenes, CLASSES, run.objects, run_id=run.id).counts(),
        )


if __name__ == "__main__":
    main()
