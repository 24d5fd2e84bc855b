"""One batch: pictures changed at random, instances drawn from them, and the prompts a person might have given for each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from terralabel.imagery.collage import degrade
from terralabel.train.pictures import LAYERS, Picture

__all__ = ["BOX", "MASK", "MIXED", "POINT", "Batch", "draw"]

#: Kinds of prompts.
BOX, POINT, MIXED, MASK = range(4)
_SHARES = (0.42, 0.38, 0.1, 0.1)
_POINTS = 3
#: How often a generated picture is turned to radar.
_RADAR = 0.35
#: How many of a picture's prompts are for true instances, the others being for what the hierarchy is sure of.
_SURE_SHARE = 0.7


@dataclass(frozen=True)
class Batch:
    """`b` pictures with `n` prompts each, as numpy arrays.

    pixels (b, 3, s, s) float32 in [-1, 1]; sizes (b, 2) int64 (h, w) of what is picture; ids (b, LAYERS, s, s) int32;
    layer, number (b, n) the instance; kind (b, n); true (b, n) whether the instance is no guess; what (b, n) what it shows, 0 unknown;
    box (b, n, 4) float32 the instance's own; given (b, n, 4) the box of the prompt; points (b, n, 3, 2), labels (b, n, 3);
    area (b, n) pixels; sure_layers (b,) how many of the first layers hold no guesses;
    boxes (b, LAYERS, m, 4), areas (b, LAYERS, m) of all instances by their numbers, NaN and 0 where there is none.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    ids: np.ndarray
    layer: np.ndarray
    number: np.ndarray
    kind: np.ndarray
    true: np.ndarray
    what: np.ndarray
    box: np.ndarray
    given: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    sure_layers: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


