"""A scene of nested rectangles and ellipses of known identity, and a mask generator that sees it through windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from skimage.measure import label, regionprops

from terralabel.core.grid import TilePlan, Window, plan_tiles
from terralabel.core.masks import Masks
from terralabel.core.rle import encode_boxed
from terralabel.labels.objects import assemble, last_tiles, object_areas
from terralabel.labels.paint import paint_core
from terralabel.labels.stitch import Pieces, alone, link, neighbours, own, resolve


def rectangles(width: int, height: int, pieces: int, seed: int) -> np.ndarray:
    """(H, W) int32 ids from 1: the frame cut at random, largest rectangle first, into `pieces`."""
    rng = np.random.default_rng(seed)
    boxes = [(0, 0, width, height)]
    while len(boxes) < pieces and max(w * h for _, _, w, h in boxes) > 1:
        boxes.sort(key=lambda b: b[2] * b[3])
        x, y, w, h = boxes.pop()
        if w >= h:
            cut = int(np.clip(round(w * rng.uniform(0.3, 0.7)), 1, w - 1))
            boxes += [(x, y, cut, h), (x + cut, y, w - cut, h)]
        else:
            cut = int(np.clip(round(h * rng.uniform(0.3, 0.7)), 1, h - 1))
            boxes += [(x, y, w, cut), (x, y + cut, w, h - cut)]
    out = np.zeros((height, width), dtype=np.int32)
    for i, (x, y, w, h) in enumerate(boxes):
        out[y : y + h, x : x + w] = i + 1
    return out


def ellipses(width: int, height: int, count: int, seed: int) -> np.ndarray:
    """(H, W) int32 ids from 1, 0 between: ellipses that do not touch."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:height, :width]
    out = np.zeros((height, width), dtype=np.int32)
    taken = np.zeros((height, width), dtype=bool)
    for i in range(count):
        x, y, a, b = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 30), rng.uniform(3, 30)
        distance = ((xx - x) / a) ** 2 + ((yy - y) / b) ** 2
        inside, halo = distance <= 1, ((xx - x) / (a + 2)) ** 2 + ((yy - y) / (b + 2)) ** 2 <= 1
        if inside.any() and not (taken & halo).any():
            out[inside] = i + 1
            taken |= inside
    return out


def levels(width: int, height: int, seed: int = 0) -> list[np.ndarray]:
    """Ids at three scales: ellipses anywhere, and fine rectangles inside coarse ones."""
    n = max(width * height // 1500, 1)
    coarse = rectangles(width, height, max(n // 8, 1), seed)
    fine = coarse * (n + 1) + rectangles(width, height, n, seed + 1)  # crossed, so that each lies in one coarse one
    return [ellipses(width, height, min(n, 150), seed), fine, coarse]


def generate(ids: list[np.ndarray], window: Window) -> Masks:
    """The masks seen in a window: connected parts of each level, finest level first."""
    codes, size = [], (window.height, window.width)
    for level in ids:
        parts = label(level[window.slices()], connectivity=1, background=0)
        codes += [encode_boxed(p.image, p.bbox[1], p.bbox[0], size) for p in regionprops(parts)]
    return Masks.from_codes(codes, size)


@dataclass(frozen=True)
class Stitched:
    """Everything known of a scene after stitching."""

    plans: list[TilePlan]
    masks: list[Masks]
    pieces: list[Pieces]
    objects: np.ndarray
    areas: np.ndarray
    last: np.ndarray


def stitch(
    ids: list[np.ndarray],
    tile_size: int,
    overlap: int,
    *,
    see: Callable[[Window], Masks] | None = None,
    order: np.random.Generator | None = None,
) -> Stitched:
    """Generate, link, resolve and own, as the engine does; `see` is the generator, `order` shuffles tiles and pairs."""
    height, width = ids[0].shape
    plans = plan_tiles("scene", width, height, tile_size, overlap)
    shuffle = (lambda items: items) if order is None else order.permutation
    masks = [Masks.empty((0, 0))] * len(plans)
    for i in shuffle(np.arange(len(plans))):
        masks[i] = generate(ids, plans[i].window) if see is None else see(plans[i].window)
    counts = np.array([len(m) for m in masks])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pairs, strength = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for i, j in shuffle(neighbours(plans)):
        found, how = link(plans[i], masks[i], plans[j], masks[j])
        pairs.append(found + offsets[[i, j]])
        strength.append(how)
    objects = resolve(counts, np.concatenate(pairs), np.concatenate(strength))
    single = alone(objects)
    cut = [slice(a, b) for a, b in pairwise(offsets)]
    pieces = [own(p, m, objects[c], single[c]) for p, m, c in zip(plans, masks, cut, strict=True)]
    areas = object_areas(pieces, int(objects.max(initial=-1)) + 1)
    return Stitched(plans, masks, pieces, objects, areas, last_tiles(counts, objects))


def around(plans: list[TilePlan], i: int) -> list[int]:
    """Positions of a tile and its neighbours."""
    return [j for j, p in enumerate(plans) if abs(p.row - plans[i].row) <= 1 and abs(p.column - plans[i].column) <= 1]


def raster(st: Stitched, values: np.ndarray, fill: int = -1) -> np.ndarray:
    """The labels of the whole scene, painted core by core."""
    height, width = (max(getattr(p.core, side) for p in st.plans) for side in ("bottom", "right"))
    out = np.full((height, width), -9, dtype=np.int32)
    for i, plan in enumerate(st.plans):
        tiles = [(st.plans[j], st.masks[j], st.pieces[j]) for j in around(st.plans, i)]
        out[plan.core.slices()] = paint_core(plan, tiles, values, st.areas, fill=fill, dtype=np.int32)
    return out


def shapes(st: Stitched) -> dict[int, tuple[tuple[int, ...], int, bytes]]:
    """Object number -> its geometry."""
    out = {}
    for batch in assemble("scene", zip(st.plans, st.masks, st.pieces, strict=True), st.last, first_id=0):
        for i, number in enumerate(batch.id.tolist()):
            assert number not in out, f"object {number} came twice"
            out[number] = (tuple(batch.bbox[i].tolist()), int(batch.area[i]), batch.code(i).tobytes())
    return out


@pytest.fixture(scope="session")
def painted() -> SimpleNamespace:
    """The functions of this file, for the tests beside it."""
    return SimpleNamespace(levels=levels, generate=generate, stitch=stitch, raster=raster, shapes=shapes, around=around)
