import json
import sqlite3
from contextlib import closing
from xml.etree import ElementTree

import duckdb
import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio.features

from terralabel.core.classes import IGNORE
from terralabel.core.georeference import Georeference
from terralabel.errors import RunError, SettingsError
from terralabel.export.features import Outlines, label_batches
from terralabel.export.vectors import GeoJson, GeoPackage, GeoParquet

ATTRIBUTES = ["id", "scene", "class_id", "class_name", "cluster_id", "score", "quality", "stability", "status", "source"]
ATTRIBUTES += ["model", "run_id", "area_px", "area_m2"]


@pytest.fixture
def package(run, tmp_path):
    (path,) = GeoPackage().export(run, tmp_path / "out")
    return path


def test_masks_have_all_attributes_and_the_exact_shape(package, run, painter):
    masks = geopandas.read_file(package, layer="masks")
    assert [c for c in masks.columns if c != "geometry"] == ATTRIBUTES
    assert masks.crs.to_epsg() == 32632
    assert masks["id"].tolist() == [1, 2, 3, 4]
    assert masks["class_id"].tolist() == [0, 3, 3, IGNORE]
    assert masks["class_name"].tolist() == ["water <&>", "roof", "roof", ""]
    assert masks["area_m2"].tolist() == pytest.approx((masks["area_px"] * 0.25).tolist(), rel=2e-3)
    assert masks.geometry.is_valid.all()
    transform = rasterio.Affine(*run.scenes[0].georeference.transform)
    for shape, mask in zip(masks.geometry, painter.masks(), strict=True):
        assert np.array_equal(rasterio.features.rasterize([shape], (60, 80), transform=transform).astype(bool), mask)


def test_labels_are_the_raster_dissolved(package, run):
    labels = geopandas.read_file(package, layer="labels")
    assert labels["class_id"].tolist() == [0, 3]
    assert labels["area_px"].tolist() == [(run.labels["a"] == 0).sum(), (run.labels["a"] == 3).sum()]
    assert labels.geometry.area.tolist() == pytest.approx([0.25 * n for n in labels["area_px"]])


def test_tiles_tell_what_failed(package):
    tiles = geopandas.read_file(package, layer="tiles")
    assert tiles["status"].tolist() == ["ok", "failed"]
    assert tiles["reason"].tolist()[1] == "unreadable: <tag>"
    assert tiles.geometry[0].bounds == (500_000.0, 4_999_970.0, 500_020.0, 5_000_000.0)


def test_styles_are_inside_and_default(package):
    with closing(sqlite3.connect(package)) as base:
        rows = base.execute("SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles").fetchall()
        assert base.execute("SELECT count(*) FROM rtree_masks_geom").fetchone() == (4,)
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [row[:3] for row in rows] == [(name, "geom", 1) for name in ("masks", "labels", "tiles")]
    root = ElementTree.fromstring(rows[0][3].split("\n", 1)[1])
    found = [(c.get("value"), c.get("label")) for c in root.iter("category")]
    assert found == [("0", "water <&>"), ("3", "roof"), ("255", "no class")]
    colors = [o.get("value") for o in root.iter("Option") if o.get("name") == "outline_color"]
    assert colors[:2] == ["31,120,180,255", "227,26,28,255"]


def test_same_run_same_bytes(run, tmp_path):
    for exporter in (GeoPackage(), GeoParquet(), GeoJson()):
        first = exporter.export(run, tmp_path / "1" / exporter.name)
        second = exporter.export(run, tmp_path / "2" / exporter.name)
        assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp")]


def test_one_file_per_crs_and_none_invented(painter, tmp_path):
    run = painter.Run(tmp_path / "run").add(painter.scene(), painter.masks(), painter.class_ids)
    run.add(painter.scene("b", place=Georeference()), painter.masks(), painter.class_ids)
    run.add(
        painter.scene("c", place=Georeference((1e-5, 0, 10, 0, -1e-5, 47), "EPSG:4326")), painter.masks(), painter.class_ids
    )
    files = {path.name: path for path in GeoPackage().export(run, tmp_path / "out")}
    assert set(files) == {"labels-epsg-32632.gpkg", "labels-no-crs.gpkg", "labels-epsg-4326.gpkg"}
    with closing(sqlite3.connect(files["labels-no-crs.gpkg"])) as base:
        assert base.execute("SELECT DISTINCT srs_id FROM gpkg_geometry_columns").fetchall() == [(-1,)]
    unplaced = geopandas.read_file(files["labels-no-crs.gpkg"], layer="masks")
    assert tuple(unplaced.total_bounds) == (6, -58, 75, -5)
    assert unplaced["area_m2"].isna().all()
    assert geopandas.read_file(files["labels-epsg-4326.gpkg"], layer="masks")["scene"].unique().tolist() == ["c"]


