"""The verb on grids of trainings: experiment run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terralabel.cli.options import Quiet

__all__ = ["experiment"]

experiment = typer.Typer(help="Grids of trainings, in one table beside what was published.", no_args_is_help=True)


@experiment.callback()
def _group() -> None:
    """Grids of trainings, in one table beside what was published."""


@experiment.command("run")
def experiment_run(
    config: Annotated[Path, typer.Argument(help="YAML file of the grid; configs/ has those of the paper.", metavar="CONFIG")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the experiment: made if new, gone on with if it is there.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder that the file's folders lie in.")] = Path(),
    scale: Annotated[
        str,
        typer.Option(
            "--scale", help="full, or tiny: a rehearsal in a minute, one tiny network, 2 steps, 4 images a split, masks tree."
        ),
    ] = "full",
    keep: Annotated[bool, typer.Option("--keep", help="Keep fine-tuned networks and their predictions (much space).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and which are done; do nothing.")] = False,
    quiet: Quiet = False,
) -> int:
    """Label, pre-train, fine-tune and test every cell of a grid; write tables and a chart. Exit code 2 when some cells failed.

    Goes on where it stopped: run the same command again. Cells that are done are not done again; those that failed are.

    Example: `terralabel experiment run configs/small.yaml --out measured`
    """
    from terralabel.cli.progress import terminal_progress
    from terralabel.recipes.experiment.grid import experiment_plan, run_experiment

    if dry_run:
        print(experiment_plan(config, out, scale=scale))
        return 0
    result = run_experiment(config, out, data=data, scale=scale, keep=keep, progress=terminal_progress(quiet))
    print(result.text)
    return 2 if result.failures else 0
