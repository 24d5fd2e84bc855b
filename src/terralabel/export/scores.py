"""The scores section of the report, from what `terralabel evaluate labels --json` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from terralabel.export.markup import bar, confusion_table, flatten, number, table, text

__all__ = ["scores_section"]

_KNOWN = {
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "ari": "adjusted Rand index",
    "nmi": "normalised mutual information",
    "purity": "purity",
    "boundary_f": "boundary F",
}


def scores_section(evaluation: Mapping[str, Any]) -> str:
    """HTML of whole-run scores, IoU per class, the confusion matrix, and how clusters were matched.

    Reads `miou`, `iou_per_class` (mapping or list), `ari`, `nmi`, `purity`, `boundary_f`, `confusion` (a matrix, truth in
    rows, or a mapping with `matrix` and names) and `matching`; other keys follow as they are, missing ones are left out.
    """
    names = _class_names(evaluation)
    heads = [(label, evaluation[key]) for key, label in _KNOWN.items() if isinstance(evaluation.get(key), (int, float))]
    figures = "".join(f'<div class="figure"><b>{number(float(v))}</b><span>{label}</span></div>' for label, v in heads)
    out = f'<div class="figures">{figures}</div>' if figures else ""
    per_class = [(text(n, 120), v) for n, v in _per_class(evaluation.get("iou_per_class"), names)]
    if per_class:
        rows = [[n, f"{bar(float(v))} {number(float(v))}" if isinstance(v, (int, float)) else "n/a"] for n, v in per_class]
        out += "<h4>Intersection over union by class</h4>" + table(["Class", "IoU"], rows)
    out += _confusion(evaluation.get("confusion"), names)
    done = {*_KNOWN, "iou_per_class", "confusion", "confusion_matrix", "classes", "class_names"}
    rest = [[text(n, 120), text(v, 300)] for n, v in flatten({k: v for k, v in evaluation.items() if k not in done})]
    if rest:
        out += f"<details><summary>Matching and the rest</summary>{table(['Name', 'Value'], rest)}</details>"
    return out


def _class_names(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Class id, as text, -> name, from `classes` or `class_names` where they are given."""
    given = evaluation.get("class_names", evaluation.get("classes"))
    if isinstance(given, Mapping):
        return {str(key): str(value) for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        entries = [(c.get("id", i), c.get("name", i)) if isinstance(c, Mapping) else (i, c) for i, c in enumerate(given)]
        return {str(key): str(value) for key, value in entries}
    return {}


def _per_class(values: Any, names: Mapping[str, str]) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, (list, tuple)):
        pairs = [(str(index), value) for index, value in enumerate(values)]
    else:
        return []
    return [(names.get(key, key), value) for key, value in pairs]


def _is_matrix(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(row, (list, tuple)) and all(isinstance(v, (int, float)) for v in row) for row in value)
    )


def _confusion(value: Any, names: Mapping[str, str]) -> str:
    rows: Sequence[Any] | None = None
    columns: Sequence[Any] | None = None
    if isinstance(value, Mapping):
        rows = value.get("truth", value.get("rows", value.get("labels")))
        columns = value.get("predicted", value.get("columns", rows))
        value = value.get("matrix")
    if not _is_matrix(value):
        return ""
    row_names = [str(r) for r in rows] if rows else [str(i) for i in range(len(value))]
    column_names = [str(c) for c in columns] if columns else [str(i) for i in range(len(value[0]))]
    row_names, column_names = ([names.get(n, n) for n in side] for side in (row_names, column_names))
    return "<h4>Confusion: where the pixels of each true class went</h4>" + confusion_table(value, row_names, column_names)
