"""Predictions of a network against truth, where the ids of both mean the same; which convention of mIoU is said every time.

Published figures differ in what they average over: with the background or without it, with classes that an image set does
not have as 0, as 1, or left out. So the report names its convention in words, and gives the other common mean beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import write_text
from terralabel.errors import SettingsError
from terralabel.evaluate.labels import LabelReport, evaluate_folders

__all__ = ["ABSENT", "SegmentationReport", "evaluate_predictions", "segmentation_report"]

#: What becomes of a class that neither truth nor prediction has: it is left out of means, or counts as 0.
ABSENT = ("left-out", "zero")


@dataclass(frozen=True)
class SegmentationReport:
    """The agreement of predictions with the truth. Values that do not exist are NaN, and null in JSON.

    `ids`, `names`: the classes of the means, ascending. Per class: `iou`, `f1`, `accuracy` (the share found: recall),
    `boundary` (F1 of outlines). `miou`, `mean_f1`, `mean_accuracy` (mAcc), `boundary_f`: means by the `convention`, a sentence.
    `miou_other`: the mean with the other treatment of the background; NaN where there is none. `pixel_accuracy`: over all pixels.
    `labels`: the same comparison as `evaluate labels` gives it, with the confusion matrix.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    iou: tuple[float, ...]
    f1: tuple[float, ...]
    accuracy: tuple[float, ...]
    boundary: tuple[float, ...]
    miou: float
    miou_other: float
    mean_f1: float
    mean_accuracy: float
    boundary_f: float
    pixel_accuracy: float
    convention: str
    labels: LabelReport

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        scalars = ("miou", "miou_other", "mean_f1", "mean_accuracy", "boundary_f", "pixel_accuracy")
        rows = zip(self.ids, self.names, self.iou, self.f1, self.accuracy, self.boundary, strict=True)
        return {
            "convention": self.convention,
            **{name: _number(getattr(self, name)) for name in scalars},
            "classes": [
                {
                    "id": i,
                    "name": name,
                    "iou": _number(iou),
                    "f1": _number(f1),
                    "accuracy": _number(acc),
                    "boundary_f": _number(b),
                }
                for i, name, iou, f1, acc, b in rows
            ],
            "boundary_tolerance_px": self.labels.boundary_tolerance,
            "confusion": self.labels.as_dict()["confusion"],
            "pixels": self.labels.pixels,
            "unlabelled_pixels": self.labels.unlabelled,
            "ignored_pixels": self.labels.ignored,
            "images": self.labels.images,
            "unmatched_images": {"prediction": list(self.labels.only_predicted), "truth": list(self.labels.only_true)},
        }

    def write_json(self, path: Path) -> None:
        """Write `as_dict` into a file, atomically."""
        write_text(Path(path), json.dumps(self.as_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def to_text(self) -> str:
        """A table for a terminal or a log."""
        lines = [f"{'class':<28}{'IoU':>9}{'F1':>9}{'Acc':>9}{'outline':>9}"]
        for i, name, *values in zip(self.ids, self.names, self.iou, self.f1, self.accuracy, self.boundary, strict=True):
            title = "".join(c if c.isprintable() else "?" for c in f"{i} {name}")[:27]
            lines.append(f"{title:<28}" + "".join(f"{_shown(v):>9}" for v in values))
        means = (self.miou, self.mean_f1, self.mean_accuracy, self.boundary_f)
        lines.append(f"{'mean (mIoU, mF1, mAcc, BF)':<28}" + "".join(f"{_shown(v):>9}" for v in means))
        lines.append(f"convention: {self.convention}")
        if not math.isnan(self.miou_other):
            lines.append(f"mIoU by the other treatment of the background: {self.miou_other:.4f}")
        found = self.labels
        lines.append(
            f"pixel accuracy {_shown(self.pixel_accuracy)}; images {found.images}; "
            f"{found.unlabelled:,} pixels without a prediction (wrong), {found.ignored:,} ignored"
        )
        for words, stems in (("prediction", found.only_predicted), ("truth", found.only_true)):
            if stems:
                lines.append(f"{len(stems)} images only in the {words}, the first: {stems[0]}")
        return "\n".join(lines)


def evaluate_predictions(
    prediction_dir: Path,
    truth_dir: Path,
    *,
    classes: Classes | None = None,
    ignore: Collection[int] = (IGNORE,),
    background: int | None = None,
    with_background: bool = True,
    absent: str = "left-out",
    tolerance: float = 3.0,
    threshold: int | None = None,
) -> SegmentationReport:
    """Compare predicted class-id masks with true ones of equal stems.

    `classes`: the class map of the predictions; without one, the ids that occur. `ignore`: true ids that do not count, besides
    255. `background`: the id of the background, if there is one; `with_background` False leaves it out of the means (its pixels
    still count as errors of other classes). `absent`: see `ABSENT`. `tolerance`: of outlines, pixels. `threshold`: the truth is a grey
    mask, class 1 where it is at least that, else 0.
    Raises `InputError` for masks that cannot be compared, and for true ids that are not in `classes`, with their pixels.
    """
    if absent not in ABSENT:
        raise SettingsError(f"absent {absent!r}: expected one of {', '.join(ABSENT)}.")
    names = {entry.id: entry.name for entry in classes} if classes is not None else None
    found = evaluate_folders(
        prediction_dir, truth_dir, ignore=ignore, match="none", tolerance=tolerance, known=names and list(names), names=names,
        threshold=threshold,
    )  # fmt: skip
    return segmentation_report(found, classes=names, background=background, with_background=with_background, absent=absent)


def segmentation_report(
    found: LabelReport,
    *,
    classes: Mapping[int, str] | None = None,
    background: int | None = None,
    with_background: bool = True,
    absent: str = "left-out",
) -> SegmentationReport:
    """The measures of a comparison whose ids mean the same on both sides (match "none")."""
    table = _Table(found, classes)
    if background is not None and background not in table.ids:
        raise SettingsError(f"background {background}: expected a class id, one of {', '.join(map(str, table.ids))}.")
    every = [i for i in table.ids if table.present(i) or absent == "zero"]
    foreground = [i for i in every if i != background]
    ids, other = (every, foreground) if with_background or background is None else (foreground, every)
    iou, f1, accuracy = ({i: measure(i) for i in ids} for measure in (table.iou, table.f1, table.accuracy))
    boundary = {i: table.boundary.get(i, math.nan) for i in ids}
    report = SegmentationReport(
        ids=tuple(ids),
        names=tuple(table.names.get(i, "") for i in ids),
        iou=tuple(iou.values()),
        f1=tuple(f1.values()),
        accuracy=tuple(accuracy.values()),
        boundary=tuple(boundary.values()),
        miou=_mean(iou.values()),
        miou_other=math.nan if background is None else _mean([table.iou(i) for i in other]),
        mean_f1=_mean(f1.values()),
        mean_accuracy=_mean(accuracy.values()),
        boundary_f=_mean(boundary.values()),
        pixel_accuracy=found.accuracy,
        convention="",
        labels=found,
    )
    return replace(report, convention=_convention(table, ids, background, with_background, absent))


class _Table:
    """Pixels by class: true, predicted, right. A class only predicted, never true, is a class of the means with IoU 0."""

    def __init__(self, found: LabelReport, classes: Mapping[int, str] | None) -> None:
        self.names = dict(classes or found.names)
        column = {c: i for i, c in enumerate(found.classes)}
        self.true = {c: int(found.confusion[:, i].sum()) for c, i in column.items()}
        self.right = {c: int(found.confusion[i, i]) for c, i in column.items()}
        self.predicted = {c: int(found.confusion[i].sum()) for c, i in column.items()}
        self.predicted |= dict(found.unmatched)
        self.boundary = dict(zip(found.classes, found.boundary, strict=True))
        self.ids = sorted({*self.names, *self.true, *self.predicted})

    def present(self, i: int) -> bool:
        """Whether truth or prediction has the class."""
        return self.true.get(i, 0) + self.predicted.get(i, 0) > 0

    def iou(self, i: int) -> float:
        """Intersection over union; 0 for an absent class."""
        right = self.right.get(i, 0)
        return right / max(self.true.get(i, 0) + self.predicted.get(i, 0) - right, 1)

    def f1(self, i: int) -> float:
        """Twice the right pixels over those true and those predicted."""
        return 2 * self.right.get(i, 0) / max(self.true.get(i, 0) + self.predicted.get(i, 0), 1)

    def accuracy(self, i: int) -> float:
        """Share of the true pixels that were found; NaN where none is true."""
        return self.right.get(i, 0) / self.true[i] if self.true.get(i) else math.nan


def _convention(table: _Table, ids: list[int], background: int | None, with_background: bool, absent: str) -> str:
    gone = [f"{i} {table.names.get(i, '')}".strip() for i in table.ids if not table.present(i)]
    words = [f"mIoU over {len(ids)} classes"]
    if background is not None:
        words.append(f"background ({background}) {'in' if with_background else 'left out'}")
    else:
        words.append("no class is taken for a background")
    if gone:
        words.append(
            f"classes in neither truth nor prediction {'left out' if absent == 'left-out' else 'count 0'}: {', '.join(gone)}"
        )
    else:
        words.append("every class occurs")
    return "; ".join(words)


def _mean(values: Collection[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return float(np.mean(finite)) if finite else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
