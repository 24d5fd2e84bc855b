"""Painted scenes with known labels, and the smallest network."""

from __future__ import annotations

from pathlib import Path

import pytest

from terralabel.core.labelled import LabelledSet
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.painter import write_demo
from terralabel.imagery.radiometry import Radiometry, fit_radiometry

#: Under half a million parameters; made for tests by timm.
TINY = "timm:test_resnet:fcn"


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, truth/ and classes.json of four painted scenes of 96 px."""
    folder = tmp_path_factory.mktemp("painted")
    write_demo(folder, seed=2, scenes=4, size=96)
    return folder


@pytest.fixture(scope="session")
def labelled(painted: Path) -> LabelledSet:
    """The painted scenes as a set to learn from."""
    return open_labelled(painted / "images", labels=painted / "truth", classes=painted / "classes.json")


@pytest.fixture(scope="session")
def radiometry(painted: Path) -> Radiometry:
    """Theirs."""
    return fit_radiometry(sorted((painted / "images").iterdir())).radiometry
