"""How a labelled folder is read, as command-line options: the same for every verb that takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.classes import ids

__all__ = ["with_reading"]


def _options(
    format: Annotated[
        str, typer.Option("--format", "-f", help="Layout of the labelled folder; auto: the one it has.")
    ] = "auto",
    classes: Annotated[Path | None, typer.Option("--classes", help="Class map JSON in place of the folder's own.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Folder (or COCO file) of labels that lies elsewhere than beside the images."),
    ] = None,
    ignore: Annotated[
        str, typer.Option("--ignore", help="Stored values that mean 'no label', comma-separated (plain folders).")
    ] = "",
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="Labels are grey masks: class 1 where at least this, else 0 (plain folders)."),
    ] = None,
    binary: Annotated[
        bool,
        typer.Option("--binary", help="Two classes only: whether a pixel has a label or none (of a run: a mask or none)."),
    ] = False,
) -> dict[str, Any]:
    """The keywords of `imagery.datasets.open_labelled`."""
    given = {"format": format, "classes": classes, "labels": labels, "ignore": ids(ignore), "threshold": threshold}
    return {**given, "binary": binary}


def with_reading(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: replace the function's `reading` by the options of how its labelled folder is read."""
    own = inspect.signature(function, eval_str=True).parameters
    asked = inspect.signature(_options, eval_str=True).parameters

    def command(**values: Any) -> Any:
        reading = _options(**{name: values.pop(name) for name in asked})
        return function(**values, reading=reading)

    kept = [parameter for name, parameter in own.items() if name != "reading"]
    plain = [parameter for parameter in kept if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = kept[len(plain) :]
    added = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in asked.values()]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature([*plain, *added, *rest])  # type: ignore[attr-defined]
    return command
