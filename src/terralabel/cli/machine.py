"""Verbs about this machine: models, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    from terralabel.cli.progress import terminal_progress
    from terralabel.nets.weights import pull

    transfer = _Transfer(name, terminal_progress())
    try:  # None: the environment may still say offline
        report = pull(name, from_file=file, offline=offline or None, progress=transfer, say=transfer.shown.say)
    finally:
        transfer.finish()
    print(report)
    return 0


class _Transfer:
    """Bytes of a download on the terminal, in megabytes."""

    def __init__(self, name: str, shown: Any) -> None:
        self.name, self.shown = name, shown
        self.megabytes: int | None = None

    def __call__(self, done: int, whole: int | None) -> None:
        now = done // 1_000_000
        if self.megabytes is None:
            self.megabytes = now
            self.shown.start(self.name, max((whole or 0) // 1_000_000, now, 1), "MB", now)
        elif now > self.megabytes:
            self.shown.advance(now - self.megabytes)
            self.megabytes = now

    def finish(self) -> None:
        """The bar ends; nothing where nothing was fetched."""
        if self.megabytes is not None:
            self.shown.finish()


@models.command("check")
def models_check(
    file: Annotated[Path, typer.Argument(help="A checkpoint file, or a folder that transformers has saved.")],
) -> int:
    """Say what a weights file is and whether it is whole, without running anything in it; exit code 1 when it is unusable.

    Example: `terralabel models check weights.safetensors`
    """
    from terralabel.nets.inspection import inspect

    print(inspect(file))
    return 0


def doctor() -> int:
    """Check this machine: versions, memory, disk, optional packages, GPU, GDAL drivers. Exit code 1 when something is broken.

    Example: `terralabel doctor`
    """
    from terralabel.cli.checkup import checkup

    text, healthy = checkup()
    print(text)
    return 0 if healthy else 1
