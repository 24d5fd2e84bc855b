"""Speed of `annotate fit` and `apply`, and peak memory of `apply` on square mosaics of two sizes: it must not grow with them.

usage: annotate_scale.py [--sizes 5000 20000] [--folder DIR] [--json FILE] [--keep] [--trunk scratch] [--width 8] [--flips] [--every 16]

Paints a few small scenes, fits a tiny network on their truth, and labels painted mosaics (benchmarks/make_mosaic.py) by the very
commands a user would type; memory is watched as in proof_memory.py. `--every 16` leaves all but one in sixteen squares of 1024 px
without data: rasters and buffers are as large, and the network has a sixteenth of the work. Linux only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import rasterio

from proof_memory import watched
from terralabel.imagery.painter import paint_scene, write_demo

BOUND_MB, GROWTH = 2000, 1.15
HERE = Path(__file__).resolve().parent


def thin_mosaic(path: Path, size: int, every: int) -> None:
    """A painted raster of which one in `every` squares of 1024 px has data; the others are nodata, and take no room."""
    block = np.clip(paint_scene(1024, 1024, 0)[0], 1, 255).astype(np.uint8)
    kind = {"driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0, "tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", width=size, height=size, compress="deflate", sparse_ok=True, **kind) as out:
        for number, (row, column) in enumerate(product(range(0, size - 1023, 1024), repeat=2)):
            if number % every == 0:
                turned = np.moveaxis(np.rot90(block, number // every % 4), -1, 0)
                out.write(turned, window=((row, row + 1024), (column, column + 1024)))


def main() -> int:
    """Print a row a size; exit code 1 where memory is over the bound, or grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--folder", type=Path, default=Path("proof/annotate-scale"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--trunk", default="scratch")
    parser.add_argument("--width", default="8")
    parser.add_argument("--steps", default="20")
    parser.add_argument("--tile-size", default="512")
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="one in so many squares has data")
    parser.add_argument("--keep", action="store_true", help="leave mosaics, the model and runs")
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    scenes, model = folder / "scenes", folder / "model"
    write_demo(scenes, seed=1, scenes=4, size=256)
    few = ["--steps", given.steps, "--folds", "2", "--batch-size", "4", "--crop", "128", "--threads", "1"]
    fit = [
        "annotate",
        "fit",
        str(scenes / "images"),
        "--labels",
        str(scenes / "truth"),
        "--classes",
        str(scenes / "classes.json"),
    ]
    figures = {"fit": watched([*fit, "--out", str(model), "--trunk", given.trunk, "--width", given.width, *few])}
    print("fit", figures["fit"], flush=True)
    for size in given.sizes:
        mosaic = folder / f"mosaic-{size}.tif"
        if not mosaic.exists():
            if given.every > 1:
                thin_mosaic(mosaic, size, given.every)
            else:
                subprocess.run([sys.executable, HERE / "make_mosaic.py", "--size", str(size), "--out", mosaic], check=True)
        flips = "--flips" if given.flips else "--no-flips"
        apply = ["annotate", "apply", str(model), str(mosaic), "--out", str(folder / f"run-{size}"), flips, "--threads", "1"]
        figures[str(size)] = watched([*apply, "--tile-size", given.tile_size])
        figures[str(size)]["megapixels_per_second"] = round(size * size / 1e6 / figures[str(size)]["seconds"], 2)
        print(size, figures[str(size)], flush=True)
        if not given.keep:
            shutil.rmtree(folder / f"run-{size}")
            mosaic.unlink()
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    peaks = [figures[str(size)]["main"] for size in given.sizes]
    good = max(peaks) <= BOUND_MB and peaks[-1] <= GROWTH * peaks[0] + 100
    print(f"peak memory {peaks} MB: {'bounded' if good else 'NOT bounded'}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
