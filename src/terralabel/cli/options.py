"""A settings dataclass as command-line options: one flag per field, with its sentence."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from terralabel.core.settings import coerce, from_mapping, sentence
from terralabel.errors import SettingsError

__all__ = ["Quiet", "gather", "with_settings"]

#: The flag of every command that takes long.
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def with_settings(owner: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: replace the function's `**flags` by one option per field of `owner`.

    A flag that is not given stays out of `flags` (so that a settings file may decide), whatever the field's default.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [_parameter(item) for item in dataclasses.fields(owner)]

        def command(**values: Any) -> Any:
            return function(**values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return command

    return decorate


def _parameter(item: dataclasses.Field[Any]) -> inspect.Parameter:
    default = item.default
    if isinstance(default, bool):
        kind: Any = bool | None
        flag = f"--{item.name.replace('_', '-')}/--no-{item.name.replace('_', '-')}"
    else:
        kind = str | None  # text here, cast and checked by `core.settings` so that every door gives the same messages
        flag = f"--{item.name.replace('_', '-')}"
    text = f"{sentence(item)} [default: {_shown(default)}]"
    option = typer.Option(
        flag, help=text, rich_help_panel=item.metadata.get("group") or None, show_default=False, metavar=_metavar(item)
    )
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    return f"{default:.4g}" if isinstance(default, float) else str(default)


def _metavar(item: dataclasses.Field[Any]) -> str | None:
    if isinstance(item.default, bool):
        return None
    return {int: "N", float: "X"}.get(type(item.default), "TEXT")


def gather(owner: type, flags: Mapping[str, Any], config: Path | None) -> Any:
    """The settings: defaults, overridden by the file, overridden by flags."""
    values, doubtful = _from_file(owner, config) if config is not None else ({}, [])
    for name, value in flags.items():
        if value is not None:
            values[name] = coerce(owner, name, value, "--")
    try:
        return owner(**values)
    except SettingsError as error:
        raise SettingsError(f"{doubtful[0] if doubtful else ''}{error}") from error


def _from_file(owner: type, config: Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a settings file; and "FILE:LINE: " of those that go badly with the defaults of others.

    These may be settled by another line or a flag (a large overlap with large tiles, say).
    """
    from terralabel.runs.config import read_config

    values: dict[str, Any] = {}
    doubtful: list[str] = []
    for name, (value, where) in read_config(config).items():
        try:
            values[name] = getattr(from_mapping(owner, {name: value}, where), name)
        except SettingsError as error:
            if str(error).startswith(where):
                raise
            values[name] = coerce(owner, name, value, where)
            doubtful.append(where)
    return values, doubtful
