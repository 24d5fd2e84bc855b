"""`terralabel doctor`: what it says of a healthy machine and of one that lacks something."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from terralabel.cli import checkup as room
from terralabel.cli.checkup import checkup

Say = Callable[..., Any]


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No torch of this machine is loaded, and the cache is empty."""
    monkeypatch.setattr(room, "_EXTRA", ("pytest", "no-such-package-at-all"))
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing `module` fails."""
    load = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)


def test_a_healthy_machine_is_ready(tmp_path: Path) -> None:
    text, healthy = checkup()
    assert healthy and text.splitlines()[-1] == "ready"
    assert not [line for line in text.splitlines() if line.startswith("x ")]
    for found in (f"numpy {version('numpy')}", f"rasterio {version('rasterio')}", "GTiff", str(tmp_path / "cache")):
        assert found in text


def test_the_command_tells_the_same(say: Say) -> None:
    said = say("doctor")
    assert said.code == 0 and said.out.splitlines()[-1] == "ready"


def test_a_missing_package_is_named_with_the_way_out(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    without("higra", monkeypatch)
    said = say("doctor")
    assert said.code == 1
    assert "higra MISSING" in said.out and "pip install higra" in said.out and "scipy MISSING" not in said.out
    assert said.out.splitlines()[-1].startswith("not ready")


def test_a_module_of_another_name_is_looked_for_under_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    without("cv2", monkeypatch)
    text, healthy = checkup()
    assert not healthy and "pip install opencv-python-headless" in text


def test_without_rasterio_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    text, healthy = checkup()
    assert not healthy and "rasterio does not load" in text


def test_optional_packages_are_optional() -> None:
    text, healthy = checkup()
    assert healthy and f"optional: pytest {version('pytest')}; not here: no-such-package-at-all" in text


@pytest.mark.parametrize(("by", "said"), [("torch", "masks nano by torch"), ("", "pip install 'terralabel[nano]'")])
def test_who_computes_masks_nano(by: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terralabel.nets.nano.runtime.find_spec", lambda name: by if name == by else None)
    text, healthy = checkup()
    assert healthy and said in text
