"""Masks of texts against truth: mIoU, oIoU and precision at IoU thresholds, as RRSIS-D and its followers count (2312.12470)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.files import write_text
from terralabel.errors import InputError

__all__ = ["PUBLISHED", "PUBLISHED_SIDE", "THRESHOLDS", "ReferringReport", "beside_published", "overlap", "write_reports"]

#: Side to which published figures bring image and mask.
PUBLISHED_SIDE = 480
#: IoU that Pr@X asks for.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

#: Method -> figures on the test split of RRSIS-D in points, as published; the last three at second hand or by their own papers only.
PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(("pr50", "pr60", "pr70", "pr80", "pr90", "oiou", "miou"), values, strict=True))
    for name, values in {
        "LGCE": (67.65, 61.53, 51.45, 39.62, 23.33, 76.34, 59.37),
        "LAVT": (69.52, 63.63, 53.29, 41.60, 24.94, 77.19, 61.04),
        "FIANet": (74.46, 66.96, 56.31, 42.83, 24.13, 76.91, 64.01),
        "RMSIN": (74.26, 67.25, 55.93, 42.55, 24.53, 77.79, 64.20),
        "RSRefSeg-1": (74.49, 68.33, 58.73, 48.50, 30.80, 77.24, 64.67),
        "RS2-SAM2": (77.56, 72.34, 61.76, 47.92, 29.73, 78.99, 66.72),
        "DiCoR": (78.23, 71.78, 64.01, 48.57, 30.16, 79.45, 66.94),
    }.items()
} | {
    "PSLG-SAM, boxes only": {"miou": 67.4},
    "PSLG-SAM, decoder fine-tuned": {"miou": 70.61},
    "GeoSelect, training-free": {"oiou": 59.48, "miou": 58.86},
}


def overlap(found: np.ndarray, truth: np.ndarray, side: int = 0) -> tuple[int, int]:
    """(pixels in both, pixels in either) of two (H, W) bool masks; with `side`, after both were brought to a square of it (nearest)."""
    if found.shape != truth.shape:
        raise InputError(
            f"the mask is {found.shape[1]} x {found.shape[0]} pixels, the truth {truth.shape[1]} x {truth.shape[0]}."
        )
    if side:
        found, truth = (
            cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0 for mask in (found, truth)
        )
    return int((found & truth).sum()), int((found | truth).sum())


@dataclass(frozen=True)
class ReferringReport:
    """Figures over the texts of a set: (intersection, union) pixels of each, in order of `keys`; `side` 0 is native size."""

    keys: tuple[str, ...]
    intersection: np.ndarray
    union: np.ndarray
    side: int = 0

    @property
    def iou(self) -> np.ndarray:
        """(n,) float64 of each text; 0 where neither mask has a pixel, as the published code counts."""
        return np.where(self.union > 0, self.intersection / np.maximum(self.union, 1), 0.0)

    @property
    def miou(self) -> float:
        """Mean IoU over texts (elsewhere gIoU)."""
        return float(self.iou.mean()) if len(self.keys) else float("nan")

    @property
    def oiou(self) -> float:
        """All intersections over all unions (elsewhere cIoU): large things count more."""
        return float(self.intersection.sum() / max(self.union.sum(), 1)) if len(self.keys) else float("nan")

    def precision(self, threshold: float) -> float:
        """Share of texts whose IoU is at least `threshold`."""
        return float((self.iou >= threshold).mean()) if len(self.keys) else float("nan")

    @property
    def row(self) -> dict[str, float]:
        """Figures in points, by the names of the published table."""
        out = {f"pr{round(100 * x)}": 100 * self.precision(x) for x in THRESHOLDS}
        return {**out, "oiou": 100 * self.oiou, "miou": 100 * self.miou}

    def to_text(self) -> str:
        """One line for a person."""
        at = f"{self.side} px" if self.side else "native size"
        shown = "  ".join(f"{name} {value:.2f}" for name, value in self.row.items())
        return f"{len(self.keys):,} texts, {at}: {shown}"


def beside_published(report: ReferringReport) -> str:
    """Markdown: the published figures on RRSIS-D (test split, 480 px) and, last, this report's."""
    names = list(report.row)
    rows = {**PUBLISHED, "this run": report.row}
    lines = ["| method | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for method, row in rows.items():
        lines.append(f"| {method} | " + " | ".join(f"{row[name]:.2f}" if name in row else "" for name in names) + " |")
    return "\n".join(lines)


def write_reports(reports: Sequence[ReferringReport], path: Path) -> None:
    """All figures and the IoU of every text as JSON."""
    found = {
        "native" if report.side == 0 else f"{report.side} px": {
            **{name: round(value, 4) for name, value in report.row.items()},
            "iou": {key: round(float(value), 6) for key, value in zip(report.keys, report.iou, strict=True)},
        }
        for report in reports
    }
    write_text(path, json.dumps(found, indent=1) + "\n")
