import json
import shutil
import sqlite3
from contextlib import closing

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely

from terralabel.core.classes import IGNORE, ClassEntry, Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.errors import InputError
from terralabel.export.coco import Coco
from terralabel.export.corrections import Corrections, apply_to_raster, corrected_batches
from terralabel.export.reading import read_corrections
from terralabel.export.vectors import GeoJson, GeoPackage, GeoParquet


def read(run, path, **settings):
    return read_corrections(path, run.scenes, run.classes, run.objects, run_id=run.id, **settings)


def masks_of(path):
    return geopandas.read_file(path, layer="masks")


def saved(path, frame):
    """Write edited masks into a copy of the package, as QGIS would leave it: the other tables stay."""
    edited = path.with_name("edited.gpkg")
    shutil.copyfile(path, edited)
    with closing(sqlite3.connect(edited)) as base, base:
        tables = base.execute("SELECT note FROM terralabel_export").fetchall()
    frame.to_file(edited, layer="masks", driver="GPKG")
    with closing(sqlite3.connect(edited)) as base, base:
        assert base.execute("SELECT note FROM terralabel_export").fetchall() == tables
    return edited


@pytest.fixture
def package(run, tmp_path):
    return GeoPackage().export(run, tmp_path / "out")[0]


def kinds(imported):
    return [(item.kind, item.class_id) for item in imported.corrections.items]


@pytest.mark.parametrize("settings", [{}, {"simplify": 1.5}, {"max_vertices": 12}])
@pytest.mark.parametrize("exporter", [GeoPackage, GeoParquet, GeoJson, Coco])
def test_an_export_that_nobody_touched_changes_nothing(painter, tmp_path, exporter, settings):
    place = Georeference((0.4, 0.3, 5e5, 0.3, -0.4, 5e6), "EPSG:32632")  # rotated
    run = painter.Run(tmp_path / "run").add(painter.scene(place=place), painter.masks(), painter.class_ids)
    imported = read(run, exporter(**settings).export(run, tmp_path / "out")[0])
    assert imported.corrections == Corrections()
    assert imported.rejected == ()
    assert imported.unchanged == (3 if exporter is Coco else 4)


def test_another_class_by_id_or_by_name(run, package):
    frame = masks_of(package)
    frame.loc[1, "class_id"] = 0
    frame.loc[2, "class_name"] = "water <&>"
    imported = read(run, saved(package, frame), author="Ada")
    assert kinds(imported) == [("class", 0), ("class", 0)]
    assert [item.whole.area for item in imported.corrections.items] == frame["area_px"][[1, 2]].tolist()
    assert {(item.author, item.source) for item in imported.corrections.items} == {("Ada", "edited.gpkg")}
    assert imported.unchanged == 2


def test_a_dropped_object_can_be_given_a_class(run, package):
    frame = masks_of(package)
    frame.loc[3, "class_id"] = 3
    assert kinds(read(run, saved(package, frame))) == [("class", 3)]


def test_smaller_objects_on_top_keep_their_pixels(painter, tmp_path):
    below, above = np.zeros((2, 60, 80), dtype=bool)
    below[10:50, 10:70] = True
    above[20:30, 20:30] = True
    run = painter.Run(tmp_path / "run").add(painter.scene(), [below, above], [0, 3])
    package = GeoPackage().export(run, tmp_path / "out")[0]
    frame = masks_of(package)
    frame.loc[0, "class_id"] = 255
    (item,) = read(run, saved(package, frame)).corrections.items
    assert item.whole.area == 2400
    assert item.shown.area == 2300
    after = apply_to_raster(run.labels["a"], Window(0, 0, 80, 60), Corrections((item,)))
    assert np.array_equal(after, np.where(above, 3, 255))


def test_another_outline(run, package):
    frame = masks_of(package)
    frame.loc[0, "geometry"] = shapely.box(500_025, 4_999_975, 500_035, 4_999_995)
    imported = read(run, saved(package, frame))
    assert kinds(imported) == [("deleted", IGNORE), ("shape", 0)]
    assert imported.corrections.items[1].whole.area == 20 * 40
    left = [o.id.tolist() for o in corrected_batches("a", run.objects("a"), imported.corrections)]
    assert left[0] == [2]
    assert left[1] == [3, 4]
    assert len(left[2]) == 1


