"""Every picture that the page shows, encoded here: crops of objects, thumbnails of scenes, tiles of the map.

Memory is bounded whatever the run's size: a few open images, a few megabytes of finished tiles, and of a window only the
pixels that will be seen. Small pictures that are asked for again are kept in the run, under `review/cache/`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import SpaceError
from terralabel.export import cards
from terralabel.export.picture import display_rgb, encode_jpeg, fit
from terralabel.export.specimens import Specimen
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.raster import Raster
from terralabel.recipes.folder_run import FolderRun
from terralabel.recipes.ingest import load_radiometry
from terralabel.recipes.run import Run
from terralabel.runs.folder import digest

__all__ = ["TILE", "Pictures", "levels", "paint_table", "tile_window"]

#: Side of the map's tiles, and of thumbnails.
TILE, THUMBNAIL = 256, 192
_OPEN, _TILE_BYTES = 6, 48 << 20
#: The outline of an object in its crop.
_OUTLINE = (255, 230, 60)
_GREY = 226


def levels(scene: Scene) -> int:
    """The zoom at which a scene is shown at native size; at 0 it fits into one tile."""
    longest = max(scene.width, scene.height)
    return max((-(-longest // TILE) - 1).bit_length(), 0)


def tile_window(scene: Scene, z: int, x: int, y: int) -> Window | None:
    """The scene pixels that a tile of the map shows; None for a tile beyond the scene."""
    side = TILE << (levels(scene) - z) if 0 <= z <= levels(scene) else 0
    window = Window(x * side, y * side, side, side).intersect(Window(0, 0, scene.width, scene.height))
    return window if window.area else None


class Pictures:
    """The pictures of one run. Thread-safe."""

    def __init__(self, run: Run | FolderRun) -> None:
        self.run = run
        self.scenes = {scene.key: scene for scene in run.scenes}
        self._cache = run.path / "review" / "cache"
        self._radiometry = load_radiometry(run.folder) if run.folder.radiometry_path.is_file() else None
        self._follow_vrt = isinstance(run, Run) and run.settings.follow_vrt
        self._open: OrderedDict[str, Raster] = OrderedDict()
        self._mutex = threading.Lock()
        self._tiles: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._held = 0
        self._turns = threading.BoundedSemaphore(min(os.cpu_count() or 2, 4))

    def close(self) -> None:
        """Close all images."""
        with self._mutex:
            for raster in self._open.values():
                raster.close()
            self._open.clear()

    # ------------------------------------------------------------------------------------------------------- imagery

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        """As `contracts.RunView.read_rgb`; of a large window only about the pixels that will be seen are decoded."""
        if self._radiometry is None:  # labels may come without their images
            image = np.full((min(window.height, 2048), min(window.width, 2048), 3), _GREY, np.uint8)
            return image if max_size is None else fit(image, max_size)
        with self._raster(scene_key, self._radiometry) as raster:
            longest = max(window.width, window.height)
            if max_size is None or longest <= 4 * max_size:
                pixels, valid = raster.read(window)
            else:
                scale = 2 * max_size / longest
                shape = (max(round(window.height * scale), 1), max(round(window.width * scale), 1))
                pixels, valid = raster.read_shrunk(window, *shape)
        image = display_rgb(self._radiometry.apply(pixels, valid))
        return image if max_size is None else fit(image, max_size)

    @contextmanager
    def _raster(self, scene_key: str, radiometry: Radiometry) -> Iterator[Raster]:
        """An image, for one thread; afterwards it stays open for the next."""
        with self._mutex:
            raster = self._open.pop(scene_key, None)
        if raster is None:
            raster = radiometry.open(self.run.source_path(scene_key), follow_vrt=self._follow_vrt)
        try:
            yield raster
        except BaseException:
            raster.close()
            raise
        spare = []
        with self._mutex:
            if scene_key in self._open:
                spare.append(raster)
            else:
                self._open[scene_key] = raster
            while len(self._open) > _OPEN:
                spare.append(self._open.popitem(last=False)[1])
        for old in spare:
            old.close()

    # ------------------------------------------------------------------------------------------------ small pictures

    def thumbnail(self, scene: Scene) -> bytes:
        """A scene as JPEG, no side over `THUMBNAIL`."""
        name = digest([scene.key, scene.sha256, THUMBNAIL])
        whole = Window(0, 0, scene.width, scene.height)
        return self._kept("scenes", name, lambda: encode_jpeg(self.read_rgb(scene.key, whole, THUMBNAIL), 80))

    def crop(self, specimen: Specimen) -> bytes:
        """An object with its outline and what lies about it, as JPEG."""
        scene = self.scenes[specimen.scene]
        name = digest([scene.key, scene.sha256, specimen.bbox, specimen.area, specimen.id])
        return self._kept("crops", name, lambda: encode_jpeg(cards.crop(self, specimen, scene, _OUTLINE), 80))

    def _kept(self, kind: str, name: str, make: Callable[[], bytes]) -> bytes:
        path = self._cache / kind / name[:2] / f"{name}.jpg"
        try:
            return path.read_bytes()
        except OSError:
            pass
        with self._turns:
            data = make()
        self._keep(path, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        except (SpaceError, OSError):
            pass  # a cache: the page works without

    # ----------------------------------------------------------------------------------------------------- map tiles

    def image_tile(self, scene: Scene, z: int, x: int, y: int) -> bytes | None:
        """A JPEG of the imagery, `TILE` wide but at the scene's edge; None beyond the scene."""
        window = tile_window(scene, z, x, y)
        if window is None:
            return None
        shrink = 1 << (levels(scene) - z)

        def make() -> bytes:
            image = self.read_rgb(scene.key, window, max(-(-max(window.width, window.height) // shrink), 1))
            return encode_jpeg(_filled(image, TILE, _GREY), 84)

        if shrink >= 8:  # these cost most, and there are few
            return self._kept("tiles", digest([scene.key, scene.sha256, z, x, y]), make)
        return self._remembered((scene.key, z, x, y), make)

    def label_tile(self, scene: Scene, z: int, x: int, y: int, table: np.ndarray, stamp: str) -> bytes | None:
        """A PNG of the labels in the colours of `table` ((n, 4) uint8 RGBA by class id); None beyond the scene."""
        window = tile_window(scene, z, x, y)
        if window is None:
            return None
        shrink = 1 << (levels(scene) - z)

        def make() -> bytes:
            shape = (max(window.height // shrink, 1), max(window.width // shrink, 1))
            ids = cards.read_labels(self.run.label_path(scene.key), window, shape)
            painted = table[np.minimum(ids.astype(np.int64), len(table) - 1)]
            return _png(_filled(painted, TILE, 0))

        return self._remembered((scene.key, "labels", stamp, z, x, y), make)

    def _remembered(self, key: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
        with self._mutex:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        with self._turns:
            data = make()
        with self._mutex:
            if key not in self._tiles:
                self._tiles[key] = data
                self._held += len(data)
            while self._held > _TILE_BYTES:
                self._held -= len(self._tiles.popitem(last=False)[1])
        return data


def paint_table(painted: Classes, shown: dict[int, int], live: Classes, hidden: frozenset[int]) -> np.ndarray:
    """(n, 4) uint8 RGBA by painted class id: the colour that the class of now (`shown`: painted -> live id) has.

    Transparent for classes that are hidden or dropped, and for no label.
    """
    size = max([IGNORE, *(entry.id for entry in painted)]) + 2
    table = np.zeros((size, 4), np.uint8)
    colors = {entry.id: entry.rgb for entry in live}
    for entry in painted:
        now = shown.get(entry.id, IGNORE)
        if now in colors and now not in hidden:
            table[entry.id] = (*colors[now], 255)
    return table


def _filled(image: np.ndarray, side: int, value: int) -> np.ndarray:
    """An image at the top left of a square of `side`."""
    out = np.full((side, side, image.shape[2]), value, np.uint8)
    height, width = min(image.shape[0], side), min(image.shape[1], side)
    out[:height, :width] = image[:height, :width]
    return out


def _png(rgba: np.ndarray) -> bytes:
    bgra = rgba[..., [2, 1, 0, 3]]
    return cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
