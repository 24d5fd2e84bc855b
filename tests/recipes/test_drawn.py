"""Labels drawn in a GIS: any coordinate system, many images, points and boxes, conflicts, and whatever cannot be used."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from terralabel.errors import InputError, SettingsError
from terralabel.imagery.datasets import read_label
from terralabel.recipes.drawn.labels import drawn_labels, is_drawing
from terralabel.recipes.drawn.settings import DrawnSettings
from tests.imagery.datasets.fake import noise, save

CRS, PIXEL, WEST, NORTH = "EPSG:32633", 2.0, 400_000.0, 5_500_000.0
SIDE = 64


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of 64 x 64 pixels beside each other, a bright square in the first; and a third far away."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, column in (("a", 0), ("b", 64), ("far", 5000)):
        pixels = noise(SIDE, SIDE, column) // 8 + 40
        if name == "a":
            pixels[16:40, 12:44] += 150
        place = Affine(PIXEL, 0, WEST + PIXEL * column, 0, -PIXEL, NORTH)
        profile = {
            "driver": "GTiff",
            "width": SIDE,
            "height": SIDE,
            "count": 3,
            "dtype": "uint8",
            "crs": CRS,
            "transform": place,
        }
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as target:
            target.write(pixels.astype(np.uint8).transpose(2, 0, 1))
    return folder


def ground(x0: float, y0: float, x1: float, y1: float) -> shapely.Polygon:
    """The rectangle of pixels of image a, on the ground."""
    return shapely.box(WEST + PIXEL * x0, NORTH - PIXEL * y1, WEST + PIXEL * x1, NORTH - PIXEL * y0)


def spot(x: float, y: float) -> shapely.Point:
    return shapely.Point(WEST + PIXEL * x, NORTH - PIXEL * y)


def save_shapes(
    path: Path, shapes: Sequence[tuple[str | None, shapely.Geometry]], crs: str | None = CRS, **more: object
) -> Path:
    """A vector file with the attribute `class`, in whatever format the suffix says."""
    frame = gpd.GeoDataFrame(
        {"class": [name for name, _ in shapes], **more}, geometry=[g for _, g in shapes], crs=CRS if crs else None
    )
    frame = frame.to_crs(crs) if crs else frame
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            frame.to_file(path)
    return path


SQUARE = np.zeros((SIDE, SIDE), bool)
SQUARE[16:40, 12:44] = True


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def label(labelled: object, key: str) -> np.ndarray:
    return read_label(labelled, next(item for item in labelled.images if item.key == key))  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("name", ["d.gpkg", "d.geojson", "d.parquet", "d.shp"])
@pytest.mark.parametrize("crs", [CRS, "EPSG:4326", "EPSG:3857"])
def test_polygons_in_any_system_over_two_images(images: Path, tmp_path: Path, name: str, crs: str) -> None:
    shapes = [("roof", ground(4, 8, 20, 24)), ("pond", ground(56, 30, 80, 40))]
    drawn = drawn_labels(images, save_shapes(tmp_path / name, shapes, crs), tmp_path / "out")
    assert [(e.id, e.name) for e in drawn.classes] == [(1, "pond"), (2, "roof")]
    expected = np.full((SIDE, SIDE), 255, np.uint8)
    expected[8:24, 4:20], expected[30:40, 56:] = 2, 1
    assert (label(drawn, "a") == expected).all()
    assert (label(drawn, "b")[30:40, :16] == 1).all() and (label(drawn, "b") == 1).sum() == 160
    assert [item.key for item in drawn.labelled.images] == ["a", "b"], "nothing is drawn in the third image: it has no label"
    assert drawn.problems == ()
    with rasterio.open(tmp_path / "out/labels/b.tif") as written, rasterio.open(images / "b.tif") as source:
        assert (written.crs, written.transform, written.nodata) == (source.crs, source.transform, 255)


def test_the_rest_is_background_in_images_with_something_drawn(images: Path, tmp_path: Path) -> None:
    drawn = drawn_labels(
        images, save_shapes(tmp_path / "d.gpkg", [("roof", ground(4, 8, 20, 24))]), tmp_path / "out", rest="background"
    )
    assert [(e.id, e.name) for e in drawn.classes] == [(0, "background"), (1, "roof")]
    assert np.bincount(label(drawn, "a").ravel(), minlength=2).tolist() == [SIDE * SIDE - 256, 256]
    assert [item.key for item in drawn.labelled.images] == ["a"]


def test_small_on_large_stays_and_what_two_claim_has_no_label(images: Path, tmp_path: Path) -> None:
    nested = [("roof", ground(10, 10, 14, 14)), ("field", ground(4, 4, 30, 30))]
    crossing = [("field", ground(36, 4, 50, 20)), ("pond", ground(44, 10, 60, 26)), ("roof", ground(46, 12, 48, 14))]
    twice = [("field", ground(4, 40, 14, 50)), ("pond", ground(4, 40, 14, 50))]
    same = [("field", ground(30, 40, 40, 50)), ("field", ground(35, 45, 45, 55))]
    drawn = drawn_labels(images, save_shapes(tmp_path / "d.gpkg", nested + crossing + twice + same), tmp_path / "out")
    ids, found = {e.name: e.id for e in drawn.classes}, label(drawn, "a")
    assert (found[10:14, 10:14] == ids["roof"]).all() and (found[4:30, 4:30] == ids["field"]).sum() == 26 * 26 - 16
    disputed = found[10:20, 44:50]
    assert (disputed == 255).sum() == 60 - 4 and (disputed == ids["roof"]).sum() == 4, "what lies on both is its own"
    assert (found[40:50, 4:14] == 255).all()
    assert (found[40:55, 30:45] == ids["field"]).sum() == 175, "two shapes of one class do not conflict"
    (told,) = drawn.problems
    assert (
        told
        == "a: 160 pixels are claimed by two classes (feature 6 and feature 7, and 1 more pairs): no label there [conflict]"
    )


def test_what_cannot_be_used_is_told_and_the_rest_goes_on(images: Path, tmp_path: Path) -> None:
    bowtie = shapely.Polygon([(WEST, NORTH), (WEST + 20, NORTH - 20), (WEST + 20, NORTH), (WEST, NORTH - 20)])
    shapes = [
        ("roof", ground(4, 8, 20, 24)), ("roof", ground(900, 8, 920, 24)), ("roof", bowtie), (None, ground(1, 1, 3, 3)),
        ("roof", shapely.LineString([(WEST, NORTH), (WEST + 9, NORTH - 9)])), ("roof", ground(30.1, 30.1, 30.3, 30.3)),
    ]  # fmt: skip
    drawn = drawn_labels(images, save_shapes(tmp_path / "d.gpkg", shapes), tmp_path / "out")
    assert (label(drawn, "a") == 1).sum() == 256
    told = "\n".join(drawn.problems)
    for words in (
        "1 shapes lie in no image: feature 2 [outside]", "feature 3 is not a valid polygon (Self-intersection", "feature 4 has no class",
        "feature 5 is a line, expected a polygon or a point", "feature 6 covers no pixel centre of a",
    ):  # fmt: skip
        assert words in told
    assert len(drawn.problems) == 5


@pytest.mark.parametrize(
    ("crs", "shapes", "settings", "said"),
    [
        (CRS, [("roof", ground(900, 8, 920, 24))], {}, r"none of 1 shapes lies in any of 3 images: they span 401800 .* right"),
        (None, [("roof", ground(4, 8, 20, 24))], {}, r"has no coordinate system, and the images have one: set it"),
        (
            CRS,
            [("roof", ground(4, 8, 20, 24))],
            {"class_field": "kind"},
            r"no attribute 'kind' for --class-field; it has: class",
        ),
        (CRS, [("roof", ground(4, 8, 20, 24))], {"layer": "roofs"}, r"has no layer 'roofs'; it has: d"),
        (CRS, [(None, ground(4, 8, 20, 24))], {}, r"none of 1 shapes can be used; feature 1 has no class"),
        (CRS, [("300", ground(4, 8, 20, 24))], {}, r"ids up to 300: labels hold ids 0..254"),
    ],
)
def test_files_that_cannot_be_used_say_why(
    images: Path, tmp_path: Path, crs: str | None, shapes: list, settings: dict, said: str
) -> None:
    path = save_shapes(tmp_path / "d.gpkg", shapes, crs)
    with pytest.raises(InputError, match=said) as caught:
        drawn_labels(images, path, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)


def test_a_class_map_and_a_rest_that_it_must_have(images: Path, tmp_path: Path) -> None:
    classes = {
        "version": 1,
        "classes": [{"id": 3, "name": "roof", "color": "#ff0000"}, {"id": 7, "name": "sea", "color": "#0000ff"}],
    }
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    path = save_shapes(tmp_path / "d.gpkg", [("roof", ground(4, 8, 20, 24)), ("moon", ground(30, 8, 40, 24))])
    drawn = drawn_labels(images, path, tmp_path / "out", rest="sea", classes=tmp_path / "classes.json")
    assert set(np.unique(label(drawn, "a"))) == {3, 7}
    assert drawn.problems == ("feature 2 is of 'moon', which is no class of the class map [unknown-class]",)
    with pytest.raises(InputError, match="--rest lake: expected a class of the class map: roof, sea"):
        drawn_labels(images, path, tmp_path / "two", rest="lake", classes=tmp_path / "classes.json")


def test_numbers_are_ids_and_without_an_attribute_all_is_one_class(images: Path, tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame({"class_id": [4.0, np.nan]}, geometry=[ground(4, 8, 20, 24), ground(30, 8, 40, 24)], crs=CRS)
    frame.to_file(tmp_path / "ids.gpkg")
    drawn = drawn_labels(images, tmp_path / "ids.gpkg", tmp_path / "ids", rest="0")
    assert [(e.id, e.name) for e in drawn.classes] == [(0, "class 0"), (4, "class 4")]
    assert drawn.problems == ("feature 2 has no class [no-class]",)
    frame[["geometry"]].to_file(tmp_path / "roofs.gpkg", layer="roofs")
    bare = drawn_labels(images, tmp_path / "roofs.gpkg", tmp_path / "bare", rest="other")
    assert [(e.id, e.name) for e in bare.classes] == [(0, "other"), (1, "roofs")]


def test_a_point_becomes_a_mask_and_points_of_others_say_what_it_is_not(images: Path, tmp_path: Path) -> None:
    shapes = [("roof", spot(28, 28)), ("ground", spot(4, 4)), ("ground", spot(60, 60))]
    drawn = drawn_labels(
        images, save_shapes(tmp_path / "d.gpkg", shapes, "EPSG:4326"), tmp_path / "out", masks="tree", rest="ground"
    )
    assert iou(label(drawn, "a") == 1, SQUARE) > 0.9


@pytest.mark.parametrize("masks", ["tree", "nano"])
def test_a_box_becomes_a_mask(images: Path, tmp_path: Path, masks: str) -> None:
    if masks == "nano":
        pytest.importorskip("torch")
    path = save_shapes(tmp_path / "d.gpkg", [("roof", ground(10, 14, 46, 42))])
    drawn = drawn_labels(images, path, tmp_path / "out", masks=masks, shapes="boxes", rest="ground")
    assert iou(label(drawn, "a") == 1, SQUARE) > (0.9 if masks == "tree" else 0.8), "closer than the box itself: .76"


def test_drawn_polygons_lie_over_masks_of_points(images: Path, tmp_path: Path) -> None:
    shapes = [("roof", spot(28, 28)), ("ground", ground(12, 16, 44, 20))]
    drawn = drawn_labels(images, save_shapes(tmp_path / "d.gpkg", shapes), tmp_path / "out", masks="tree")
    ids, found = {e.name: e.id for e in drawn.classes}, label(drawn, "a")
    assert (found[16:20, 12:44] == ids["ground"]).all() and (found[22:38, 14:42] == ids["roof"]).all()
    assert drawn.problems == ()


def test_images_without_a_place_count_columns_and_rows(tmp_path: Path) -> None:
    save(tmp_path / "images/one.png", noise(SIDE, SIDE, 0))
    for sign in (1, -1):
        square = shapely.box(4, min(8 * sign, 24 * sign), 20, max(8 * sign, 24 * sign))
        frame = gpd.GeoDataFrame(
            {"class": ["roof"]}, geometry=[square], crs="EPSG:4326"
        )  # what QGIS says unless told otherwise
        frame.to_file(tmp_path / f"d{sign}.gpkg")
        drawn = drawn_labels(tmp_path / "images", tmp_path / f"d{sign}.gpkg", tmp_path / f"out{sign}")
        assert (label(drawn, "one")[8:24, 4:20] == 1).all() and (label(drawn, "one") == 1).sum() == 256
    save(tmp_path / "images/two.png", noise(SIDE, SIDE, 1))
    with pytest.raises(InputError, match="fill in an attribute 'image' with the file's name"):
        drawn_labels(tmp_path / "images", tmp_path / "d1.gpkg", tmp_path / "both")
    frame.assign(image=["two.png"]).to_file(tmp_path / "named.gpkg")
    named = drawn_labels(tmp_path / "images", tmp_path / "named.gpkg", tmp_path / "named")
    assert [item.key for item in named.labelled.images] == ["two"]


def test_rasters_that_are_there_are_not_made_again(images: Path, tmp_path: Path) -> None:
    path = save_shapes(tmp_path / "d.gpkg", [("roof", ground(4, 8, 20, 24)), ("pond", ground(4, 8, 20, 24))])
    first = drawn_labels(images, path, tmp_path / "out")
    stamp = (tmp_path / "out/labels/a.tif").stat().st_mtime_ns
    again = drawn_labels(images, path, tmp_path / "out")
    assert (tmp_path / "out/labels/a.tif").stat().st_mtime_ns == stamp
    assert again.problems == first.problems != ()
    drawn_labels(images, path, tmp_path / "out", rest="other")
    assert (tmp_path / "out/labels/a.tif").stat().st_mtime_ns != stamp


def test_what_is_a_drawing(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "shapes.json").write_text('{"type": "FeatureCollection", "features": []}')
    (tmp_path / "d.gpkg").write_bytes(b"")
    assert [is_drawing(tmp_path / name) for name in ("coco.json", "shapes.json", "d.gpkg", "none.gpkg", "")] == [
        False, True, True, False, False,
    ]  # fmt: skip
    with pytest.raises(InputError, match="cannot be read"):
        drawn_labels(_one(tmp_path), tmp_path / "d.gpkg", tmp_path / "out")
    with pytest.raises(SettingsError, match="shapes: expected one of polygons, boxes"):
        DrawnSettings(shapes="circles")


def _one(tmp_path: Path) -> Path:
    return save(tmp_path / "images/one.png", noise(8, 8, 0)).parent


def test_finetune_learns_from_ten_shapes(images: Path, tmp_path: Path) -> None:
    """`--labels FILE.gpkg`: rasters in the training's folder, resumed and started anew like any other."""
    pytest.importorskip("torch")
    import terralabel as tl

    shapes = [("roof", ground(4 * k, 8, 4 * k + 3, 24)) for k in range(5)] + [
        ("ground", ground(4 * k, 40, 4 * k + 3, 60)) for k in range(5)
    ]
    path = save_shapes(tmp_path / "d.gpkg", shapes, "EPSG:4326")
    settings = {"network": "timm:test_resnet:fcn", "steps": 1, "batch_size": 2, "crop": 64, "threads": 1, "log_every": 1}
    reading = {"labels": path, "drawn": {"class_field": "class"}}
    tuned = tl.finetune(images, tmp_path / "tuned", reading=reading, **settings)
    assert (tuned.images, [entry.name for entry in tuned.classes]) == (1, ["ground", "roof"])
    again = tl.finetune(images, tmp_path / "tuned", reading=reading, overwrite=True, **settings)
    assert (tmp_path / "tuned/drawn/labels/a.tif").is_file() and again.images == 1
    with pytest.raises(SettingsError, match="rest: only for labels that are shapes drawn in a GIS"):
        tl.finetune(images, tmp_path / "other", reading={"drawn": {"rest": "ground"}}, **settings)


