"""Grouped bars as a picture, drawn with Pillow: one group a network, one bar a start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from terralabel.core.classes import distinct_color
from terralabel.core.files import atomic_path

__all__ = ["Bar", "Group", "draw_bars"]

_BAR, _BETWEEN, _LEFT, _TOP, _BOTTOM, _PLOT, _ROW, _WIDEST = 16, 28, 60, 44, 34, 300, 18, 2400
_INK, _GRID = (32, 36, 42), (225, 228, 232)


@dataclass(frozen=True)
class Bar:
    """One bar; equal names have equal colours. `spread` is half an error bar; `mark` a line across, NaN for none."""

    name: str
    value: float
    spread: float = 0.0
    mark: float = math.nan


@dataclass(frozen=True)
class Group:
    """Bars side by side, with a name below."""

    name: str
    bars: Sequence[Bar]


def draw_bars(final: Path, title: str, groups: Sequence[Group], mark: str = "") -> Path:
    """Write groups of bars as a PNG, rows of groups where they are many; returns `final`. `mark`: what the lines across are."""
    from PIL import Image, ImageDraw

    names = list(dict.fromkeys(bar.name for group in groups for bar in group.bars))
    rows = _rows(groups)
    width = max(_LEFT + max(sum(map(_width, row)) for row in rows) + _BETWEEN, 480)
    legend = _ROW * (len(names) + bool(mark)) + 12
    picture = Image.new("RGB", (width, _TOP + len(rows) * (_PLOT + _BOTTOM) + legend), "white")
    pen = ImageDraw.Draw(picture)
    drawing = _Drawing(pen, names, _bounds(groups))
    pen.text((_LEFT, 10), title, fill=_INK, font=drawing.large)
    for index, row in enumerate(rows):
        drawing.row(row, _TOP + index * (_PLOT + _BOTTOM), width)
    drawing.legend(_TOP + len(rows) * (_PLOT + _BOTTOM) + 4, mark)
    with atomic_path(Path(final)) as temporary:
        picture.save(temporary, format="PNG")
    return Path(final)


def _width(group: Group) -> int:
    return max(len(group.bars) * _BAR + _BETWEEN, 9 * len(group.name) + 8)


def _rows(groups: Sequence[Group]) -> list[list[Group]]:
    """As many groups side by side as a picture is wide."""
    rows: list[list[Group]] = [[]]
    for group in groups:
        if rows[-1] and sum(map(_width, [*rows[-1], group])) > _WIDEST:
            rows.append([])
        rows[-1].append(group)
    return rows


def _bounds(groups: Sequence[Group]) -> tuple[float, float]:
    """The y axis: not from 0 where all values are high, so that differences show; the ticks tell."""
    bars = [bar for group in groups for bar in group.bars]
    ends = [v for bar in bars for v in (bar.value - bar.spread, bar.value + bar.spread, bar.mark) if math.isfinite(v)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return max(low - room, 0.0), high + room / 2


class _Drawing:
    """Rows of groups and their legend, in pixels of the picture."""

    def __init__(self, pen, names: Sequence[str], bounds: tuple[float, float]) -> None:
        from PIL import ImageFont

        self.pen, self.bounds = pen, bounds
        self.colors = {name: distinct_color(index) for index, name in enumerate(names)}
        self.font, self.large = ImageFont.load_default(12), ImageFont.load_default(15)

    def height(self, value: float) -> float:
        """Pixels above the foot of a row."""
        low, high = self.bounds
        return (min(max(value, low), high) - low) / (high - low) * _PLOT

    def row(self, groups: Sequence[Group], top: int, width: int) -> None:
        """One row: grid, bars, names."""
        foot, low, high = top + _PLOT, *self.bounds
        for step in range(6):
            value = low + (high - low) * step / 5
            y = foot - self.height(value)
            self.pen.line((_LEFT, y, width - 12, y), fill=_GRID)
            self.pen.text((_LEFT - 8, y), f"{value:.3g}", fill=_INK, font=self.font, anchor="rm")
        x = _LEFT + _BETWEEN // 2
        for group in groups:
            for index, bar in enumerate(group.bars):
                self._bar(bar, x + index * _BAR, foot)
            self.pen.text((x, foot + 6), group.name, fill=_INK, font=self.font)
            x += _width(group)

    def _bar(self, bar: Bar, x: float, foot: float) -> None:
        if math.isfinite(bar.value):
            self.pen.rectangle((x, foot - self.height(bar.value), x + _BAR - 4, foot), fill=self.colors[bar.name])
            if bar.spread:
                middle = x + (_BAR - 4) / 2
                ends = (foot - self.height(bar.value - bar.spread), foot - self.height(bar.value + bar.spread))
                self.pen.line((middle, ends[0], middle, ends[1]), fill=_INK, width=1)
        if math.isfinite(bar.mark):
            y = foot - self.height(bar.mark)
            self.pen.line((x - 1, y, x + _BAR - 3, y), fill=_INK, width=3)

    def legend(self, top: float, mark: str) -> None:
        """A line a name."""
        for index, (name, color) in enumerate(self.colors.items()):
            y = top + _ROW * index
            self.pen.rectangle((_LEFT, y, _LEFT + 12, y + 12), fill=color)
            self.pen.text((_LEFT + 20, y), name, fill=_INK, font=self.font)
        if mark:
            y = top + _ROW * len(self.colors)
            self.pen.line((_LEFT, y + 6, _LEFT + 12, y + 6), fill=_INK, width=3)
            self.pen.text((_LEFT + 20, y), mark, fill=_INK, font=self.font)
