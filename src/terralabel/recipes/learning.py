"""What a feature extractor learns of a data set before it measures: fitted once, on a sample of tiles, kept in the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from terralabel.core.files import atomic_path
from terralabel.core.grid import TilePlan, plan_tiles
from terralabel.core.scene import Scene
from terralabel.core.tile import Tile
from terralabel.errors import InputError
from terralabel.imagery.tiles import read_tile
from terralabel.recipes.ingest import load_radiometry
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.progress import Progress

__all__ = ["fit_extractor", "sample_tiles", "weight_of"]

#: Pixels that the extractor is shown at most, about; at least one window.
_SAMPLE_PIXELS = 12_000_000
#: Side of the windows it is shown: not the run's tile size, on which nothing it learns may depend.
_SIDE = 512
#: Fewer clusters than this are fitted to pixels rather than to objects.
_FEW = 16


def fit_extractor(
    folder: RunFolder, settings: LabelSettings, scenes: Sequence[Scene], extractor: Any, progress: Progress
) -> str:
    """Fit an extractor that learns (has `fit`) on a sample of the tiles; "" for one that does not.

    Returns the name under which what it learned lies in the run. Fitted once, like the radiometry: images that come later
    are measured with what is there.
    """
    if not hasattr(extractor, "fit"):
        return ""
    radiometry = hashlib.sha256(folder.radiometry_path.read_bytes()).hexdigest()
    how = [settings.transductive, settings.sensor]
    name = digest(["extractor", 2, extractor.name, extractor.version, radiometry, how])
    path = folder.path / "parts" / "extractor" / f"all-{name}.npz"
    if not path.exists():
        plans = sample_tiles(scenes, settings)
        progress.start("features", len(plans), "tiles sampled")
        try:
            with threadpool_limits(1):
                state = extractor.fit(_tiles(folder, settings, scenes, plans, progress)).state()
        except InputError:  # no valid pixel among them: the extractor keeps its typical values
            return ""
        finally:
            progress.finish()
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **state)
    return name


def sample_tiles(scenes: Sequence[Scene], settings: LabelSettings) -> list[TilePlan]:
    """Windows spread evenly over the data set (over train only where there are splits), about 12 megapixels of them."""
    train_only = any(scene.split == "train" for scene in scenes) and not settings.transductive
    chosen = [scene for scene in scenes if scene.split in (None, "train") or not train_only]
    plans = [t for s in chosen for t in plan_tiles(s.key, s.width, s.height, _SIDE, 0)]
    mean = sum(plan.window.area for plan in plans) / len(plans)
    count = min(len(plans), max(1, round(_SAMPLE_PIXELS / mean)))
    return [plans[i] for i in np.linspace(0, len(plans) - 1, count).round().astype(int)]


def _tiles(
    folder: RunFolder, settings: LabelSettings, scenes: Sequence[Scene], plans: Sequence[TilePlan], progress: Progress
) -> Iterator[Tile]:
    """The tiles of `plans`; one that cannot be read is left out here and reported when its turn comes."""
    radiometry = load_radiometry(folder)
    source = {scene.key: scene.source for scene in scenes}
    for scene, group in groupby(plans, key=lambda plan: plan.scene):
        try:
            with radiometry.open(source[scene], follow_vrt=settings.follow_vrt) as raster:
                for plan in group:
                    yield read_tile(raster, plan, radiometry)
                    progress.advance()
        except InputError:
            continue


def weight_of(seen: np.ndarray, clusters: str) -> np.ndarray:
    """Weights (n,) float32 of objects in clustering, from the pixels that show each, (n,) int.

    A few clusters have to say what covers the ground, so there a pixel counts. Sixteen and more, and `auto`, have room for what
    is small: the square root lets the many small objects count beside the background (docs/features.md has the figures).
    """
    power = 1.0 if clusters != "auto" and int(clusters) < _FEW else 0.5
    return (np.asarray(seen, np.float64) ** power).astype(np.float32)
