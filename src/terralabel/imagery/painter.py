"""Paints aerial scenes with known truth: for the demo, for tests and for benchmarks where real imagery may not go.

The land is divided into parcels; some divisions become roads, villages grow along them, forest and water lie over them.
Every pixel has a class, so a labelling can be scored exactly. Same seed, same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.files import atomic_path, write_text
from terralabel.errors import SettingsError
from terralabel.imagery import brush

__all__ = ["CLASS_COLORS", "CLASS_NAMES", "paint_scene", "write_demo"]

#: Class ids are positions in this list, from 1.
CLASS_NAMES = ("field", "forest", "water", "building", "road", "bare soil")
#: A natural colour for each of them.
CLASS_COLORS = ("#c9d76a", "#1b7837", "#2f7fc1", "#e0342b", "#6f6f78", "#b27a4a")
FIELD, FOREST, WATER, BUILDING, ROAD, SOIL = range(1, 7)

# red, green, blue, strength of rows, distance of rows in px, class
_CROPS = (
    (96, 124, 62, 9, 5.0, FIELD),  # young cereal
    (128, 140, 74, 7, 6.5, FIELD),  # ripening cereal
    (68, 104, 54, 12, 7.0, FIELD),  # maize
    (176, 168, 92, 6, 5.5, FIELD),  # rape, stubble
    (104, 132, 78, 0, 6.0, FIELD),  # meadow
    (146, 112, 84, 8, 4.5, SOIL),  # ploughed
    (172, 142, 112, 4, 6.0, SOIL),  # dry, bare
)
_ROOFS = ((168, 84, 66), (140, 72, 58), (112, 108, 108), (186, 182, 176), (96, 84, 78), (196, 120, 88))
_DECIBEL = {FIELD: -11.0, FOREST: -7.0, WATER: -21.0, BUILDING: -1.0, ROAD: -16.0, SOIL: -13.5}


@dataclass
class _Canvas:
    """The picture while it is painted: colour (H, W, 3) float32, truth (H, W) uint8, height above ground (H, W) in px."""

    rng: np.random.Generator
    color: np.ndarray
    truth: np.ndarray
    height: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.truth.shape[0], self.truth.shape[1]

    def lay(self, where: np.ndarray, color: np.ndarray, class_id: int, height: np.ndarray | float = 0.0) -> None:
        """Cover the pixels `where` (H, W) bool with `color` (H, W, 3)."""
        np.copyto(self.color, color, where=where[..., None])
        self.truth[where] = class_id
        self.height[where] = height[where] if isinstance(height, np.ndarray) else height


def paint_scene(width: int, height: int, seed: int, kind: str = "optical") -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """An aerial scene and its truth: (pixels, truth, names of the classes 1, 2, ...).

    `pixels` is (H, W, 3) uint8 red, green, blue for "optical", as if seen at about half a metre a pixel, and
    (H, W, 1) uint16 speckled amplitude for "sar"; `truth` is (H, W) uint8 class ids from 1 (shadows keep the class of the
    ground). Raises `SettingsError` for another kind or a picture under 32 pixels.
    """
    if kind not in ("optical", "sar"):
        raise SettingsError(f"Scene kind {kind!r}: expected 'optical' or 'sar'.")
    if min(width, height) < 32:
        raise SettingsError(f"Scene of {width} x {height}: expected at least 32 x 32 pixels.")
    canvas = _paint_land(np.random.default_rng([seed, 0x7E44]), (height, width))
    pixels = _photograph(canvas) if kind == "optical" else _illuminate_radar(canvas)
    return pixels, canvas.truth, CLASS_NAMES


def _paint_land(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    blank = np.zeros(size, dtype=np.float32)
    canvas = _Canvas(rng, np.zeros((*size, 3), np.float32), np.full(size, FIELD, np.uint8), blank)
    parcels, cuts = brush.parcels(rng, size, side=105)
    roads = [(cut, _road_width(rng, cut.depth)) for cut in cuts]
    roads = [(cut, wide) for cut, wide in roads if wide]
    _paint_fields(canvas, parcels)
    _paint_water(canvas)
    _paint_forest(canvas)
    _paint_roads(canvas, roads)
    _paint_villages(canvas, roads)
    _paint_trees(canvas)
    return canvas


def _road_width(rng: np.random.Generator, depth: int) -> int:
    """Constant along a road; first divisions are main roads, later ones tracks or nothing (0)."""
    return 11 if depth < 2 else 7 if depth in (2, 3) else 5 if rng.random() < 0.22 else 0


def _fill(size: tuple[int, int], outline: np.ndarray) -> np.ndarray:
    """The inside of a polygon (n, 2) xy as (H, W) bool."""
    return cv2.fillPoly(np.zeros(size, np.uint8), [np.round(outline).astype(np.int32)], 1).astype(bool)


def _paint_fields(canvas: _Canvas, parcels: list[brush.Parcel]) -> None:
    """Every parcel gets a crop, its own shade of it, rows along its long side, and a grassy margin."""
    rng, size = canvas.rng, canvas.size
    owner = np.zeros(size, np.int32)
    for index, parcel in enumerate(parcels):
        cv2.fillPoly(owner, [np.round(parcel.outline).astype(np.int32)], index)
    crops = np.array(_CROPS, dtype=np.float32)
    crop = crops[rng.choice(len(crops), len(parcels), p=[0.2, 0.16, 0.14, 0.12, 0.16, 0.13, 0.09])]
    base = crop[:, :3] * rng.normal(1, 0.05, (len(parcels), 1)).astype(np.float32) + rng.normal(0, 3, (len(parcels), 3))
    angle = np.array([parcel.angle for parcel in parcels], dtype=np.float32) + rng.normal(0, 0.03, len(parcels))
    patchy, fine = brush.fractal(rng, size, 90), brush.fractal(rng, size, 4, octaves=2)
    rows = brush.crop_rows(angle[owner].astype(np.float32), crop[owner, 4], patchy * 0.6)
    texture = crop[owner, 3] * rows + 5.0 * patchy + 4.5 * fine
    canvas.color[:] = base[owner] + texture[..., None] * np.array([1.0, 0.95, 0.7], np.float32)
    canvas.truth[:] = crop[owner, 5]
    margin = cv2.morphologyEx(owner.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    grass = np.array([88, 112, 62], np.float32) + 6 * fine[..., None]
    canvas.lay(margin, grass, FIELD)


def _paint_water(canvas: _Canvas) -> None:
    """A river through the scene and ponds: smooth, deeper and darker away from the shore, with faint ripples."""
    rng, (height, width) = canvas.rng, canvas.size
    wet = brush.fractal(rng, canvas.size, 150, octaves=2) > 2.0
    count = max(width // 8, 8)
    along = np.linspace(-20, width + 20, count)
    for _ in range(max(round(height / 900), 1)):
        level, sway, wave, phase = rng.uniform(0, height), rng.uniform(18, 45), rng.uniform(60, 110), rng.uniform(0, 6)
        across = level + sway * np.sin(along / wave + phase) + 0.4 * sway * np.sin(along / (0.37 * wave) + 2 * phase)
        line = np.stack([along, across + rng.uniform(-0.5, 0.5) * (along - width / 2)], 1)
        river = np.zeros(canvas.size, np.uint8)
        cv2.polylines(river, [np.round(line).astype(np.int32)], False, 1, int(rng.integers(16, 34)))
        wet |= river > 0
    wet = cv2.GaussianBlur(wet.astype(np.float32), (0, 0), 4) > 0.5
    depth = np.minimum(cv2.distanceTransform(wet.astype(np.uint8), cv2.DIST_L2, 5) / 22, 1.0)
    ripples = brush.fractal(rng, canvas.size, 3, octaves=1, stretch=4)
    drift = brush.fractal(rng, canvas.size, 120, octaves=2)
    shallow, deep = np.array([84, 104, 96], np.float32), np.array([36, 66, 80], np.float32)
    water = shallow + (deep - shallow) * depth[..., None] + (1.6 * ripples + 4 * drift)[..., None]
    bank = cv2.dilate(wet.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~wet
    reeds = np.array([96, 104, 64], np.float32) + 9 * brush.fractal(rng, canvas.size, 3, octaves=1)[..., None]
    canvas.lay(bank, reeds, FIELD)
    canvas.lay(wet, water, WATER)


def _canopy(canvas: _Canvas, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour (H, W, 3) and height (H, W) of closed forest."""
    dome, slant, tint = brush.crowns(canvas.rng, canvas.size, spacing)
    stand = brush.fractal(canvas.rng, canvas.size, 130)
    light = 0.50 + 0.42 * dome + 0.20 * slant + 0.07 * tint + 0.05 * stand
    base = np.array([64, 88, 46], np.float32) + tint[..., None] * np.array([5, 3, 1], np.float32)
    return base * np.clip(light, 0.25, 1.4)[..., None], 6 + 4 * dome


