"""How a text was understood, as pictures: a scene with all that was found, and the steps from a box to its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.export.picture import contact_sheet, display_rgb, draw_outline, text_strip

__all__ = ["Steps", "scene_picture", "steps_picture"]

_FOUND, _CHOSEN, _BOX, _POINT, _CLUSTER = (250, 250, 250), (255, 221, 0), (0, 210, 255), (255, 40, 40), (255, 0, 170)
#: Side of one panel, pixels.
_PANEL = 256


@dataclass(frozen=True)
class Steps:
    """From one box to its mask, all in the frame of a picture `rgb` (H, W, 3) uint8.

    box       (4,) xyxy
    clusters  (H, W) bool: the cluster of colours taken for the object; None where points are off
    point     (x, y) of the foreground point, or None
    before    (H, W) bool: the promptable's answer; `after` with its boundary redrawn
    words     captions of the box, the clusters, the answer and the result
    """

    rgb: np.ndarray
    box: np.ndarray
    clusters: np.ndarray | None
    point: tuple[float, float] | None
    before: np.ndarray
    after: np.ndarray
    words: tuple[str, str, str, str]


def steps_picture(title: str, steps: Sequence[Steps]) -> np.ndarray:
    """A row of four panels for each box: box, clusters and point, mask before, mask after; (H, W, 3) uint8."""
    rows = []
    for row in steps:
        scale = _PANEL / max(row.rgb.shape[:2])
        rows += [_captioned(panel, word) for panel, word in zip(_panels(row, scale), row.words, strict=True)]
    sheet = contact_sheet(rows, 4)
    return np.concatenate([text_strip(title, sheet.shape[1]), sheet])


def _panels(row: Steps, scale: float) -> list[np.ndarray]:
    size = (max(round(row.rgb.shape[1] * scale), 1), max(round(row.rgb.shape[0] * scale), 1))
    picture = cv2.resize(display_rgb(row.rgb), size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)

    def large(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0

    boxed = _with_box(picture, row.box * scale, _BOX)
    clustered = boxed.copy()
    if row.clusters is not None:
        inside = large(row.clusters)
        clustered[inside] = clustered[inside] // 2 + np.array(_CLUSTER, np.uint8) // 2
    if row.point is not None:
        at = (round(row.point[0] * scale), round(row.point[1] * scale))
        cv2.circle(clustered, at, 6, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(clustered, at, 4, _POINT, -1, cv2.LINE_AA)
    return [
        boxed,
        clustered,
        draw_outline(picture, large(row.before), _CHOSEN),
        draw_outline(picture, large(row.after), _CHOSEN),
    ]


def _with_box(picture: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    out = np.ascontiguousarray(picture).copy()
    cv2.rectangle(out, (x0, y0), (x1 - 1, y1 - 1), (0, 0, 0), 3)
    return cv2.rectangle(out, (x0, y0), (x1 - 1, y1 - 1), color, 1)


def _captioned(panel: np.ndarray, words: str) -> np.ndarray:
    """The panel in the middle of a square, its caption above."""
    square = np.full((_PANEL, _PANEL, 3), 255, np.uint8)
    high, wide = panel.shape[:2]
    y, x = (_PANEL - high) // 2, (_PANEL - wide) // 2
    square[y : y + high, x : x + wide] = panel
    return np.concatenate([text_strip(words, _PANEL, 13), square])


def scene_picture(
    rgb: np.ndarray, found: np.ndarray, others: Sequence[np.ndarray], chosen: Sequence[np.ndarray], lines: Sequence[str]
) -> np.ndarray:
    """A scene (H, W, 3) with the boxes of all that was found, and the outlines of what is meant, filled.

    found (n, 4) xyxy in pixels of `rgb`; `others` outlines (k, 2) of the rest, `chosen` of what is meant; `lines` above it.
    """
    picture = np.ascontiguousarray(display_rgb(rgb)).copy()
    for box in found:
        picture = _with_box(picture, box, _FOUND)
    for outline in others:
        cv2.polylines(picture, [np.rint(outline).astype(np.int32)], True, _BOX, 1, cv2.LINE_AA)
    filled = picture.copy()
    cv2.fillPoly(filled, [np.rint(outline).astype(np.int32) for outline in chosen], _CHOSEN)
    picture = cv2.addWeighted(filled, 0.45, picture, 0.55, 0)
    for outline in chosen:
        cv2.polylines(picture, [np.rint(outline).astype(np.int32)], True, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.polylines(picture, [np.rint(outline).astype(np.int32)], True, _CHOSEN, 2, cv2.LINE_AA)
    strips = [text_strip(line, picture.shape[1], 20 if number == 0 else 15) for number, line in enumerate(lines)]
    return np.concatenate([*strips, picture])
