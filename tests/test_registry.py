"""Names, arguments and missing packages."""

from __future__ import annotations

import ast
import importlib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from terralabel import registry
from terralabel.errors import MissingExtraError, SettingsError


class Plain:
    def __init__(self, size: int = 1) -> None:
        self.size = size


class Named(Plain):
    def __init__(self, argument: str, size: int = 1) -> None:
        super().__init__(size)
        self.argument = argument


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings three backends by entry points, one of which needs what is not installed."""
    values = {"plain": f"{__name__}:Plain", "named": f"{__name__}:Named", "broken": "no_such_package.module:Factory"}
    entries = [EntryPoint(name, value, "terralabel.features") for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "terralabel.features" else [])
    monkeypatch.setattr(registry, "import_module", _import)


def _import(name: str) -> ModuleType | SimpleNamespace:
    """This test module goes by a name of pytest's own."""
    if name == __name__:
        return SimpleNamespace(Plain=Plain, Named=Named)
    return importlib.import_module(name)


def test_entry_points_and_built_ins_come_through_one_door() -> None:
    assert {"plain", "named", "pooled", "appearance"} <= set(registry.names("features"))
    assert registry.names("features") == sorted(registry.names("features"))
    assert registry.create("features", "plain", size=3).size == 3
    assert registry.create("features", "pooled").name == "pooled"


def test_a_name_may_carry_an_argument() -> None:
    made = registry.create("features", "named:resnet50:v2@/a/b.pth", size=2)
    assert (made.argument, made.size) == ("resnet50:v2@/a/b.pth", 2)
    with pytest.raises(SettingsError, match="'plain' takes no argument"):
        registry.create("features", "plain:x")
    with pytest.raises(SettingsError, match="named:ARGUMENT"):
        registry.create("features", "named")
    with pytest.raises(SettingsError, match="named:ARGUMENT"):
        registry.create("features", "named:")


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'appearance'"):
        registry.create("features", "apearance")
    with pytest.raises(SettingsError, match="Unknown features 'os'"):
        registry.create("features", "os:system")  # only entry points, never a module of the user's choice


def test_missing_packages_are_named() -> None:
    with pytest.raises(MissingExtraError, match="needs the package 'no_such_package'"):
        registry.create("features", "broken")


@pytest.mark.parametrize("kind", sorted(registry._BUILT_IN))
def test_built_ins_point_at_what_is_there(kind: str) -> None:
    source = Path(registry.__file__).parent
    for place in registry._BUILT_IN[kind].values():
        module, _, attribute = place.partition(":")
        file = source.joinpath(*module.split(".")[1:]).with_suffix(".py")
        defined = [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if hasattr(node, "name")]
        assert attribute in defined, place