def draw(pictures: list[tuple[Picture, float, float]], side: int, count: int, rng: np.random.Generator) -> Batch:
    """A batch from (picture, least scale, most scale); every picture gives `count` prompts."""
    rows: list[dict[str, np.ndarray]] = []
    while len(rows) < len(pictures):
        picture, least, most = pictures[len(rows)]
        pixels, ids, size = _changed(picture, side, np.exp(rng.uniform(np.log(least), np.log(most))), rng)
        row = _prompts(ids, picture.true, size, count, rng)
        if row is None:  # a view without any instance: the next picture may have some
            pictures = [*pictures[: len(rows)], pictures[int(rng.integers(len(pictures)))], *pictures[len(rows) + 1 :]]
            continue
        flat = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1
        flat[:, size[0] :], flat[:, :, size[1] :] = 0, 0
        row["what"] = np.array([picture.shows(*key) for key in zip(row["layer"], row["number"], strict=True)])
        rows.append({"pixels": flat, "sizes": np.array(size), "sure_layers": np.array(picture.true), "ids": ids, **row})
    most = max(row["areas"].shape[1] for row in rows)
    for row in rows:
        more = ((0, 0), (0, most - row["areas"].shape[1]))
        row["areas"] = np.pad(row["areas"], more)
        row["boxes"] = np.pad(row["boxes"], (*more, (0, 0)), constant_values=np.nan)
    return Batch(**{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def _changed(
    picture: Picture, side: int, scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A view of a picture: a part of it at another scale, turned and mirrored, degraded; padded below and right."""
    height, width = picture.pixels.shape[:2]
    stretch = np.exp(rng.normal(0, 0.08))
    sy, sx = scale * stretch, scale / stretch
    h, w = min(int(np.ceil(side / sy)), height), min(int(np.ceil(side / sx)), width)
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    size = (min(round(h * sy), side), min(round(w * sx), side))
    part = picture.pixels[y : y + h, x : x + w]
    view = cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rows = np.minimum(((np.arange(size[0]) + 0.5) * h / size[0]).astype(int), h - 1) + y
    columns = np.minimum(((np.arange(size[1]) + 0.5) * w / size[1]).astype(int), w - 1) + x
    ids = picture.ids[:, rows[:, None], columns[None]]
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    view, ids = np.rot90(view, turns), np.rot90(ids, turns, (1, 2))
    if flip:
        view, ids = view[:, ::-1], ids[:, :, ::-1]
    size = (view.shape[0], view.shape[1])
    out, marks = np.zeros((side, side, 3), np.uint8), np.zeros((LAYERS, side, side), np.int32)
    view = np.ascontiguousarray(view)
    out[: size[0], : size[1]] = view if picture.finished else degrade(rng, view, _RADAR if picture.true == 2 else 0.12)
    marks[:, : size[0], : size[1]] = ids
    return out, marks, size


def _prompts(
    ids: np.ndarray, true: int, size: tuple[int, int], count: int, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """The columns of `Batch` for one picture; None where it shows no instance."""
    found = [ndimage.find_objects(layer) for layer in ids]
    boxes = np.full((len(ids), max(map(len, found), default=0) + 1, 4), np.nan, np.float32)
    areas = np.stack([np.bincount(layer.ravel(), minlength=boxes.shape[1]) for layer in ids]).astype(np.float32)
    areas[:, 0] = 0
    keys, weights = [], []
    for layer, places in enumerate(found):
        for number, place in enumerate(places, 1):
            if place is None:
                continue
            rows, columns = place
            boxes[layer, number] = columns.start, rows.start, columns.stop, rows.stop
            h, w = rows.stop - rows.start, columns.stop - columns.start
            if min(h, w) >= 4 and areas[layer, number] >= 32 and areas[layer, number] < 0.75 * size[0] * size[1]:
                keys.append((layer, number))
                weights.append((h * w) ** 0.25)
    if not keys:
        return None
    chosen = rng.choice(len(keys), count, p=_shares(np.array(weights), np.array([layer < true for layer, _ in keys])))
    columns_of: list[dict[str, np.ndarray]] = [_prompt(ids, keys[k], true, boxes, size, rng) for k in chosen]
    return {key: np.stack([row[key] for row in columns_of]) for key in columns_of[0]} | {"boxes": boxes, "areas": areas}


def _shares(weights: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Chances of the instances to be drawn: all that are no guesses together `_SURE_SHARE`, where there are both."""
    chances = np.zeros(len(weights))
    for group, share in ((sure, _SURE_SHARE), (~sure, 1 - _SURE_SHARE)):
        if group.any():
            chances[group] = share * weights[group] / weights[group].sum()
    return chances / chances.sum()


def _prompt(
    ids: np.ndarray, key: tuple[int, int], true: int, boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The instance `key` = (layer, number), and a prompt for it."""
    layer, number = key
    box = boxes[layer, number]
    x0, y0, x1, y1 = box.astype(int)
    corner = np.array([x0, y0], np.float32)
    mask = ids[layer, y0:y1, x0:x1] == number
    kind = int(rng.choice(4, p=_SHARES))
    points, labels = np.zeros((_POINTS, 2), np.float32), np.full(_POINTS, -1, np.int32)
    points[0], labels[0] = _inside(mask, rng) + corner, 1
    if kind == MIXED:
        for k in range(1, 1 + int(rng.integers(1, _POINTS))):
            labels[k] = int(rng.random() < 0.5)
            points[k] = _inside(mask, rng) + corner if labels[k] else _outside(ids[layer], number, box, rng)
    if kind in (BOX, MASK):
        labels[0] = -1
    spread = rng.choice([0.0, 0.06, 0.12], p=[0.3, 0.4, 0.3])
    wh = np.array([x1 - x0, y1 - y0] * 2, np.float32)
    given = np.clip(box + rng.uniform(-spread, spread, 4).astype(np.float32) * wh, 0, [size[1], size[0]] * 2)
    return {
        "layer": np.array(layer), "number": np.array(number), "kind": np.array(kind), "true": np.array(layer < true),
        "box": box, "given": given.astype(np.float32), "points": points, "labels": labels,
        "area": np.array(mask.sum(), np.float32),
    }  # fmt: skip


def _inside(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pixel centre xy of the mask; half of the time one of its more central ones."""
    rows, columns = np.nonzero(mask)
    pick = rng.integers(len(rows), size=6 if rng.random() < 0.5 else 1)
    off = np.square(rows[pick] - rows.mean()) + np.square(columns[pick] - columns.mean())
    best = pick[off.argmin()]
    return np.array([columns[best], rows[best]], np.float32) + 0.5


def _outside(layer: np.ndarray, number: int, box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pixel centre xy in or near the box that is not of the instance; the box's corner where there is none."""
    x0, y0, x1, y1 = box
    for _ in range(8):
        x = np.clip(rng.uniform(x0 - 0.2 * (x1 - x0), x1 + 0.2 * (x1 - x0)), 0, layer.shape[1] - 1)
        y = np.clip(rng.uniform(y0 - 0.2 * (y1 - y0), y1 + 0.2 * (y1 - y0)), 0, layer.shape[0] - 1)
        if layer[int(y), int(x)] != number:
            return np.array([int(x) + 0.5, int(y) + 0.5], np.float32)
    return np.array([x0, y0], np.float32)
