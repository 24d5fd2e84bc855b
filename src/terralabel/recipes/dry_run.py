"""What `label --dry-run` says."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from terralabel.core.grid import plan_tiles
from terralabel.core.tile import Tile
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.imagery.raster import open_raster
from terralabel.imagery.sources import Sources
from terralabel.imagery.tiles import estimate, read_tile
from terralabel.recipes.backends import make_generator, resolve
from terralabel.recipes.networks import memory_of_worker, on_device, weights_of, worker_count
from terralabel.recipes.settings import LabelSettings

__all__ = ["dry_run"]

#: With the tree masks (`du` of the runs of `make proof-memory`): bytes a run leaves on disk per pixel of the scenes.
_DISK_PER_PIXEL = 2.5
#: Bytes of working memory per pixel of a window and worker, and what an idle worker holds.
_MEMORY_PER_PIXEL = 500
_MEMORY_IDLE = 250_000_000


def dry_run(found: Sources, settings: LabelSettings, out: Path) -> str:
    """Images, tiles, memory and disk that `label` would need.

    Reads image headers only; but where a network makes the masks, its weights are checked and one tile is measured.
    """
    sizes, problems, readable = [], [s.reason for s in found.skipped], []
    for source in found.files:
        try:
            with open_raster(
                source.path, bands=settings.bands, sensor=settings.sensor, follow_vrt=settings.follow_vrt
            ) as raster:
                sizes.append((raster.width, raster.height))
                readable.append(source.path)
        except (InputError, SettingsError) as error:
            problems.append(str(error))
    masks, features = resolve(settings)
    need = estimate(sizes, tile_size=settings.tile_size, overlap=settings.overlap)
    side = min(settings.tile_size, max((max(s) for s in sizes), default=0))
    workers = max(worker_count(settings), 1)
    network = weights_of(masks) is not None
    memory = workers * (memory_of_worker(settings) if network else _MEMORY_IDLE + side * side * _MEMORY_PER_PIXEL)
    parent = next(p for p in [out.resolve(), *out.resolve().parents] if p.exists())
    free = shutil.disk_usage(parent).free
    disk = need.pixels * _DISK_PER_PIXEL
    lines = [
        f"would label {need.scenes:,} images, {need.pixels / 1e6:,.1f} megapixels, in {need.tiles:,} tiles (nothing was written)",
        f"  masks {masks}, features {features}, clusters {settings.clusters}, {workers} workers",
        f"  memory about {memory / 1e9:.1f} GB at most, disk about {disk / 1e9:.2f} GB ({free / 1e9:.0f} GB free at {parent})",
    ]
    if network:
        lines.insert(2, _network_line(settings, readable, need.tiles, workers))
    if disk > free:
        lines.append("  the disk is too small for that: choose another --out")
    lines += [f"  would fail: {' '.join(text.split())}" for text in problems]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ with a network


def _network_line(settings: LabelSettings, readable: list[Path], tiles: int, workers: int) -> str:
    """Which network, where, how fast: from one tile measured now."""
    generator = make_generator(settings)
    device = on_device(settings)
    text = f"  {generator.name} on {device}, {settings.precision}, {settings.grid} grid"
    text += f", {settings.threads} thread{'s' * (settings.threads > 1)} a worker" if device == "cpu" else ""
    tile = _first_tile(settings, readable)
    if tile is None:
        return text
    seconds = _seconds_per_tile(generator, tile)
    total = tiles * seconds / min(workers, max(tiles, 1))
    return text + f"; about {seconds:.2g} s a tile (measured on one), {_span(total)} for all"


def _first_tile(settings: LabelSettings, readable: list[Path]) -> Tile | None:
    """The first tile with a valid pixel in it, of the first image that can be read."""
    for path in readable:
        try:
            radiometry = fit_radiometry(
                [path], bands=settings.bands, sensor=settings.sensor, follow_vrt=settings.follow_vrt
            ).radiometry
            with radiometry.open(path, follow_vrt=settings.follow_vrt) as raster:
                for plan in plan_tiles("0", raster.width, raster.height, settings.tile_size, settings.overlap):
                    tile = read_tile(raster, plan, radiometry)
                    if tile.valid.any():
                        return tile
        except InputError:
            continue
    return None


def _seconds_per_tile(generator: Any, tile: Tile) -> float:
    """Of the encoder, and of the grid's points by a grid of 8 x 8; crops cost as much as their tile."""
    few = replace(generator, points_per_side=8, grid="full", crop_n_layers=0)
    few.generate(few.encode(tile))  # what is compiled or fetched once
    began = time.perf_counter()
    encoded = few.encode(tile)
    encoding = time.perf_counter() - began
    few.generate(encoded)
    point = (time.perf_counter() - began - encoding) / 64
    total = 0.0
    for layer in range(generator.crop_n_layers + 1):
        side = max(generator.points_per_side // generator.crop_n_points_downscale_factor**layer, 1)
        total += 4**layer * (encoding + side * side * point)
    return total


def _span(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 90 else f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:,.3g} h"