def test_new_split_and_deleted_features(run, package):
    frame = masks_of(package)
    field = frame.geometry[0]
    x0, y0, x1, y1 = field.bounds
    upper, lower = (shapely.box(x0, y, x1, y + (y1 - y0) / 2) for y in (y0, (y0 + y1) / 2))
    split = frame.iloc[[0]].copy()
    split.geometry = [upper]
    frame.loc[0, "geometry"] = lower
    new = geopandas.GeoDataFrame(
        {"class_id": [3]}, geometry=[shapely.box(500_001, 4_999_971, 500_003, 4_999_973)], crs=frame.crs
    )
    import pandas

    edited = geopandas.GeoDataFrame(pandas.concat([frame.drop(index=2), split, new], ignore_index=True))
    imported = read(run, saved(package, edited))
    assert imported.rejected == ()
    assert sorted(kinds(imported)) == [("deleted", IGNORE), ("deleted", IGNORE), ("drawn", 3), ("shape", 0), ("shape", 0)]
    assert imported.counts() == {"deleted": 2, "drawn": 1, "shape": 2, "unchanged": 2, "rejected": 0}


def test_a_subset_saved_elsewhere_deletes_nothing(run, package, tmp_path):
    frame = masks_of(package).iloc[[1]]
    frame.to_file(tmp_path / "some.gpkg", layer="masks", driver="GPKG")
    imported = read(run, tmp_path / "some.gpkg")
    assert imported.counts() == {"unchanged": 1, "rejected": 0}


def test_another_coordinate_system_is_reprojected(run, package, tmp_path):
    frame = masks_of(package).to_crs(3035)
    frame.loc[1, "class_id"] = 0
    frame.to_file(tmp_path / "laea.gpkg", layer="masks", driver="GPKG")
    imported = read(run, tmp_path / "laea.gpkg")
    assert kinds(imported) == [("class", 0)]
    assert imported.unchanged == 3


def test_classes_renamed_or_merged_since_the_export(run, package):
    frame = masks_of(package)
    frame.loc[1, "class_name"] = "tank"
    run.classes = Classes((ClassEntry(0, "lake", "#000000", (0, 1)), ClassEntry(8, "tank", "#111111", ())))
    for batch in run.batches["a"]:
        batch.class_id[batch.class_id == 3] = 0
    imported = read(run, saved(package, frame))
    assert imported.rejected == ()
    assert kinds(imported) == [("class", 8)]


def test_what_cannot_be_used_is_listed_and_the_rest_goes_on(run, package, tmp_path):
    inside = shapely.box(500_001, 4_999_971, 500_003, 4_999_973)
    rows = [
        ({"id": 99, "class_id": 3}, inside, "dangling-id"),
        ({"id": None, "class_id": 77}, inside, "unknown-class"),
        ({"id": None, "class_id": 77}, inside, "unknown-class"),
        ({"id": None, "class_id": None}, inside, "unknown-class"),
        ({"id": None, "class_id": 3}, shapely.from_wkt("POLYGON((500001 4999971, 500003 4999973, 500003 4999971, 500001 4999973, 500001 4999971))"), "self-crossing"),
        ({"id": None, "class_id": 3}, shapely.box(0, 0, 10, 10), "outside"),
        ({"id": None, "class_id": 3}, shapely.box(500_001.3, 4_999_971.3, 500_001.4, 4_999_971.4), "too-small"),
        ({"id": None, "class_id": 3}, shapely.Point(500_001, 4_999_971), "not-a-polygon"),
        ({"id": None, "class_id": 3}, shapely.Polygon(), "no-geometry"),
        ({"id": None, "class_id": 3, "scene": "zzz"}, inside, "unknown-scene"),
        ({"id": 1, "class_id": 3, "run_id": "other"}, inside, "other-run"),
        ({"id": None, "class_id": 3}, inside, None),
    ]  # fmt: skip
    columns = {name: [row.get(name) for row, _, _ in rows] for name in ("id", "class_id", "scene", "run_id")}
    frame = geopandas.GeoDataFrame(columns, geometry=[g for _, g, _ in rows], crs=32632)
    frame.to_file(tmp_path / "bad.gpkg", layer="masks", driver="GPKG")
    imported = read(run, tmp_path / "bad.gpkg")
    assert [reject.status for reject in imported.rejected] == [status for _, _, status in rows if status]
    assert imported.rejected[0].item == "feature 0 (id 99.0)"
    assert imported.unknown_classes == (("(none given)", 1), ("77", 2))
    assert kinds(imported) == [("drawn", 3)]


def test_the_same_object_twice_is_a_duplicate(run, package):
    frame = masks_of(package).iloc[[0, 0, 1, 2, 3]]
    imported = read(run, saved(package, frame))
    assert [r.status for r in imported.rejected] == ["duplicate"]
    assert imported.corrections == Corrections()


