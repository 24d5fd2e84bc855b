"""Crops of large labelled scenes, as the papers on iSAID and Potsdam cut them; one file each, whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import ByColor, LabelledImage
from terralabel.errors import InputError
from terralabel.imagery.datasets.isaid import LABEL_ENDING
from terralabel.imagery.datasets.potsdam import tile_name
from terralabel.imagery.datasets.reading import ids_of_colors
from terralabel.imagery.raster import Raster, open_raster

__all__ = ["STYLES", "CropJob", "CropStyle", "crop_names", "crop_scene"]


@dataclass(frozen=True)
class CropStyle:
    """How a set is cut: `size` and `overlap` in pixels, the names, and what stands for "no label" in the files.

    `pad`: images smaller than a crop are filled up to the right and below (0; labels with `unlabelled`).
    """

    size: int
    overlap: int
    name: Callable[[str, Window], str]
    label_ending: str = ""
    unlabelled: int = IGNORE
    pad: bool = True


def _isaid_name(stem: str, at: Window) -> str:
    return f"{stem}_{at.y}_{at.bottom}_{at.x}_{at.right}"


def _potsdam_name(stem: str, at: Window) -> str:
    return f"{tile_name(Path(stem + '.tif'), 'RGB')}_{at.x}_{at.y}_{at.right}_{at.bottom}"


#: Format -> how it is cut: iSAID 896 pixels with stride 512, the last shifted back; Potsdam 512 without overlap, 0 for no label.
STYLES = {
    "isaid": CropStyle(896, 384, _isaid_name, LABEL_ENDING),
    "potsdam": CropStyle(512, 0, _potsdam_name, unlabelled=0),
}


@dataclass(frozen=True)
class CropJob:
    """One scene to cut: `item` of a set whose labels are colours (`to_ids`), `out` the folder of img_dir and ann_dir."""

    item: LabelledImage
    style: str
    size: int
    overlap: int
    classes: Classes
    to_ids: ByColor
    out: Path


def crop_names(job: CropJob, width: int, height: int) -> Iterator[tuple[Window, Path, Path]]:
    """(window inside the scene, file of the image, file of the label) of every crop of a scene."""
    style = STYLES[job.style]
    for plan in plan_tiles(job.item.key, width, height, job.size, job.overlap):
        at = plan.window
        shown = Window(at.x, at.y, job.size, job.size) if style.pad else at
        name = style.name(job.item.image.stem, shown)
        folder = job.item.split or "train"
        yield (
            at,
            job.out / "img_dir" / folder / f"{name}.png",
            job.out / "ann_dir" / folder / f"{name}{style.label_ending}.png",
        )


def crop_scene(job: CropJob) -> tuple[int, int]:
    """Write the crops of one scene that are not there yet; (crops of the scene, those written now).

    Memory holds one crop, whatever the scene. `InputError` when image and label differ in size, the image is not 8-bit RGB, or a
    colour is no class.
    """
    assert job.item.label is not None
    style = STYLES[job.style]
    with open_raster(job.item.image) as image, open_raster(job.item.label) as label:
        _refuse_unequal(job.item, image, label)
        count = written = 0
        for at, image_file, label_file in crop_names(job, image.width, image.height):
            count += 1
            if image_file.is_file() and label_file.is_file():
                continue
            colors, _ = label.read(at)
            ids = ids_of_colors(job.item.label, colors, job.to_ids, job.classes)
            ids = np.where(ids == IGNORE, style.unlabelled, ids).astype(np.uint8)
            _write(image_file, _padded(image.read(at)[0], job.size, 0, style.pad))
            _write(label_file, _padded(ids, job.size, style.unlabelled, style.pad), job.classes)
            written += 1
    return count, written


def _refuse_unequal(item: LabelledImage, image: Raster, label: Raster) -> None:
    if (image.width, image.height) != (label.width, label.height):
        raise InputError(
            f"{item.image} is {image.width} x {image.height} pixels, its label {label.width} x {label.height}: they must be of one"
            " size.",
            "size",
        )
    for path, raster in ((item.image, image), (item.label, label)):
        if raster.count != 3 or raster.dtype != np.uint8:
            raise InputError(f"{path} has {raster.count} band(s) of {raster.dtype}; expected 8-bit RGB.", "unsupported")


def _padded(array: np.ndarray, size: int, value: int, pad: bool) -> np.ndarray:
    if not pad or array.shape[:2] == (size, size):
        return array
    out = np.full((size, size, *array.shape[2:]), value, dtype=array.dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def _write(final: Path, array: np.ndarray, classes: Classes | None = None) -> None:
    """A PNG; labels carry the colours of their classes as a palette."""
    picture = Image.fromarray(array)
    if classes is not None:
        palette = np.zeros((256, 3), dtype=np.uint8)
        for entry in classes:
            palette[entry.id] = entry.rgb
        picture.putpalette(palette.ravel().tolist())
    with atomic_path(final) as temporary:
        picture.save(temporary, format="PNG", compress_level=3)
