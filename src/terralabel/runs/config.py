"""Settings files: strict YAML, with the file and line in every complaint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from terralabel.errors import SettingsError

__all__ = ["read_config"]

_LARGEST = 1_000_000  # bytes; a settings file is a few lines


def read_config(path: Path) -> dict[str, tuple[Any, str]]:
    """Top-level keys of a YAML file as key -> (value, "FILE:LINE: ").

    Plain scalars and lists only: aliases (and so alias bombs), tags, duplicate keys and nested maps are refused with
    the line. Keys may be written with - or _.
    """
    import yaml

    if path.exists() and not (path.is_file() or path.is_dir()):
        raise SettingsError(f"Cannot read {path}: it is not a file. Give --config a YAML file.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"Cannot read {path}: {error.strerror}. Give --config a YAML file.") from error
    if len(raw) > _LARGEST:
        raise SettingsError(f"{path} is {len(raw):,} bytes; a settings file has at most {_LARGEST:,}.")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8.") from error
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)):
                raise SettingsError(
                    f"{path}:{token.start_mark.line + 1}: aliases, anchors and tags are not allowed; write the value out."
                )
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SettingsError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML ({problem}).") from error
    except RecursionError as error:
        raise SettingsError(f"{path}:1: not valid YAML (brackets nested too deep).") from error
    return _top_level(path, root)


def _top_level(path: Path, root: Any) -> dict[str, tuple[Any, str]]:
    import yaml

    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{path}:{root.start_mark.line + 1}: expected `setting: value` lines.")
    out: dict[str, tuple[Any, str]] = {}
    constructor = yaml.SafeLoader("")
    for key_node, value_node in root.value:
        where = f"{path}:{key_node.start_mark.line + 1}: "
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{where}expected `setting: value` lines.")
        key = str(key_node.value).replace("-", "_")
        if key in out:
            raise SettingsError(f"{where}{key!r} is set twice (first at {out[key][1].rstrip(': ')}).")
        if isinstance(value_node, yaml.MappingNode):
            raise SettingsError(f"{where}{key!r} has settings inside it; expected one value or a list.")
        try:
            out[key] = (constructor.construct_object(value_node, deep=True), where)
        except (yaml.YAMLError, ValueError) as error:
            raise SettingsError(f"{where}{key!r} has a value that cannot be read ({str(error).splitlines()[0]}).") from error
    return out
