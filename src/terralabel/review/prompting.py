"""Masks from clicks and boxes on the page, by the run's own promptable; a window is encoded once and remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from terralabel.contracts import Encoded, Promptable
from terralabel.core import rle
from terralabel.core.grid import TilePlan, Window
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.shapes import Shape
from terralabel.imagery.tiles import read_tile
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.folder_run import FolderRun
from terralabel.recipes.ingest import load_radiometry
from terralabel.recipes.run import Run
from terralabel.recipes.settings import LabelSettings

__all__ = ["Prompter"]

#: Side of the window that the promptable sees, and how many encoded windows are kept.
_SIDE, _KEPT = 512, 3


class Prompter:
    """Answers prompts on the scenes of a run; one at a time."""

    def __init__(self, run: Run | FolderRun) -> None:
        self.run = run
        self._mutex = threading.Lock()
        self._encoded: OrderedDict[tuple[str, Window], Encoded] = OrderedDict()

    @property
    def _largest(self) -> float:
        """The share of a window that an object may take: the gate of the masks themselves."""
        return (self.run.settings if isinstance(self.run, Run) else LabelSettings()).tau

    @cached_property
    def promptable(self) -> Promptable:
        """What made the run's masks; for labels of other origin, what needs no weights."""
        return make_promptable(self.run.settings if isinstance(self.run, Run) else LabelSettings(masks="tree"))

    def look(self, scene: Scene, around: Window) -> None:
        """Encode the window around a place, so that the first click is answered at once: what is put off until a prompt, too."""
        window = _window(scene, around)
        with self._mutex:
            known = (scene.key, window) in self._encoded
            encoded = self._seen(scene, window)
            if not known and encoded.tile.valid.any():
                middle = np.array([[[window.width / 2, window.height / 2]]], dtype=np.float32)
                self.promptable.predict(encoded, points=middle, point_labels=np.ones((1, 1), np.int32), multimask=True)

    def mask(
        self, scene: Scene, around: Window, points: Sequence[tuple[float, float, int]], box: Sequence[float] | None = None
    ) -> tuple[Shape | None, float]:
        """(the mask in scene pixels, IoU expected of it).

        points: (x, y, 1 object or 0 background), box: xyxy, both in scene pixels. None where nothing was found.
        """
        window = _window(scene, around)
        places = np.array([(x - window.x, y - window.y) for x, y, _ in points], dtype=np.float32).reshape(-1, 2)
        sides = None if box is None else np.array(box, dtype=np.float32) - np.array([window.x, window.y] * 2, dtype=np.float32)
        self._check(window, places, sides)
        with self._mutex:
            encoded = self._seen(scene, window)
            if not encoded.tile.valid.any():
                return None, 0.0
            found = self.promptable.predict(
                encoded,
                points=places[None] if len(places) else None,
                point_labels=np.array([[label for *_, label in points]], dtype=np.int32) if len(places) else None,
                boxes=None if sides is None else sides[None],
                multimask=len(places) == 1 and sides is None,
            ).masks.within(encoded.tile.valid)
        fits = found.area <= self._largest * window.area  # a click means an object, not the whole view
        best = int(np.where(fits if fits.any() else True, found.predicted_iou, -1).argmax())
        x, y, width, height = found.bbox[best].tolist()
        if not found.area[best]:
            return None, 0.0
        shape = Shape.of_runs(rle.encode(found.crop(best)), Window(x + window.x, y + window.y, width, height))
        return shape, float(found.predicted_iou[best])

    def _check(self, window: Window, places: np.ndarray, sides: np.ndarray | None) -> None:
        size = np.array([window.width, window.height])
        inside = ((places >= 0) & (places < size)).all() and np.isfinite(places).all()
        if sides is not None:
            inside = inside and np.isfinite(sides).all() and (sides[:2] < sides[2:]).all()
            inside = inside and (sides[:2] >= -1).all() and (sides[2:] <= size + 1).all()
        if not inside or not (len(places) or sides is not None):
            raise InputError(
                f"A prompt must lie in columns {window.x} to {window.right}, rows {window.y} to {window.bottom}.", "bad-prompt"
            )

    def _seen(self, scene: Scene, window: Window) -> Encoded:
        key = (scene.key, window)
        if key not in self._encoded:
            radiometry = load_radiometry(self.run.folder)
            follow = isinstance(self.run, Run) and self.run.settings.follow_vrt
            with radiometry.open(self.run.source_path(scene.key), follow_vrt=follow) as raster:
                tile = read_tile(raster, TilePlan(f"{scene.key}:review", scene.key, 0, 0, window, window), radiometry)
            self._encoded[key] = self.promptable.encode(tile)
            while len(self._encoded) > _KEPT:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key]


def _window(scene: Scene, around: Window) -> Window:
    """The window with `around` in its middle that the promptable sees; larger than `_SIDE` where `around` is."""
    width, height = (
        min(max(side, _SIDE), whole) for side, whole in ((around.width, scene.width), (around.height, scene.height))
    )
    left = min(max(around.x + around.width // 2 - width // 2, 0), scene.width - width)
    top = min(max(around.y + around.height // 2 - height // 2, 0), scene.height - height)
    return Window(left, top, width, height)