def _paint_forest(canvas: _Canvas) -> None:
    """Woods with uneven edges, never on water."""
    grown = brush.fractal(canvas.rng, canvas.size, 170, octaves=3) + 0.10 * brush.fractal(canvas.rng, canvas.size, 12, 2)
    color, height = _canopy(canvas, 8.5)
    canvas.lay((grown > 0.75) & (canvas.truth != WATER), color, FOREST, height)


def _paint_roads(canvas: _Canvas, roads: list[tuple[brush.Cut, int]]) -> None:
    """Roads of constant width with verges: asphalt from 7 px on, gravel below; the widest have a centre line.

    Gravel tracks end at the water; asphalt crosses it.
    """
    worn = 3.5 * brush.fractal(canvas.rng, canvas.size, 40) + 3 * brush.fractal(canvas.rng, canvas.size, 2, octaves=1)
    grass = np.array([106, 122, 78], np.float32) + 1.5 * worn[..., None]
    water = canvas.truth == WATER
    for wide in sorted({wide for _, wide in roads}):
        lines = [np.round(cut.line).astype(np.int32) for cut, width in roads if width == wide]
        road, verge = (
            cv2.polylines(np.zeros(canvas.size, np.uint8), lines, False, 1, thickness).astype(bool)
            for thickness in (wide, wide + 6)
        )
        surface = np.array([128, 127, 124] if wide >= 7 else [182, 166, 138], np.float32) + worn[..., None]
        canvas.lay(verge & ~water & (canvas.truth != ROAD), grass, FIELD)
        canvas.lay(road if wide >= 7 else road & ~water, surface, ROAD)
        if wide >= 11:
            dashes = [line[start : start + 2] for line in lines for start in range(0, len(line) - 1, 2)]
            centre = cv2.polylines(np.zeros(canvas.size, np.uint8), dashes, False, 1, 1)
            canvas.lay(centre.astype(bool), np.full_like(canvas.color, 196), ROAD)


