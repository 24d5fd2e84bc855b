"""Pictures with bright blobs that a tiny network learns in seconds, and the settings for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

#: Enough to find the blobs, in a second or two.
TINY: dict[str, Any] = {
    "trunk": "scratch", "width": 8, "crop": 48, "batch_size": 4, "steps": 30, "lr": 0.01, "folds": 2, "threads": 1,
    "scale_min": 1.0, "scale_max": 1.0, "photometric": False, "save_every": 10, "log_every": 5,
}  # fmt: skip


def blob(size: tuple[int, int], seed: int, empty: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(3, h, w) uint8 noise with bright discs, and (h, w) uint8 where they are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, np.uint8)
    for _ in range(0 if empty else max(1, size[0] * size[1] // 2500)):
        y, x, radius = rng.uniform(8, size[0] - 8), rng.uniform(8, size[1] - 8), rng.uniform(6, 11)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    picture = 90 + 90 * mask + rng.normal(0, 12, (3, *size))
    return np.clip(picture, 0, 255).astype(np.uint8), mask


def write(path: Path, bands: np.ndarray, east: float = 500000.0, crs: str = "EPSG:32632") -> Path:
    """A GeoTIFF of one metre a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands[None] if bands.ndim == 2 else bands
    place = {"transform": from_origin(east, 5000000.0, 1.0, 1.0), "crs": crs}
    kind: dict[str, Any] = {"count": len(bands), "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", height=bands.shape[1], width=bands.shape[2], **kind, **place) as out:
        out.write(bands)
    return path


def write_blobs(folder: Path, labelled: int = 4, more: int = 3, size: tuple[int, int] = (80, 72)) -> Path:
    """images/, labels/ for the first `labelled` of them (the last of which is empty), and truth/ for the rest."""
    for i in range(labelled + more):
        picture, mask = blob(size, i, empty=i == labelled - 1)
        name = f"scene_{i:02d}.tif"
        write(folder / "images" / name, picture, east=500000.0 + 100 * i)
        write(folder / ("labels" if i < labelled else "truth") / name, mask, east=500000.0 + 100 * i)
    return folder


def iou(found: Path, true: Path) -> float:
    """Of class 1 of two rasters."""
    with rasterio.open(found) as a, rasterio.open(true) as b:
        one, two = a.read(1) == 1, b.read(1) == 1
    return float((one & two).sum() / max((one | two).sum(), 1))
