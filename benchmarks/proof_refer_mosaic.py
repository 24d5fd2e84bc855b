"""A whole mosaic by one command, and what it found opened as GeoPackages in the mosaic's own coordinate system and in WGS84.

    python benchmarks/proof_refer_mosaic.py --data DIR --out DIR [--masks nano] [--text TEXT]

Tiles of `oam-buildings`, whose names say where they lie (web Mercator), are laid side by side as one GeoTIFF; boxes are those of
the buildings in `buildings.geojson`, WGS84. Then `terralabel refer` and `terralabel export` run as a person types them. Both files
are read again with pyogrio: as many things in each, each at the same place to a centimetre, and inside the mosaic.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyogrio
import rasterio
import shapely
from pyproj import Transformer
from rasterio.transform import from_origin
from rasterio.windows import Window

#: Half the length of the equator in web Mercator, metres, and pixels of a tile.
HALF, SIDE = 20037508.342789244, 256


def neighbours(images: Path) -> dict[tuple[int, int, int], Path]:
    """(column, row, zoom) -> file of the largest group of tiles of one zoom that touch one another."""
    left = {tuple(int(v) for v in re.findall(r"\d+", path.stem)[-3:]): path for path in sorted(images.iterdir())}
    groups = []
    while left:
        reached, group = [next(iter(left))], {}
        while reached:
            x, y, zoom = reached.pop()
            path = left.pop((x, y, zoom), None)
            if path is not None:
                group[x, y, zoom] = path
                reached += [(x + dx, y + dy, zoom) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        groups.append(group)
    return max(groups, key=len)


def mosaic(images: Path, out: Path) -> tuple[int, int]:
    """Lay tiles side by side; returns (width, height). Where there is none the mosaic is 0, which is declared as no data."""
    places = neighbours(images)
    columns, rows, zooms = (sorted({place[k] for place in places}) for k in range(3))
    width, height = ((last[-1] - last[0] + 1) * SIDE for last in (columns, rows))
    metres = 2 * HALF / SIDE / 2 ** zooms[0]
    place = from_origin(columns[0] * SIDE * metres - HALF, HALF - rows[0] * SIDE * metres, metres, metres)
    how = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "crs": "EPSG:3857", "nodata": 0}
    with rasterio.open(out, "w", transform=place, tiled=True, compress="deflate", **how) as target:
        for (x, y, _), path in places.items():
            window = Window((x - columns[0]) * SIDE, (y - rows[0]) * SIDE, SIDE, SIDE)
            target.write(np.maximum(cv2.imread(str(path))[..., ::-1], 1).transpose(2, 0, 1), window=window)
    return width, height


def run(*words: object) -> str:
    """A command of `terralabel`; stops where it fails."""
    done = subprocess.run([sys.executable, "-m", "terralabel", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def outlines(path: Path) -> tuple[str, np.ndarray]:
    """Coordinate system and geometries of a GeoPackage's layer of masks."""
    meta, _, geometry, _ = pyogrio.raw.read(path, layer="masks")
    return str(meta["crs"]), shapely.from_wkb(geometry)


def main() -> None:
    """Make the mosaic, run the commands, open the files, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation data")
    parser.add_argument("--out", type=Path, required=True, help="folder for mosaic, run and exports")
    parser.add_argument("--masks", default="nano", help="what the boxes prompt")
    parser.add_argument("--text", default="the two buildings nearest to the largest building", help="what to find")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    image, made = options.out / "mosaic.tif", options.out / "run"
    width, height = mosaic(options.data / "oam-buildings" / "images", image)
    boxes = options.data / "oam-buildings" / "buildings.geojson"
    began = time.monotonic()
    print(run("refer", image, "--text", options.text, "--boxes", boxes, "--masks", options.masks, "--explain", "--out", made))
    took = time.monotonic() - began
    run("export", made, "--format", "geopackage,geopackage-wgs84", "--out", options.out / "exported")
    run("report", made)
    files = {path.name: path for path in sorted((options.out / "exported").rglob("*.gpkg"))}
    wgs84, own = (next(p for n, p in files.items() if ("wgs84" in n) == degrees) for degrees in (True, False))
    (crs, shapes), (crs_wgs84, degrees) = outlines(own), outlines(wgs84)
    back = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    again = shapely.transform(degrees, lambda xy: np.stack(back.transform(xy[:, 0], xy[:, 1]), axis=1))
    apart = float(shapely.hausdorff_distance(again, shapes).max()) if len(shapes) else 0.0
    with rasterio.open(image) as raster:
        inside = bool(shapely.contains(shapely.box(*raster.bounds).buffer(1e-6), shapes).all())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"mosaic {width} x {height} px; {took:.0f} s, at most {peak:.2f} GB in a process")
    print(
        f"{own.name}: {crs}, {len(shapes)} things; {wgs84.name}: {crs_wgs84}, {len(degrees)} things; {apart:.4f} m apart at most"
    )
    if len(shapes) != len(degrees) or apart > 0.01 or not inside or not len(shapes):
        raise SystemExit("the two files do not show the same things at the same places")


if __name__ == "__main__":
    main()