def test_unplaced_scenes(painter, tmp_path):
    run = painter.Run(tmp_path / "run").add(painter.scene(place=Georeference()), painter.masks(), painter.class_ids)
    package = GeoPackage().export(run, tmp_path / "out")[0]
    imported = read(run, package)
    assert imported.counts() == {"unchanged": 4, "rejected": 0}
    shapes = [shapely.box(10, -20, 20, -10), shapely.box(10, 10, 20, 20)]
    frame = geopandas.GeoDataFrame({"class_id": [3, 3]}, geometry=shapes)
    pyogrio.write_dataframe(frame.set_crs('LOCAL_CS["Undefined Cartesian SRS"]'), tmp_path / "new.gpkg", layer="masks")
    imported = read(run, tmp_path / "new.gpkg")
    (item,) = imported.corrections.items
    assert item.whole.box == Window(10, 10, 10, 10)
    assert [r.status for r in imported.rejected] == ["outside"]


def test_a_class_map_is_returned(run, tmp_path):
    (tmp_path / "classes.json").write_text(run.classes.to_json())
    assert read(run, tmp_path / "classes.json").classes == run.classes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gpkg", b""),
        ("a.gpkg", b"SQLite format 3\x00" + bytes(200)),
        ("a.parquet", b"PAR1 but not really PAR1"),
        ("a.json", b"{"),
        ("a.json", b'{"a": 1}'),
        ("a.json", b'{"annotations": 3}'),
        ("a.json", b'{"classes": [{"id": 255, "name": "x", "color": "#000000"}]}'),
        ("a.geojson", b'{"type": "FeatureCollection", "features": 7}'),
        ("a.tif", b"<VRTDataset></VRTDataset>"),
    ],
)
def test_files_that_are_no_labels(run, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        read(run, tmp_path / name)
    assert (tmp_path / name).read_bytes() == content
    assert len(list(tmp_path.glob("a.*"))) == 1


@pytest.mark.parametrize("exporter", [GeoPackage, GeoParquet, GeoJson, Coco])
def test_a_truncated_export_is_refused_and_deletes_nothing(run, tmp_path, exporter):
    path = exporter().export(run, tmp_path)[0]
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.8, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError):
            read(run, path)


def test_another_runs_export_is_refused(run, package, tmp_path):
    with pytest.raises(InputError, match="exported from run run-1"):
        read_corrections(package, run.scenes, run.classes, run.objects, run_id="run-2")
    coco = Coco().export(run, tmp_path)[0]
    with pytest.raises(InputError, match="exported from run run-1"):
        read_corrections(coco, run.scenes, run.classes, run.objects, run_id="run-2")


@pytest.fixture
def coco(run, tmp_path):
    return json.loads(Coco().export(run, tmp_path / "out")[0].read_text())


def read_coco(run, tmp_path, data):
    (tmp_path / "edited.json").write_text(json.dumps(data))
    return read(run, tmp_path / "edited.json")


def test_coco_edits(run, tmp_path, coco):
    first, second, third = coco["annotations"]
    first["category_id"] = 3
    second["segmentation"] = [[10, 10, 20, 10, 20, 20, 10, 20]]
    coco["annotations"].remove(third)
    coco["annotations"].append(
        {"id": 900, "image_id": 1, "category_id": 0, "segmentation": {"size": [60, 80], "counts": [0, 5, 4795]}}
    )
    imported = read_coco(run, tmp_path, coco)
    assert imported.rejected == ()
    assert sorted(kinds(imported)) == [("class", 3), ("deleted", 255), ("deleted", 255), ("drawn", 0), ("shape", 3)]
    drawn = imported.corrections.items[-1]
    assert drawn.whole.box == Window(0, 0, 1, 5)


def test_coco_from_a_tool_that_renumbers(run, tmp_path, coco):
    del coco["info"]
    for number, annotation in enumerate(reversed(coco["annotations"]), start=1):
        annotation["id"] = number
        annotation["category_id"] = {0: 1, 3: 2}[annotation["category_id"]]
    coco["categories"] = [{"id": 1, "name": "water <&>"}, {"id": 2, "name": "roof"}]
    coco["images"][0].pop("scene")
    coco["annotations"].pop()
    assert read_coco(run, tmp_path, coco).counts() == {"unchanged": 2, "rejected": 0}


GOOD = {"image_id": 1, "category_id": 3, "segmentation": {"size": [60, 80], "counts": [0, 5, 4795]}}


