"""True masks of single things, window by window: what a mask decoder learns from.

From sets of texts with masks (RRSIS-D, RefSegRS), COCO files, runs, and label rasters: in those every connected part of a value is a
thing, so that rasters of numbered instances and of classes are read alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from terralabel.contracts import LabelRequest
from terralabel.core import rle
from terralabel.core.classes import IGNORE
from terralabel.core.grid import TilePlan, Window, plan_tiles
from terralabel.core.labelled import LabelledSet
from terralabel.core.masks import Masks
from terralabel.errors import InputError
from terralabel.imagery.datasets.coco import Coco, CocoLabels, paint_instance
from terralabel.imagery.datasets.folders import ImageFolder, RunFolderLabels
from terralabel.imagery.datasets.pairing import find_rasters, pair_files
from terralabel.imagery.datasets.reading import image_size, label_values, stored_label
from terralabel.imagery.datasets.referring import holds_texts, open_referring
from terralabel.imagery.keys import unique_keys

__all__ = ["MaskSet", "MaskTile", "open_masks"]

#: A thing in pixels of its image: first column, first row, (h, w) bool.
Piece = tuple[int, int, np.ndarray]
_REASONS_SHOWN = 20
_LAYOUT = (
    "expected a set of texts with masks (RRSIS-D, RefSegRS), a COCO file or folder, a run, images/ beside masks/, or images with"
    " --labels: the folder of masks, a mask, a COCO file, or outlines in a GeoPackage or GeoJSON"
)


@dataclass(frozen=True)
class MaskTile:
    """One window of an image and the true masks that lie whole in it, in pixels of the window; `key` is unique in the set."""

    key: str
    image: Path
    plan: TilePlan
    truth: Masks
    split: str = ""


@dataclass(frozen=True)
class MaskSet:
    """Windows with true masks, in the order of their keys, and sentences on what was left out."""

    name: str
    tiles: tuple[MaskTile, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Image:
    """An image, and the things in a window of it (they may reach beyond)."""

    path: Path
    split: str
    size: tuple[int, int]  # width, height
    pieces: Callable[[Window], list[Piece]]


def open_masks(
    source: str | Path | LabelledSet, labels: str | Path | None = None, *, tile_size: int = 1024, smallest: int = 16
) -> MaskSet:
    """The true masks of `source`, in windows of `tile_size`; `labels` where they do not lie beside the images.

    A thing belongs to the window whose core has the centre of its box; one that does not lie whole in it, or has fewer than
    `smallest` pixels, is left out. In label rasters 0 is nothing, and so is 255 beside other values; in runs and in a `LabelledSet` of class
    ids 255 and the class "background" are. `InputError` where there is no mask at all.
    """
    problems: list[str] = []
    if isinstance(source, LabelledSet):
        root, images = Path(source.name), list(_of_classes(source, problems))
    else:
        root = Path(source).absolute()
        if not root.exists():
            raise InputError(f"{root} does not exist: {_LAYOUT}.", "missing")
        images = list(_images(root, Path(labels).absolute() if labels is not None else None, problems))
    tiles: list[MaskTile] = []
    for key, image in zip(unique_keys([image.path for image in images]), images, strict=True):
        try:
            tiles += _tiles(key, image, tile_size, smallest)
        except InputError as error:
            problems.append(f"{error} [{error.status}]")
    if not tiles:
        why = f" ({problems[0]})" if problems else ""
        raise InputError(f"{root}: no mask that could be used{why}: {_LAYOUT}.", "nothing")
    if len(problems) > _REASONS_SHOWN:
        problems = [*problems[:_REASONS_SHOWN], f"and {len(problems) - _REASONS_SHOWN:,} more"]
    return MaskSet(root.name, tuple(sorted(tiles, key=lambda tile: tile.key)), tuple(problems))


def _tiles(key: str, image: _Image, tile_size: int, smallest: int) -> Iterator[MaskTile]:
    for plan in plan_tiles(key, *image.size, tile_size, tile_size // 4):
        window, codes = plan.window, []
        for x, y, crop in image.pieces(window):
            height, width = crop.shape
            whole = window.x <= x and window.y <= y and x + width <= window.right and y + height <= window.bottom
            if whole and _in(plan.core, x + width / 2, y + height / 2) and crop.sum() >= smallest:
                codes.append(rle.encode_boxed(crop, x - window.x, y - window.y, (window.height, window.width)))
        if codes:
            truth = Masks.from_codes(codes, (window.height, window.width))
            yield MaskTile(plan.key, image.path, plan, truth, image.split)


def _in(core: Window, x: float, y: float) -> bool:
    return core.x <= x < core.right and core.y <= y < core.bottom


# ----------------------------------------------------------------------------------------------------------------- layouts


def _images(root: Path, labels: Path | None, problems: list[str]) -> Iterator[_Image]:
    """The images of a set, whatever its layout."""
    if labels is None and holds_texts(root):
        return _of_texts(root, problems)
    coco = labels if labels is not None else root
    if coco.suffix.lower() == ".json" or (labels is None and Coco().recognises(root)):
        return _of_coco(LabelRequest(root, labels=labels), problems)
    if labels is None and RunFolderLabels().recognises(root):
        return _of_classes(RunFolderLabels().read(LabelRequest(root)), problems)
    return _of_rasters(_pairs(root, labels, problems), problems)


def _of_classes(found: LabelledSet, problems: list[str]) -> Iterator[_Image]:
    """Rasters of class ids."""
    problems += found.problems
    pairs = [(item.image, item.label, item.split) for item in found.images if item.label is not None]
    background = {entry.id for entry in found.classes if entry.name.lower() == "background"}
    return _of_rasters(pairs, problems, {IGNORE, *background})


def _of_texts(root: Path, problems: list[str]) -> Iterator[_Image]:
    found = open_referring(root)
    problems += found.problems
    draw = found.mask
    assert draw is not None  # layouts of folders have masks
    of_image: dict[Path, dict[tuple[int, int, bytes], Piece]] = {}
    splits = {item.image: item.split for item in reversed(found.items)}
    for item in found.items:
        pieces = of_image.setdefault(item.image, {})
        if (piece := _cut_out(draw(item))) is not None:  # several sentences may mean one thing
            pieces[piece[0], piece[1], piece[2].tobytes()] = piece
    for path, pieces in of_image.items():
        yield _Image(path, splits[path], image_size(path), _always(list(pieces.values())))


def _of_coco(request: LabelRequest, problems: list[str]) -> Iterator[_Image]:
    found = Coco().read(request)
    problems += found.problems
    drawn = found.to_ids
    assert isinstance(drawn, CocoLabels)
    for item in found.images:
        pieces = []
        for instance in drawn.instances.get(item.key, ()):
            canvas = np.full(drawn.sizes[item.key], IGNORE, dtype=np.uint8)
            paint_instance(canvas, instance)
            pieces.append(_cut_out(canvas != IGNORE))
        size = image_size(item.image)
        try:
            _refuse_other_size(item.image, size, drawn.sizes[item.key][::-1])
        except InputError as error:
            problems.append(f"{error} [{error.status}]")
            continue
        yield _Image(item.image, item.split, size, _always([piece for piece in pieces if piece is not None]))


def _pairs(root: Path, labels: Path | None, problems: list[str]) -> list[tuple[Path, Path, str]]:
    """(image, label raster, split)."""
    if root.is_file():
        if labels is None or not labels.is_file():
            raise InputError(f"{root} is one image: give the file of its masks (--labels FILE).", "no-label")
        return [(root, labels, "")]
    if labels is not None:
        paired, told = pair_files(find_rasters(root), find_rasters(labels))
        pairs = [(image, label, "") for image, label in paired]
    else:
        pairs, told = ImageFolder().pairs(LabelRequest(root))
    problems += told
    return [(image, label, split) for image, label, split in pairs if label is not None]


def _of_rasters(
    pairs: Sequence[tuple[Path, Path, str]], problems: list[str], nothing: set[int] | None = None
) -> Iterator[_Image]:
    """`nothing`: values that are no thing; None: 0, and 255 beside others."""
    for image, label, split in pairs:
        try:
            size = image_size(image)
            _refuse_other_size(image, size, image_size(label))
            found = _Image(image, split, size, _parts_of(label, Window(0, 0, *size), nothing))
        except InputError as error:
            problems.append(f"{error} [{error.status}]")
            continue
        yield found


def _parts_of(label: Path, whole: Window, nothing: set[int] | None) -> Callable[[Window], list[Piece]]:
    """The connected parts of every value in a window of a label raster; not those that a side of the window cuts."""

    if nothing is None:
        nothing = {0} if set(label_values(label).tolist()) <= {0, IGNORE} else {0, IGNORE}

    def pieces(window: Window) -> list[Piece]:
        stored, nodata = stored_label(label, window)
        values = [value for value in np.unique(stored).tolist() if value not in nothing and value != nodata]
        found = []
        for value in values:
            _, parts, stats, _ = cv2.connectedComponentsWithStats((stored == value).astype(np.uint8), connectivity=4)
            for number, (x, y, width, height) in enumerate(stats[1:, :4].tolist(), 1):
                piece = Window(window.x + x, window.y + y, width, height)
                if not _cut(piece, window, whole):
                    found.append((piece.x, piece.y, parts[y : y + height, x : x + width] == number))
        return found

    return pieces


def _cut(piece: Window, window: Window, whole: Window) -> bool:
    """Whether a piece touches a side of its window that is no side of the image."""
    return (
        (piece.x == window.x > whole.x)
        or (piece.y == window.y > whole.y)
        or (piece.right == window.right < whole.right)
        or (piece.bottom == window.bottom < whole.bottom)
    )


def _refuse_other_size(image: Path, size: tuple[int, int], label: tuple[int, int]) -> None:
    if size != label:
        told = f"{image} is {size[0]} x {size[1]} pixels, its label {label[0]} x {label[1]}"
        raise InputError(f"{told}: they must be of one size.", "size")


def _always(pieces: list[Piece]) -> Callable[[Window], list[Piece]]:
    return lambda window: pieces


def _cut_out(mask: np.ndarray) -> Piece | None:
    """A whole (H, W) mask as a piece; None for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, mask[y : rows[-1] + 1, x : columns[-1] + 1].copy()
