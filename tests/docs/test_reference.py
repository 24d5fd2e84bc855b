"""The reference pages are those that the code gives now, and every public name is explained and shown at work."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import terralabel
from terralabel import contracts, errors, testing
from terralabel.imagery.painter import write_demo
from terralabel.runs.engine import InlineEngine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------ reference pages


def test_the_pages_are_up_to_date(generate: ModuleType, tmp_path: Path) -> None:
    for fresh in generate.write(tmp_path):
        page = ROOT / "docs" / "reference" / fresh.name
        stale = not page.is_file() or page.read_text(encoding="utf-8") != fresh.read_text(encoding="utf-8")
        assert not stale, f"docs/reference/{fresh.name} is stale: run 'make docs'"


def test_the_pages_depend_on_the_code_alone(generate: ModuleType, tmp_path: Path) -> None:
    here = [path.read_bytes() for path in generate.write(tmp_path / "here")]
    wide = {"COLUMNS": "40", "TERM": "dumb", "LANG": "C", "PYTHONHASHSEED": "7", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, ROOT / "docs" / "generate.py", tmp_path / "there"]
    subprocess.run(command, check=True, capture_output=True, env=wide, cwd=tmp_path, timeout=60)
    assert here == [path.read_bytes() for path in sorted((tmp_path / "there").iterdir(), key=lambda p: p.name == "api.md")]
    for page in here:
        assert not re.search(rb"0x[0-9a-f]{6,}|/home/|/tmp/|\\x1b", page)


def test_every_command_and_option_is_there(generate: ModuleType) -> None:
    page = generate.cli_page()
    for words, command in generate.commands():
        section = page.partition(f"## {words}\n")[2].partition("\n## ")[0]
        for item in command.params:
            if item.param_type_name == "option":
                assert all(f"`{flag}`" in section for flag in (*item.opts, *item.secondary_opts)), f"{words} {item.name}"
    assert "| `--tau` | `0.3` |" in page and "| `--out`, `-o` | required |" in page


def test_every_public_name_is_there(generate: ModuleType) -> None:
    page = generate.api_page()
    for prefix, names in (
        ("tl", terralabel.__all__),
        ("terralabel.contracts", contracts.__all__),
        ("terralabel.errors", errors.__all__),
        ("terralabel.testing", testing.__all__),
    ):
        for name in names:
            assert f"### {prefix}.{name}\n" in page
    assert not re.search(r"^### .*\n\n```py\n.*\n```\n\n(?=###)", page, re.MULTILINE), "a name without a word about it"


def test_stale_pages_are_found(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = generate.api_page()
    monkeypatch.setattr(terralabel.open_run, "__doc__", "Something else.")
    assert generate.api_page() != before


# --------------------------------------------------------------------------------------------------------- public names


def test_public_names_are_in_step() -> None:
    assert terralabel.__all__ == sorted(terralabel.__all__) == sorted(terralabel._PUBLIC)
    assert set(terralabel.__all__) <= set(dir(terralabel))
    for name in terralabel.__all__:
        assert getattr(terralabel, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lable'; public names: AnnotateSettings, "):
        terralabel.__getattr__("lable")


def test_no_public_name_is_a_room() -> None:
    """Python binds a loaded room (`terralabel.export`) over a name of the package that is spelled the same."""
    rooms = {path.stem for path in (ROOT / "src" / "terralabel").iterdir()}
    assert not rooms & set(terralabel.__all__)


@pytest.mark.parametrize("module", [terralabel, contracts, errors, testing], ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: ModuleType) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert len((value.__doc__ or "").split()) >= 3, f"{module.__name__}.{name}"


FUNCTIONS = [name for name, place in terralabel._PUBLIC.items() if name[0].islower()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples work on: images/, truth/, a finished run/, and corrected.gpkg, which was exported from it."""
    folder = tmp_path_factory.mktemp("workplace")
    write_demo(folder, seed=2, scenes=1, size=128)
    run = terralabel.label(folder / "images", folder / "run", clusters=12, workers=0)
    (exported,) = [path for path in terralabel.export_run(run, ["geopackage"], folder / "gpkg") if path.suffix == ".gpkg"]
    shutil.copy(exported, folder / "corrected.gpkg")
    texts(folder)
    return folder


def texts(folder: Path) -> None:
    """texts/, a set of one text with its mask, and triplets.csv with two of its scene."""
    for name in ("images", "masks"):
        (folder / "texts" / name).mkdir(parents=True)
    pixels = np.full((64, 64, 3), 90, np.uint8)
    pixels[10:40, 20:50] = (200, 60, 50)
    Image.fromarray(pixels).save(folder / "texts/images/1.png")
    Image.fromarray((pixels[..., 0] > 100).astype(np.uint8)).save(folder / "texts/masks/1.png")
    (folder / "texts/output_phrase_test.txt").write_text("1 the red building\n")
    rows = [
        "image,text,x0,y0,x1,y1",
        "texts/images/1.png,the red building,20,10,50,40",
        "texts/images/1.png,the lawn,0,0,20,60",
    ]
    (folder / "triplets.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_shows_itself_at_work(
    name: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workplace"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    for module in ("terralabel.recipes.label", "terralabel.recipes.curate"):
        monkeypatch.setattr(importlib.import_module(module), "engine_for", lambda workers: InlineEngine())
    function = getattr(terralabel, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert len(example.examples) > 1, f"terralabel.{name} has no example"
    assert not any(step.options.get(doctest.SKIP) for step in example.examples), f"terralabel.{name}: the example is skipped"
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert not told, "".join(told)
