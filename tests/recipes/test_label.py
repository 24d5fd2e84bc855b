from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

import terralabel as tl
from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.errors import InputError, RunError, SettingsError, WeightsError
from terralabel.recipes.label import estimate, label
from terralabel.recipes.run import Run, export_run, open_run, report_run
from terralabel.recipes.settings import LabelSettings
from tests.recipes.conftest import tree_hashes


def test_every_scene_gets_a_raster_on_its_own_grid(painted: Path, finished: Path) -> None:
    run = open_run(finished)
    assert [scene.stem for scene in run.scenes] == ["scene_1", "scene_2", "scene_3"]
    for scene in run.scenes:
        with rasterio.open(run.label_path(scene.key)) as labels, rasterio.open(scene.source) as image:
            assert labels.shape == image.shape and labels.transform == image.transform and labels.crs == image.crs
            assert labels.nodata == 255 and labels.colormap(1)
            values, valid = labels.read(1), image.read_masks(1) > 0
        assert (values[~valid] == 255).all()
        assert (values[valid] != 255).mean() > 0.95
        assert set(np.unique(values[valid])) <= {entry.id for entry in run.classes} | {255}


def test_tiles_balance_and_nothing_failed(finished: Path) -> None:
    run = open_run(finished)
    assert dict(run.tile_counts) == {"ok": 3}
    assert run.failures == ()
    assert "3: 3 ok" in run.summary()


def test_objects_agree_with_the_rasters(finished: Path) -> None:
    """The smallest object over a pixel gives the pixel its class."""
    run = open_run(finished)
    ids: list[int] = []
    for scene in run.scenes:
        painted_classes = np.full((scene.height, scene.width), 255)
        objects = [
            (-int(batch.area[i]), int(batch.id[i]), batch.bbox[i], batch.crop(i), int(batch.class_id[i]))
            for batch in run.objects(scene.key)
            for i in range(len(batch))
        ]
        for _, identity, (x, y, w, h), crop, class_id in sorted(objects, key=lambda o: o[:2]):
            painted_classes[y : y + h, x : x + w][crop] = class_id
            ids.append(identity)
        with rasterio.open(run.label_path(scene.key)) as labels:
            assert np.array_equal(labels.read(1), painted_classes)
    assert len(ids) == len(set(ids)) and min(ids) >= 1


def test_the_same_command_again_changes_nothing(painted: Path, run: Run) -> None:
    before = tree_hashes(run.path)
    stamps = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.parquet")}
    label(painted / "images", run.path, clusters=6, workers=0)
    assert tree_hashes(run.path) == before
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*.parquet")} == stamps


def test_workers_do_not_change_a_byte(painted: Path, finished: Path, tmp_path: Path) -> None:
    label(painted / "images", tmp_path / "run", clusters=6, workers=2)
    assert tree_hashes(tmp_path / "run") == tree_hashes(finished)


def test_a_lost_part_is_made_again(painted: Path, run: Run) -> None:
    before = tree_hashes(run.path)
    for stage in ("masks", "objects", "labels"):
        next((run.path / "parts" / stage).iterdir()).unlink()
    (run.path / "labels" / "scene_2.tif").unlink()
    label(painted / "images", run.path, clusters=6, workers=0)
    assert tree_hashes(run.path) == before


def test_what_a_killed_process_left_is_removed(painted: Path, run: Run) -> None:
    (run.path / "parts" / "masks" / f"{TEMPORARY_PREFIX}123-rest.parquet").write_bytes(b"half")
    label(painted / "images", run.path, clusters=6, workers=0)
    assert not list(run.path.rglob(f"{TEMPORARY_PREFIX}*"))


def test_other_settings_are_refused_by_name_and_allowed_by_overwrite(painted: Path, run: Run) -> None:
    with pytest.raises(RunError, match=r"clusters: 6 -> 4.*--overwrite"):
        label(painted / "images", run.path, clusters=4, workers=0)
    masks = sorted((run.path / "parts" / "masks").iterdir())
    again = label(painted / "images", run.path, clusters=4, seed=1, workers=0, overwrite=True)
    assert len(again.classes) == 4
    assert sorted((run.path / "parts" / "masks").iterdir()) == masks  # masks depend neither on the clusters nor on the seed
    assert len(list((run.path / "parts" / "clusters").iterdir())) == 1  # what belongs to the old settings is gone


