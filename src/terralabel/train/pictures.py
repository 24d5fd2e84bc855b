"""What `masks nano` is trained on: real sets whose licence allows it, generated pictures, and stable masks of unlabelled imagery.

Of every real set a third of the tiles, chosen by the hash of their names, is never read here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.files import atomic_path
from terralabel.core.tile import Tile
from terralabel.errors import InputError
from terralabel.imagery.collage import paint_collage
from terralabel.imagery.painter import paint_scene
from terralabel.imagery.waters import paint_waters
from terralabel.masks.tree import TreeMasks

__all__ = [
    "BUILDING",
    "FIELD",
    "GENERATED",
    "LAYERS",
    "WATER",
    "Picture",
    "collages",
    "flood",
    "held_out",
    "in_layers",
    "labelled",
    "mosaic",
    "scenes",
    "unlabelled",
    "waters",
]

#: Kinds of things, numbered as `imagery.painter` does; generated ones are `GENERATED` more, 0 is unknown.
FIELD, WATER, BUILDING, GENERATED = 1, 3, 4, 100

#: Rasters of instances of a picture: true ones (or whole things), then stable masks of the hierarchy, small to large.
LAYERS = 4
#: A mask of the hierarchy teaches when its expected IoU and its stability are at least this.
_TRUSTED_SCORE, _TRUSTED_STABILITY, _SMALLEST = 0.45, 0.7, 64


@dataclass(frozen=True)
class Picture:
    """`pixels` (H, W, 3) uint8, `ids` (LAYERS, H, W) int32, 0 where there is no instance; `true` layers are no guesses.

    kinds     what the instances of the first layer show, by number; one value for all
    finished  as a sensor left it: not to be blurred, tinted or made noisy
    """

    pixels: np.ndarray
    ids: np.ndarray
    true: int
    kinds: tuple[int, ...] = (0,)
    finished: bool = False

    def shows(self, layer: int, number: int) -> int:
        """The kind of an instance, 0 where it is unknown."""
        return 0 if layer else self.kinds[number if len(self.kinds) > 1 else 0]


def held_out(name: str) -> bool:
    """Whether a tile of this name (without suffix) is kept for evaluation: a third, the same everywhere."""
    return hashlib.sha256(name.encode()).digest()[0] % 3 == 0


def mosaic(four: list[Picture], rng: np.random.Generator) -> Picture:
    """Four pictures of one source, two by two, cut to the smallest and turned at random: so a shrunk view of small tiles is full."""
    height = width = min(min(picture.ids.shape[1:]) for picture in four)
    pixels, ids = np.zeros((2 * height, 2 * width, 3), np.uint8), np.zeros((LAYERS, 2 * height, 2 * width), np.int32)
    for k, picture in enumerate(four):
        place = (slice(k // 2 * height, (k // 2 + 1) * height), slice(k % 2 * width, (k % 2 + 1) * width))
        turns = int(rng.integers(4))
        marks = np.rot90(picture.ids[:, :height, :width], turns, (1, 2))
        pixels[place] = np.rot90(picture.pixels[:height, :width], turns)
        ids[:, *place] = np.where(marks > 0, marks + ids.max(), 0)
    return replace(four[0], pixels=pixels, ids=ids)


def _read(path: Path, flags: int) -> np.ndarray:
    found = cv2.imread(str(path), flags)
    if found is None:
        raise InputError(f"{path} cannot be read as an image; is the training data complete?", "not-an-image")
    return found


def labelled(folder: Path, scale: float = 1.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(pixels, instances (H, W) int32) of the tiles of a set that may be trained on, by name; shrunk by `scale`."""
    for path in sorted((folder / "images").iterdir()):
        if held_out(path.stem):
            continue
        pixels = cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        ids = _read(folder / "masks" / f"{path.stem}.png", cv2.IMREAD_UNCHANGED).astype(np.int32)
        size = (round(ids.shape[1] * scale), round(ids.shape[0] * scale))
        if scale != 1:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            ids = cv2.resize(ids.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
        yield pixels, ids


def unlabelled(folder: Path, side: int = 512) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8 without labels, cut to pieces of at most `side`, by name."""
    for path in sorted((folder / "images").iterdir()):
        if held_out(path.stem):
            continue
        pixels = cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for y in range(0, pixels.shape[0] - 127, side):
            for x in range(0, pixels.shape[1] - 127, side):
                yield pixels[y : y + side, x : x + side]


def flood(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The chips of Sen1Floods11 four times: radar (VV, VH, in dB) and Sentinel-2 (true, then false colour), with their waters."""
    for path in sorted(folder.glob("*_LabelHand.tif")):
        if held_out(path.stem.removesuffix("_LabelHand")):
            continue
        radar, optical, label = (
            _bands(path.with_name(path.name.replace("LabelHand", kind))) for kind in ("S1Hand", "S2Hand", "LabelHand")
        )
        ids = cv2.connectedComponents((label[0] == 1).astype(np.uint8), connectivity=4)[1].astype(np.int32)
        for bands in (radar[[0] * 3], radar[[1] * 3], optical[[3, 2, 1]], optical[[7, 3, 2]]):
            low, high = np.nanpercentile(bands, (1, 99), axis=(1, 2), keepdims=True)
            stretched = np.clip((np.nan_to_num(bands, nan=0) - low) / (high - low), 0, 1) * 255
            yield np.ascontiguousarray(stretched.transpose(1, 2, 0)).astype(np.uint8), ids


def _bands(path: Path) -> np.ndarray:
    """(bands, H, W) float32."""
    import rasterio

    with rasterio.open(path) as source:
        return np.asarray(source.read(), dtype=np.float32)


def stable_masks(pixels: np.ndarray) -> np.ndarray:
    """(LAYERS - 1, H, W) int32: masks of the hierarchy that it is sure of, in layers where they do not overlap."""
    backend = TreeMasks()
    masks = backend.generate(backend.encode(Tile.from_array(pixels)))
    sure = (masks.predicted_iou >= _TRUSTED_SCORE) & (masks.stability_score >= _TRUSTED_STABILITY) & (masks.area >= _SMALLEST)
    chosen = np.flatnonzero(sure)
    chosen = chosen[np.argsort(-masks.predicted_iou[chosen], kind="stable")]
    return in_layers(((masks.bbox[i][:2], masks.crop(int(i))) for i in chosen), pixels.shape[:2])


def in_layers(crops: Iterable[tuple[Sequence[int] | np.ndarray, np.ndarray]], size: tuple[int, ...]) -> np.ndarray:
    """Masks, given as first pixel (x, y) and (h, w) bool, in LAYERS - 1 rasters of `size` where they do not overlap: (.., H, W) int32
    numbers from 1; what fits into none is left out."""
    out = np.zeros((LAYERS - 1, *size), np.int32)
    for number, ((x, y), crop) in enumerate(crops, 1):
        h, w = crop.shape
        for layer in out:
            part = layer[y : y + h, x : x + w]
            if not part[crop].any():
                part[crop] = number
                break
    return out


def with_stable_masks(pixels: np.ndarray, ids: np.ndarray | None) -> Picture:
    """A picture with its true instances, if any, and what the hierarchy is sure of."""
    first = np.zeros(pixels.shape[:2], np.int32) if ids is None else ids
    return Picture(pixels, np.concatenate([first[None], stable_masks(pixels)]), 0 if ids is None else 1)


def collages(count: int, seed: int, cache: Path) -> list[Picture]:
    """Generated pictures of 256 x 256; kept in the file `cache`, as they take a minute."""
    stored = _kept(cache, count, lambda k: paint_collage(np.random.default_rng([seed, 0xC0, k])))
    return [Picture(pixels, _filled(ids), 2) for pixels, ids in stored]


def waters(count: int, seed: int, cache: Path) -> list[Picture]:
    """Generated radar pictures of large waters, 256 x 256, kept in the file `cache`."""
    stored = _kept(cache, count, lambda k: paint_waters(np.random.default_rng([seed, 0xEA, k])))
    return [Picture(pixels, _filled(ids[None]), 1, (GENERATED + WATER,), finished=True) for pixels, ids in stored]


def scenes(count: int, seed: int, cache: Path, side: int = 384) -> list[Picture]:
    """Painted landscapes, kept in the file `cache`; every third as radar. An instance is a piece of one class."""
    sensors = ["sar" if k % 3 == 2 else "optical" for k in range(count)]
    found = []
    for sensor, (pixels, truth) in zip(
        sensors, _kept(cache, count, lambda k: _scene(seed * 1_000_003 + k, side, sensors[k])), strict=True
    ):
        ids, kinds = _pieces(truth)
        found.append(Picture(pixels, _filled(ids[None]), 1, kinds, finished=sensor == "sar"))
    return found


def _scene(seed: int, side: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, truth, _ = paint_scene(side, side, seed, kind)
    if kind == "sar":
        level = 20 * np.log10(pixels.astype(np.float32))
        low, high = np.percentile(level, (1, 99))
        pixels = np.repeat(np.clip((level - low) / (high - low) * 255, 0, 255).astype(np.uint8), 3, 2)
    return pixels, truth


def _pieces(truth: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Connected parts of at least `_SMALLEST` pixels of every class (H, W) int32, and their kinds by number."""
    out, kinds = np.zeros(truth.shape, np.int32), [0]
    for value in np.unique(truth[truth > 0]):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((truth == value).astype(np.uint8), connectivity=4)
        number = np.zeros(count, np.int32)
        large = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= _SMALLEST) + 1
        number[large] = np.arange(len(large)) + len(kinds)
        out += number[parts]
        kinds += [GENERATED + int(value)] * len(large)
    return out, tuple(kinds)


def _kept(
    cache: Path, count: int, paint: Callable[[int], tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(pixels, ids int32) of `count` generated pictures of one size, from the file `cache`, which is made where there is none."""
    if not cache.exists():
        made = [paint(k) for k in range(count)]
        pixels, ids = (np.stack(parts) for parts in zip(*made, strict=True))
        with atomic_path(cache) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, pixels=pixels, ids=ids.astype(np.uint16))
    with np.load(cache) as stored:
        pixels, ids = stored["pixels"], stored["ids"].astype(np.int32)
    yield from zip(pixels, ids, strict=True)


def _filled(ids: np.ndarray) -> np.ndarray:
    """(n, H, W) with empty layers after it: (LAYERS, H, W)."""
    return np.concatenate([ids, np.zeros((LAYERS - len(ids), *ids.shape[1:]), np.int32)])
