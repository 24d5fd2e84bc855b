"""The cells of an experiment and the file of their results: a row a cell, the file whole at every moment."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from terralabel.core.files import write_text
from terralabel.errors import RunError
from terralabel.recipes.experiment.config import DataSpec, Experiment, LabelSpec, Start
from terralabel.recipes.settings import stored as stored_labelling
from terralabel.runs.folder import digest
from terralabel.train.segmentation.settings import stored

__all__ = ["Cell", "Ledger", "Row", "annotation_digest", "cells_of", "data_digest", "label_digest", "pretraining_digest"]

_COLUMNS = (
    "data", "network", "start", "images", "seed", "status", "miou", "miou_without", "macc", "mf1", "boundary_f",
    "pixel_accuracy", "tested_on", "seconds", "convention", "left_out", "reason", "digest",
)  # fmt: skip
_NUMBERS = ("miou", "miou_without", "macc", "mf1", "boundary_f", "pixel_accuracy", "tested_on", "seconds")
#: Before the name of a class: the columns of IoU.
_IOU = "IoU "


@dataclass(frozen=True)
class Cell:
    """One network: its data set, its start, how many images it is fine-tuned on (0: all), the seed.

    `digest` covers every setting that made it, so that a row of other settings is never taken for its result.
    """

    data: str
    network: str
    start: Start
    images: int
    seed: int
    digest: str

    @property
    def name(self) -> str:
        """For people and for folders."""
        words = [self.data, self.network, self.start.name, f"{self.images or 'all'} images", f"seed {self.seed}"]
        return ", ".join(words)


@dataclass(frozen=True)
class Row:
    """What came out of a cell. `status` is "done" or "failed", with the `reason`; `measures` and `iou` (by class) are shares."""

    data: str
    network: str
    start: str
    images: int
    seed: int
    status: str
    digest: str
    measures: Mapping[str, float] = field(default_factory=dict)
    iou: Mapping[str, float] = field(default_factory=dict)
    convention: str = ""
    left_out: str = ""
    reason: str = ""


def cells_of(experiment: Experiment) -> Iterator[Cell]:
    """All cells, one seed after the other, so that the whole table stands after the first."""
    grid = product(experiment.seeds, experiment.on, experiment.networks, experiment.starts, experiment.images)
    for seed, data, network, start, images in grid:
        made = {
            "data": data_digest(experiment, data),
            "network": network,
            "trained": experiment.tiny_network or network,
            "start": [pretraining_digest(experiment, network, start, seed), start.load] if start.on else [],
            "images": images,
            "few": experiment.few,
            "seed": seed,
            "finetune": stored(experiment.finetune),
            "predict": stored(experiment.predict),
            **({"learns": [start.learns, annotation_digest(experiment, data, seed)]} if start.learns else {}),
        }
        yield Cell(data, network, start, images, seed, digest(made))


def pretraining_digest(experiment: Experiment, network: str, start: Start, seed: int) -> str:
    """Names the last pre-training of a start: equal where cells share one, whatever they load of it."""
    seed = experiment.pretrain.seed if experiment.shared_pretraining else seed
    labels = [label_digest(experiment, name) for name in start.on]
    between = start.between if len(start.on) > 1 else ""
    used = experiment.tiny_network or network
    return digest([labels, between, start.steps, used, seed, experiment.few, {**stored(experiment.pretrain), "seed": seed}])


def annotation_digest(experiment: Experiment, data: str, seed: int) -> str:
    """Names a split of a data set, the model that learned from its few labels, and what that made of the rest."""
    annotation = experiment.annotate
    apply = {**stored(annotation.apply), "promise": annotation.apply.promise, "review": annotation.apply.review}
    made = [annotation.share, stored(annotation.fit), apply, experiment.data[data].background]
    return digest([data_digest(experiment, data), seed, made])


def label_digest(experiment: Experiment, name: str) -> str:
    """Names a label set by all that makes it."""
    spec: LabelSpec = experiment.labels[name]
    own = {k: v for k, v in asdict(spec).items() if k not in ("settings", "where")}
    data = data_digest(experiment, spec.of) if spec.of else ""
    return digest([own, stored_labelling(spec.settings), data])


def data_digest(experiment: Experiment, name: str) -> str:
    """Names the images and labels of a data set by what the file says of them."""
    spec: DataSpec = experiment.data[name]
    return digest([{k: v for k, v in asdict(spec).items() if k not in ("where", "leave_out", "background")}, experiment.few])


class Ledger:
    """`cells.csv`: kept whole by writing it anew and renaming it, a row a cell, the latest result of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {row.digest: row for row in _read(path)} if path.is_file() else {}

    def add(self, row: Row) -> None:
        """Write a result; one of the same cell is replaced."""
        self.rows.pop(row.digest, None)
        self.rows[row.digest] = row
        write_text(self.path, _text(list(self.rows.values())))

    def done(self, cell: Cell) -> bool:
        """Whether the cell has a result; one that failed has none."""
        row = self.rows.get(cell.digest)
        return row is not None and row.status == "done"


def _text(rows: Sequence[Row]) -> str:
    classes = list(dict.fromkeys(name for row in rows for name in row.iou))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_COLUMNS, *(_IOU + name for name in classes)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = {k: v for k, v in vars(row).items() if k not in ("measures", "iou")}
        plain["reason"] = " ".join(row.reason.split())
        numbers = {k: _shown(v) for k, v in row.measures.items()} | {_IOU + k: _shown(v) for k, v in row.iou.items()}
        writer.writerow({**plain, **numbers})
    return out.getvalue()


def _shown(value: float) -> str:
    """Empty for what does not exist."""
    return "" if math.isnan(value) else f"{value:.6g}"


def _read(path: Path) -> list[Row]:
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return [_row(found) for found in csv.DictReader(handle)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(
            f"{path} is no ledger of an experiment ({type(error).__name__}: {error}): mend it, or move it away to measure all anew."
        ) from error


def _row(found: Mapping[str, str]) -> Row:
    words = {name: found[name] for name in ("data", "network", "start", "status", "digest", "convention", "left_out", "reason")}
    measures = {name: _number(found[name]) for name in _NUMBERS}
    iou = {name.removeprefix(_IOU): float(text) for name, text in found.items() if name.startswith(_IOU) and text}
    return Row(**words, images=int(found["images"]), seed=int(found["seed"]), measures=measures, iou=iou)


def _number(text: str) -> float:
    return float(text) if text else math.nan
