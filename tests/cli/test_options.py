"""Settings as flags: defaults, a YAML file over them, flags over both; the same messages through every door."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from terralabel.cli.main import app
from terralabel.cli.options import gather, with_settings
from terralabel.core.settings import setting
from terralabel.errors import SettingsError
from terralabel.recipes.settings import LabelSettings

Say = Callable[..., Any]
LABEL = typer.main.get_command(app).commands["label"]  # type: ignore[attr-defined]
FLAGS = {parameter.name: parameter for parameter in LABEL.params}


@dataclasses.dataclass(frozen=True)
class Few:
    """Settings of a test."""

    size: int = setting(3, "How large.", low=1)
    share: float = setting(1 / 3, "How much.")
    deep: bool = setting(False, "Whether deep.")
    colors: tuple[int, ...] | None = setting(None, "Which colours.")


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a settings file."""

    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("field", dataclasses.fields(LabelSettings), ids=lambda field: field.name)
def test_every_setting_is_a_flag_with_sentence_and_default(field: dataclasses.Field[Any]) -> None:
    flag = FLAGS[field.name]
    assert flag.opts == [f"--{field.name.replace('_', '-')}"]
    assert field.metadata["help"] in flag.help and "[default: " in flag.help
    assert flag.default is None, "a flag that is not given leaves the word to the settings file"
    for choice in field.metadata["choices"] or ():
        assert choice in flag.help


def test_help_shows_the_defaults(say: Say) -> None:
    text = " ".join(say("label", "--help").out.replace("│", " ").split())
    for shown in ("[default: 1024]", "[default: 0.3]", "[default: none]", "[default: 0.3413]", "--no-transductive"):
        assert shown in text


def test_a_decorated_function_takes_one_keyword_per_field() -> None:
    @with_settings(Few)
    def command(out: Path, **flags: Any) -> dict[str, Any]:
        """Says what it was given."""
        return flags

    assert list(inspect.signature(command).parameters) == ["out", "size", "share", "deep", "colors"]
    assert command.__doc__ == "Says what it was given."
    assert command(out=Path("x"), size="4", deep=None) == {"size": "4", "deep": None}


def test_defaults_then_file_then_flags(config: Callable[[str], Path]) -> None:
    path = config("size: 5\nshare: .5\n")
    assert gather(Few, {}, None) == Few()
    assert gather(Few, {}, path) == Few(size=5, share=0.5)
    assert gather(Few, {"size": "7", "share": None}, path) == Few(size=7, share=0.5)


@pytest.mark.parametrize("given", ["4,3,2", "4, 3,2"])
def test_a_list_is_comma_separated(given: str) -> None:
    assert gather(Few, {"colors": given}, None).colors == (4, 3, 2)


@pytest.mark.parametrize("text", ["colors: [4, 3, 2]", "colors: 4,3,2", "colors:\n  - 4\n  - 3\n  - 2"])
def test_a_list_in_a_file(config: Callable[[str], Path], text: str) -> None:
    assert gather(Few, {}, config(text)).colors == (4, 3, 2)


def test_a_switch_can_be_turned_off_over_the_file(config: Callable[[str], Path]) -> None:
    path = config("deep: true")
    assert gather(Few, {"deep": None}, path).deep and not gather(Few, {"deep": False}, path).deep
    assert FLAGS["transductive"].secondary_opts == ["--no-transductive"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("size: 5\nsise: 4", 2, "unknown setting 'sise'. Did you mean 'size'?"),
        ("size: many", 1, "expected a whole number; got 'many'"),
        ("share: 1\nsize: 0", 2, "expected at least 1; got 0"),
        ("deep: perhaps", 1, "expected true or false; got 'perhaps'"),
    ],
)
def test_a_wrong_line_is_named(config: Callable[[str], Path], text: str, line: int, says: str) -> None:
    path = config(text)
    with pytest.raises(SettingsError) as error:
        gather(Few, {}, path)
    assert str(error.value).startswith(f"{path}:{line}: ") and says in str(error.value)
    assert str(error.value).count(str(path)) == 1


def test_a_wrong_flag_is_named_as_typed() -> None:
    with pytest.raises(SettingsError, match=r"^--size: expected at least 1; got 0\.$"):
        gather(Few, {"size": "0"}, None)


def test_the_command_takes_file_and_flags(say: Say, painted: Path, config: Callable[[str], Path], tmp_path: Path) -> None:
    words = ["label", painted / "images", "--out", tmp_path / "run", "--dry-run", "--config", config("clusters: 5\nworkers: 3")]
    said = say(*words)
    assert said.code == 0 and "clusters 5, 3 workers" in said.out and not (tmp_path / "run").exists()
    assert "clusters 7, 3 workers" in say(*words, "--clusters", "7", "--no-transductive", "--bands", "3,2,1").out
