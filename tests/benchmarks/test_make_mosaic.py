"""The big mosaic of the memory proof: whole, varied and reproducible."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import rasterio

_PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "make_mosaic.py"
_SPEC = importlib.util.spec_from_file_location("make_mosaic", _PATH)
make_mosaic = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_mosaic)


def test_no_block_lies_beside_itself() -> None:
    which = make_mosaic.plan(20 * 1024, blocks=5, seed=3)[..., 0]
    assert which.shape == (20, 20) and set(np.unique(which)) == set(range(5))
    assert (which[1:] != which[:-1]).all() and (which[:, 1:] != which[:, :-1]).all()


def test_orientations_differ_and_never_write_nodata() -> None:
    block = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({make_mosaic.turned(block, choice, 1.0).tobytes() for choice in range(8)}) == 8
    assert make_mosaic.turned(block, 0, 0.5).min() == 1


def test_the_mosaic_is_tiled_and_the_same_every_time(tmp_path: Path) -> None:
    first, again = (make_mosaic.write_mosaic(tmp_path / f"{name}.tif", 1100, blocks=1, seed=1) for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    with rasterio.open(first) as source:
        assert (source.width, source.height, source.count, source.nodata) == (1100, 1100, 3, 0)
        assert source.block_shapes == [(512, 512)] * 3 and source.crs.to_epsg() == 32633
        assert source.read(1).min() > 0
