"""A picture of a confusion matrix, drawn with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from terralabel.core.files import atomic_path
from terralabel.evaluate.report import LabelReport

__all__ = ["confusion_picture"]

_CELL, _LEFT, _TOP = 64, 190, 130


def confusion_picture(report: LabelReport, path: Path | str) -> Path:
    """Write a PNG: columns the true classes, rows what they were labelled as, shares of each true class in percent.

    The last row is unlabelled, or labelled with no class. Up to 40 classes (the largest) are drawn.
    """
    from PIL import Image, ImageDraw

    drawn = np.sort(np.argsort(-report.confusion.sum(axis=0), kind="stable")[:40])
    rows = [*drawn.tolist(), len(report.classes)]
    counts = report.confusion[np.ix_(rows, drawn)]
    shares = counts / np.maximum(report.confusion.sum(axis=0)[drawn], 1)
    size = (max(_LEFT + _CELL * len(drawn) + 20, 420), _TOP + _CELL * len(rows) + 20)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    titles = [_title(report, int(i)) for i in drawn]
    pen.text((10, 10), f"columns: true class, rows: labelled as; % of the true class.  mIoU {report.miou:.3f}", fill="black")
    for column, title in enumerate(titles):
        _text_up(picture, _LEFT + _CELL * column + _CELL // 2 - 7, _TOP - 6, title[:14])
    for row, title in enumerate([*titles, "no class"]):
        pen.text((10, _TOP + _CELL * row + _CELL // 2 - 6), title, fill="black")
        for column, share in enumerate(shares[row]):
            _cell(pen, _LEFT + _CELL * column, _TOP + _CELL * row, float(share), right=row == column)
    path = Path(path)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def _title(report: LabelReport, index: int) -> str:
    class_id = report.classes[index]
    return f"{class_id} {report.names.get(class_id, '')}".strip()[:26]


def _cell(pen, x: int, y: int, share: float, right: bool) -> None:
    """Green shades where right, red where wrong: darker is more."""
    full = np.array((35, 132, 67) if right else (203, 24, 29))
    color = tuple(int(v) for v in np.round(255 + (full - 255) * share))
    pen.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=color, outline=(210, 210, 210))
    text = f"{100 * share:.1f}"
    pen.text((x + _CELL // 2 - 3 * len(text), y + _CELL // 2 - 6), text, fill="white" if share > 0.55 else "black")


def _text_up(picture, x: int, bottom: int, text: str) -> None:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (96, 16), "white")
    ImageDraw.Draw(strip).text((0, 1), text, fill="black")
    picture.paste(strip.rotate(90, expand=True), (x, bottom - 96))
