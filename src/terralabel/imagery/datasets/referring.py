"""Sets of texts with boxes and masks: RRSIS-D and those laid out alike (RRSIS-M), RefSegRS, and plain tables of triplets.

RRSIS-D: Liu et al. 2024, arXiv 2312.12470. RefSegRS: Yuan et al. 2023, arXiv 2306.08625.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from terralabel.core.coco import is_whole_number
from terralabel.core.triplets import Triplet, TripletSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.coco import Instance, checked_segmentation, paint_instance
from terralabel.imagery.datasets.reading import image_size, stored_label

__all__ = ["holds_texts", "open_referring", "plain_pickle"]

_LAYOUT = (
    "expected rrsisd/refs(unc).p, rrsisd/instances.json and images/rrsisd/JPEGImages (RRSIS-D and RRSIS-M as released);"
    " output_phrase_{train,val,test}.txt beside images/ and masks/ (RefSegRS); or a table (.csv, .jsonl) with the columns image,"
    " text, x0, y0, x1, y1 and, if you like, split"
)
#: A pickle larger than this is none of a list of sentences.
_MOST_BYTES = 1 << 29
_COLUMNS = ("x0", "y0", "x1", "y1")
_REASONS_SHOWN = 20


class _Plain(pickle.Unpickler):
    """Admits dicts, lists, tuples, numbers and text: whatever needs a name of Python's is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        told = "".join(letter if letter.isprintable() else "?" for letter in f"{module}.{name}")[:100]
        raise InputError(f"it would run {told} when read", "malicious")

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("it names things outside of itself", "malicious")


