"""What can be measured at every pixel of a tile: colour, chromaticity, texture, and their surroundings.

All maps are (W, H) float32, that is *transposed*: masks are run-length coded down the columns, so a run of a mask is a
contiguous piece of such a map and pooling needs no copy. Every filter here treats rows and columns alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["PixelMaps", "pixel_maps", "surroundings"]

#: Standard deviations, in pixels, of the blurs whose differences are the texture bands.
TEXTURE_SIGMAS = (1.0, 2.0, 4.0, 8.0)
#: Contrast (in units of lightness, 0..100) below which texture counts as none: about one grey level of noise.
NOISE = 0.5


@dataclass(frozen=True)
class PixelMaps:
    """Lists of (W, H) float32 maps: `tone` (1), `chroma` (0 for one band), `ratio`, `texture` (4)."""

    tone: list[np.ndarray]
    chroma: list[np.ndarray]
    ratio: list[np.ndarray]
    texture: list[np.ndarray]


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def _fill_invalid(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Invalid pixels take the mean of the valid ones, so that the border of the data is a weak edge, not a cliff."""
    if valid.all() or not valid.any():
        return pixels
    filled = pixels.copy()
    filled[~valid] = pixels[valid].mean(0)
    return filled


def _colour(bands: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """(lightness 0..100, chroma maps, log ratio maps) of (W, H, C) float32 bands in [0, 1]."""
    count = bands.shape[2]
    if count == 1:
        return bands[..., 0] * 100, [], []
    if count == 3:
        lightness, a, b = cv2.split(cv2.cvtColor(bands, cv2.COLOR_RGB2LAB))
        chroma = [a, b]
    else:
        lightness = bands.mean(2) * 100
        chroma = [bands[..., k] * 100 - lightness for k in range(count)]
    logs = [cv2.log(np.ascontiguousarray(bands[..., k]) + 0.06) for k in range(count)]
    middle = 1 if count == 3 else 0
    ratio = [logs[k] - logs[middle] for k in range(count) if k != middle]
    return lightness, chroma, ratio


def _texture(tone: np.ndarray) -> list[np.ndarray]:
    """Log contrast in four octaves, log(|difference of Gaussians| + noise): the log keeps one edge from ruling a mask."""
    maps, finer = [], tone
    for sigma in TEXTURE_SIGMAS:
        coarser = _blur(tone, sigma)
        maps.append(cv2.log(cv2.absdiff(finer, coarser) + np.float32(NOISE)))
        finer = coarser
    return maps


def pixel_maps(pixels: np.ndarray, valid: np.ndarray, sensor: str) -> PixelMaps:
    """The maps of a tile.

    pixels (H, W, C) uint8 and valid (H, W) bool as in `Tile`. For `sensor` "sar" each band is despeckled by a small
    mean first: pixel values are in dB, where speckle is additive.
    """
    bands = np.ascontiguousarray(_fill_invalid(pixels, valid).transpose(1, 0, 2)).astype(np.float32) / np.float32(255)
    if sensor == "sar":
        bands = np.asarray(cv2.blur(bands, (3, 3), borderType=cv2.BORDER_REFLECT), dtype=np.float32).reshape(bands.shape)
    tone, chroma, ratio = _colour(bands)
    return PixelMaps([tone], chroma, ratio, _texture(tone))


def surroundings(maps: list[np.ndarray], sigma: float) -> list[np.ndarray]:
    """Each map blurred by a wide Gaussian, computed on a grid coarser by sigma / 2 and brought back bilinearly."""
    step = max(int(sigma / 2), 1)
    blurred = []
    for values in maps:
        width, height = values.shape
        small = (max(-(-height // step), 1), max(-(-width // step), 1))  # cv2 sizes are (columns, rows)
        coarse = _blur(cv2.resize(values, small, interpolation=cv2.INTER_AREA), sigma / step)
        blurred.append(cv2.resize(coarse, (height, width), interpolation=cv2.INTER_LINEAR))
    return blurred
