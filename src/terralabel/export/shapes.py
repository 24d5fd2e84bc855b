"""One mask at a time, as a box and the run lengths inside it: from polygons, from full frames, and how two overlap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import rasterio.features
import shapely

from terralabel.core import rle
from terralabel.core.grid import Window
from terralabel.export.segments import Segments, compress, decompress, run_segments, to_frame

__all__ = ["Shape", "outside_parts", "rasterized"]

#: Largest array held while masks are compared or filled, in pixels; larger ones are done in strips of columns.
_STRIP_PIXELS = 16_000_000


@dataclass(frozen=True)
class Shape:
    """A mask in scene pixels: `box` is tight, `counts` the compressed COCO run lengths in the frame of the box."""

    box: Window
    counts: str

    @cached_property
    def runs(self) -> np.ndarray:
        """Run lengths, int64, zeros first, column-major in the box."""
        return decompress(self.counts)

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.runs[1::2].sum())

    @classmethod
    def of_runs(cls, runs: np.ndarray, frame: Window) -> Shape | None:
        """The shape of run lengths given in `frame`; None when there is no pixel in it."""
        local = run_segments(np.asarray(runs), np.array([0, len(runs)]), frame.height)
        return cls.of_segments(Segments(local.owner, local.column + frame.x, local.top + frame.y, local.bottom + frame.y, 1))

    @classmethod
    def of_segments(cls, segments: Segments) -> Shape | None:
        """The shape of one mask's segments in scene pixels; None when there are none."""
        if not len(segments):
            return None
        x, y = int(segments.column.min()), int(segments.top.min())
        box = Window(x, y, int(segments.column.max()) - x + 1, int(segments.bottom.max()) - y)
        moved = Segments(np.zeros_like(segments.owner), segments.column - x, segments.top - y, segments.bottom - y, 1)
        return cls(box, compress(*to_frame(moved, (box.height, box.width)))[0])

    def crop(self, window: Window) -> np.ndarray:
        """The (h, w) bool mask inside a window (scene pixels) that lies within the box."""
        local = window.relative_to(self.box)
        return rle.decode_box(self.runs, (local.x, local.y, local.width, local.height), (self.box.height, self.box.width))

    def overlap(self, other: Shape) -> int:
        """Pixels in both."""
        common = self.box.intersect(other.box)
        return sum(int(np.count_nonzero(self.crop(w) & other.crop(w))) for w in _strips(common, self.box, other.box))

    def minus(self, others: list[Shape]) -> Shape | None:
        """The shape without the pixels of others; None when nothing is left."""
        kept = []
        for strip in _strips(self.box, self.box):
            mask = self.crop(strip)
            for other in others:
                common = strip.intersect(other.box)
                if common.area:
                    mask[common.relative_to(strip).slices()] &= ~other.crop(common)
            kept.append(_mask_segments(mask, strip))
        return Shape.of_segments(_joined(kept))

    def covered(self, others: list[Shape]) -> int:
        """Pixels that lie in at least one of the others."""
        rest = self.minus(others)
        return self.area - (rest.area if rest else 0)


def _strips(window: Window, *frames: Window) -> Iterator[Window]:
    """A window in strips of columns, so that none needs more than the limit even at the height of its frames."""
    if not window.area:
        return
    width = max(1, _STRIP_PIXELS // max(frame.height for frame in frames))
    for x in range(window.x, window.right, width):
        yield Window(x, window.y, min(width, window.right - x), window.height)


def _mask_segments(mask: np.ndarray, window: Window) -> Segments:
    """Segments in scene pixels of the (h, w) bool mask of a window."""
    code = rle.encode(mask)
    local = run_segments(code, np.array([0, len(code)]), window.height)
    return Segments(local.owner, local.column + window.x, local.top + window.y, local.bottom + window.y, 1)


def _joined(parts: list[Segments]) -> Segments:
    """Segments of strips that follow one another from left to right."""
    owner, column, top, bottom = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("owner", "column", "top", "bottom")
    )
    return Segments(owner, column, top, bottom, 1)


def rasterized(polygon: shapely.Geometry, width: int, height: int) -> Shape | None:
    """The pixels of a scene whose centres lie in a polygon given in scene pixels; None when there are none.

    Exact inverse of the outlines we write: polygons along pixel edges give back their mask. Coordinates are rounded to a
    thousandth of a pixel, so that those that went through another coordinate system fill the same pixels.
    """
    polygon = shapely.transform(polygon, lambda xy: np.round(xy, 3))
    left, top, right, bottom = shapely.bounds(polygon)
    x, y = max(int(np.floor(left)), 0), max(int(np.floor(top)), 0)
    box = Window(x, y, min(int(np.ceil(right)), width) - x, min(int(np.ceil(bottom)), height) - y)
    if box.width <= 0 or box.height <= 0:
        return None
    filled = []
    for strip in _strips(box, box):
        moved = shapely.transform(polygon, lambda xy, s=strip: xy - np.array([s.x, s.y]))  # type: ignore[misc]
        mask = rasterio.features.rasterize([(moved, 1)], out_shape=(strip.height, strip.width), dtype="uint8")
        filled.append(_mask_segments(mask.astype(bool), strip))
    return Shape.of_segments(_joined(filled))


def outside_parts(polygon: shapely.Geometry, width: int, height: int) -> float:
    """The share of a polygon's area that lies outside the scene, 0..1."""
    inside = shapely.area(shapely.intersection(polygon, shapely.box(0, 0, width, height)))
    area = shapely.area(polygon)
    return float(1 - inside / area) if area else 1.0