def test_annotate_fit_learns_from_shapes_and_labels_the_rest(images: Path, tmp_path: Path) -> None:
    """Pixels that nobody drew are learned from nowhere; images without a shape are annotated."""
    pytest.importorskip("torch")
    import terralabel as tl

    shapes = [("roof", ground(14, 18, 30, 38)), ("ground", ground(0, 0, 60, 10)), ("ground", ground(68, 4, 90, 60))]
    path = save_shapes(tmp_path / "d.gpkg", shapes, "EPSG:4326")
    few = {"trunk": "scratch", "width": 8, "steps": 2, "batch_size": 2, "crop": 64, "folds": 0, "threads": 1}
    fitted = tl.annotate_fit(images, tmp_path / "model", labels=path, reading={"drawn": {"class_field": "class"}}, **few)
    assert (fitted.images, [entry.name for entry in fitted.classes]) == (2, ["ground", "roof"])
    run = tl.annotate_apply(tmp_path / "model", images / "far.tif", tmp_path / "run", flips=False, threads=1)
    assert run.finished and run.label_path("far").is_file()


def test_a_drawing_of_one_class_is_told_of_the_rest(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import terralabel as tl

    path = save_shapes(tmp_path / "d.gpkg", [("roof", ground(12, 16, 44, 40))])
    with pytest.raises(InputError, match=r"all 768 labelled pixels are of class .*--rest background makes it a class"):
        tl.annotate_fit(images, tmp_path / "model", labels=path, trunk="scratch", folds=0)
