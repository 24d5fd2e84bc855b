"""A small finished run in memory: two classes painted into scenes, with objects, tiles and label rasters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from terralabel.core import rle
from terralabel.core.classes import IGNORE, ClassEntry, Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.export.rasters import write_label_raster

CLASSES = Classes((ClassEntry(0, "water <&>", "#1f78b4", (0,)), ClassEntry(3, "roof", "#e31a1c", (1, 4))))
UTM = "EPSG:32632"


@dataclass(frozen=True)
class FakeTile:
    key: str
    window: Window
    core: Window
    status: str = "ok"
    reason: str = ""
    masks: int = 0


def objects_of(scene: str, masks: list[np.ndarray], class_ids: list[int], first_id: int = 1) -> Objects:
    """Objects of full-scene (H, W) bool masks."""
    boxes, codes = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, w, h = columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        boxes.append((x, y, w, h))
        codes.append(rle.encode(mask[y : y + h, x : x + w]))
    runs, offsets = rle.concatenate(codes)
    n = len(masks)
    return Objects(
        scene,
        np.arange(first_id, first_id + n, dtype=np.int64),
        np.array([0 if c == 0 else 1 if c != IGNORE else 9 for c in class_ids], dtype=np.int32),
        np.array(class_ids, dtype=np.int32),
        np.full(n, 0.75, dtype=np.float32),
        np.full(n, 0.5, dtype=np.float32),
        np.full(n, 0.875, dtype=np.float32),
        ("auto",) * n,
        np.array(boxes, dtype=np.int64).reshape(n, 4),
        np.array([m.sum() for m in masks], dtype=np.int64),
        runs,
        offsets,
    )


@dataclass
class FakeRun:
    """What `terralabel.contracts.RunView` asks for."""

    path: Path
    scenes: tuple[Scene, ...] = ()
    classes: Classes = CLASSES
    id: str = "run-1"
    masks_name: str = "tree"
    batches: dict[str, list[Objects]] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, scene: Scene, masks: list[np.ndarray], class_ids: list[int], batch: int = 2) -> FakeRun:
        """Add a scene whose objects are `masks`; the label raster paints them in order."""
        first = 1 + sum(len(o) for batches in self.batches.values() for o in batches)
        labels = np.full((scene.height, scene.width), IGNORE, dtype=self.classes.dtype)
        for mask, class_id in zip(masks, class_ids, strict=True):
            labels[mask] = class_id
        self.scenes = (*self.scenes, scene)
        self.labels[scene.key] = labels
        self.batches[scene.key] = [
            objects_of(scene.key, masks[i : i + batch], class_ids[i : i + batch], first + i)
            for i in range(0, len(masks), batch)
        ]
        write_label_raster(self.label_path(scene.key), scene, self.classes, [(Window(0, 0, scene.width, scene.height), labels)])
        return self

    def label_path(self, scene_key: str) -> Path:
        return self.path / "labels" / f"{scene_key}.tif"

    def objects(self, scene_key: str) -> Iterator[Objects]:
        yield from self.batches[scene_key]

    def instances(self, scene_key: str) -> Iterator[tuple[Window, np.ndarray]]:
        objects = [(o.area[i], o.id[i], o.bbox[i], o.crop(i)) for o in self.batches[scene_key] for i in range(len(o))]
        labels = self.labels[scene_key]
        shown = np.zeros(labels.shape, dtype=np.int64)
        for _, number, (x, y, w, h), crop in sorted(objects, key=lambda row: -row[0]):
            shown[y : y + h, x : x + w][crop] = number
        for x in (0, 40):
            yield Window(x, 0, 40, len(shown)), shown[:, x : x + 40]

    def tiles(self, scene_key: str) -> Iterator[FakeTile]:
        scene = next(s for s in self.scenes if s.key == scene_key)
        half = Window(0, 0, scene.width // 2, scene.height)
        other = Window(half.width, 0, scene.width - half.width, scene.height)
        yield FakeTile(f"{scene_key}:00000:00000", half, half, masks=3)
        yield FakeTile(f"{scene_key}:00000:00001", other, other, "failed", "unreadable: <tag>")

    def source_path(self, scene_key: str) -> Path:
        return Path(next(s for s in self.scenes if s.key == scene_key).source)

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        assert max_size is None
        rows = np.arange(window.y, window.bottom)[:, None, None] % 256
        return np.broadcast_to(rows, (window.height, window.width, 3)).astype(np.uint8)


def disk_masks() -> list[np.ndarray]:
    """(60, 80) masks: a ring with an island, two squares touching at a corner, a field, a dropped blob."""
    y, x = np.mgrid[:60, :80]
    radius = np.hypot(x - 20, y - 20)
    ring = ((radius < 15) & (radius > 8)) | (radius < 3)
    corner = np.zeros((60, 80), dtype=bool)
    corner[40:50, 10:20] = corner[50:58, 20:30] = True
    field_ = np.zeros((60, 80), dtype=bool)
    field_[5:55, 45:75] = True
    blob = np.hypot(x - 60, y - 30) < 6
    return [field_, ring, corner, blob]


DISK_CLASSES = [0, 3, 3, IGNORE]


def scene(key: str = "a", *, place: Georeference | None = None, **changes: object) -> Scene:
    """An 80 x 60 scene; UTM with 0.5 m pixels unless another place is given."""
    place = place or Georeference((0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0), UTM)
    return replace(Scene(key, f"/images/{key}.tif", key, 80, 60, place), **changes)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    """One scene with four objects."""
    return FakeRun(tmp_path / "run").add(scene(), disk_masks(), DISK_CLASSES)


@pytest.fixture
def painter():
    """The functions of this module, for tests that paint their own run."""

    class Painter:
        Run, Tile = FakeRun, FakeTile
        masks, class_ids, classes = staticmethod(disk_masks), DISK_CLASSES, CLASSES
        scene, objects = staticmethod(scene), staticmethod(objects_of)

    return Painter
