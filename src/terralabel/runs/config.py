"""Settings files: strict YAML, with the file and line in every complaint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terralabel.errors import SettingsError

__all__ = ["Node", "read_config", "read_tree"]

_LARGEST = 1_000_000  # bytes; a settings file is a few lines


def read_config(path: Path) -> dict[str, tuple[Any, str]]:
    """Top-level keys of a YAML file as key -> (value, "FILE:LINE: ").

    Plain scalars and lists only: aliases (and so alias bombs), tags, duplicate keys and nested maps are refused with
    the line. Keys may be written with - or _.
    """
    return _top_level(path, _compose(path))


@dataclass(frozen=True)
class Node:
    """A value of a settings file and its place: a plain value, a list of nodes, or a map of keys to nodes."""

    value: Any
    where: str

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, Mapping):
            return {key: node.plain for key, node in self.value.items()}
        return [node.plain for node in self.value] if isinstance(self.value, list) else self.value


def read_tree(path: Path) -> Node:
    """A YAML file whose settings may stand inside one another, as `Node`s; else as strict as `read_config`. Keys stay as written."""
    root = _compose(path)
    return Node({}, f"{path}:1: ") if root is None else _node(path, root)


def _node(path: Path, found: Any) -> Node:
    import yaml

    where = f"{path}:{found.start_mark.line + 1}: "
    if isinstance(found, yaml.SequenceNode):
        return Node([_node(path, item) for item in found.value], where)
    if not isinstance(found, yaml.MappingNode):
        try:
            return Node(yaml.SafeLoader("").construct_object(found, deep=True), where)
        except (yaml.YAMLError, ValueError) as error:
            raise SettingsError(f"{where}a value that cannot be read ({str(error).splitlines()[0]}).") from error
    out: dict[str, Node] = {}
    for key_node, value_node in found.value:
        place = f"{path}:{key_node.start_mark.line + 1}: "
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{place}expected `setting: value` lines.")
        key = str(key_node.value)
        if key in out:
            raise SettingsError(f"{place}{key!r} is set twice (first at {out[key].where.rstrip(': ')}).")
        out[key] = Node(_node(path, value_node).value, place)
    return Node(out, where)


def _compose(path: Path) -> Any:
    """The root of a YAML file, scanned and parsed, nothing constructed; None where it is empty."""
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
    return None if isinstance(root, yaml.ScalarNode) and root.value == "" else root


def _top_level(path: Path, root: Any) -> dict[str, tuple[Any, str]]:
    import yaml

    if root is None:
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