def test_a_run_without_objects_still_has_its_layers(painter, tmp_path):
    run = painter.Run(tmp_path / "run").add(painter.scene(), [], [])
    (path,) = GeoPackage().export(run, tmp_path / "out")
    assert {name for name, kind in pyogrio.list_layers(path) if kind is not None} == {"masks", "labels", "tiles"}
    assert len(geopandas.read_file(path, layer="masks")) == 0
    for file in GeoParquet().export(run, tmp_path / "out"):
        assert geopandas.read_parquet(file).crs.to_epsg() == 32632


def test_simplified_outlines_are_valid_and_smaller(run, tmp_path):
    (exact,) = GeoPackage().export(run, tmp_path / "a")
    (fewer,) = GeoPackage(simplify=1.0).export(run, tmp_path / "b")
    one, two = (geopandas.read_file(p, layer="masks").geometry for p in (exact, fewer))
    assert two.is_valid.all()
    assert two.count_coordinates().sum() < one.count_coordinates().sum()


@pytest.mark.parametrize("settings", [{"simplify": -1}, {"max_vertices": -1}, {"simplify": float("nan")}])
def test_impossible_settings_are_refused(run, tmp_path, settings):
    with pytest.raises(SettingsError):
        GeoPackage(**settings).export(run, tmp_path)


def test_geoparquet_reads_in_geopandas_and_duckdb(run, tmp_path):
    masks, labels, tiles = GeoParquet().export(run, tmp_path)
    frame = geopandas.read_parquet(masks)
    assert frame.crs.to_epsg() == 32632
    assert frame.geometry.is_valid.all()
    assert len(geopandas.read_parquet(masks, bbox=(500_022, 4_999_972, 500_024, 4_999_974))) == 1  # by the bbox column
    query = f"SELECT class_name, count(*), min(bbox.xmin) FROM read_parquet('{masks}') GROUP BY 1 ORDER BY 1"
    assert duckdb.sql(query).fetchall() == [("", 1, 500_027.5), ("roof", 2, 500_003.0), ("water <&>", 1, 500_022.5)]
    geo = json.loads(pq.read_schema(labels).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert pq.read_table(tiles).num_rows == 2


def test_a_flipped_byte_in_parquet_is_found(run, tmp_path):
    masks = GeoParquet().export(run, tmp_path)[0]
    data = bytearray(masks.read_bytes())
    data[200] ^= 1
    masks.write_bytes(data)
    with (
        pytest.raises(OSError, match=r"CRC|could not|Corrupt|corrupt"),
        pq.ParquetFile(masks, page_checksum_verification=True) as file,
    ):
        file.read()


def test_geojson_is_in_degrees(run, tmp_path):
    masks, _ = GeoJson().export(run, tmp_path)
    frame = geopandas.read_file(masks)
    assert frame.crs.to_epsg() == 4326
    west, south, east, north = frame.total_bounds
    assert 8.9 < west < east < 9.1
    assert 45.1 < south < north < 45.2
    assert json.loads(masks.read_text())["features"][0]["properties"]["class_name"] == "water <&>"


def test_geojson_has_no_geometry_where_a_projection_ends(painter, tmp_path):
    beyond = Georeference((1e6, 0, 9e8, 0, -1e6, 9e8), "EPSG:3035")
    run = painter.Run(tmp_path / "run").add(painter.scene(place=beyond), painter.masks(), painter.class_ids)
    masks, _ = GeoJson().export(run, tmp_path)
    features = json.loads(masks.read_text())["features"]
    assert [f["geometry"] for f in features] == [None] * 4
    assert [f["properties"]["area_m2"] for f in features] == [None] * 4


def test_geojson_without_any_crs_is_refused(painter, tmp_path):
    run = painter.Run(tmp_path / "run").add(painter.scene(place=Georeference()), painter.masks(), painter.class_ids)
    with pytest.raises(RunError, match="geopackage or coco"):
        GeoJson().export(run, tmp_path)


def test_a_damaged_label_raster_is_named(run, tmp_path):
    run.label_path("a").write_bytes(run.label_path("a").read_bytes()[:500])
    with pytest.raises(RunError, match=r"could not read .*a\.tif"):
        GeoPackage().export(run, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_large_or_noisy_label_rasters_are_outlined_in_parts(run, monkeypatch):
    (whole,) = label_batches(run, run.scenes[0], Outlines())
    for name, value in (("_LABEL_SIDE", 32), ("_LABEL_SEGMENTS", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(f"terralabel.export.features.{name}", value)
            parts = list(label_batches(run, run.scenes[0], Outlines()))
        assert len(parts) > 1
        rows = [row for part in parts for row in part.to_pylist()]
        for class_id, area in zip(whole["class_id"].to_pylist(), whole["area_px"].to_pylist(), strict=True):
            assert sum(row["area_px"] for row in rows if row["class_id"] == class_id) == area
