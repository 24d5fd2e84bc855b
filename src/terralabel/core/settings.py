"""Settings described once: a dataclass field with its sentence gives the Python argument, the CLI flag and the YAML key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields
from functools import lru_cache
from typing import Any

from terralabel.errors import SettingsError

__all__ = ["changed", "coerce", "from_mapping", "like", "sentence", "setting"]


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    results: bool = True,
    group: str = "",
) -> Any:
    """A dataclass field that is a setting.

    `help` is its one sentence; `low` and `high` are inclusive bounds; `results` is False for settings that change how
    fast or where something runs but not one byte of what comes out; `group` is the heading it stands under in --help.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "results": results, "group": group}
    return field(default=default, metadata=metadata)


def like(owner: type, name: str, default: Any = MISSING) -> Any:
    """A dataclass field that is the setting `name` of another dataclass: same sentence, bounds and group, perhaps another default."""
    item = next(f for f in fields(owner) if f.name == name)
    return field(default=item.default if default is MISSING else default, metadata=dict(item.metadata))


def sentence(item: dataclasses.Field[Any]) -> str:
    """The sentence of a setting, with its choices."""
    choices = item.metadata.get("choices")
    return item.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")


@lru_cache(maxsize=64)
def _types(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def coerce(owner: type, name: str, value: Any, where: str = "") -> Any:
    """`value` as the type of setting `name`, checked against its choices and bounds; `SettingsError` in the user's words."""
    item = next(f for f in fields(owner) if f.name == name)
    label = f"{where}{name}"
    value = _cast(_types(owner)[name], value, label)
    choices, low, high = (item.metadata.get(k) for k in ("choices", "low", "high"))
    if choices and value is not None and str(value) not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"{label}: expected one of {', '.join(choices)}; got {value!r}.{hint}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if low is not None and value < low:
            raise SettingsError(f"{label}: expected at least {low:g}; got {value:g}.")
        if high is not None and value > high:
            raise SettingsError(f"{label}: expected at most {high:g}; got {value:g}.")
    return value


def _cast(kind: Any, value: Any, label: str) -> Any:
    options = (
        list(typing.get_args(kind)) if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union else [kind]
    )
    if value is None:
        if type(None) in options:
            return None
        raise SettingsError(f"{label}: expected {_kind_name(kind)}; got nothing.")
    for option in options:
        if option is not type(None):
            cast = _cast_one(option, value)
            if cast is not _NO:
                return cast
    raise SettingsError(f"{label}: expected {_kind_name(kind)}; got {value!r}.")


_NO = object()


def _cast_one(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            value = [value]
        parts = [_cast_one(typing.get_args(kind)[0], part) for part in value]
        return _NO if any(part is _NO for part in parts) else tuple(parts)
    if kind is bool:
        return value if isinstance(value, bool) else _NO
    if isinstance(value, bool):
        return _NO
    try:
        if kind is int:
            return (
                int(value)
                if isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())
                else _NO
            )
        if kind is float:
            number = float(value)
            return number if math.isfinite(number) else _NO
    except (TypeError, ValueError):
        return _NO
    if kind is str and isinstance(value, (str, int)):  # `clusters: 16` in YAML or Python means the text "16"
        return str(value)
    return _NO


def _kind_name(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return " or ".join(words.get(o, "a comma-separated list") for o in options)


def from_mapping(owner: type, values: Mapping[str, Any], where: str = "") -> Any:
    """A settings dataclass from plain values; unknown names raise `SettingsError` with the nearest known one.

    `where` (a file name and line, say) stands before the name in messages.
    """
    known = {f.name for f in fields(owner)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(known))}."
            raise SettingsError(f"{where}unknown setting {name!r}.{hint}")
    return owner(**{name: coerce(owner, name, value, where) for name, value in values.items()})


def changed(old: Mapping[str, Any], new: Any) -> list[str]:
    """Which result-changing settings of `new` (a settings dataclass) differ from `old` (as stored): "tau: 0.3 -> 0.5"."""
    out = []
    for item in fields(new):
        if not item.metadata.get("results", True):
            continue
        value = getattr(new, item.name)
        value = list(value) if isinstance(value, tuple) else value
        default = item.default if item.default is not MISSING else None
        before = old.get(item.name, list(default) if isinstance(default, tuple) else default)
        if before != value:
            out.append(f"{item.name}: {before} -> {value}")
    return out
