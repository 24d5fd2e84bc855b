"""What is said about labels compared with the truth: the measures, as values, JSON and text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.files import write_text
from terralabel.evaluate.boundary import BoundaryF
from terralabel.evaluate.confusion import Contingency, adjusted_rand, matched, mutual_information, purity
from terralabel.evaluate.pairing import few

__all__ = ["LabelReport", "report_of"]


@dataclass(frozen=True)
class LabelReport:
    """The agreement of labels with the truth. Values that do not exist (0 / 0) are NaN, and null in JSON.

    `classes`: true ids that occur, ascending, without the ignored. Per class, over all pixels that count: `iou`, `f1`,
    `recall` (the share found); `boundary` (F1 of outlines). `miou`, `mean_f1`, `mean_accuracy`: means over `classes`.
    `accuracy`: share of the pixels that are right. `ari`, `nmi`, `purity`: of the predicted ids as they are, unlabelled
    pixels being one more cluster (one that is never pure). `matching`: predicted id -> class, or None. `confusion`:
    pixels by class, rows predicted (the last row: no class) and columns true. `unmatched`: predicted ids that stand for no class,
    and their pixels.
    """

    classes: tuple[int, ...]
    iou: tuple[float, ...]
    f1: tuple[float, ...]
    recall: tuple[float, ...]
    boundary: tuple[float, ...]
    miou: float
    mean_f1: float
    mean_accuracy: float
    accuracy: float
    ari: float
    nmi: float
    purity: float
    boundary_f: float
    boundary_tolerance: float
    match: str
    matching: Mapping[int, int | None]
    confusion: np.ndarray
    pixels: int
    unlabelled: int
    ignored: int
    ignore: tuple[int, ...]
    images: int = 1
    only_predicted: tuple[str, ...] = ()
    only_true: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    unmatched: Mapping[int, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ids are strings where they are keys."""

        def each(values: Iterable[float]) -> dict[str, float | None]:
            return {str(c): _number(v) for c, v in zip(self.classes, values, strict=True)}

        scalars = ("miou", "mean_f1", "mean_accuracy", "accuracy", "ari", "nmi", "purity", "boundary_f")
        return {
            **{name: _number(getattr(self, name)) for name in scalars},
            "iou_per_class": each(self.iou),
            "f1_per_class": each(self.f1),
            "recall_per_class": each(self.recall),
            "boundary_f_per_class": each(self.boundary),
            "boundary_tolerance_px": _number(self.boundary_tolerance),
            "match": self.match,
            "matching": {str(p): t for p, t in self.matching.items()},
            "class_names": {str(c): n for c, n in self.names.items()},
            "confusion": {
                "columns_true": list(self.classes),
                "rows_predicted": [*self.classes, None],
                "pixels": self.confusion.tolist(),
            },
            "pixels": self.pixels,
            "unlabelled_pixels": self.unlabelled,
            "ignored_pixels": self.ignored,
            "ignore": list(self.ignore),
            "images": self.images,
            "unmatched_images": {"prediction": list(self.only_predicted), "truth": list(self.only_true)},
        }

    def to_json(self) -> str:
        """`as_dict` as JSON; NaN becomes null."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False, ensure_ascii=False)

    def write_json(self, path: Path) -> None:
        """Write `to_json` into a file, atomically."""
        write_text(Path(path), self.to_json() + "\n")

    def to_text(self) -> str:
        """A table for a terminal or a log."""
        lines = [_row("class", ("IoU", "F1", "found", "outline"), "pixels")]
        for i, (class_id, pixels) in enumerate(zip(self.classes, self.confusion.sum(axis=0).tolist(), strict=True)):
            title = f"{class_id} {self.names.get(class_id, '')}".strip()
            lines.append(_row(title, (self.iou[i], self.f1[i], self.recall[i], self.boundary[i]), pixels))
        lines.append(_row("mean", (self.miou, self.mean_f1, self.mean_accuracy, self.boundary_f), self.pixels))
        measures = {"accuracy": self.accuracy, "ARI": self.ari, "NMI": self.nmi, "purity": self.purity}
        lines.append("   ".join(f"{name} {_shown(value)}" for name, value in measures.items()))
        named = sum(t is not None for t in self.matching.values())
        lines.append(
            f"images {self.images}, match {self.match}: {named} of {len(self.matching)} predicted ids stand for a class; "
            f"{self.unlabelled:,} pixels unlabelled (wrong), {self.ignored:,} ignored"
        )
        for words, stems in (("prediction", self.only_predicted), ("truth", self.only_true)):
            if stems:
                lines.append(f"{len(stems)} only in the {words}: {few(stems)}")
        return "\n".join(lines)


def report_of(
    table: Contingency,
    match: str = "majority",
    outlines: BoundaryF | None = None,
    names: Mapping[int, str] | None = None,
) -> LabelReport:
    """The measures of a contingency table; `outlines`, fed with the same images, gives the boundary F."""
    meaning = matched(table, match)
    classes = table.true.tolist()
    row_of = {c: i for i, c in enumerate(classes)}
    by_class = np.zeros((len(classes) + 1, len(classes)), np.int64)
    for predicted, counts in zip(table.predicted.tolist(), table.counts, strict=True):
        true = meaning[predicted]
        by_class[len(classes) if true is None else row_of[true]] += counts
    by_class[-1] += table.unlabelled
    right = by_class.diagonal()
    of_true, of_predicted = by_class.sum(axis=0), by_class[:-1].sum(axis=1)
    iou = right / (of_true + of_predicted - right)
    f1 = 2 * right / (of_true + of_predicted)
    recall = right / of_true
    boundary = outlines.per_class() if outlines else {}
    return LabelReport(
        classes=tuple(classes),
        iou=tuple(iou.tolist()),
        f1=tuple(f1.tolist()),
        recall=tuple(recall.tolist()),
        boundary=tuple(boundary.get(c, math.nan) for c in classes),
        miou=_mean(iou),
        mean_f1=_mean(f1),
        mean_accuracy=_mean(recall),
        accuracy=int(right.sum()) / table.pixels if table.pixels else math.nan,
        ari=adjusted_rand(table.with_unlabelled),
        nmi=mutual_information(table.with_unlabelled),
        purity=purity(table),
        boundary_f=outlines.mean() if outlines else math.nan,
        boundary_tolerance=outlines.tolerance if outlines else math.nan,
        match=match,
        matching=meaning,
        confusion=by_class,
        pixels=table.pixels,
        unlabelled=int(table.unlabelled.sum()),
        ignored=table.ignored,
        ignore=(IGNORE,),
        names=dict(names or {}),
        unmatched={
            int(p): int(counts.sum())
            for p, counts in zip(table.predicted, table.counts, strict=True)
            if meaning[int(p)] is None
        },
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "-" if math.isnan(value) else f"{value:.4f}"


def _row(title: str, measures: Iterable[float | str], pixels: int | str) -> str:
    title = "".join(c if c.isprintable() else "?" for c in title)
    title = title if len(title) < 24 else title[:22] + "…"
    counted = pixels if isinstance(pixels, str) else f"{pixels:,}"
    return f"{title:<24}" + "".join(f"{_shown(m):>9}" for m in measures) + f"{counted:>16}"
