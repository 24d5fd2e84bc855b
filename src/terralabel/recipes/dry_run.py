"""What `label --dry-run` says."""

from __future__ import annotations

import shutil
from pathlib import Path

from terralabel.errors import InputError, SettingsError
from terralabel.imagery.raster import open_raster
from terralabel.imagery.sources import Sources
from terralabel.imagery.tiles import estimate
from terralabel.recipes.backends import resolve
from terralabel.recipes.settings import LabelSettings

__all__ = ["dry_run"]

#: With the tree masks (`du` of the runs of `make proof-memory`): bytes a run leaves on disk per pixel of the scenes.
_DISK_PER_PIXEL = 2.5
#: Bytes of working memory per pixel of a window and worker, and what an idle worker holds.
_MEMORY_PER_PIXEL = 500
_MEMORY_IDLE = 250_000_000


def dry_run(found: Sources, settings: LabelSettings, out: Path) -> str:
    """Images, tiles, memory and disk that `label` would need; reads image headers only."""
    sizes, problems = [], [s.reason for s in found.skipped]
    for source in found.files:
        try:
            with open_raster(
                source.path, bands=settings.bands, sensor=settings.sensor, follow_vrt=settings.follow_vrt
            ) as raster:
                sizes.append((raster.width, raster.height))
        except (InputError, SettingsError) as error:
            problems.append(str(error))
    masks, features, _ = resolve(settings)
    need = estimate(sizes, tile_size=settings.tile_size, overlap=settings.overlap)
    side = min(settings.tile_size, max((max(s) for s in sizes), default=0))
    workers = max(settings.worker_count, 1)
    memory = workers * (_MEMORY_IDLE + side * side * _MEMORY_PER_PIXEL)
    parent = next(p for p in [out.resolve(), *out.resolve().parents] if p.exists())
    free = shutil.disk_usage(parent).free
    disk = need.pixels * _DISK_PER_PIXEL
    lines = [
        f"would label {need.scenes:,} images, {need.pixels / 1e6:,.1f} megapixels, in {need.tiles:,} tiles (nothing was written)",
        f"  masks {masks}, features {features}, clusters {settings.clusters}, {workers} workers",
        f"  memory about {memory / 1e9:.1f} GB at most, disk about {disk / 1e9:.2f} GB ({free / 1e9:.0f} GB free at {parent})",
    ]
    if disk > free:
        lines.append("  the disk is too small for that: choose another --out")
    lines += [f"  would fail: {' '.join(text.split())}" for text in problems]
    return "\n".join(lines)
