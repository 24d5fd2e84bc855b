"""Which predicted mask belongs to which true one: by the stem of the file name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from terralabel.errors import InputError
from terralabel.evaluate.rasters import label_files

__all__ = ["few", "paired", "paired_stems"]

#: What people append to the stem of an image to name its mask.
_TAIL = re.compile(r"[-_. ](mask|masks|label|labels|labelids|gt|truth|annotation|seg|class|classes)$", re.IGNORECASE)


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    listed = ", ".join(names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def paired(prediction_dir: Path, truth_dir: Path) -> tuple[list[tuple[Path, Path]], list[str], list[str]]:
    """Pairs of (predicted, true) masks of equal stems, and the stems that only one of the folders has.

    Stems are compared with their subfolder, and, where that finds nothing, without it; then without an ending like
    "_mask" or "_label". `InputError` when two files of a folder have one stem, or no stem is in both.
    """
    return paired_stems(_by_stem(prediction_dir), truth_dir, str(prediction_dir))


def paired_stems(
    predictions: Mapping[str, Path], truth_dir: Path, whose: str
) -> tuple[list[tuple[Path, Path]], list[str], list[str]]:
    """As `paired`, for predicted masks that are known by other names than their files' (stem -> file); `whose` they are."""
    predicted, true = dict(predictions), _by_stem(truth_dir)
    pairs = []
    for simpler in (str, _bare, _without_tail):
        left, right = _unique(predicted, simpler), _unique(true, simpler)
        for key in sorted(left.keys() & right.keys()):
            pairs.append((predicted.pop(left[key]), true.pop(right[key])))
    if not pairs:
        raise InputError(
            f"No mask of {whose} has the stem of one in {truth_dir}: {few(sorted(predicted)) or 'no PNG or TIFF'}"
            f" against {few(sorted(true)) or 'no PNG or TIFF'}. Expected equal file names up to the suffix.",
            "no-equal-stems",
        )
    return sorted(pairs), sorted(predicted), sorted(true)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in label_files(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise InputError(f"{found[stem]} and {path} have one stem: expected one mask an image.", "ambiguous-stem")
        found[stem] = path
    return found


def _unique(stems: dict[str, Path], simpler) -> dict[str, str]:
    """Simpler stem -> stem, for those that stay unique."""
    keys: dict[str, list[str]] = {}
    for stem in stems:
        keys.setdefault(simpler(stem), []).append(stem)
    return {key: stems[0] for key, stems in keys.items() if len(stems) == 1}


def _bare(stem: str) -> str:
    return stem.rpartition("/")[2]


def _without_tail(stem: str) -> str:
    return _TAIL.sub("", _bare(stem))
