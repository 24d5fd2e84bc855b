"""Curves as a picture, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from terralabel.core.classes import distinct_color
from terralabel.core.files import atomic_path

__all__ = ["Chart", "Line", "draw_charts"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 360, 70, 44, 24, 46
_INK, _GRID = (32, 36, 42), (225, 228, 232)


@dataclass(frozen=True)
class Line:
    """One curve: `points` (x, y), drawn with dots if `dots`; `spread` gives each point's half bar, if there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[float] = ()
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """One panel. `low` and `high` bound its y axis; None: as the points do."""

    title: str
    x: str
    lines: Sequence[Line] = field(default=())
    low: float | None = None
    high: float | None = None


def draw_charts(final: Path, charts: Sequence[Chart], columns: int = 1) -> Path:
    """Write panels, in rows of `columns`, as a PNG; returns `final`."""
    from PIL import Image, ImageDraw

    rows = math.ceil(len(charts) / columns)
    picture = Image.new("RGB", (_WIDTH * min(columns, len(charts)), _HEIGHT * rows), "white")
    pen = ImageDraw.Draw(picture)
    for index, chart in enumerate(charts):
        _Panel(pen, chart, _WIDTH * (index % columns), _HEIGHT * (index // columns)).draw()
    with atomic_path(Path(final)) as temporary:
        picture.save(temporary, format="PNG")
    return Path(final)


class _Panel:
    """The frame of one chart, in pixels of the picture."""

    def __init__(self, pen, chart: Chart, x: int, y: int) -> None:
        from PIL import ImageFont

        self.pen, self.chart, self.x, self.y = pen, chart, x, y
        self.font, self.large = ImageFont.load_default(12), ImageFont.load_default(15)
        points = [p for line in chart.lines for p in line.points if math.isfinite(p[1])]
        xs, ys = [p[0] for p in points] or [0.0, 1.0], [p[1] for p in points] or [0.0, 1.0]
        bars = [s for line in chart.lines for s in line.spread] or [0.0]
        self.x_range = _widened(min(xs), max(xs))
        low = min(ys) - max(bars) if chart.low is None else chart.low
        high = max(ys) + max(bars) if chart.high is None else chart.high
        self.y_range = _widened(low, high)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point's place."""
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = min(max((y - self.y_range[0]) / (self.y_range[1] - self.y_range[0]), 0.0), 1.0)
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return self.x + _LEFT + across * width, self.y + _TOP + (1 - up) * height

    def draw(self) -> None:
        """Axes, curves, names."""
        self.pen.text((self.x + _LEFT, self.y + 8), self.chart.title, fill=_INK, font=self.large)
        for value in _ticks(*self.y_range):
            (left, y), (right, _) = self.at(self.x_range[0], value), self.at(self.x_range[1], value)
            self.pen.line((left, y, right, y), fill=_GRID)
            self.pen.text((self.x + _LEFT - 8, y), f"{value:.4g}", fill=_INK, font=self.font, anchor="rm")
        bottom = self.y + _HEIGHT - _BOTTOM
        for value in _ticks(*self.x_range):
            across = self.at(value, self.y_range[0])[0]
            self.pen.text((across, bottom + 6), f"{value:,.6g}", fill=_INK, font=self.font, anchor="ma")
        self.pen.text((self.x + _WIDTH // 2, bottom + 24), self.chart.x, fill=_INK, font=self.font, anchor="ma")
        for index, line in enumerate(self.chart.lines):
            self._line(line, distinct_color(index))
        right = self.x + _WIDTH - _RIGHT
        for index, line in reversed(list(enumerate(self.chart.lines))):
            name = line.name[:24]
            self.pen.text((right, self.y + 10), name, fill=_INK, font=self.font, anchor="ra")
            right -= round(self.font.getlength(name)) + 8
            self.pen.line((right - 20, self.y + 17, right, self.y + 17), fill=distinct_color(index), width=3)
            right -= 36

    def _line(self, line: Line, color: str) -> None:
        points = [self.at(*point) for point in line.points if math.isfinite(point[1])]
        if len(points) > 1:
            self.pen.line(points, fill=color, width=2)
        for (x, y), spread in zip(line.points, line.spread, strict=False):
            self.pen.line((*self.at(x, y - spread), *self.at(x, y + spread)), fill=color, width=1)
        for x, y in points if line.dots or len(points) == 1 else ():
            self.pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=color)


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, four to nine of them, inside the range."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]
