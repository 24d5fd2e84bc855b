"""Object ids as a raster: the ids of the other formats, on the source grid, readable elsewhere."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.export.corrections import FIRST_ID, Correction, Corrections, apply_to_instances, corrected_ids
from terralabel.export.instances import Instances
from terralabel.export.shapes import Shape


def read(path):
    with rasterio.open(path) as src:
        return src.read(1), src.profile, src.tags(), src.overviews(1)


def test_ids_are_those_of_the_objects(run, tmp_path):
    (file,) = Instances().export(run, tmp_path / "out")
    ids, profile, tags, _ = read(file)
    assert file.name == "a_instances.tif"
    assert profile["dtype"] == "uint32" and profile["nodata"] == 0 and profile["compress"] == "deflate" and profile["tiled"]
    assert profile["crs"].to_epsg() == 32632 and profile["transform"].a == 0.5
    assert tags["TERRALABEL_RUN"] == run.id
    (field, ring), (corner, blob) = (batch.id.tolist() for batch in run.batches["a"])
    assert ids[20, 10] == ring and ids[45, 15] == corner and ids[30, 60] == blob, "the smaller one is on top"
    assert ids[50, 50] == field and ids[0, 0] == 0
    assert set(np.unique(ids)) == {0, field, ring, corner, blob}


def test_gdal_reads_it(run, tmp_path):
    (file,) = Instances().export(run, tmp_path / "out")
    try:
        told = subprocess.run(["gdalinfo", "-stats", str(file)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("needs gdalinfo")
    assert "UInt32" in told and "NoData Value=0" in told and "Description = object id" in told


def test_large_ids_fit_and_the_same_run_gives_the_same_bytes(run, tmp_path, monkeypatch):
    block = np.full((60, 80), FIRST_ID + 7, dtype=np.int64)
    monkeypatch.setattr(type(run), "instances", lambda self, key: iter([(Window(0, 0, 80, 60), block)]))
    one, two = (Instances().export(run, tmp_path / name)[0] for name in "ab")
    assert (read(one)[0] == FIRST_ID + 7).all()
    assert one.read_bytes() == two.read_bytes()


def shape(x, y, width, height):
    return Shape.of_runs(np.array([0, width * height]), Window(x, y, width, height))


def test_corrections_show_their_own_ids():
    drawn = Correction("a", 3, shape(2, 2, 4, 4))
    deleted = replace(drawn, class_id=IGNORE, whole=shape(8, 0, 2, 10), kind="deleted")
    elsewhere = replace(drawn, scene="b")
    over = replace(drawn, whole=shape(2, 2, 4, 3))
    everything = Corrections((elsewhere, drawn, deleted, over))
    ids = corrected_ids("a", everything)
    assert ids.tolist() == [0, 0, FIRST_ID + 3], "a deleted object has none, nor has one that a later correction replaces"
    block = np.full((5, 10), 9, dtype=np.int64)
    shown = apply_to_instances(block, Window(0, 1, 10, 5), everything.of("a"), ids)
    assert (block == 9).all() and (shown[:, 8:] == 0).all()
    assert (shown[1:4, 2:6] == FIRST_ID + 3).all() and (shown[4, 2:6] == 0).all()
    assert (shown[0, :8] == 9).all()
