"""Verbs about segmentation networks: networks list."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["networks"]

networks = typer.Typer(help="Segmentation networks: what there is to train.", no_args_is_help=True)


@networks.callback()
def _group() -> None:
    """Segmentation networks: what there is to train."""


@networks.command("list")
def networks_list(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAMES", help="Networks, also smp:ARCHITECTURE:ENCODER and timm:MODEL; without any, the catalogue."
        ),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes to count for.")] = 16,
    bands: Annotated[int, typer.Option("--bands", min=1, help="Bands to count for.")] = 3,
    size: Annotated[int, typer.Option("--size", min=1, help="Side of the square image to count FLOPs for, in pixels.")] = 512,
) -> int:
    """Every network: parameters, FLOPs, input, how it is trained, who published it.

    Example: `terralabel networks list --size 896`
    """
    from terralabel.errors import MissingExtraError
    from terralabel.nets.segmentation import catalogue

    try:
        from terralabel.nets.segmentation.counting import networks_table
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("terralabel"):
            raise
        raise MissingExtraError(f"Networks need the package {error.name!r}: pip install 'terralabel[torch]'.") from error
    for line in networks_table(names or catalogue.names(), classes, bands, size):
        print(line, flush=True)
    return 0
