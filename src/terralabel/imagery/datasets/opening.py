"""One door to labelled data sets, whatever their layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from terralabel import registry
from terralabel.contracts import DatasetReader, LabelRequest
from terralabel.core.labelled import LabelledSet
from terralabel.errors import InputError

__all__ = ["open_labelled", "recognised"]

#: Tried first, in this order: layouts that others look like. Then whatever is registered, then `folder`.
_FIRST = ("run", "isaid", "potsdam", "samrs", "loveda", "sos", "chn6-cug", "mmseg", "coco")


def open_labelled(
    folder: str | Path,
    *,
    format: str = "auto",
    classes: str | Path | None = None,
    labels: str | Path | None = None,
    ignore: Sequence[int] = (),
    threshold: int | None = None,
    binary: bool = False,
) -> LabelledSet:
    """The images and labels of a data set.

    `format`: a name of `registry.names("datasets")`, or "auto". `classes`: a class file in place of the set's own.
    `labels`: the folder (or COCO file) of labels when it does not lie beside the images in `folder`. For plain folders, `ignore`
    are stored values that mean "no label", and `threshold` makes a grey or instance mask the classes 0 and 1.
    `binary`: two classes only, whether a pixel has a label or none (of a run: whether a mask covers it).

    Raises `InputError` (what is missing, where to get it, and the layout expected) and `SettingsError` (unknown format).

    >>> import terralabel as tl
    >>> dataset = tl.open_labelled("run")
    >>> dataset.format, len(dataset.labelled)
    ('run', 1)
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist: expected a run, or the folder of a data set.", "missing")
    if labels is not None and not Path(labels).exists():
        raise InputError(f"{labels} does not exist: expected the folder or the file of labels.", "missing")
    folder = _absolute(folder)
    given = LabelRequest(
        folder,
        _absolute(classes) if classes is not None else None,
        _absolute(labels) if labels is not None else None,
        tuple(ignore),
        threshold,
    )
    reader: DatasetReader = registry.create("datasets", recognised(folder, given.labels) if format == "auto" else format)
    found = reader.read(given)
    return found.binary if binary else found


def _absolute(path: str | Path) -> Path:
    """As the paths of images are found, so that those below a folder can be told by it."""
    return Path(os.path.normpath(Path(path).absolute()))


def recognised(folder: Path, labels: Path | None = None) -> str:
    """The format that a folder's layout is of."""
    if labels is not None:
        return "coco" if labels.suffix.lower() == ".json" else "folder"
    known = registry.names("datasets")
    order = [name for name in _FIRST if name in known]
    order += [name for name in known if name not in (*order, "folder")]
    for name in [*order, "folder"]:
        if registry.create("datasets", name).recognises(folder):
            return name
    raise InputError(
        f"{folder} is no data set that is known: expected a run, images/ beside labels/, img_dir/ beside ann_dir/, or one of"
        f" {', '.join(known)}; name its format, or give the folder of labels.",
        "unknown-format",
    )