BAD = [
    ({"segmentation": {"size": [60, 80], "counts": [0, 5]}}, "rle-short"),
    ({"segmentation": {"size": [60, 80], "counts": [0, 5, 4796]}}, "rle-long"),
    ({"segmentation": {"size": [60, 80], "counts": [0, 10, -5, 4795]}}, "rle-negative"),
    ({"segmentation": {"size": [60, 80], "counts": [0, 10**30]}}, "bad-rle"),
    ({"segmentation": {"size": [60, 80], "counts": [0, 5.5, 4794.5]}}, "bad-rle"),
    ({"segmentation": {"size": [60, 80], "counts": []}}, "bad-rle"),
    ({"segmentation": {"size": [60, 80], "counts": "0"}}, "rle-short"),
    ({"segmentation": {"size": [60, 80], "counts": "P"}}, "bad-rle"),
    ({"segmentation": {"size": [60, 80], "counts": "oooooooooo0"}}, "bad-rle"),
    ({"segmentation": {"size": [60, 80], "counts": None}}, "bad-rle"),
    ({"segmentation": {"size": [10**9, 10**9], "counts": [10**18]}}, "rle-size"),
    ({"segmentation": {"counts": [0, 4800]}}, "rle-size"),
    ({"segmentation": {"size": [60, 80], "counts": [4800]}}, "outside"),
    ({"segmentation": [[1, 1, 5, 5]]}, "few-points"),
    ({"segmentation": [[1, 1, 5, 5, 9]]}, "few-points"),
    ({"segmentation": []}, "few-points"),
    ({"segmentation": [[1, 1, 9, 9, 9, 1, 1, 9]]}, "self-crossing"),
    ({"segmentation": [[1, 1, float("nan"), 9, 9, 1]]}, "bad-coordinates"),
    ({"segmentation": [["1", 1, 5, 9, 9, 1]]}, "bad-coordinates"),
    ({"segmentation": [[500, 500, 600, 500, 600, 600]]}, "outside"),
    ({"segmentation": 7}, "bad-segmentation"),
    ({"segmentation": None}, "bad-segmentation"),
    ({"image_id": 9}, "dangling-image"),
    ({"image_id": [1]}, "dangling-image"),
    ({"category_id": 9}, "dangling-category"),
    ({"category_id": "3"}, "dangling-category"),
    ({"iscrowd": 2}, "bad-iscrowd"),
    ({"id": "x"}, "bad-id"),
    ({"id": 1}, "duplicate"),
]


def test_bad_annotations_are_rejected_by_id_and_others_go_on(run, tmp_path, coco):
    bad = [{"id": 500 + k, **GOOD, **change} for k, (change, _) in enumerate(BAD)]
    coco["annotations"] = [*coco["annotations"][:1], *bad, *coco["annotations"][1:], {"id": 900, **GOOD}]
    imported = read_coco(run, tmp_path, coco)
    assert [(r.item, r.status) for r in imported.rejected] == [
        (
            {"bad-id": f"annotation {k + 1} (by position)", "duplicate": "annotation 1"}.get(status, f"annotation {500 + k}"),
            status,
        )
        for k, (_, status) in enumerate(BAD)
    ]
    assert kinds(imported) == [("drawn", 3)]
    assert imported.unchanged == 3


def test_coco_of_another_image_size_is_rejected(run, tmp_path, coco):
    coco["images"][0]["width"] = 90
    imported = read_coco(run, tmp_path, coco)
    assert [r.status for r in imported.rejected] == ["unknown-image"] * 3
    assert "another size" in imported.rejected[0].reason
    assert imported.corrections == Corrections()


def test_an_edit_survives_export_and_import_again(run, package, tmp_path):
    frame = masks_of(package)
    frame.loc[1, "class_id"] = 0
    first = read(run, saved(package, frame)).corrections
    again = type(run)(run.path, run.scenes, run.classes, batches={"a": list(corrected_batches("a", run.batches["a"], first))})
    again.labels = run.labels
    (path,) = GeoPackage().export(again, tmp_path / "second")
    frame = masks_of(path)
    assert frame["status"].tolist() == ["auto", "auto", "auto", "corrected"]
    assert frame["class_id"].tolist() == [0, 3, 255, 0]
    frame.loc[3, "class_id"] = 3
    second = read(again, saved(path, frame)).corrections
    objects = list(corrected_batches("a", run.batches["a"], first + second))
    corrected = [(i, c) for o in objects for i, c, s in zip(o.id, o.class_id, o.status, strict=True) if s == "corrected"]
    assert corrected == [(2_000_000_002, 3)]
