import json
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from terralabel.core.classes import IGNORE, ClassEntry, Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import ContractError, SpaceError
from terralabel.export.rasters import GeoTiff, write_label_raster

CLASSES = Classes((ClassEntry(0, "water <&> é", "#0000ff"), ClassEntry(7, "roof", "#ff0000")))
PLACE = Georeference((0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0), "EPSG:32632")


def blocks_of(labels, step):
    h, w = labels.shape
    for y in range(0, h, step):
        for x in range(0, w, step):
            yield Window(x, y, min(step, w - x), min(step, h - y)), labels[y : y + step, x : x + step]


def painted(width, height):
    labels = np.full((height, width), IGNORE, dtype=np.uint8)
    labels[: height // 2] = 0
    labels[:, : width // 3] = 7
    return labels


@pytest.mark.parametrize("step", [2000, 512, 300, 97])
def test_any_blocks_give_the_same_pixels(tmp_path, step):
    scene = Scene("s", "s.tif", "s", 700, 1100, PLACE)
    labels = painted(700, 1100)
    write_label_raster(tmp_path / "s.tif", scene, CLASSES, blocks_of(labels, step))
    with rasterio.open(tmp_path / "s.tif") as src:
        assert np.array_equal(src.read(1), labels)
        assert (src.nodata, src.dtypes[0], src.profile["blockxsize"], src.compression.name) == (255, "uint8", 512, "deflate")
        assert src.crs.to_epsg() == 32632
        assert tuple(src.transform)[:6] == PLACE.transform
        assert src.colormap(1)[7] == (255, 0, 0, 255)
        assert src.colormap(1)[255][3] == 0
        assert src.overviews(1) == [2]
        assert src.tags()["AREA_OR_POINT"] == "Area"
        assert Classes.from_json(src.tags()["TERRALABEL_CLASSES"]) == CLASSES
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")]


def test_same_blocks_same_bytes(tmp_path):
    scene = Scene("s", "s.tif", "s", 1300, 900, PLACE)
    for name in "ab":
        write_label_raster(tmp_path / f"{name}.tif", scene, CLASSES, blocks_of(painted(1300, 900), 333))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_uncovered_pixels_have_no_label(tmp_path):
    scene = Scene("s", "s.tif", "s", 30, 20)
    write_label_raster(tmp_path / "s.tif", scene, CLASSES, [(Window(5, 5, 2, 2), np.zeros((2, 2), dtype=np.int64))])
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "s.tif") as src:
        labels = src.read(1)
        assert src.crs is None
    assert (labels == 0).sum() == 4
    assert (labels == IGNORE).sum() == 596


@pytest.mark.parametrize("transform", [(0.4, 0.3, 5e5, 0.3, -0.4, 5e6), (0.5, 0, 5e5, 0, 0.5, 5e6)])
def test_rotated_and_south_up_grids_are_kept(tmp_path, transform):
    scene = Scene("s", "s.tif", "s", 30, 20, Georeference(transform, "EPSG:32632"))
    write_label_raster(tmp_path / "s.tif", scene, CLASSES, [])
    with rasterio.open(tmp_path / "s.tif") as src:
        assert np.allclose(tuple(src.transform)[:6], transform, rtol=0, atol=1e-9)


def test_a_transform_without_crs_stays_without(tmp_path):
    scene = Scene("s", "s.tif", "s", 30, 20, Georeference((2.0, 0, 100.0, 0, -2.0, 50.0), None))
    write_label_raster(tmp_path / "s.tif", scene, CLASSES, [])
    with rasterio.open(tmp_path / "s.tif") as src:
        assert src.crs is None
        assert src.transform.c == 100.0


def test_ids_past_254_widen(tmp_path):
    classes = Classes((ClassEntry(3, "a", "#010203"), ClassEntry(300, "b", "#0a0b0c")))
    scene = Scene("s", "s.tif", "s", 40, 30, PLACE)
    labels = np.full((30, 40), 300)
    labels[0] = 255
    files = write_label_raster(tmp_path / "s.tif", scene, classes, [(Window(0, 0, 40, 30), labels)])
    with rasterio.open(tmp_path / "s.tif") as src:
        assert src.dtypes[0] == "uint16"
        assert np.array_equal(src.read(1), labels)
        assert src.colormap(1)[300] == (10, 11, 12, 255)
    assert [f.name for f in files] == ["s.tif", "s.qml"]


@pytest.mark.parametrize(
    ("window", "block", "message"),
    [
        (Window(0, 0, 4, 4), np.zeros((4, 5)), "expected"),
        (Window(28, 0, 4, 4), np.zeros((4, 4)), "outside"),
        (Window(0, 0, 4, 4), np.full((4, 4), 256), "do not fit"),
    ],
)
def test_wrong_blocks_are_refused_and_leave_nothing(tmp_path, window, block, message):
    with pytest.raises(ContractError, match=message):
        write_label_raster(tmp_path / "s.tif", Scene("s", "s.tif", "s", 30, 20), CLASSES, [(window, block)])
    assert list(tmp_path.iterdir()) == []


def test_a_tile_given_twice_is_refused(tmp_path):
    block = (Window(0, 0, 30, 20), np.zeros((20, 30)))
    with pytest.raises(ContractError, match="overlap"):
        write_label_raster(tmp_path / "s.tif", Scene("s", "s.tif", "s", 30, 20), CLASSES, [block, block])


def test_a_disk_without_space_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise rasterio.errors.RasterioIOError("write failed")

    monkeypatch.setattr("terralabel.export.rasters._verify", full)
    monkeypatch.setattr("terralabel.export.rasters.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(SpaceError, match="Disk full"):
        write_label_raster(tmp_path / "s.tif", Scene("s", "s.tif", "s", 30, 20), CLASSES, [])
    assert list(tmp_path.iterdir()) == []


def test_style_and_names_beside_the_raster(tmp_path):
    write_label_raster(tmp_path / "s.tif", Scene("s", "s.tif", "s", 30, 20, PLACE), CLASSES, [])
    entries = ElementTree.parse(tmp_path / "s.qml").getroot().iter("paletteEntry")
    assert [(e.get("value"), e.get("color"), e.get("label")) for e in entries] == [
        ("0", "#0000ff", "water <&> é"),
        ("7", "#ff0000", "roof"),
    ]
    names = [e.text or "" for e in ElementTree.parse(tmp_path / "s.tif.aux.xml").getroot().iter("Category")]
    assert names == ["water <&> é", "", "", "", "", "", "", "roof"]


def test_geotiff_export_copies(run, tmp_path):
    files = GeoTiff().export(run, tmp_path / "out")
    assert {f.name for f in files} == {"a.tif", "a.qml", "a.tif.aux.xml", "classes.json"}
    assert (tmp_path / "out/a.tif").read_bytes() == run.label_path("a").read_bytes()
    assert (tmp_path / "out/a.tif").stat().st_ino != run.label_path("a").stat().st_ino
    assert json.loads((tmp_path / "out/classes.json").read_text())["ignore_index"] == 255
