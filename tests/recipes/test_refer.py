"""What a text says, as a run: finding, meaning, seams, resuming, exports, pictures, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Transformer
from rasterio.transform import from_origin

import terralabel.recipes.refer.recipe as recipe
from terralabel import registry
from terralabel.contracts import Locator, RunView
from terralabel.core.tile import Tile
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.masks.located import GivenBoxes
from terralabel.recipes.detected_run import open_any
from terralabel.recipes.refer import finding
from terralabel.recipes.refer.queries import asked_for, read_queries
from terralabel.recipes.refer.recipe import refer
from terralabel.recipes.refer.run import ReferRun
from terralabel.recipes.run import export_run, open_run, report_run
from tests.recipes.conftest import tree_hashes

#: x, y, side in pixels of red houses; a blue river of 12 columns from x = 150 on. Half a metre a pixel.
HOUSES = ((20, 30, 30), (80, 150, 44), (200, 40, 36), (240, 190, 50), (190, 120, 20))
EAST_NORTH = (300_000.0, 5_000_000.0)


def painted(size: int = 320, seed: int = 0) -> np.ndarray:
    """(size, size, 3) uint8: green ground, red houses, a blue river."""
    pixels = np.full((size, size, 3), (70, 120, 60), np.int64)
    pixels[:, 150:162] = (40, 60, 200)
    for x, y, side in HOUSES:
        pixels[y : y + side, x : x + side] = (200, 60, 50)
    return np.clip(pixels + np.random.default_rng(seed).integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A GeoTIFF in UTM, the boxes of its things as GeoJSON in WGS84, and as a COCO file."""
    folder = tmp_path_factory.mktemp("refer")
    (folder / "images").mkdir()
    image = folder / "images" / "town.tif"
    where = from_origin(*EAST_NORTH, 0.5, 0.5)
    profile = {
        "driver": "GTiff",
        "width": 320,
        "height": 320,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32632",
        "transform": where,
    }
    with rasterio.open(image, "w", **profile) as raster:
        raster.write(painted().transpose(2, 0, 1))
    boxes = [("house", (x - 2, y - 2, x + side + 2, y + side + 2)) for x, y, side in HOUSES] + [("river", (148, 0, 164, 320))]
    east, north = EAST_NORTH
    shapes = np.array([shapely.box(east + a / 2, north - d / 2, east + c / 2, north - b / 2) for _, (a, b, c, d) in boxes])
    to_wgs84 = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    shapes = shapely.transform(shapes, lambda xy: np.stack(to_wgs84.transform(xy[:, 0], xy[:, 1]), axis=1))
    names = np.array([name for name, _ in boxes], dtype=object)
    drawn = folder / "boxes.geojson"
    pyogrio.raw.write(
        drawn, shapely.to_wkb(shapes), [names], ["class"], crs="EPSG:4326", geometry_type="Polygon", driver="GeoJSON"
    )
    rows = [
        {"id": k, "image_id": 1, "category_id": 1 + (name == "river"), "bbox": [a, b, c - a, d - b], "score": 0.9 - k / 10}
        for k, (name, (a, b, c, d)) in enumerate(boxes)
    ]
    data = {
        "images": [{"id": 1, "file_name": "town.tif", "width": 320, "height": 320}],
        "annotations": rows,
        "categories": [{"id": 1, "name": "house"}, {"id": 2, "name": "river"}],
    }
    coco = folder / "boxes.json"
    coco.write_text(json.dumps(data))
    return SimpleNamespace(folder=folder, image=image, drawn=drawn, coco=coco)


def ask(place: SimpleNamespace, out: Path, text: object, **more: object) -> ReferRun:
    settings = {"boxes": place.drawn, "masks": "tree", "workers": 0, **more}
    return refer(place.image, text, out, **settings)  # type: ignore[arg-type]


def labels(run: ReferRun) -> np.ndarray:
    with rasterio.open(run.label_path(run.scenes[0].key)) as raster:
        return raster.read(1)


