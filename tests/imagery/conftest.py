"""Writers of small awkward images, and the check that inputs are left alone."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning


@pytest.fixture
def write_tif() -> Callable[..., Path]:
    """write_tif(path, array (H, W) or (C, H, W), **profile) -> path."""

    def write(path: Path, array: np.ndarray, *, mask: np.ndarray | None = None, **profile: object) -> Path:
        array = array if array.ndim == 3 else array[None]
        shape = dict(zip(("count", "height", "width"), array.shape, strict=True))
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", driver="GTiff", **{"dtype": array.dtype, **shape, **profile}) as dataset:
                dataset.write(array)
                if mask is not None:
                    dataset.write_mask(mask)
        return path

    return write


def _digest(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if not path.is_fifo() and os.access(path, os.R_OK)
    }


@pytest.fixture
def unchanged() -> Iterator[Callable[[Path], None]]:
    """unchanged(folder): at the end of the test its files must be what they are now, with none added or removed."""
    before: dict[Path, dict[str, str]] = {}
    yield lambda folder: before.update({folder: _digest(folder)})
    for folder, digests in before.items():
        assert _digest(folder) == digests
