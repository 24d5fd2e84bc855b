"""Windows of a scene, and the plan that cuts a scene into overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

__all__ = ["TilePlan", "Window", "plan_tiles"]


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle in scene pixels: first column `x`, first row `y`, `width`, `height`."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column past the window."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row past the window."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Number of pixels; 0 for an empty window."""
        return max(self.width, 0) * max(self.height, 0)

    def intersect(self, other: Window) -> Window:
        """The common part; width or height is 0 when there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Window(x, y, max(min(self.right, other.right) - x, 0), max(min(self.bottom, other.bottom) - y, 0))

    def relative_to(self, origin: Window) -> Window:
        """The same rectangle in pixels of `origin`."""
        return Window(self.x - origin.x, self.y - origin.y, self.width, self.height)

    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) to index an array of the frame this window is given in."""
        return slice(self.y, self.bottom), slice(self.x, self.right)


@dataclass(frozen=True, order=True)
class TilePlan:
    """One tile of a scene: `window` is what is read, `core` the part this tile answers for.

    The cores of a scene's tiles cover it once, without gap or overlap. `key` sorts in the order
    of processing: scene, then row, then column. All windows are in scene pixels.
    """

    key: str
    scene: str
    row: int
    column: int
    window: Window
    core: Window


def _spans(length: int, tile_size: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, core start, core stop) along one axis; the last tile is shifted back into the scene."""
    if length <= tile_size:
        return [(0, length, 0, length)]
    stride = tile_size - overlap
    starts = [*range(0, length - tile_size, stride), length - tile_size]
    cuts = [0, *((a + tile_size + b) // 2 for a, b in pairwise(starts)), length]
    return [(s, s + tile_size, cuts[i], cuts[i + 1]) for i, s in enumerate(starts)]


def plan_tiles(scene: str, width: int, height: int, tile_size: int, overlap: int) -> list[TilePlan]:
    """Cut a scene of `width` x `height` pixels into windows of at most `tile_size`, overlapping by `overlap`.

    Every window lies inside the scene (the last of a row or column is shifted back, as in ALPS), and
    the cores, cut in the middle of the overlaps, partition it.
    """
    columns = _spans(width, tile_size, overlap)
    return [
        TilePlan(
            f"{scene}:{row:05d}:{column:05d}",
            scene,
            row,
            column,
            Window(x, y, x1 - x, y1 - y),
            Window(cx, cy, cx1 - cx, cy1 - cy),
        )
        for row, (y, y1, cy, cy1) in enumerate(_spans(height, tile_size, overlap))
        for column, (x, x1, cx, cx1) in enumerate(columns)
    ]
