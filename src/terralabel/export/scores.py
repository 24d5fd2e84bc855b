"""The scores section of the report, from what `terralabel evaluate labels --json` wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from terralabel.export.markup import bar, confusion_table, flatten, number, table, text

__all__ = ["scores_section"]

_KNOWN = {
    "miou": "mean IoU",
    "accuracy": "pixel accuracy",
    "mean_f1": "mean F1",
    "boundary_f": "boundary F",
    "ari": "adjusted Rand index",
    "nmi": "normalised mutual information",
    "purity": "purity",
}


def scores_section(evaluation: Mapping[str, Any]) -> str:
    """HTML of whole-run scores, IoU per class, the confusion matrix, and how clusters were matched.

    `evaluation` is `terralabel.evaluate.report.LabelReport.as_dict()`; missing keys are left out, unknown ones follow as
    they are.
    """
    given = evaluation.get("class_names")
    names = {str(key): str(value) for key, value in given.items()} if isinstance(given, Mapping) else {}
    heads = [(label, evaluation[key]) for key, label in _KNOWN.items() if isinstance(evaluation.get(key), (int, float))]
    figures = "".join(f'<div class="figure"><b>{number(float(v))}</b><span>{label}</span></div>' for label, v in heads)
    out = f'<div class="figures">{figures}</div>' if figures else ""
    per_class = evaluation.get("iou_per_class")
    if isinstance(per_class, Mapping) and per_class:
        rows = [[text(names.get(str(c), c), 120), f"{bar(_real(v))} {number(_real(v))}"] for c, v in per_class.items()]
        out += "<h4>Intersection over union by class</h4>" + table(["Class", "IoU"], rows)
    out += _confusion(evaluation.get("confusion"), names)
    done = {*_KNOWN, "iou_per_class", "confusion", "class_names"}
    rest = [[text(n, 120), text(v, 300)] for n, v in flatten({k: v for k, v in evaluation.items() if k not in done})]
    if rest:
        out += f"<details><summary>Matching and the rest</summary>{table(['Name', 'Value'], rest)}</details>"
    return out


def _real(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _confusion(value: Any, names: Mapping[str, str]) -> str:
    """The matrix with truth in rows; nothing when it is not one."""
    pixels = np.asarray(value.get("pixels", [])) if isinstance(value, Mapping) else np.zeros(0)
    if pixels.ndim != 2 or not np.issubdtype(pixels.dtype, np.number):
        return ""
    true, predicted = (
        ["no class" if c is None else names.get(str(c), str(c)) for c in value.get(key, range(count))]
        for key, count in (("columns_true", pixels.shape[1]), ("rows_predicted", pixels.shape[0]))
    )
    return "<h4>Confusion: where the pixels of each true class went</h4>" + confusion_table(pixels.T.tolist(), true, predicted)
