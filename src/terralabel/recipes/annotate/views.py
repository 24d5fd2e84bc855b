"""What a model sees in a scene: its channels, kept in a part where the scene is large, so that nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import SettingsError
from terralabel.runs.folder import RunFolder

if TYPE_CHECKING:
    from terralabel.imagery.radiometry import Radiometry
    from terralabel.imagery.raster import Raster
    from terralabel.nets.elnet.network import ELNet
    from terralabel.train.annotation.settings import ApplySettings
    from terralabel.train.annotation.views import Layers, Views
    from terralabel.train.segmentation.checkpoint import Checkpoint

__all__ = ["Seen", "load_network", "look", "make_views", "windows_of"]

#: Scenes of so many bytes of channels are held in memory; larger ones go to disk band by band.
_HELD = 64 << 20
#: A band is no wider: it is what a crash costs at most.
_BAND = 2048


def load_network(checkpoint: Checkpoint) -> ELNet:
    """The network of a model's checkpoint, in evaluation mode on the CPU. Its trunk's weights are in the checkpoint."""
    from terralabel.nets.checkpoints import compare_keys
    from terralabel.nets.elnet.network import rebuild_elnet

    network = rebuild_elnet(checkpoint.record["network"])
    weights = checkpoint.weights()
    compare_keys(weights, network.state_dict(), f"{checkpoint.path} as {network.name}")
    network.load_state_dict(weights)
    network.mean, network.std = tuple(checkpoint.record["mean"]), tuple(checkpoint.record["std"])
    return network.eval()


def make_views(checkpoint: Checkpoint, settings: ApplySettings) -> Views:
    """The checkpoint's network, ready to look at scenes."""
    import torch

    from terralabel.train.annotation.views import Layers, Views
    from terralabel.train.segmentation.distributed import device_of

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, network = device_of(settings.device), load_network(checkpoint)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tile_size = settings.tile_size or int(checkpoint.record["crop"])
    overlap = tile_size // 4 if settings.overlap < 0 else settings.overlap
    if overlap * 2 > tile_size:
        raise SettingsError(f"overlap {overlap} is more than half of the windows' side {tile_size}: make it smaller.")
    batch_size = settings.batch_size or (8 if device.type == "cuda" else 1)
    room = 4 * Layers(network.classes, settings.flips).count * tile_size * _BAND
    how: dict[str, Any] = {"batch_size": batch_size, "precision": settings.precision, "room": min(room, 256 << 20)}
    return Views(network, device, flips=settings.flips, tile_size=tile_size, overlap=overlap, **how)


@dataclass(frozen=True)
class Seen:
    """The channels of a scene: in `whole` (C + 1, H, W) uint8, or in files, one for each band of columns [left, right)."""

    layers: Layers
    whole: np.ndarray | None = None
    files: tuple[tuple[int, int, Path], ...] = ()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """(channels (C, h, w) float32 in [0, 1], valid (h, w) bool) of a window."""
        stored = self.whole[(slice(None), *window.slices())] if self.whole is not None else self._from_files(window)
        return stored[:-1].astype(np.float32) / np.float32(255), stored[-1] > 0

    def _from_files(self, window: Window) -> np.ndarray:
        import rasterio
        from rasterio.windows import Window as RasterWindow

        out = np.zeros((self.layers.count + 1, window.height, window.width), np.uint8)
        for left, right, path in self.files:
            part = window.intersect(Window(left, window.y, right - left, window.height))
            if part.width:
                with rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=64), rasterio.open(path, driver="GTiff") as source:
                    at = RasterWindow(part.x - left, part.y, part.width, part.height)  # type: ignore[call-arg]
                    out[(slice(None), *part.relative_to(window).slices())] = source.read(window=at)
        return out


def windows_of(views: Views, width: int, height: int) -> int:
    """Windows that `look` goes through in a scene: what progress counts."""
    from terralabel.core.grid import plan_tiles

    plans = plan_tiles("scene", width, height, views.tile_size, views.overlap)
    columns = {(plan.window.x, plan.window.right) for plan in plans}
    rows = len({plan.row for plan in plans})
    return rows * sum(left < end and right > start for left, right in views.bands(width) for start, end in columns)


def look(
    scene: Scene,
    raster: Raster,
    radiometry: Radiometry,
    views: Views,
    folder: RunFolder,
    name: str,
    done: Callable[[int], None],
    *,
    on_disk: bool = False,
) -> Seen:
    """Run the network over a scene; bands that lie in the run under this `name` already are taken from there.

    `on_disk`: small scenes go to disk, too, since they are looked at again later.
    """

    def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
        pixels, valid = raster.read(window)
        return radiometry.apply(pixels, valid), valid

    count = views.layers.count + 1
    if scene.width * scene.height * count <= _HELD and not on_disk:
        whole = np.zeros((count, scene.height, scene.width), np.uint8)
        for left, right in views.bands(scene.width):
            for part in views.band(read, scene.width, scene.height, left, right):
                whole[(slice(None), *part.window.slices())] = _stored(part.probabilities, part.valid)
        done(windows_of(views, scene.width, scene.height))
        return Seen(views.layers, whole)
    files = []
    bands = views.bands(scene.width)
    each = windows_of(views, scene.width, scene.height) // len(bands)
    for left, right in bands:
        path = folder.part_path("seen", f"{scene.key}-{left}", name).with_suffix(".tif")
        if not path.is_file():
            _look_at_band(
                path, replace(scene, width=right - left), left, views.band(read, scene.width, scene.height, left, right)
            )
        files.append((left, right, path))
        done(each)
    return Seen(views.layers, None, tuple(files))


def _look_at_band(path: Path, band: Scene, left: int, parts: Any) -> None:
    from terralabel.core.georeference import Georeference
    from terralabel.export.probabilities import probability_raster

    nowhere = replace(band, georeference=Georeference())
    first = next(parts)
    names = Classes(tuple(ClassEntry(i, f"channel {i}", "#000000") for i in range(len(first.probabilities) + 1)))
    with probability_raster(path, nowhere, names, {}, passing=True) as raster:
        for part in chain([first], parts):  # one at a time: all of a band are as large as the scene
            window = Window(part.window.x - left, part.window.y, part.window.width, part.window.height)
            raster.add(window, np.concatenate([part.probabilities, part.valid[None].astype(np.float32)]))


def _stored(channels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(C + 1, h, w) uint8: channels, 255 for certainty, and where there is an image."""
    return np.concatenate([np.rint(channels * 255).astype(np.uint8), np.where(valid, 255, 0).astype(np.uint8)[None]])
