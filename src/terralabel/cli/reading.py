"""How a labelled folder is read, as command-line options: the same for every verb that takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.cli.classes import ids
from terralabel.core.settings import sentence
from terralabel.recipes.drawn.settings import DrawnSettings

__all__ = ["with_reading"]


def _drawn(name: str, flag: str) -> Any:
    """The option of a setting of labels drawn in a GIS."""
    item = next(field for field in fields(DrawnSettings) if field.name == name)
    return typer.Option(flag, help=sentence(item), rich_help_panel="Labels drawn in a GIS", show_default=False)


def _options(
    format: Annotated[
        str, typer.Option("--format", "-f", help="Layout of the labelled folder; auto: the one it has.")
    ] = "auto",
    classes: Annotated[Path | None, typer.Option("--classes", help="Class map JSON in place of the folder's own.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Folder (or COCO file) of labels that lies elsewhere than beside the images; shapes drawn in a GIS; or a judged run, of which what was accepted or corrected counts.",
        ),
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
    class_field: Annotated[str | None, _drawn("class_field", "--class-field")] = None,
    rest: Annotated[str | None, _drawn("rest", "--rest")] = None,
    shapes: Annotated[str | None, _drawn("shapes", "--shapes")] = None,
    layer: Annotated[str | None, _drawn("layer", "--layer")] = None,
    prompt_masks: Annotated[str | None, _drawn("masks", "--prompt-masks")] = None,
) -> dict[str, Any]:
    """The keywords of `recipes.pretrain.opened`: of `imagery.datasets.open_labelled`, and "drawn" where any of those is given."""
    given = {"format": format, "classes": classes, "labels": labels, "ignore": ids(ignore), "threshold": threshold}
    asked = {"class_field": class_field, "rest": rest, "shapes": shapes, "layer": layer, "masks": prompt_masks}
    drawn = {name: value for name, value in asked.items() if value is not None}
    return {**given, "binary": binary, **({"drawn": drawn} if drawn else {})}


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