def plain_pickle(stream: BinaryIO, path: Path) -> Any:
    """What a pickle of plain containers, numbers and text holds; `InputError` for any other, of which nothing was run."""
    try:
        return _Plain(stream, encoding="utf-8").load()
    except InputError as error:
        raise InputError(
            f"{path}: {error}: not read. Lists of sentences need none; fetch the file anew.", error.status
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its program led to
        raise InputError(f"{path}: a damaged pickle ({type(error).__name__}); fetch it anew.", "damaged") from error


def open_referring(folder: str | Path) -> TripletSet:
    """The set in a folder, or of a table of triplets. What cannot be used is named in `problems`; `InputError` where nothing is."""
    root = Path(folder).absolute()
    if root.is_file() and root.suffix.lower() in (".csv", ".jsonl"):
        return _table(root)
    if refs := _refs(root):
        return _refer_layout(root, refs[0])
    if phrases := sorted(root.glob("output_phrase_*.txt")):
        return _refsegrs(root, phrases)
    raise InputError(f"{root} holds no set of texts: {_LAYOUT}.", "missing-data")


def holds_texts(folder: Path) -> bool:
    """Whether a folder is laid out as a set of texts with masks."""
    return folder.is_dir() and bool(_refs(folder) or any(folder.glob("output_phrase_*.txt")))


def _refs(root: Path) -> list[Path]:
    return sorted(root.glob("refs(*).p")) or sorted(root.glob("*/refs(*).p"))


# ------------------------------------------------------------------------------------------------------- RRSIS-D and alike


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Masks of a COCO-like file: key of an item -> its image's (height, width) and instance."""

    instances: Mapping[str, tuple[tuple[int, int], Instance]]

    def __call__(self, item: Triplet) -> np.ndarray:
        size, instance = self.instances[item.key]
        out = np.zeros(size, dtype=np.uint8)
        paint_instance(out, instance)
        return out > 0


def _refer_layout(root: Path, refs: Path) -> TripletSet:
    if refs.stat().st_size > _MOST_BYTES:
        raise InputError(f"{refs}: {refs.stat().st_size:,} bytes are no list of sentences.", "too-large")
    with refs.open("rb") as stream:
        listed = plain_pickle(stream, refs)
    annotations, sizes, names = _instances(refs.parent / "instances.json")
    pictures = _pictures(root)
    if not isinstance(listed, list):
        raise InputError(f"{refs}: holds a {type(listed).__name__}, expected a list of references.", "damaged")
    items: list[Triplet] = []
    drawn: dict[str, tuple[tuple[int, int], Instance]] = {}
    problems: list[str] = []
    for position, ref in enumerate(listed):
        try:
            for item, size, instance in _references(ref, annotations, sizes, names, pictures):
                items.append(item)
                drawn[item.key] = size, instance
        except (InputError, KeyError, TypeError, ValueError) as error:
            told = error if isinstance(error, InputError) else f"lacks or misuses {error}"
            problems.append(f"{refs.name}: reference {position}: {told}")
    return _complete(root.name, items, problems, _Drawn(drawn), refs)


def _references(
    ref: dict[str, Any],
    annotations: Mapping[int, dict[str, Any]],
    sizes: Mapping[int, tuple[str, int, int]],
    names: Mapping[int, str],
    pictures: Mapping[str, Path],
) -> Iterator[tuple[Triplet, tuple[int, int], Instance]]:
    """Every sentence of a reference as an item, with its image's (height, width) and its instance."""
    annotation = annotations[ref["ann_id"]]
    file, width, height = sizes[annotation["image_id"]]
    if Path(file).name not in pictures:
        raise InputError(f"image {file!r} is not in the folder of images", "missing-image")
    instance = checked_segmentation(annotation, width, height, 1)
    x, y, w, h = (float(value) for value in annotation["bbox"])
    box = (x, y, x + w, y + h)
    if not (np.isfinite(box).all() and w > 0 and h > 0):
        raise InputError(f"box {annotation['bbox']!r} is none", "bad-box")
    for number, sentence in enumerate(ref["sentences"]):
        text = " ".join(str(sentence.get("sent") or sentence["raw"]).split())
        key = f"{ref['ref_id']}-{number}"
        category = names.get(annotation.get("category_id", -1), "")
        image = pictures[Path(file).name]
        yield Triplet(key, image, text, box, str(ref.get("split", "")), category), (height, width), instance


def _instances(path: Path) -> tuple[dict[int, dict[str, Any]], dict[int, tuple[str, int, int]], dict[int, str]]:
    """(annotations by id, (file, width, height) of images by id, names of categories by id)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        annotations = {row["id"]: row for row in data["annotations"] if is_whole_number(row.get("id"))}
        sizes = {row["id"]: (str(row["file_name"]), int(row["width"]), int(row["height"])) for row in data["images"]}
        names = {row["id"]: str(row["name"]) for row in data.get("categories", ())}
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: {_LAYOUT}.", "missing-data") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error}); fetch it anew.", "damaged") from error
    return annotations, sizes, names


def _pictures(root: Path) -> dict[str, Path]:
    """Name -> path of the images, wherever JPEGImages lies below the folder or beside it."""
    for base in (root, root.parent):
        for pattern in ("JPEGImages", "images/*/JPEGImages", "*/JPEGImages", "images"):
            for folder in sorted(base.glob(pattern)):
                found = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
                if found:
                    return found
    raise InputError(f"{root}: no folder JPEGImages with images: {_LAYOUT}.", "missing-data")


# ---------------------------------------------------------------------------------------------------------------- RefSegRS


@dataclass(frozen=True, eq=False)
class _MaskFiles:
    """Masks as files: key of an item -> file; what is not 0 is meant."""

    files: Mapping[str, Path]

    def __call__(self, item: Triplet) -> np.ndarray:
        return stored_label(self.files[item.key])[0] > 0


def _refsegrs(root: Path, phrases: Iterable[Path]) -> TripletSet:
    images, masks = (_by_stem(root / name) for name in ("images", "masks"))
    items: list[Triplet] = []
    files: dict[str, Path] = {}
    problems: list[str] = []
    for path in phrases:
        split = path.stem.removeprefix("output_phrase_")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            stem, _, text = line.strip().partition(" ")
            try:
                if stem not in images or stem not in masks or not text.strip():
                    raise InputError("expected the name of an image in images/ and masks/, and a text", "bad-line")
                box = _box_of(masks[stem])
            except InputError as error:
                problems.append(f"{path.name}:{number}: {error}")
                continue
            items.append(Triplet(f"{split}-{number}", images[stem], " ".join(text.split()), box, split))
            files[items[-1].key] = masks[stem]
    return _complete(root.name, items, problems, _MaskFiles(files), root)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()} if folder.is_dir() else {}


def _box_of(path: Path) -> tuple[float, float, float, float]:
    mask = stored_label(path)[0] > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise InputError(f"{path} is empty: a text with nothing meant", "empty")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


# ------------------------------------------------------------------------------------------------------------------ tables


def _table(path: Path) -> TripletSet:
    items: list[Triplet] = []
    problems: list[str] = []
    for number, row in enumerate(_rows(path), 1):
        try:
            items.append(_triplet(row, path, number))
        except (InputError, KeyError, TypeError, ValueError) as error:
            told = error if isinstance(error, InputError) else f"expected image, text, {', '.join(_COLUMNS)}; got {error}"
            problems.append(f"{path.name}: row {number}: {told}")
    return _complete(path.stem, items, problems, None, path)


def _rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines()))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]} ({error}).", "damaged") from error


def _triplet(row: Mapping[str, Any], path: Path, number: int) -> Triplet:
    image = path.parent / str(row["image"])
    x0, y0, x1, y1 = box = tuple(float(row[name]) for name in _COLUMNS)
    width, height = image_size(image)
    if not (np.isfinite(box).all() and 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(f"box {box} is not within the image's {width} x {height} pixels", "bad-box")
    text = " ".join(str(row["text"]).split())
    if not text:
        raise InputError("its text is empty", "bad-text")
    return Triplet(str(number), image, text, (x0, y0, x1, y1), str(row.get("split") or ""))


def _complete(
    name: str, items: list[Triplet], problems: list[str], mask: _Drawn | _MaskFiles | None, source: Path
) -> TripletSet:
    if not items:
        why = f" ({problems[0]})" if problems else ""
        raise InputError(f"{source}: no text with a box that could be used{why}.", "nothing")
    if len(problems) > _REASONS_SHOWN:
        problems = [*problems[:_REASONS_SHOWN], f"and {len(problems) - _REASONS_SHOWN:,} more"]
    return TripletSet(name, tuple(items), tuple(problems), mask)
