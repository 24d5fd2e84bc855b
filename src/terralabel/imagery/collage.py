"""Pictures made of many cut-out surfaces, with every instance known exactly: what `masks nano` learns shapes and prompts from.

Nothing here imitates a place. Parcels, bands, blobs, roofs with their shadows, rows of small things and round things are laid over one
another in random colours and textures, at random sizes; `degrade` then does what lenses, sensors and files do.
Same generator state, same picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["LAYERS", "degrade", "paint_collage"]

#: Rasters of instances: things as a whole, and their parts (halves of roofs, what lies on them).
LAYERS = 2
_NATURAL = np.array(
    [[96, 124, 62], [128, 140, 74], [68, 104, 54], [176, 168, 92], [146, 112, 84], [172, 142, 112], [64, 88, 46], [50, 70, 84],
     [128, 127, 124], [182, 166, 138], [168, 84, 66], [186, 182, 176], [96, 84, 78], [60, 60, 66], [210, 205, 200]], np.float32
)  # fmt: skip


@dataclass
class _Sheet:
    """The picture while it is made: colour (H, W, 3) float32, instances (LAYERS, H, W) int32, noises to texture with."""

    rng: np.random.Generator
    color: np.ndarray
    ids: np.ndarray
    noises: list[np.ndarray]
    sun: np.ndarray
    count: int = 0

    @property
    def side(self) -> int:
        return self.color.shape[0]

    def lay(
        self, where: np.ndarray, color: np.ndarray, x: int = 0, y: int = 0, layers: tuple[int, ...] = (0, 1), fuzz: float = 0
    ) -> None:
        """Cover pixels `where` (h, w) bool at (x, y) with color (h, w, 3) as a new instance in these layers; its edge is `fuzz` wide."""
        h, w = where.shape
        self.count += 1
        if fuzz:
            share = cv2.GaussianBlur(where.astype(np.float32), (0, 0), fuzz)[..., None]
            self.color[y : y + h, x : x + w] += share * (color - self.color[y : y + h, x : x + w])
        else:
            np.copyto(self.color[y : y + h, x : x + w], color, where=where[..., None])
        for layer in layers:
            self.ids[layer, y : y + h, x : x + w][where] = self.count

    def hue(self) -> np.ndarray:
        """A colour, mostly one of the outdoors."""
        if self.rng.random() < 0.3:
            return self.rng.uniform(20, 235, 3).astype(np.float32)
        base = _NATURAL[self.rng.integers(len(_NATURAL))]
        return base * self.rng.normal(1, 0.12) + self.rng.normal(0, 8, 3).astype(np.float32)

    def surface(self, h: int, w: int, strength: float = 1.0) -> np.ndarray:
        """A texture (h, w, 3): a colour, patches, grain, and perhaps rows."""
        rng = self.rng
        noise = self.noises[rng.integers(len(self.noises))]
        y, x = rng.integers(0, noise.shape[0] - h + 1), rng.integers(0, noise.shape[1] - w + 1)
        tone = noise[y : y + h, x : x + w] * rng.uniform(0.5, 9) * strength
        if rng.random() < 0.3:
            angle, step = rng.uniform(0, np.pi), rng.uniform(2.5, 14)
            across = np.arange(w, dtype=np.float32) * np.cos(angle) + np.arange(h, dtype=np.float32)[:, None] * np.sin(angle)
            tone = tone + rng.uniform(2, 12) * strength * np.sin(across * (2 * np.pi / step))
        tint = rng.uniform(0.6, 1.1, 3).astype(np.float32)
        return self.hue() + tone[..., None].astype(np.float32) * tint


def paint_collage(rng: np.random.Generator, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(pixels (side, side, 3) uint8, instances (2, side, side) int32, 0 where there is none).

    Layer 0 holds whole things, layer 1 their parts where there are any and else the things again. Clean: see `degrade`.
    """
    sheet = _Sheet(
        rng, np.zeros((side, side, 3), np.float32), np.zeros((LAYERS, side, side), np.int32), _noises(rng, side),
        rng.uniform(-1, 1, 2),
    )  # fmt: skip
    _lay_parcels(sheet)
    wild = rng.random() < 0.4
    for _ in range(rng.integers(1, 4) if wild else 0):
        _lay_patches(sheet)
    if rng.random() < 0.2:
        _lay_network(sheet)
    if wild and rng.random() < 0.6:
        return np.clip(sheet.color, 0, 255).astype(np.uint8), _pieces(sheet.ids)
    for _ in range(rng.integers(0, 4)):
        _lay_blob(sheet, rng.uniform(0.1, 0.6) * side)
    for _ in range(rng.integers(0, 4)):
        _lay_band(sheet)
    size = np.exp(rng.uniform(np.log(12), np.log(90)))
    for _ in range(int(rng.integers(0, 1 + min(28, 24000 / size**2)))):
        _lay_roof(sheet, size * rng.uniform(0.7, 1.5))
    for _ in range(rng.integers(0, 4)):
        _lay_row(sheet)
    for _ in range(rng.integers(0, 24)):
        _lay_round(sheet)
    return np.clip(sheet.color, 0, 255).astype(np.uint8), _pieces(sheet.ids)


