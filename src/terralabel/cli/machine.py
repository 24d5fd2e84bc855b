"""Verbs about this machine: models, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["doctor", "models"]

models = typer.Typer(help="Weights: list what is known and here, pull, check a file.", no_args_is_help=True)


@models.command("list")
def models_list() -> int:
    """Every known checkpoint: name, licence, whether it is on this machine.

    Example: `terralabel models list`
    """
    from terralabel.nets.weights import models_table

    print(models_table())
    return 0


@models.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(help="A name from `models list`.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="Take this file, fetched elsewhere, instead of downloading.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network; say what to fetch.")] = False,
) -> int:
    """Put a checkpoint into the cache, checked by sha256.

    Example: `terralabel models pull sam_vit_b --file ~/Downloads/sam_vit_b_01ec64.pth`
    """
    from terralabel.nets.weights import pull

    print(pull(name, from_file=file, offline=offline))
    return 0


@models.command("check")
def models_check(file: Annotated[Path, typer.Argument(help="A checkpoint file.")]) -> int:
    """Say what a weights file is, without running anything in it; exit code 1 when it is unusable.

    Example: `terralabel models check weights.safetensors`
    """
    from terralabel.nets.weights import check

    print(check(file))
    return 0


def doctor() -> int:
    """Check this machine: versions, memory, disk, optional packages, GPU, GDAL drivers. Exit code 1 when something is broken.

    Example: `terralabel doctor`
    """
    from terralabel.cli.checkup import checkup

    text, healthy = checkup()
    print(text)
    return 0 if healthy else 1