def test_a_changed_threshold_never_reuses_old_masks(painted: Path, run: Run) -> None:
    masks = set((run.path / "parts" / "masks").iterdir())
    label(painted / "images", run.path, clusters=6, workers=0, min_size=200, overwrite=True)
    assert not masks & set((run.path / "parts" / "masks").iterdir())
    assert min(int(b.area.min()) for s in open_run(run.path).scenes for b in open_run(run.path).objects(s.key)) >= 1


def test_bad_inputs_are_rows_and_the_others_go_on(painted: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(painted / "images", images)
    whole = (images / "scene_1.tif").read_bytes()
    (images / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (images / "empty.tif").write_bytes(b"")
    (images / "text.tif").write_text("this is no image")
    (images / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    before = tree_hashes(images)
    run = label(images, tmp_path / "run", clusters=4, workers=0)
    assert {Path(f.source).name for f in run.failures} == {"cut.tif", "empty.tif", "text.tif", "gone.tif"}
    assert all(f.status and f.reason for f in run.failures)
    assert len(run.scenes) == 3 and run.tile_counts["ok"] == 3
    assert tree_hashes(images) == before
    assert "4 inputs that failed" in run.summary()


def test_an_image_repaired_later_is_labelled(painted: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(painted / "images", images)
    whole = (images / "scene_1.tif").read_bytes()
    (images / "scene_1.tif").write_bytes(whole[:2000])
    assert len(label(images, tmp_path / "run", clusters=4, workers=0).failures) == 1
    (images / "scene_1.tif").write_bytes(whole)
    run = label(images, tmp_path / "run", clusters=4, workers=0)
    assert not run.failures and len(run.scenes) == 3


def test_an_image_more_leaves_the_masks_of_the_others_alone(tmp_path: Path) -> None:
    """Groups begin where names say so, and radiometry and features are fitted once: only what is new is computed."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)

    def paint(index: int) -> None:
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((12, 12, 1))).astype(np.uint8)
        with rasterio.open(
            images / f"{index:04d}.tif", "w", driver="GTiff", height=48, width=48, count=3, dtype="uint8"
        ) as target:
            target.write(np.moveaxis(pixels, 2, 0))

    for index in range(1, 200):
        paint(index)
    before = label(images, tmp_path / "run", clusters=3, workers=0, min_size=4)
    stamps = {p.name: p.stat().st_mtime_ns for p in (before.path / "parts" / "masks").iterdir()}
    paint(0)
    after = label(images, tmp_path / "run", clusters=3, workers=0, min_size=4)
    kept = [p for p in (after.path / "parts" / "masks").iterdir() if stamps.get(p.name) == p.stat().st_mtime_ns]
    assert len(after.scenes) == 200 and len(kept) >= len(stamps) - 2 >= 2


def test_an_image_whose_pixels_rot_is_a_failed_tile(painted: Path, tmp_path: Path) -> None:
    """Opens, but a block does not decode: found when the tile is read."""
    images = tmp_path / "images"
    images.mkdir()
    for path in (painted / "images").iterdir():
        with rasterio.open(path) as source:
            profile, pixels = source.profile, source.read()
        profile.update(compress="deflate", tiled=True, blockxsize=64, blockysize=64)
        with rasterio.open(images / path.name, "w", **profile) as target:
            target.write(pixels)
    data = bytearray((images / "scene_2.tif").read_bytes())
    middle = slice(len(data) // 3, 2 * len(data) // 3)
    data[middle] = b"\xff" * len(data[middle])
    (images / "scene_2.tif").write_bytes(bytes(data))
    run = label(images, tmp_path / "run", clusters=4, workers=0)
    assert len(run.failures) == 1 and "scene_2" in run.failures[0].source
    assert sum(run.tile_counts.values()) + len(run.failed_sources) == 3


def test_nothing_usable_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        label(tmp_path / "none", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No images in"):
        label(tmp_path / "empty", tmp_path / "run")
    (tmp_path / "empty" / "a.tif").write_bytes(b"")
    with pytest.raises(InputError, match="None of 1 inputs"):
        label(tmp_path / "empty", tmp_path / "run", workers=0)


def test_a_run_inside_its_input_or_in_a_foreign_folder_is_refused(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lies inside the input folder"):
        label(painted / "images", painted / "images" / "run")
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(RunError, match=r"not empty and not a run.*letters\.txt"):
        label(painted / "images", tmp_path)


def test_a_run_of_another_format_is_refused(painted: Path, run: Run) -> None:
    manifest = json.loads(run.folder.manifest_path.read_text())
    run.folder.manifest_path.write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(RunError, match="run format 99"):
        label(painted / "images", run.path, clusters=6, workers=0)
    run.folder.manifest_path.write_text("{half")
    with pytest.raises(RunError, match="damaged"):
        open_run(run.path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"masks": "tre"}, "Did you mean 'tree'"),
        ({"features": "apearance"}, "Did you mean 'appearance'"),
        ({"masks": "tree", "features": "pooled"}, "no network to pool from"),
        ({"sensor": "radar"}, "expected one of optical, sar"),
        ({"tau": 1.5}, "at most 1"),
        ({"clusters": 0}, "from 1 to 60000"),
        ({"tile_size": 64, "overlap": 40}, "more than half"),
    ],
)
def test_settings_that_make_no_sense_start_nothing(painted: Path, tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        label(painted / "images", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_masks_from_a_weights_file_say_what_the_file_is(painted: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", some=np.zeros(3, np.float32))
    pytest.importorskip("transformers")
    with pytest.raises(WeightsError, match="no SAM"):
        label(painted / "images", tmp_path / "run", masks=str(tmp_path / "weights.npz"))
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>sign in</html>")
    with pytest.raises(WeightsError, match="web page"):
        label(painted / "images", tmp_path / "run", masks=str(tmp_path / "page.pth"))
    assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing(painted: Path, tmp_path: Path) -> None:
    text = estimate([painted / "images"], LabelSettings(workers=1), tmp_path / "run")
    assert "3 images" in text and "3 tiles" in text and "GB free" in text
    assert not (tmp_path / "run").exists()


def test_one_bare_image_without_place(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((24, 24, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "bare picture.png")
    run = tl.label(tmp_path / "bare picture.png", tmp_path / "run", clusters=3, workers=0)
    with rasterio.open(run.label_path(run.scenes[0].key)) as labels:
        assert labels.crs is None and labels.shape == (96, 96)


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (40, 33)])
def test_odd_sizes(tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    with rasterio.open(
        tmp_path / "odd.tif", "w", driver="GTiff", height=shape[0], width=shape[1], count=3, dtype="uint8"
    ) as target:
        target.write(rng.integers(1, 255, (3, *shape)).astype(np.uint8))
    run = label(tmp_path / "odd.tif", tmp_path / "run", clusters=3, workers=0, tile_size=256, overlap=64, min_size=1)
    assert sum(run.tile_counts.values()) == len(list(run.tiles("odd")))
    with rasterio.open(run.label_path("odd")) as labels:
        assert labels.shape == shape


def test_an_image_without_any_valid_pixel_is_all_nodata(painted: Path, tmp_path: Path) -> None:
    with rasterio.open(painted / "images" / "scene_1.tif") as source:
        profile = source.profile
    with rasterio.open(tmp_path / "void.tif", "w", **profile) as target:
        target.write(np.zeros((3, profile["height"], profile["width"]), np.uint8))
    run = label(tmp_path / "void.tif", tmp_path / "run", clusters=3, workers=0)
    assert dict(run.tile_counts) == {"nodata": 1} and run.object_count() == 0 and not run.failures
    with rasterio.open(run.label_path("void")) as labels:
        assert (labels.read(1) == 255).all()
    export_run(run, ["geotiff", "geopackage", "geoparquet", "coco", "yolo", "mmseg", "png"], tmp_path / "out")
    assert report_run(run).is_file()


def test_mmseg_folders_keep_their_split_and_fit_on_train_only(painted: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, name in (("train", "scene_1"), ("train", "scene_2"), ("val", "scene_3")):
        (root / "img_dir" / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(painted / "images" / f"{name}.tif", root / "img_dir" / split)
    run = label(root, tmp_path / "run", clusters=4, workers=0)
    assert [scene.split for scene in run.scenes] == ["train", "train", "val"]
    both = label(root, tmp_path / "both", clusters=4, workers=0, transductive=True)
    one, two = (dict(np.load(r.layout.clusterer_path())) for r in (run, both))
    assert one["weights"].sum() < two["weights"].sum()


def test_auto_finds_a_number_of_clusters(painted: Path, tmp_path: Path) -> None:
    run = label(painted / "images", tmp_path / "run", clusters="auto", workers=0)
    assert 2 <= len(run.classes) <= 200


def test_history_tells_times_and_outcome(finished: Path) -> None:
    (entry,) = open_run(finished).folder.history()
    assert entry["outcome"] == "finished" and entry["stages"]["masks and features"] >= 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_is_one_clear_line(painted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(RunError, match=r"Cannot (write|create)"):
        label(painted / "images", folder / "run", workers=0)
