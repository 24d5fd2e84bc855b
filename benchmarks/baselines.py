"""What a label run has to beat: k-means on pixels and k-means on SLIC superpixels, both over the whole data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

__all__ = ["BASELINES", "Labeller", "of_pixels", "of_superpixels"]

#: (clusters, seed) -> (H, W) cluster ids of each image; the images are prepared once.
Labeller = Callable[[int, int], list[np.ndarray]]

#: Pixels, or superpixels, that the centres are fitted on.
_SAMPLE = 100_000
#: Pixels of a superpixel.
_SUPERPIXEL = 300


def _three_bands(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: one band is repeated; of more than three the first three are taken."""
    return np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]


def _lab(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 Lab, lightness 0..100."""
    return cv2.cvtColor(np.ascontiguousarray(_three_bands(pixels)).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _kmeans(tables: Sequence[np.ndarray], clusters: int, seed: int) -> list[np.ndarray]:
    """Cluster of each row of each table; fitted on an equal share of rows of each."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    share = max(_SAMPLE // len(tables), 1)
    sample = np.concatenate([t[rng.permutation(len(t))[:share]] for t in tables])
    model = KMeans(clusters, n_init=3, random_state=seed).fit(sample)
    return [model.predict(table) for table in tables]


def of_pixels(images: Sequence[np.ndarray]) -> Labeller:
    """k-means on the Lab colour of the pixels of (H, W, C) uint8 images."""
    tables = [_lab(image).reshape(-1, 3) for image in images]

    def label(clusters: int, seed: int) -> list[np.ndarray]:
        found = _kmeans(tables, clusters, seed)
        return [ids.reshape(image.shape[:2]) for ids, image in zip(found, images, strict=True)]

    return label


def _superpixels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SLIC segments (H, W) and their features (n, 5): mean Lab, mean local deviation and mean gradient of lightness."""
    from skimage.segmentation import slic

    lab = _lab(image)
    light = lab[..., 0]
    local = cv2.blur(light, (9, 9))
    deviation = np.sqrt(np.maximum(cv2.blur(light * light, (9, 9)) - local * local, 0))
    gradient = np.hypot(cv2.Sobel(light, -1, 1, 0, scale=0.125), cv2.Sobel(light, -1, 0, 1, scale=0.125))
    number = max(20, light.size // _SUPERPIXEL)
    segments = slic(_three_bands(image), n_segments=number, compactness=10, start_label=0)
    maps = np.dstack([lab, deviation, gradient]).reshape(-1, 5)
    count = np.maximum(np.bincount(segments.ravel()), 1)
    return segments, np.stack([np.bincount(segments.ravel(), column) / count for column in maps.T], axis=1)


def of_superpixels(images: Sequence[np.ndarray]) -> Labeller:
    """k-means on the superpixels of (H, W, C) uint8 images, each feature scaled to unit variance."""
    pairs = [_superpixels(image) for image in images]
    spread = np.concatenate([features for _, features in pairs]).std(axis=0) + 1e-6

    def label(clusters: int, seed: int) -> list[np.ndarray]:
        found = _kmeans([features / spread for _, features in pairs], clusters, seed)
        return [ids[segments] for ids, (segments, _) in zip(found, pairs, strict=True)]

    return label


BASELINES = {"pixels": of_pixels, "superpixels": of_superpixels}
