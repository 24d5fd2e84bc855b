"""How fast windows are read, and with how much memory, from files that store tiles, strips and rows.

    python benchmarks/reading.py --sizes 6000 12000

Writes a painted mosaic (benchmarks/make_mosaic.py) in three formats and reads rows of tiles of 1024 px with 128 px overlap,
each file in a process of its own: processor seconds of a row of tiles and of a jump to the last row, and the largest
resident set (VmHWM; Linux only). Then megapixels a second and channel of the radiometry.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
FORMATS = {
    "TIFF, LZW, tiles of 512": ("tiles.tif", "GTiff", {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "lzw"}),
    "TIFF, LZW, strips": ("strips.tif", "GTiff", {"tiled": False, "compress": "lzw"}),
    "PNG": ("rows.png", "PNG", {}),
}


def write_files(size: int, folder: Path) -> dict[str, Path]:
    """The mosaic in every format."""
    from rasterio.shutil import copy

    mosaic = folder / "mosaic.tif"
    command = [sys.executable, HERE / "make_mosaic.py", "--size", str(size), "--out", mosaic, "--blocks", "4"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    files = {}
    for title, (name, driver, options) in FORMATS.items():
        files[title] = folder / name
        copy(mosaic, folder / name, driver=driver, **options)
    mosaic.unlink()
    return files


def read(path: Path) -> dict[str, float]:
    """Processor seconds of the second row of tiles and of a jump to the last one, after the first; peak MB of this process."""
    from terralabel.core.grid import plan_tiles
    from terralabel.imagery.radiometry import fit_radiometry
    from terralabel.imagery.tiles import read_tile

    radiometry = fit_radiometry([path], sensor="optical").radiometry
    seconds: dict[int, float] = {}
    with radiometry.open(path) as raster:
        plans = plan_tiles("scene", raster.width, raster.height, 1024, 128)
        last = max(plan.row for plan in plans)
        for row in (0, min(1, last), last):
            began = time.process_time()
            for plan in plans:
                if plan.row == row:
                    read_tile(raster, plan, radiometry)
            seconds[row] = time.process_time() - began
    status = Path("/proc/self/status").read_text()  # not getrusage: that inherits the peak of the process that started this one
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return {"row": seconds[min(1, last)], "last": seconds[last], "peak": peak}


def mapping_speed(side: int = 2048) -> dict[str, float]:
    """Megapixels a second of `Radiometry.apply` on one channel, the best of five, by kind of number."""
    import rasterio
    from rasterio.transform import from_origin

    from terralabel.core.grid import Window
    from terralabel.imagery.radiometry import fit_radiometry

    speeds = {}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("uint8", "uint16", "int32", "float32", "float64"):
            pixels = (rng.gamma(2, 20, (side, side))).clip(0, 250).astype(kind)
            path = Path(folder) / f"{kind}.tif"
            shape = {"width": side, "height": side, "count": 1, "dtype": kind, "transform": from_origin(0, 0, 0.5, 0.5)}
            with rasterio.open(path, "w", driver="GTiff", **shape) as out:
                out.write(pixels, 1)
            radiometry = fit_radiometry([path], sensor="optical").radiometry
            with radiometry.open(path) as raster:
                values, valid = raster.read(Window(0, 0, side, side))
            best = float("inf")
            for _ in range(5):
                began = time.process_time()
                radiometry.apply(values, valid)
                best = min(best, time.process_time() - began)
            speeds[kind] = side * side / 1e6 / best
    return speeds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[6_000, 12_000], help="sides of the mosaics, pixels")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.read:
        print(json.dumps(read(given.read)))
        return
    print(f"{'':<26}{'size':>7}{'MB':>7}{'row, s':>9}{'last, s':>9}{'peak MB':>9}")
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for title, path in write_files(size, Path(folder)).items():
                command = [sys.executable, __file__, "--read", str(path)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                figures = f"{found['row']:>9.2f}{found['last']:>9.2f}{found['peak']:>9.0f}"
                print(f"{title:<26}{size:>7}{path.stat().st_size / 1e6:>7.0f}{figures}", flush=True)
    for kind, speed in mapping_speed().items():
        print(f"Radiometry.apply, {kind:<8} {speed:>6.0f} megapixels a second and channel")


if __name__ == "__main__":
    main()