def _paint_villages(canvas: _Canvas, roads: list[tuple[brush.Cut, int]]) -> None:
    """Houses along the roads inside villages, now and then a farm or a hall elsewhere; gardens between them."""
    rng, (height, width) = canvas.rng, canvas.size
    centres = rng.uniform(0.1, 0.9, (max(round(height * width / 400**2), 1), 2)) * [width, height]
    sites = []
    for cut, wide in roads:
        steps = np.hypot(*np.diff(cut.line, axis=0).T)
        for at, direction in zip(cut.line[:-1:2], np.diff(cut.line, axis=0)[::2] / steps[::2, None], strict=False):
            near = np.hypot(*(centres - at).T).min() < 130
            for side in (-1, 1):
                if rng.random() < (0.85 if near else 0.035):
                    sites.append((at, direction, side, wide, near))
    lawn = np.array([98, 124, 72], np.float32) + 7 * brush.fractal(rng, canvas.size, 7, octaves=2)[..., None]
    for site in sites:
        _paint_house(canvas, site, lawn)


def _rectangle(centre: np.ndarray, along: np.ndarray, length: float, depth: float) -> np.ndarray:
    """Corners (4, 2) xy: length along `along`, depth across."""
    across = np.array([-along[1], along[0]])
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, depth / 2]
    return centre + half[:, :1] * along + half[:, 1:] * across