def shown(run: ReferRun) -> list[int]:
    """Which houses the label shows, by their place in `HOUSES`."""
    label = labels(run)
    return [k for k, (x, y, side) in enumerate(HOUSES) if label[y + side // 2, x + side // 2] != 255]


@pytest.fixture(scope="module")
def two_texts(place: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> ReferRun:
    texts = {"the largest house east of the river": "largest", "houses west of the river": "western"}
    return ask(place, tmp_path_factory.mktemp("two") / "run", texts, explain=True)


def test_texts_become_labels_on_the_source_grid(place, two_texts):
    label = labels(two_texts)
    assert shown(two_texts) == [0, 1, 3]
    x, y, side = HOUSES[3]
    assert (label[y : y + side, x : x + side] == 1).mean() > 0.97
    assert np.isin(label[label != 255], (1, 2)).all()
    assert (label != 255).sum() == pytest.approx(sum(HOUSES[k][2] ** 2 for k in (0, 1, 3)), rel=0.05)
    with rasterio.open(two_texts.label_path("town")) as raster, rasterio.open(place.image) as source:
        assert (raster.crs, raster.transform, raster.shape) == (source.crs, source.transform, source.shape)
    assert [entry.name for entry in two_texts.classes] == ["largest", "western"]


def test_the_run_tells_how_it_came(two_texts):
    view: RunView = two_texts
    assert view.masks_name == "tree"
    first, second = two_texts.referred["town"]
    assert first["steps"][0] == "5 'house' found"
    assert first["chosen"][0]["m2"] == pytest.approx(0.25 * HOUSES[3][2] ** 2, rel=0.05)
    assert len(second["chosen"]) == 2
    assert "the largest house east of the river" in two_texts.summary()
    assert two_texts.object_count() == 3
    assert two_texts.failures == ()
    with pytest.raises(RunError, match="is a run of `refer`"):
        open_run(two_texts.path)


def test_pictures_explain_every_text(two_texts):
    names = sorted(path.name for path in (two_texts.path / "explain").iterdir())
    assert names == ["town-01-steps.png", "town-01.png", "town-02-steps.png", "town-02.png"]
    for name in names:
        picture = np.asarray(Image.open(two_texts.path / "explain" / name))
        assert picture.ndim == 3 and picture.std() > 10
    scene = np.asarray(Image.open(two_texts.path / "explain/town-01.png")).astype(int)
    yellow = (scene[..., 0] > 180) & (scene[..., 1] > 130) & (scene[..., 2] < 90)
    assert yellow.sum() > 0.5 * HOUSES[3][2] ** 2


def test_it_exports_and_reports_like_any_run(two_texts, tmp_path):
    files = export_run(open_any(two_texts.path), ["geopackage", "coco", "geojson"], tmp_path)
    package = next(path for path in files if path.suffix == ".gpkg")
    info = pyogrio.read_info(package, layer="masks")
    assert "32632" in info["crs"] and info["features"] == 3
    meta, _, geometry, columns = pyogrio.raw.read(package, layer="masks")
    fields = dict(zip(meta["fields"].tolist(), columns, strict=True))
    assert len(geometry) == 3
    assert set(fields["score"].tolist()) == {1.0}
    assert next(sorted(v.tolist()) for v in fields.values() if "western" in v.tolist()) == ["largest", "western", "western"]
    (degrees,) = export_run(open_any(two_texts.path), ["geopackage-wgs84"], tmp_path / "wgs84")
    assert degrees.name == "labels-wgs84.gpkg"
    there, _, moved, _ = pyogrio.raw.read(degrees, layer="masks")
    assert "4326" in there["crs"]
    to_map = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    back = shapely.transform(shapely.from_wkb(moved), lambda xy: np.stack(to_map.transform(xy[:, 0], xy[:, 1]), axis=1))
    assert shapely.hausdorff_distance(back, shapely.from_wkb(geometry)).max() < 0.01
    page = report_run(open_any(two_texts.path), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "largest house east of the river" in page and "A score is the locator" in page


def test_another_text_about_the_same_things_finds_nothing_anew(place, two_texts, tmp_path, monkeypatch):
    run = ask(place, tmp_path / "run", "the largest house")
    found = sorted((run.path / "parts/found").iterdir())
    monkeypatch.setattr(finding, "referred_masks", lambda *a, **k: pytest.fail("masks were made again"))
    with pytest.raises(RunError, match="other queries"):
        ask(place, tmp_path / "run", "the smallest house")
    again = ask(place, tmp_path / "run", "the smallest house", overwrite=True)
    assert sorted((run.path / "parts/found").iterdir()) == found
    assert shown(run) == shown(again) == [4]
    assert shown(ask(place, tmp_path / "run", "the smallest house")) == [4]


def test_what_was_done_before_a_crash_is_not_done_again(place, tmp_path, monkeypatch):
    def crash(job: object) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="crash"):
        broken.setattr(recipe, "gather_scene", crash)
        ask(place, tmp_path / "run", "the largest house", tile_size=128, overlap=40)
    assert len(list((tmp_path / "run/parts/masked").iterdir())) > 1
    monkeypatch.setattr(finding, "referred_masks", lambda *a, **k: pytest.fail("masks were made again"))
    run = ask(place, tmp_path / "run", "the largest house", tile_size=128, overlap=40)
    assert shown(run) == [3]
    assert not list((run.path / "parts/masked").iterdir())


def test_one_worker_or_two_leave_the_same_bytes(place, tmp_path):
    one, two = (ask(place, tmp_path / f"run{n}", "the two largest houses", workers=n) for n in (0, 2))
    hashes = [{k: v for k, v in tree_hashes(run.path).items() if "history" not in k} for run in (one, two)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("house", [0, 1, 2, 3, 4]),
        ("the two houses nearest to the river", [1, 4]),
        ("houses within 15 m of the river", [1, 4]),
        ("the house in the south-east", [3]),
        ("houses larger than 300 m2", [1, 2, 3]),
        ("the northernmost house east of the river", [2]),
        ("a boat", []),
        ("the largest church", []),
        ("建物", []),
        ("x" * 10_000, []),
        ("a boat \ud83c", []),
    ],
)
def test_relations_hold_on_the_map(place, tmp_path, text, which):
    run = ask(place, tmp_path / "run", text)
    assert shown(run) == which
    if not which:
        assert "nothing in the images is that" in run.summary()
        assert (labels(run) == 255).all()
        assert export_run(run, ["geopackage"], tmp_path / "out")


def test_boxes_of_a_detector_bring_scores(place, tmp_path):
    run = ask(place, tmp_path / "run", "2 houses", boxes=place.coco, threshold=0.6)
    assert [round(row["score"], 3) for row in run.referred["town"][0]["chosen"]] == [0.9, 0.8]
    assert ask(place, tmp_path / "all", "houses", boxes=place.coco, threshold=0.75).object_count() == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "The text is empty"),
        ("the tallest house", "'tallest' is a relation that is not understood"),
        ("the largest", "No thing"),
    ],
)
def test_texts_that_cannot_be_understood_leave_no_run(place, tmp_path, text, says):
    with pytest.raises(SettingsError, match=says):
        ask(place, tmp_path / "run", text)
    assert not (tmp_path / "run").exists()


