"""A grid of trainings: networks from many starts, fine-tuned and tested, in one table beside what was published.

Every cell goes through the recipes that the verbs use: labels by `label` or `detect-label`, `pretrain`, `finetune`, `predict`,
and the comparison with the truth. Label sets and pre-trainings are shared by all cells that need them.
"""

from __future__ import annotations

import shutil
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from terralabel.core.files import write_text
from terralabel.errors import RunError, SettingsError, SpaceError, TerraLabelError
from terralabel.recipes.experiment.config import Experiment, read_experiment, rehearsal
from terralabel.recipes.experiment.ledger import Cell, Ledger, Row, cells_of
from terralabel.recipes.experiment.stages import Stages
from terralabel.recipes.experiment.table import write_tables
from terralabel.recipes.training import needs_torch
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress, Silent

__all__ = ["ExperimentResult", "experiment_plan", "run_experiment"]

#: What a folder of an experiment may hold of its own.
_OWN = ("cells.csv", "experiment.yaml", "table.md", "table.csv", "table.tex", "chart.png", "data", "labels", "annotated", "pretrained", "work",
        "truth", "failures", ".lock")  # fmt: skip
_SCALES = ("full", "tiny")


@dataclass(frozen=True)
class ExperimentResult:
    """An experiment that was gone through: its folder, a row for each cell in the order of the grid, and the table."""

    path: Path
    rows: tuple[Row, ...]
    table: str

    @property
    def failures(self) -> tuple[Row, ...]:
        """The cells that failed, with their reasons."""
        return tuple(row for row in self.rows if row.status == "failed")

    @property
    def text(self) -> str:
        """What the command prints at the end."""
        lines = [self.table, f"{len(self.rows) - len(self.failures)} of {len(self.rows)} cells done: {self.path / 'cells.csv'}"]
        lines += [f"failed  {row.data}, {row.network}, {row.start}, seed {row.seed}: {row.reason}" for row in self.failures]
        lines.append(f"table   {self.path / 'table.md'}, table.csv, table.tex")
        lines += [f"chart   {self.path / 'chart.png'}"] if len(self.failures) < len(self.rows) else []
        return "\n".join(lines)


def run_experiment(
    config: str | Path,
    out: str | Path,
    *,
    data: str | Path = ".",
    scale: str = "full",
    keep: bool = False,
    progress: Progress | None = None,
) -> ExperimentResult:
    """Go through the grid of a YAML file and write its table; goes on where it stopped.

    `data`: the folder that the file's folders lie in. `scale`: "full", or "tiny": a rehearsal in seconds, with a tiny network, 2 steps
    and 4 images a split, whose figures mean nothing. `keep`: keep the fine-tuned networks and their predictions. `out` gets cells.csv, table.md,
    table.csv, table.tex and chart.png. A cell that is done is never done again; one that fails is a row with its reason, is tried
    again the next time, and the others go on. Raises `SettingsError` for mistakes in the file, with file and line.

        >>> from pathlib import Path
        >>> import terralabel as tl
        >>> scenes = "data: {scenes: {painted: 4, side: 96, hold_out: 0.25}}"
        >>> _ = Path("grid.yaml").write_text(f"{scenes}\\nnetworks: [upernet-r18]\\nseeds: [0, 1, 2]")
        >>> result = tl.run_experiment("grid.yaml", "measured", scale="tiny")
        >>> [(row.network, row.start, row.status) for row in result.rows]
        [('upernet-r18', 'none', 'done')]
    """
    needs_torch()
    progress, out = progress or Silent(), Path(out)
    experiment = _opened(config, scale)
    _made(out)
    with RunFolder(out).lock(progress.say):
        write_text(out / "experiment.yaml", Path(config).read_text(encoding="utf-8"))
        ledger, stages = Ledger(out / "cells.csv"), Stages(experiment, Path(data), out, progress)
        cells = list(cells_of(experiment))
        missing = [cell for cell in cells if not ledger.done(cell)]
        progress.say(f"{len(cells) - len(missing)} of {len(cells)} cells were done before")
        for number, cell in enumerate(missing, 1):
            progress.say(f"cell {number} of {len(missing)}: {cell.name}")
            row = _measured(cell, stages, keep)
            ledger.add(row)
            progress.say(f"failed: {row.reason}" if row.status == "failed" else f"mIoU {row.measures['miou']:.4f}")
            write_tables(experiment, _rows(cells, ledger), out)
        rows = _rows(cells, ledger)
        table = write_tables(experiment, rows, out)
    return ExperimentResult(out, rows, table)


def experiment_plan(config: str | Path, out: str | Path, *, scale: str = "full") -> str:
    """What `--dry-run` prints: the cells, which are done, and what they share; writes nothing."""
    experiment = _opened(config, scale)
    ledger, cells = Ledger(Path(out) / "cells.csv"), list(cells_of(experiment))
    lines = [f"{'done' if ledger.done(cell) else 'to do':6s}{cell.name}" for cell in cells]
    used = {(cell.network, cell.start.on, cell.start.between, cell.start.steps, cell.seed) for cell in cells if cell.start.on}
    pretrainings = {(*key[:4], 0) for key in used} if experiment.shared_pretraining else used
    labels = sorted({name for cell in cells for name in cell.start.on})
    done = sum(ledger.done(cell) for cell in cells)
    lines.append(
        f"{len(cells)} cells, {done} done; {len(pretrainings)} pre-trainings on labels {', '.join(labels) or '(none)'}"
    )
    return "\n".join(lines)


def _opened(config: str | Path, scale: str) -> Experiment:
    if scale not in _SCALES:
        raise SettingsError(f"scale: expected {' or '.join(_SCALES)}; got {scale!r}.")
    experiment = read_experiment(config)
    return rehearsal(experiment) if scale == "tiny" else experiment


def _made(out: Path) -> None:
    """The folder; one with files of something else in it is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = sorted(p.name for p in out.iterdir() if p.name not in _OWN and not p.name.startswith(".tmp-"))
    except OSError as error:
        raise RunError(f"{out} cannot be made a folder: {error.strerror}.") from error
    if foreign and not (out / "experiment.yaml").exists():
        raise RunError(f"{out} is not empty and no experiment (it holds {foreign[0]!r}): give a new or an empty folder.")


def _rows(cells: list[Cell], ledger: Ledger) -> tuple[Row, ...]:
    """Those of this experiment; rows of other settings stay in the file, and out of the table."""
    return tuple(ledger.rows[cell.digest] for cell in cells if cell.digest in ledger.rows)


def _measured(cell: Cell, stages: Stages, keep: bool) -> Row:
    """The row of one cell, whatever becomes of it; only a full disk ends the whole, as it would end all others."""
    row = Row(cell.data, cell.network, cell.start.name, cell.images, cell.seed, "failed", cell.digest)
    began = time.monotonic()
    work = stages.out / "work" / cell.digest
    try:
        found = stages.measure(cell, work)
    except SpaceError:
        raise
    except TerraLabelError as error:
        return replace(row, reason=str(error))
    except Exception as error:  # a bug or a device out of memory: the others may be well
        path = stages.out / "failures" / f"{cell.digest}.txt"
        write_text(path, f"{cell.name}\n\n{traceback.format_exc()}")
        return replace(row, reason=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} (see {path})")
    if not keep:
        shutil.rmtree(work, ignore_errors=True)
    measures = {**found.measures, "seconds": round(time.monotonic() - began, 1)}
    return replace(row, status="done", measures=measures, iou=found.iou, convention=found.convention, left_out=found.left_out)
