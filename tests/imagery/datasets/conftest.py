"""Small label and image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Path]:
    """picture(path, array, palette=None) -> path: a PNG, JPEG or TIFF of (H, W) or (H, W, 3)."""

    def write(path: Path, array: np.ndarray, palette: list[int] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if palette is not None:
            image.putpalette(palette)
        image.save(path)
        return path

    return write


@pytest.fixture
def scene() -> np.ndarray:
    """(24, 32, 3) uint8."""
    return np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