def test_words_can_be_kept_from_being_relations(place, tmp_path):
    assert ask(place, tmp_path / "run", "the tallest house", relations=False).object_count() == 0


def test_metres_are_refused_for_pictures_that_lie_nowhere(place, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(painted()).save(tmp_path / "images/town.png")
    run = refer(
        tmp_path / "images", {"house within 5 m of the river": "a", "largest house": "b"}, tmp_path / "run",
        boxes=place.coco, masks="tree", workers=0,
    )  # fmt: skip
    assert "no coordinate system" in run.failures[0].reason
    near = refer(
        tmp_path / "images", "house within 30 px of the river", tmp_path / "px", boxes=place.coco, masks="tree", workers=0
    )
    assert near.object_count() == 2


def test_boxes_that_are_none_are_told(place, tmp_path):
    data = json.loads(place.coco.read_text())
    data["annotations"] += [
        {"id": 90 + k, "image_id": 1, "category_id": 1, "bbox": box}
        for k, box in enumerate(([10, 10, 0, 5], [5000, 5, 9, 9], [10, 10, float("nan"), 5], "x"))
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    run = ask(place, tmp_path / "run", "houses", boxes=tmp_path / "boxes.json")
    assert run.object_count() == 5
    assert len(run.manifest["problems"]) == 3


def test_without_boxes_and_locator_the_way_out_is_said(place, tmp_path):
    with pytest.raises(SettingsError, match="give boxes"):
        refer(place.image, "house", tmp_path / "run", masks="tree")
    with pytest.raises(SettingsError, match="Unknown locators 'nobody'"):
        refer(place.image, "house", tmp_path / "run", masks="tree", locator="nobody")
    with pytest.raises(SettingsError, match="choose one"):
        refer(place.image, "house", tmp_path / "run", masks="tree", locator="nobody", boxes=place.coco)
    with pytest.raises(InputError, match="is not there"):
        ask(place, tmp_path / "run", "house", boxes=tmp_path / "none.gpkg")
    assert ask(place, tmp_path / "run", "house").object_count() == 5  # nothing was begun, so nothing is in the way


class Reds:
    """A locator without a network: boxes round what is red in a tile, cut where the tile ends."""

    name, version = "reds", "1"

    def locate(self, tile: Tile, text: str) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        red = (tile.pixels[..., 0] > 150) & (tile.pixels[..., 2] < 100)
        _, _, stats, _ = cv2.connectedComponentsWithStats(cv2.medianBlur(red.astype(np.uint8), 5))
        boxes = stats[1:, :4].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        wanted = "house" in text
        return boxes[: len(boxes) * wanted], np.full(len(boxes) * wanted, 0.5, np.float32)


def test_a_locator_finds_things_across_seams_once(place, tmp_path, monkeypatch):
    assert isinstance(Reds(), Locator)
    monkeypatch.setitem(registry._BUILT_IN, "locators", {"reds": f"{__name__}:Reds"})
    finding.make_locator.cache_clear()
    for tile_size, overlap in ((1024, 64), (128, 48), (96, 40)):
        run = refer(
            place.image, "house", tmp_path / f"run{tile_size}", locator="reds", masks="tree", workers=0,
            tile_size=tile_size, overlap=overlap,
        )  # fmt: skip
        assert shown(run) == [0, 1, 2, 3, 4]
        assert run.object_count() == 5
    finding.make_locator.cache_clear()


def test_given_boxes_are_found_by_the_names_of_their_class():
    given = GivenBoxes(
        np.array([[0, 0, 10, 10], [20, 0, 30, 9], [0, 20, 5, 25]], float), ("Building", "church", ""), np.ones(3)
    )
    assert isinstance(given, Locator)
    for text, count in (("buildings", 2), ("the building", 2), ("Churches", 2), ("thing", 3), ("boat", 1)):
        assert len(given.of(text)) == count
    boxes, scores = given.locate(Tile.from_array(np.zeros((15, 15, 3), np.uint8)), "things")
    assert len(boxes) == len(scores) == 1


def test_an_ontology_comes_from_a_file(tmp_path):
    (tmp_path / "texts.yaml").write_text("the red roofs: roof\n'largest pool': pool\n建物: building\n")
    assert read_queries(tmp_path / "texts.yaml") == {"the red roofs": "roof", "largest pool": "pool", "建物": "building"}
    (tmp_path / "texts.json").write_text('["house", "river"]')
    assert asked_for(None, tmp_path / "texts.json") == {"house": "house", "river": "river"}
    for content in ("", "just words", "a: [1, 2]", "[1, {}]", "a: {b: c}", "!!python/object/apply:os.system [ls]", ": :"):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(InputError, match=r"bad\.yaml"):
            read_queries(tmp_path / "bad.yaml")
    with pytest.raises(SettingsError, match="one way"):
        asked_for(None, None)
