"""Write one big painted mosaic, for the proof that memory does not grow with the scene.

    python benchmarks/make_mosaic.py --size 30000 --out /tmp/mosaic.tif

A few dozen painted blocks are laid side by side, each turned, mirrored and lit in its own way, so that no two neighbours
are the same; the file is a tiled, compressed three-band GeoTIFF, written block by block. Same arguments, same bytes.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from terralabel.core.files import atomic_path
from terralabel.imagery.painter import paint_scene

#: Side of a painted block; a multiple of the file's own tiles, so that each tile is written once.
BLOCK, TILE = 1024, 512


def turned(block: np.ndarray, choice: int, gain: float) -> np.ndarray:
    """One of the eight orientations of a (n, n, 3) uint8 block, lit by `gain`; never 0, which means no data."""
    block = np.rot90(block, choice % 4)
    block = block[:, ::-1] if choice >= 4 else block
    return np.clip(block * np.float32(gain), 1, 255).astype(np.uint8)


def plan(size: int, blocks: int, seed: int) -> np.ndarray:
    """(rows, columns, 2): which block and which orientation goes where; side by side and one above the other differ."""
    count = -(-size // BLOCK)
    rng = np.random.default_rng(seed)
    which = rng.integers(0, blocks, (count, count))
    for row in range(count):
        for column in range(count):
            taken = {which[row - 1, column] if row else -1, which[row, column - 1] if column else -1}
            while blocks > 2 and which[row, column] in taken:
                which[row, column] = (which[row, column] + 1) % blocks
    return np.stack([which, rng.integers(0, 8, (count, count))], -1)


def write_mosaic(final: Path, size: int, blocks: int = 24, seed: int = 0) -> Path:
    """A `size` x `size` three-band uint8 GeoTIFF in UTM 33N at half a metre; memory: the blocks, 3 MB each, and a cache."""
    painted = [paint_scene(BLOCK, BLOCK, seed * 1000 + index)[0] for index in range(blocks)]
    layout = plan(size, blocks, seed)
    gains = np.random.default_rng(seed + 1).uniform(0.9, 1.1, layout.shape[:2])
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8", "nodata": 0, "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_400_000, 0.5, 0.5), "tiled": True, "blockxsize": TILE, "blockysize": TILE,
        "compress": "deflate", "zlevel": 1, "predictor": 2, "interleave": "pixel", "photometric": "RGB", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.Env(GDAL_CACHEMAX=64), atomic_path(final) as temporary, rasterio.open(temporary, "w", **profile) as out:
        for row, column in np.ndindex(*layout.shape[:2]):
            x, y = column * BLOCK, row * BLOCK
            width, height = min(BLOCK, size - x), min(BLOCK, size - y)
            which, choice = layout[row, column]
            pixels = turned(painted[which], int(choice), float(gains[row, column]))[:height, :width]
            out.write(np.moveaxis(pixels, -1, 0), window=Window(x, y, width, height))
    return final


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=15_000, help="width and height in pixels")
    parser.add_argument("--out", type=Path, required=True, help="the GeoTIFF to write")
    parser.add_argument("--blocks", type=int, default=24, help="how many different blocks to paint")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start = time.perf_counter()
    final = write_mosaic(given.out, given.size, given.blocks, given.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = time.perf_counter() - start
    print(f"{final}: {given.size} x {given.size}, {final.stat().st_size / 1e6:.0f} MB, {took:.0f} s, peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
