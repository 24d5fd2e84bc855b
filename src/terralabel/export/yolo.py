"""YOLO segmentation labels: one line of normalised polygon per object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from terralabel.contracts import RunView
from terralabel.core.classes import IGNORE
from terralabel.core.files import atomic_path, write_text
from terralabel.core.scene import Scene
from terralabel.export.features import Outlines
from terralabel.export.folders import write_rgb_png
from terralabel.export.names import image_names, link_image
from terralabel.export.polygons import object_polygons

__all__ = ["Yolo", "joined_rings"]

#: Above this many pairs of vertices the bridge between two rings is not searched for but starts at their first vertices.
_MOST_PAIRS = 4_000_000
#: Objects of more rings (speckle) are joined in the order of the rings, which takes linear time.
_MOST_RINGS = 100


def joined_rings(polygon: shapely.MultiPolygon) -> np.ndarray:
    """All rings of a polygon as one closed path (n, 2), joined by bridges walked there and back.

    The format has one ring per object; filled by the even-odd rule, as OpenCV does, holes and parts come out right.
    """
    rings = [shapely.get_coordinates(ring) for part in shapely.get_parts(polygon) for ring in shapely.get_rings(part)]
    if len(rings) > _MOST_RINGS:  # from first vertex to first vertex, and all the way back
        return np.concatenate([*rings, np.array([ring[0] for ring in reversed(rings[1:-1])]).reshape(-1, 2)])
    path = rings[0]
    for ring in rings[1:]:
        here, there = _nearest(path, ring)
        around = np.concatenate([ring[there:-1], ring[: there + 1]])
        path = np.concatenate([path[: here + 1], around, path[here:]])
    return path[:-1]


def _nearest(path: np.ndarray, ring: np.ndarray) -> tuple[int, int]:
    """Indices of the closest vertices of two rings."""
    if len(path) * len(ring) > _MOST_PAIRS:
        return 0, 0
    distance = np.square(path[:, None] - ring[None, :-1]).sum(-1)
    here, there = np.unravel_index(np.argmin(distance), distance.shape)
    return int(here), int(there)


@dataclass(frozen=True)
class Yolo:
    """`labels/SPLIT/STEM.txt`, `images/SPLIT/STEM.*` and `data.yaml`, as Ultralytics reads them.

    A line is `class x1 y1 x2 y2 ...` with the class's index in the class map and coordinates in 0..1. The images are links
    to the inputs; with `images` they are 8-bit RGB PNGs as the run saw them. Objects of class 255 are left out.
    """

    images: bool = False
    simplify: float = 0.0
    max_vertices: int = 0
    name: str = "yolo"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write the folders; scenes without a split are "train"."""
        names = image_names(run.scenes)
        written = []
        for scene in run.scenes:
            split, name = scene.split or "train", names[scene.key]
            label = out / "labels" / split / f"{name}.txt"
            with atomic_path(label) as temporary, temporary.open("w", encoding="ascii") as file:
                file.writelines(self._lines(run, scene))
            source = run.source_path(scene.key)
            image = out / "images" / split / f"{name}{'.png' if self.images else source.suffix}"
            written += [label, write_rgb_png(run, scene, image) if self.images else link_image(source, image)]
        splits = sorted({scene.split or "train" for scene in run.scenes})
        write_text(out / "data.yaml", _data_yaml(run, splits))
        return [*written, out / "data.yaml"]

    def _lines(self, run: RunView, scene: Scene) -> Iterator[str]:
        outlines = Outlines(self.simplify, self.max_vertices)
        index = {entry.id: k for k, entry in enumerate(run.classes)}
        digits = len(str(max(scene.width, scene.height))) + 2  # a hundredth of a pixel
        size = np.array([scene.width, scene.height], dtype=np.float64)
        for objects in run.objects(scene.key):
            polygons = object_polygons(objects, simplify=outlines.simplify, max_vertices=outlines.max_vertices)
            for class_id, polygon in zip(objects.class_id.tolist(), polygons, strict=True):
                if class_id != IGNORE and not polygon.is_empty:
                    path = (joined_rings(polygon) / size).ravel()
                    yield f"{index[class_id]} " + " ".join(f"{value:.{digits}f}" for value in path) + "\n"


def _data_yaml(run: RunView, splits: list[str]) -> str:
    """JSON strings are YAML strings, so no name can break the file."""
    lines = ["path: ."]
    present = dict.fromkeys(splits)
    lines += [f"{split}: {json.dumps('images/' + split)}" for split in present]
    if "val" not in present and splits:
        lines.append(f"val: {json.dumps('images/' + splits[0])}  # no split of its own: choose one before training")
    lines.append("names:")
    lines += [f"  {k}: {json.dumps(entry.name)}" for k, entry in enumerate(run.classes)]
    return "\n".join(lines) + "\n"