def _paint_house(canvas: _Canvas, site: tuple, lawn: np.ndarray) -> None:
    """One building with a ridge, one side of the roof in the light, on its plot; nothing where there is no room."""
    rng, (at, along, side, wide, village) = canvas.rng, site
    length, depth = (rng.uniform(17, 26), rng.uniform(12, 17)) if village else (rng.uniform(36, 62), rng.uniform(20, 30))
    across = np.array([-along[1], along[0]]) * side
    centre = at + across * (wide / 2 + 7 + depth / 2 + rng.uniform(0, 5))
    if rng.random() < 0.3 and village:
        length, depth = depth, length
    body, plot = _rectangle(centre, along, length, depth), _rectangle(centre + across * 5, along, length + 16, depth + 24)
    x, y, w, h = cv2.boundingRect(np.round(np.concatenate([body, plot])).astype(np.int32))
    if x < 1 or y < 1 or x + w >= canvas.size[1] or y + h >= canvas.size[0]:
        return
    part = _Canvas(rng, *(a[y : y + h, x : x + w] for a in (canvas.color, canvas.truth, canvas.height)))
    inside, around = _fill(part.size, body - [x, y]), _fill(part.size, plot - [x, y])
    if np.isin(part.truth[cv2.dilate(inside.astype(np.uint8), np.ones((7, 7))) > 0], (WATER, BUILDING, ROAD)).any():
        return
    ground = (
        lawn[y : y + h, x : x + w]
        if village
        else np.full((h, w, 3), (168, 158, 142), np.float32) + 0.5 * (lawn[y : y + h, x : x + w] - 100)
    )
    part.lay(around & ~np.isin(part.truth, (WATER, BUILDING, ROAD)), ground, FIELD if village else SOIL)
    shade = np.array(_ROOFS[rng.integers(len(_ROOFS))] if village else _ROOFS[rng.integers(2, 5)], np.float32)
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1) - (centre - [x, y])
    ridge = along if length >= depth else across
    lit = grid @ np.array([-ridge[1], ridge[0]])
    facing = 1.0 if -ridge[1] + ridge[0] < 0 else -1.0
    light = 1 + 0.15 * np.tanh(facing * lit * 1.5) + 0.025 * np.sin(grid @ ridge * 1.9)
    part.lay(inside, (shade * rng.normal(1, 0.06) * light[..., None]).astype(np.float32), BUILDING, rng.uniform(6, 10))


def _paint_trees(canvas: _Canvas) -> None:
    """Single trees and hedges on open ground: thresholded noise between the houses and along some margins."""
    rng = canvas.rng
    color, height = _canopy(canvas, 7.0)
    clumps = brush.fractal(rng, canvas.size, 11, octaves=2) + 0.6 * brush.fractal(rng, canvas.size, 80, octaves=1)
    keep = cv2.morphologyEx(
        (clumps > 2.35).astype(np.uint8), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    )
    canvas.lay((keep > 0) & np.isin(canvas.truth, (FIELD, SOIL)), color, FOREST, height)


