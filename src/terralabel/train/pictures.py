"""What `masks nano` is trained on: real sets whose licence allows it, generated pictures, and stable masks of unlabelled imagery.

Of every real set a third of the tiles, chosen by the hash of their names, is never read here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.files import atomic_path
from terralabel.core.tile import Tile
from terralabel.errors import InputError
from terralabel.imagery.collage import paint_collage
from terralabel.masks.tree import TreeMasks

__all__ = ["LAYERS", "Picture", "collages", "flood", "held_out", "labelled", "unlabelled"]

#: Rasters of instances of a picture: true ones (or whole things), then stable masks of the hierarchy, small to large.
LAYERS = 4
#: A mask of the hierarchy teaches when its expected IoU and its stability are at least this.
_TRUSTED_SCORE, _TRUSTED_STABILITY, _SMALLEST = 0.45, 0.7, 64


@dataclass(frozen=True)
class Picture:
    """`pixels` (H, W, 3) uint8, `ids` (LAYERS, H, W) int32, 0 where there is no instance; `true` layers are no guesses."""

    pixels: np.ndarray
    ids: np.ndarray
    true: int


def held_out(name: str) -> bool:
    """Whether a tile of this name (without suffix) is kept for evaluation: a third, the same everywhere."""
    return hashlib.sha256(name.encode()).digest()[0] % 3 == 0


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
    out = np.zeros((LAYERS - 1, *pixels.shape[:2]), np.int32)
    chosen = np.flatnonzero(sure)
    for number, i in enumerate(chosen[np.argsort(-masks.predicted_iou[chosen], kind="stable")], 1):
        x, y, w, h = masks.bbox[i]
        crop = masks.crop(int(i))
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
    if not cache.exists():
        made = [paint_collage(np.random.default_rng([seed, 0xC0, k])) for k in range(count)]
        pixels, ids = (np.stack(parts) for parts in zip(*made, strict=True))
        with atomic_path(cache) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, pixels=pixels, ids=ids.astype(np.uint16))
    with np.load(cache) as stored:
        pixels, ids = stored["pixels"], stored["ids"].astype(np.int32)
    nothing = np.zeros((LAYERS - ids.shape[1], *ids.shape[2:]), np.int32)
    return [Picture(pixels[k], np.concatenate([ids[k], nothing]), 2) for k in range(len(pixels))]
