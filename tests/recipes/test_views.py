"""What a model sees of a tall scene goes to disk strip by strip: memory does not grow with the scene."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.recipes.annotate import views as room
from terralabel.recipes.annotate.views import look
from terralabel.runs.folder import RunFolder
from terralabel.train.annotation.views import Layers
from terralabel.train.segmentation.inference import Blended
from tests.recipes.annotating import blob, write

WIDE, STRIP = 256, 128


class Strips:
    """Stands for a network: strips of one band, each with a number of its own in every channel."""

    layers, tile_size, overlap = Layers(2, flips=False), STRIP, 0

    def bands(self, width: int) -> list[tuple[int, int]]:
        return [(0, width)]

    def band(self, read: Any, width: int, height: int, left: int, right: int) -> Iterator[Blended]:
        for top in range(0, height, STRIP):
            window = Window(left, top, right - left, STRIP)
            channels = np.full((self.layers.count, STRIP, right - left), (top // STRIP % 200) / 255, np.float32)
            yield Blended(window, channels, np.ones((STRIP, right - left), bool))


def seen_of(folder: Path, height: int, path: Path) -> tuple[room.Seen, int]:
    """What is seen of a scene of so many rows, and the most memory that took, bytes."""
    scene = Scene("tall", str(path), "a", WIDE, height)
    radiometry = fit_radiometry([path]).radiometry
    with radiometry.open(path) as raster:
        tracemalloc.start()
        try:
            run = RunFolder(folder)
            seen = look(scene, raster, radiometry, Strips(), run, "name", lambda count: None, on_disk=True)  # type: ignore[arg-type]
            return seen, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    image = write(tmp_path / "image.tif", blob((32, 32), 0)[0])
    _, short = seen_of(tmp_path / "short", 8 * STRIP, image)
    seen, tall = seen_of(tmp_path / "tall", 64 * STRIP, image)
    assert tall < 1.3 * short, f"{short} bytes for 8 strips, {tall} for 64"
    for number in (0, 30, 63):
        channels, valid = seen.read(Window(3, number * STRIP, 20, STRIP))
        assert valid.all() and np.allclose(channels, number / 255)


def test_small_scenes_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write(tmp_path / "image.tif", blob((32, 32), 0)[0])
    scene, radiometry = Scene("s", str(image), "a", WIDE, 4 * STRIP), fit_radiometry([image]).radiometry
    found = []
    with radiometry.open(image) as raster:
        for held in (1 << 30, 0):
            monkeypatch.setattr(room, "_HELD", held)
            found.append(look(scene, raster, radiometry, Strips(), RunFolder(tmp_path / "run"), "name", lambda count: None))  # type: ignore[arg-type]
    assert found[0].whole is not None and found[1].whole is None
    for a, b in zip(*(seen.read(Window(0, 100, WIDE, 200)) for seen in found), strict=True):
        np.testing.assert_array_equal(a, b)