def _photograph(canvas: _Canvas) -> np.ndarray:
    """Sun, shadows, haze, lens and sensor: (H, W, 3) uint8."""
    rng, (height, width) = canvas.rng, canvas.size
    shadow = brush.shadows(canvas.height)[..., None]
    picture = canvas.color * (1 - shadow * np.array([0.50, 0.46, 0.38], np.float32))
    tilt = rng.uniform(-0.09, 0.09, 2)
    slope = (
        tilt[0] * np.linspace(-1, 1, width, dtype=np.float32)[None]
        + tilt[1] * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    )
    light = 1.02 + slope.astype(np.float32) + 0.025 * brush.fractal(rng, canvas.size, 300, octaves=1)
    picture = cv2.GaussianBlur((picture * light[..., None]).astype(np.float32), (0, 0), 0.75)
    picture += 2.6 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture), 1, 255).astype(np.uint8)


def _illuminate_radar(canvas: _Canvas) -> np.ndarray:
    """Backscatter by class, bright walls towards the sensor, four-look speckle: (H, W, 1) uint16 amplitude."""
    rng, truth = canvas.rng, canvas.truth
    decibel = np.array([0.0, *(_DECIBEL[c] for c in range(1, 7))], np.float32)[truth]
    grey = canvas.color.mean(2)
    decibel += np.where(truth == FIELD, 0.05 * (grey - 105), 0) + 0.5 * brush.fractal(rng, canvas.size, 60)
    decibel += np.where(truth == WATER, 1.2 * brush.fractal(rng, canvas.size, 140, octaves=1), 0)
    wall = canvas.height - np.pad(canvas.height, ((0, 0), (2, 0)))[:, :-2]
    decibel += np.clip(0.7 * wall, -4, 6) - 9 * brush.shadows(canvas.height, reach=8)
    speckle = rng.gamma(4.0, 0.25, truth.shape).astype(np.float32)
    power = cv2.GaussianBlur(10 ** (decibel / 10) * speckle, (0, 0), 0.6)
    return np.clip(np.rint(4000 * np.sqrt(power)), 1, 65535).astype(np.uint16)[..., None]


def write_demo(folder: Path, seed: int = 0, scenes: int = 4, size: int = 512) -> tuple[Path, Path]:
    """Write `scenes` painted GeoTIFFs side by side in UTM 33N and their truth; returns (images folder, truth folder).

    `images/scene_1.tif`... are three-band uint8 with nodata 0 at half a metre; the last has a corner without data.
    `truth/scene_1.png`... hold class ids, 255 where there is no data; `classes.json` beside both folders is their class map.
    """
    images, truths = Path(folder) / "images", Path(folder) / "truth"
    for index in range(scenes):
        pixels, truth, _ = paint_scene(size, size, seed * 1000 + index)
        if index == scenes - 1 and scenes > 1:
            x, y = np.meshgrid(np.arange(size), np.arange(size))
            outside = x + 0.7 * y < 0.28 * size
            pixels[outside], truth[outside] = 0, 255
        _write_geotiff(images / f"scene_{index + 1}.tif", pixels, 500_000 + index * size * 0.5, 5_400_000.0)
        with atomic_path(truths / f"scene_{index + 1}.png") as temporary:
            temporary.write_bytes(cv2.imencode(".png", truth)[1].tobytes())
    named = enumerate(zip(CLASS_NAMES, CLASS_COLORS, strict=True), 1)
    write_text(Path(folder) / "classes.json", Classes(tuple(ClassEntry(i, *look) for i, look in named)).to_json())
    return images, truths


def _write_geotiff(final: Path, pixels: np.ndarray, west: float, north: float) -> None:
    import rasterio
    from rasterio.transform import from_origin

    height, width, count = pixels.shape
    with atomic_path(final) as temporary, rasterio.open(
        temporary, "w", driver="GTiff", width=width, height=height, count=count, dtype=pixels.dtype, nodata=0,
        crs="EPSG:32633", transform=from_origin(west, north, 0.5, 0.5), compress="deflate", predictor=2, photometric="RGB",
    ) as out:  # fmt: skip
        out.write(np.moveaxis(pixels, -1, 0))
