"""What a training says of itself in files: log.csv, and TensorBoard's where that is installed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from terralabel.core.files import space_error, write_text

__all__ = ["COLUMNS", "Log", "read_log"]

#: The columns of log.csv. `loss` is a mean over the steps since the line before; `accuracy` and `miou` are of one
#: of their batches, `val_miou` of the val split.
COLUMNS = ("step", "loss", "accuracy", "miou", "lr", "images_per_second", "val_miou", "val_accuracy")


class Log:
    """log.csv of a training. Lines after the step that a training goes on from are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "log.csv"
        rows = [row for row in read_log(self.path) if row["step"] <= step]
        write_text(self.path, _text(rows, header=True))
        self._board = _tensorboard(folder / "tensorboard", step)

    def add(self, row: dict[str, float]) -> None:
        """One more line; columns that `row` has not are empty."""
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as handle:
                handle.write(_text([row], header=False))
            for name, value in row.items():
                if self._board is not None and name != "step":
                    self._board.add_scalar(name, value, int(row["step"]))
        except OSError as error:
            raise (space_error(error, self.path) or error) from error

    def close(self) -> None:
        """No more lines."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.csv, without empty columns; a line that was cut off by a crash is left out."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as handle:
        found = []
        for row in csv.DictReader(handle):
            try:
                found.append({name: float(row[name]) for name in COLUMNS if row.get(name)})
            except ValueError:
                continue
    return [row for row in found if "step" in row and "loss" in row]


def _text(rows: list[dict[str, Any]], *, header: bool) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: _short(value) for name, value in row.items()})
    return out.getvalue()


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e9 else f"{value:.6g}"


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