def _noises(rng: np.random.Generator, side: int) -> list[np.ndarray]:
    """Four fields of unit contrast, larger than the picture: coarse and fine, some of them mixed."""
    fields = []
    for _ in range(4):
        total = np.zeros((side + 32, side + 32), np.float32)
        for cell in np.exp(rng.uniform(np.log(1), np.log(60), 2)):
            cells = max(int((side + 32) / cell), 2)
            total += cv2.resize(
                rng.standard_normal((cells, cells), dtype=np.float32), total.shape, interpolation=cv2.INTER_CUBIC
            )
        fields.append(total)
    return fields


def _lay_parcels(sheet: _Sheet) -> None:
    """The ground: a few regions between random points, or strips, with crooked borders, some with a margin."""
    rng, side = sheet.rng, sheet.side
    count = int(rng.integers(1, 14))
    angle, squeeze = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 1.4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [[squeeze], [1]]
    yy, xx = np.mgrid[:side, :side].astype(np.float32)
    bend = rng.uniform(0, 7) * sheet.noises[0][:side, :side] if rng.random() < 0.4 else 0
    place = np.stack([xx + bend, yy + bend], -1) @ turn.T.astype(np.float32)
    seeds = (rng.uniform(0, side, (count, 2)) @ turn.T).astype(np.float32)
    metric = np.abs(place[None] - seeds[:, None, None])
    distance = metric.max(-1) if rng.random() < 0.5 else np.square(metric).sum(-1)
    owner = distance.argmin(0)
    for k in range(count):
        sheet.lay(owner == k, sheet.surface(side, side))
    if rng.random() < 0.4:
        edge = cv2.morphologyEx(owner.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        np.copyto(sheet.color, sheet.surface(side, side), where=edge[..., None])
        sheet.ids[:, edge] = 0


def _lay_blob(sheet: _Sheet, size: float) -> None:
    """A rounded patch: pond, wood, slick, cloud."""
    rng, side = sheet.rng, sheet.side
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = size / 2 * (1 + sum(rng.uniform(-0.5, 0.5) / k * np.cos(k * turns + rng.uniform(0, 6)) for k in range(1, 6)))
    stretch = np.exp(rng.uniform(-0.8, 0.8))
    outline = np.stack([np.cos(turns) * radius * stretch, np.sin(turns) * radius / stretch], 1)
    _fill(sheet, _turned(outline, rng.uniform(0, np.pi)) + rng.uniform(0, side, 2), strength=rng.uniform(0.3, 3))


def _lay_patches(sheet: _Sheet) -> None:
    """Water, wood or slicks with ragged shores: where a random relief is low."""
    rng, side = sheet.rng, sheet.side
    relief, weight = np.zeros((side, side), np.float32), 1.0
    for cells in 2 ** np.arange(1, 7):
        grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
        relief += weight * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        weight *= rng.uniform(0.35, 0.7)
    where = relief < np.quantile(relief, np.exp(rng.uniform(np.log(0.03), np.log(0.6))))
    where = cv2.morphologyEx(where.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    color = sheet.surface(side, side, rng.uniform(0.1, 1.2))
    if rng.random() < 0.5:  # as what lies below, but darker or lighter
        color = sheet.color * rng.choice([rng.uniform(0.35, 0.85), rng.uniform(1.15, 1.6)]) + 0.3 * (color - color.mean((0, 1)))
    sheet.lay(where, color, fuzz=rng.uniform(0, 2.5) if rng.random() < 0.4 else 0)


def _lay_network(sheet: _Sheet) -> None:
    """Streets that cross: one instance."""
    rng, side = sheet.rng, sheet.side
    where, angle, width = np.zeros((side, side), np.uint8), rng.uniform(0, np.pi), int(rng.integers(4, 20))
    for k in range(rng.integers(2, 7)):
        line = _turned(np.array([[-2.0, 0], [2, 0]]) * side, angle + (k % 2) * np.pi / 2 + rng.normal(0, 0.08))
        cv2.polylines(where, [np.round((line + rng.uniform(0, side, 2)) * 8).astype(np.int32)], False, 1, width, shift=3)
    sheet.lay(where > 0, sheet.surface(side, side, rng.uniform(0.2, 1)))


def _lay_band(sheet: _Sheet) -> None:
    """A road or a river across the picture."""
    rng, side = sheet.rng, sheet.side
    along = np.linspace(-0.8, 0.8, 40) * side
    sway = rng.uniform(0, 0.1) * side * np.sin(along / side * rng.uniform(2, 9) + rng.uniform(0, 6))
    line = _turned(np.stack([along, sway], 1), rng.uniform(0, np.pi)) + rng.uniform(0.1, 0.9, 2) * side
    where = np.zeros((side, side), np.uint8)
    cv2.polylines(where, [np.round(line * 8).astype(np.int32)], False, 1, int(rng.integers(3, 26)), shift=3)
    sheet.lay(where > 0, sheet.surface(side, side))


def _lay_roof(sheet: _Sheet, size: float) -> None:
    """A building of one or two wings, with a shadow, a ridge between two shades, and perhaps things on it."""
    rng, side = sheet.rng, sheet.side
    angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else rng.choice([0, np.pi / 2]) + rng.normal(0, 0.06)
    centre, length, depth = rng.uniform(0, side, 2), size, size * rng.uniform(0.35, 1)
    wings = [_box(length, depth)]
    if rng.random() < 0.35:
        offset = rng.uniform(-0.4, 0.4, 2) * [length, depth]
        wings.append(_box(depth * 0.8, length * 0.8) + offset)
    outlines = [_turned(wing, angle) + centre for wing in wings]
    if rng.random() < 0.8:
        _shade(sheet, [outline + sheet.sun * size * rng.uniform(0.1, 0.35) for outline in outlines], rng.uniform(0.35, 0.8))
    patch = _patch(sheet, outlines)
    if patch is None:
        return
    where, x, y = patch
    color = sheet.surface(where.shape[0], where.shape[1], rng.uniform(0.1, 1))
    sheet.lay(where, color, x, y)
    if rng.random() < 0.6:
        grid = np.stack(np.meshgrid(np.arange(where.shape[1]) + x, np.arange(where.shape[0]) + y), -1) - centre
        lit = grid @ np.array([-np.sin(angle), np.cos(angle)]) > 0
        sheet.lay(where & lit, color * rng.uniform(0.7, 1.3), x, y, layers=(1,))
    for _ in range(rng.integers(0, 4) if size > 36 else 0):
        panel = (
            _turned(_box(*(size * rng.uniform(0.08, 0.25, 2))) + rng.uniform(-0.25, 0.25, 2) * [length, depth], angle) + centre
        )
        _fill(sheet, panel, layers=(1,), strength=0.3)


def _lay_row(sheet: _Sheet) -> None:
    """Like things side by side: cars, boats, tents, trees in a row."""
    rng, side = sheet.rng, sheet.side
    length = np.exp(rng.uniform(np.log(7), np.log(34)))
    outline = _box(length, length * rng.uniform(0.3, 0.7))
    angle, heading = rng.uniform(0, np.pi), rng.uniform(0, np.pi)
    step = np.array([np.cos(heading), np.sin(heading)]) * length * rng.uniform(1.2, 2.5)
    start = rng.uniform(0, side, 2)
    for k in range(rng.integers(2, 9)):
        one = _turned(outline, angle + rng.normal(0, 0.05)) + start + k * step
        _shade(sheet, [one + sheet.sun * length * 0.15], 0.6)
        _fill(sheet, one, strength=0.3)


def _lay_round(sheet: _Sheet) -> None:
    """A crown, a tank or a pool: a disc, often lit from one side."""
    rng, side = sheet.rng, sheet.side
    radius = np.exp(rng.uniform(np.log(3.5), np.log(22)))
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(turns), np.sin(turns)], 1) * radius * (1 + rng.uniform(0, 0.15) * rng.normal(size=(24, 1)))
    centre = rng.uniform(0, side, 2)
    _shade(sheet, [outline + centre + sheet.sun * radius * rng.uniform(0, 1)], rng.uniform(0.4, 0.8))
    patch = _patch(sheet, [outline + centre])
    if patch is None:
        return
    where, x, y = patch
    grid = np.stack(np.meshgrid(np.arange(where.shape[1]) + x, np.arange(where.shape[0]) + y), -1) - centre
    light = 1 - rng.uniform(0, 0.35) * (grid @ sheet.sun) / radius
    sheet.lay(
        where, sheet.surface(where.shape[0], where.shape[1], rng.uniform(0.2, 2)) * light[..., None].astype(np.float32), x, y
    )


