"""Fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real imagery beside the project; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TERRALABEL_DATA", default))
    if not folder.is_dir():
        pytest.skip("needs the real imagery: set TERRALABEL_DATA to its folder")
    return folder
