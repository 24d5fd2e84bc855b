"""Class-id PNGs, one per image, and the folders mmsegmentation trains from."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from terralabel.contracts import RunView
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path, write_text
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.export.names import image_names, link_image
from terralabel.export.rasters import label_colors, label_environment

__all__ = ["ClassPng", "MmsegFolders", "write_class_png", "write_index_png", "write_rgb_png"]

#: Rows read at a time when an 8-bit copy of an image is written.
_ROWS = 512
#: What every whole PNG ends with.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def write_class_png(label: Path, final: Path, classes: Classes) -> Path:
    """A label raster as PNG: palette with class ids as indices (uint8), or 16-bit grey (uint16). Streamed, any size."""
    if classes.dtype == "uint16":  # a PNG has no palette of 16 bits, so the colours are left out on the way
        return _write_mapped(label, final, np.arange(65536, dtype=np.uint16), None)
    with atomic_path(final) as temporary, label_environment(final):
        _copy_as_png(label, temporary)
    return final


def _copy_as_png(source: Path, target: Path) -> None:
    """Convert with GDAL, which may end without an error on a full disk: a PNG that is cut off is noticed here."""
    rasterio.shutil.copy(source, target, driver="PNG", strict=False, ZLEVEL=6)
    with target.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(_PNG_END), 0))
        if file.read() != _PNG_END:
            raise RasterioError("the PNG is cut off; is the disk full or failing?")


def write_index_png(label: Path, final: Path, classes: Classes) -> Path:
    """As `write_class_png`, with indices 0..n-1 in the order of the class map in place of ids; streamed.

    Index 255 stays free for "no label": the 256th class is 256, as in every label raster here.
    """
    index = _indexed(classes)
    if [entry.id for entry in index] == [entry.id for entry in classes]:
        return write_class_png(label, final, classes)
    table = np.full(65536, IGNORE, dtype=index.dtype)
    table[[entry.id for entry in classes]] = [entry.id for entry in index]
    return _write_mapped(label, final, table, index if index.dtype == "uint8" else None)


def _indexed(classes: Classes) -> Classes:
    """The classes under their places in the class map."""
    return Classes(tuple(replace(entry, id=k if k < IGNORE else k + 1, clusters=()) for k, entry in enumerate(classes.entries)))


def _write_mapped(label: Path, final: Path, table: np.ndarray, colors: Classes | None) -> Path:
    """The label raster with every id looked up in `table` ((65536,) of the output's dtype), as PNG."""
    with atomic_path(final) as temporary, label_environment(final):
        strips = temporary.with_suffix(".tif")
        try:
            with rasterio.open(label) as source:
                profile = {"driver": "GTiff", "width": source.width, "height": source.height, "count": 1, "nodata": IGNORE}
                with rasterio.open(strips, "w", dtype=table.dtype.name, bigtiff="if_safer", **profile) as target:
                    if colors is not None:
                        target.write_colormap(1, label_colors(colors))
                    for y in range(0, source.height, _ROWS):
                        window = RasterWindow(0, y, source.width, min(_ROWS, source.height - y))  # type: ignore[call-arg]
                        target.write(table[source.read(1, window=window)], 1, window=window)
            _copy_as_png(strips, temporary)
        finally:
            strips.unlink(missing_ok=True)
    return final


def write_rgb_png(run: RunView, scene: Scene, final: Path) -> Path:
    """The image as the run saw it, 8-bit RGB, streamed in strips of 512 rows."""
    with atomic_path(final) as temporary, label_environment(final):
        strips = temporary.with_suffix(".tif")
        profile = {"driver": "GTiff", "width": scene.width, "height": scene.height, "count": 3, "dtype": "uint8"}
        try:
            with rasterio.open(strips, "w", interleave="pixel", bigtiff="if_safer", **profile) as target:
                for y in range(0, scene.height, _ROWS):
                    window = Window(0, y, scene.width, min(_ROWS, scene.height - y))
                    rgb = run.read_rgb(scene.key, window, None)
                    target.write(rgb.transpose(2, 0, 1), window=RasterWindow(0, y, window.width, window.height))  # type: ignore[call-arg]
            _copy_as_png(strips, temporary)
        finally:
            strips.unlink(missing_ok=True)
    return final


@dataclass(frozen=True)
class ClassPng:
    """One class-id PNG per image under the image's own stem, and `classes.json`; 255 is no label.

    Read it with Pillow or GDAL: `cv2.imread` turns a palette into its colours.
    """

    name: str = "png"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write `STEM.png` for every scene."""
        names = image_names(run.scenes)
        written = [write_class_png(run.label_path(key), out / f"{name}.png", run.classes) for key, name in names.items()]
        write_text(out / "classes.json", run.classes.to_json())
        return [*written, out / "classes.json"]


@dataclass(frozen=True)
class MmsegFolders:
    """`ann_dir/SPLIT/STEM.png`, `img_dir/SPLIT/STEM.*`, `SPLIT.txt`, `classes.json` and a configuration to paste, `dataset.py`.

    Labels are indices 0..n-1 in the order of the class map, as mmsegmentation wants them. The images are links to the
    inputs; with `images` they are 8-bit RGB PNGs as the run saw them. Scenes without a split are "train".
    """

    images: bool = False
    name: str = "mmseg"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write the folders; the order within each list is the run's."""
        names = image_names(run.scenes)
        lists: dict[str, list[str]] = defaultdict(list)
        suffixes: set[str] = set()
        written = []
        for scene in run.scenes:
            split, name = scene.split or "train", names[scene.key]
            # slashes of colliding stems stay: mmsegmentation walks sub-folders
            annotation = out / "ann_dir" / split / f"{name}.png"
            written.append(write_index_png(run.label_path(scene.key), annotation, run.classes))
            source = run.source_path(scene.key)
            image = out / "img_dir" / split / f"{name}{'.png' if self.images else source.suffix}"
            written.append(write_rgb_png(run, scene, image) if self.images else link_image(source, image))
            suffixes.add(image.suffix)
            lists[split].append(str(name))
        for split, stems in sorted(lists.items()):
            write_text(out / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        write_text(out / "dataset.py", _configuration(run, sorted(lists), sorted(suffixes)))
        write_text(out / "classes.json", _indexed(run.classes).to_json())
        return [*written, *(out / f"{split}.txt" for split in sorted(lists)), out / "dataset.py", out / "classes.json"]


def _configuration(run: RunView, splits: list[str], suffixes: list[str]) -> str:
    """A Python snippet for mmsegmentation 1.x; names go through repr, so that no name can be code."""
    names = tuple(entry.name for entry in run.classes)
    palette = [list(entry.rgb) for entry in run.classes]
    lines = [
        '"""Labels of a TerraLabel run as an mmsegmentation 1.x dataset: set data_root, paste into a configuration."""',
        "",
        f"metainfo = dict(classes={names!r}, palette={palette!r})",
        f"img_suffix = {(suffixes or ['.png'])[0]!r}" if len(suffixes) < 2 else f"img_suffix = {suffixes!r}  # one each",
        "",
    ]
    for split in splits:
        lines += [
            f"{split}_dataset = dict(",
            "    type='BaseSegDataset',",
            "    data_root='.',",
            f"    data_prefix=dict(img_path='img_dir/{split}', seg_map_path='ann_dir/{split}'),",
            "    img_suffix=img_suffix,",
            "    seg_map_suffix='.png',",
            f"    ann_file={split + '.txt'!r},",
            "    metainfo=metainfo,",
            f"    ignore_index={IGNORE},",
            "    reduce_zero_label=False,",
            "    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', imdecode_backend='pillow')],",
            ")",
        ]
    return "\n".join(lines) + "\n"