def _box(length: float, depth: float) -> np.ndarray:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, depth / 2]


def _turned(outline: np.ndarray, angle: float) -> np.ndarray:
    return outline @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _patch(sheet: _Sheet, outlines: list[np.ndarray]) -> tuple[np.ndarray, int, int] | None:
    """The inside of polygons (n, 2) xy as (h, w) bool and its first pixel; None outside the picture."""
    every = np.concatenate(outlines)
    x0, y0 = np.maximum(np.floor(every.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(every.max(0)).astype(int) + 1, sheet.side)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    where = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for outline in outlines:
        cv2.fillPoly(where, [np.round((outline - [x0, y0]) * 8).astype(np.int32)], 1, shift=3)
    return where > 0, int(x0), int(y0)


def _fill(sheet: _Sheet, outline: np.ndarray, layers: tuple[int, ...] = (0, 1), strength: float = 1.0) -> None:
    patch = _patch(sheet, [outline])
    if patch is not None:
        where, x, y = patch
        sheet.lay(where, sheet.surface(where.shape[0], where.shape[1], strength), x, y, layers)


def _shade(sheet: _Sheet, outlines: list[np.ndarray], light: float) -> None:
    """Darken what lies under polygons; a shadow is no instance."""
    patch = _patch(sheet, outlines)
    if patch is not None:
        where, x, y = patch
        sheet.color[y : y + where.shape[0], x : x + where.shape[1]][where] *= light


def _pieces(ids: np.ndarray) -> np.ndarray:
    """Instances anew, so that what another thing cut in two counts as two."""
    out = np.zeros_like(ids)
    for old, new in zip(ids, out, strict=True):
        total = 0
        for value in np.unique(old[old > 0]):
            count, parts = cv2.connectedComponents((old == value).astype(np.uint8), connectivity=4)
            np.copyto(new, parts + total, where=parts > 0)
            total += count - 1
    return out


def degrade(rng: np.random.Generator, pixels: np.ndarray, radar: float = 0.12) -> np.ndarray:
    """What lenses, sensors and files do to an (H, W, 3) uint8 picture: blur, tint, contrast, grey, noise, JPEG; or, with the chance `radar`, speckle."""
    picture: np.ndarray = pixels.astype(np.float32)
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.2:
        picture = np.repeat(picture.mean(2, keepdims=True), 3, 2)
    if rng.random() < radar:
        looks = float(rng.choice([1, 3, 6, 12]))
        grey = picture.mean(2) + 6
        grey = grey * np.sqrt(rng.gamma(looks, 1 / looks, grey.shape))
        if rng.random() < 0.4:
            grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1))
        grey = 20 * np.log10(np.maximum(grey, 1)) if rng.random() < 0.6 else grey
        low, high = np.percentile(grey, (1, 99))
        picture = np.repeat((np.clip((grey - low) / max(high - low, 1), 0, 1) * 255)[..., None], 3, 2).astype(np.float32)
    else:
        gain, shift = rng.uniform(0.55, 1.25), rng.normal(0, 15)
        picture = (picture - 110) * gain * rng.normal(1, 0.08, 3) + 110 + shift + rng.normal(0, 6, 3)
        picture += rng.normal(0, rng.uniform(0, 6)) + rng.uniform(0, 6) * rng.standard_normal(picture.shape, dtype=np.float32)
    out = np.clip(picture, 0, 255).astype(np.uint8)
    return _compressed(out, int(rng.integers(35, 92))) if rng.random() < 0.4 else out


def _compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG."""
    _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
