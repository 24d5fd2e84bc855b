"""What else few labels can be used for: a random forest on the features of pixels, and a plain U-Net from random weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import terralabel as tl
from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledSet
from terralabel.imagery.datasets import read_label
from terralabel.imagery.radiometry import Radiometry
from terralabel.recipes.training import fitted_radiometry, train
from terralabel.runs.progress import Silent
from terralabel.train.segmentation.settings import TrainSettings

__all__ = ["forest_labels", "pixel_features", "unet_labels"]

#: Pixels that the forest is fitted on, over all images.
_SAMPLE = 40_000
#: Radii of the neighbourhoods that a pixel is described by, pixels.
_SIGMAS = (1.0, 3.0, 8.0)


def pixel_features(pixels: np.ndarray) -> np.ndarray:
    """(H, W, d) float32 of (H, W, C) uint8: the values, their means and deviations near and far, the strength of edges."""
    image = pixels.astype(np.float32)
    maps = [image]
    for sigma in _SIGMAS:
        mean = cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)
        square = cv2.GaussianBlur(image * image, (0, 0), sigma).reshape(image.shape)
        light = mean.mean(axis=2)
        edges = np.hypot(cv2.Sobel(light, -1, 1, 0), cv2.Sobel(light, -1, 0, 1))
        maps += [mean, np.sqrt(np.maximum(square - mean * mean, 0)).mean(axis=2, keepdims=True), edges[..., None]]
    return np.concatenate(maps, axis=2)


def forest_labels(few: LabelledSet, tested: LabelledSet, out: Path, seed: int) -> None:
    """`out`/labels/KEY.png of the test images by a forest that learned from a few; every second row and column is computed."""
    from sklearn.ensemble import RandomForestClassifier

    radiometry = fitted_radiometry(few, TrainSettings(), Silent())
    rng = np.random.default_rng(seed)
    features, classes = [], []
    for item in few.images:
        label = read_label(few, item).ravel()
        known = np.flatnonzero(label != IGNORE)
        chosen = rng.permutation(known)[: _SAMPLE // len(few)]
        features.append(pixel_features(_pixels(item.image, radiometry)).reshape(len(label), -1)[chosen])
        classes.append(label[chosen])
    forest = RandomForestClassifier(60, min_samples_leaf=4, random_state=seed, n_jobs=1)
    forest.fit(np.concatenate(features), np.concatenate(classes))
    (out / "labels").mkdir(parents=True, exist_ok=True)
    for item in tested.images:
        maps = pixel_features(_pixels(item.image, radiometry))
        coarse = maps[::2, ::2]
        found = forest.predict(coarse.reshape(-1, maps.shape[2])).reshape(coarse.shape[:2]).astype(np.uint8)
        whole = cv2.resize(found, maps.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        Image.fromarray(whole).save(out / "labels" / f"{item.key}.png")


def unet_labels(
    few: LabelledSet, tested: LabelledSet, out: Path, seed: int, network: str, steps: int, crop: int, batch_size: int
) -> None:
    """`out`/labels/KEY.tif of the test images by a U-Net from random weights that learned from a few."""
    settings = TrainSettings(
        network=network, steps=steps, batch_size=batch_size, crop=crop, seed=seed, optimizer="adamw", lr=1e-3, threads=1,
        save_every=1000, workers=0, auxiliary=0,
    )  # fmt: skip
    train("finetune", few, fitted_radiometry(few, settings, Silent()), out / "tuned", settings)
    tl.predict(out / "tuned", [item.image for item in tested.images], out, tile_size=256, threads=1)


def _pixels(path: Path, radiometry: Radiometry) -> np.ndarray:
    with radiometry.open(path) as raster:
        return radiometry.apply(*raster.read(Window(0, 0, raster.width, raster.height)))
