from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.core.classes import Classes
from terralabel.errors import InputError, SettingsError
from terralabel.recipes.curate import align_run, change_clusters, import_file
from terralabel.recipes.evaluation import evaluate_labels
from terralabel.recipes.label import label
from terralabel.recipes.relabel import carried_over
from terralabel.recipes.run import Run, export_run, open_run


def raster(run: Run, key: str) -> np.ndarray:
    with rasterio.open(run.label_path(key)) as labels:
        return labels.read(1)


def test_list_shows_every_cluster_with_its_share(run: Run) -> None:
    lines = change_clusters(run).splitlines()
    assert len(lines) == 7
    assert sum(float(line.split("%")[0].split()[-1]) for line in lines[1:]) == pytest.approx(100, abs=0.5)


def test_name_merge_drop_restore_color(run: Run) -> None:
    before = raster(run, "scene_1")
    change_clusters(run, "name", ["2", "water"])
    change_clusters(run, "merge", ["3", "4"], name="field")
    change_clusters(run, "drop", ["5"])
    change_clusters(run, "color", ["water", "#0000ff"])
    classes = {entry.name: entry for entry in run.classes}
    assert classes["water"].color == "#0000ff" and classes["field"].clusters == (3, 4)
    after = raster(run, "scene_1")
    assert np.array_equal(after == 3, np.isin(before, [3, 4]))
    assert np.array_equal(after == 255, np.isin(before, [5, 255]))
    with rasterio.open(run.label_path("scene_1")) as labels:
        assert labels.colormap(1)[2][:3] == (0, 0, 255)
    change_clusters(run, "restore", ["5"])
    assert np.array_equal(raster(run, "scene_1") == 5, before == 5)


def test_split_divides_one_cluster_and_leaves_the_others(run: Run) -> None:
    before = raster(run, "scene_1")
    change_clusters(run, "split", ["0"], parts=3)
    after = raster(run, "scene_1")
    changed = before != after
    assert changed.any() and set(np.unique(before[changed])) == {0}
    assert set(np.unique(after[before == 0])) <= {0, 6, 7}
    change_clusters(run, "split", ["1"])
    assert 8 in {c for entry in open_run(run.path).classes for c in entry.clusters}


@pytest.mark.parametrize(
    "action, arguments, error",
    [
        ("rename", ["1", "x"], SettingsError),
        ("name", ["1"], SettingsError),
        ("name", ["99", "x"], InputError),
        ("drop", ["x"], SettingsError),
        ("drop", ["99"], InputError),
        ("split", ["99"], InputError),
        ("merge", ["1"], InputError),
    ],
)
def test_wrong_words_change_nothing(run: Run, action: str, arguments: list[str], error: type) -> None:
    before = run.classes
    with pytest.raises(error):
        change_clusters(run, action, arguments)
    assert run.classes == before


@pytest.mark.parametrize("match", ["majority", "hungarian"])
def test_align_names_clusters_from_truth(run: Run, painted: Path, match: str) -> None:
    names = Classes.from_json((painted / "classes.json").read_text())
    align_run(run, painted / "truth", match=match, names=names)
    aligned = open_run(run.path)
    assert {e.name for e in names} <= {e.name for e in aligned.classes}
    majority = evaluate_labels(aligned, painted / "truth", match="none")
    assert majority.miou > 0.2
    if match == "majority":  # nothing is left for a second matching to gain
        assert evaluate_labels(aligned, painted / "truth", match="majority").miou == pytest.approx(majority.miou)


def test_named_classes_survive_a_rerun_with_other_settings(run: Run, painted: Path) -> None:
    align_run(run, painted / "truth", names=Classes.from_json((painted / "classes.json").read_text()))
    before = {scene.key: raster(run, scene.key) for scene in run.scenes}
    names = {entry.name for entry in open_run(run.path).classes}
    again = label(painted / "images", run.path, clusters=9, workers=0, overwrite=True)
    assert {entry.name for entry in again.classes} >= names
    agreement = np.mean([(raster(again, key) == old).mean() for key, old in before.items()])
    assert agreement > 0.6


def test_a_correction_survives_a_rerun_with_other_settings(run: Run, painted: Path, tmp_path: Path) -> None:
    """Edit one object's class in the exported GeoPackage, import it, relabel with other masks and clusters."""
    import pyogrio

    change_clusters(run, "name", ["2", "special"])
    (gpkg,) = [p for p in export_run(run, ["geopackage"], tmp_path / "out") if p.suffix == ".gpkg"]
    frame = pyogrio.read_dataframe(gpkg, layer="masks")
    row = frame[(frame["class_id"] != 2) & (frame["area_px"] > 300)].iloc[0]
    frame.loc[frame["id"] == row["id"], "class_id"] = 2
    frame.loc[frame["id"] == row["id"], "class_name"] = "special"
    pyogrio.write_dataframe(frame, tmp_path / "edited.gpkg", layer="masks")
    outcome = import_file(open_run(run.path), tmp_path / "edited.gpkg", author="me")
    assert outcome.refused == 0, outcome.text
    corrected = open_run(run.path)
    (item,) = corrected.corrections.items
    assert item.class_id == 2 and item.author == "me"
    inside = item.shown.box
    shown = raster(corrected, item.scene)[inside.slices()][item.shown.crop(inside)]
    assert (shown == 2).all()
    assert "corrected" in {s for batch in corrected.objects(item.scene) for s in batch.status}
    again = label(painted / "images", run.path, clusters=5, workers=0, min_size=60, overwrite=True)
    assert again.classes[2].name == "special"
    assert (raster(again, item.scene)[inside.slices()][item.shown.crop(inside)] == 2).all()


def test_a_class_map_comes_back(run: Run, tmp_path: Path) -> None:
    data = json.loads(run.folder.classes_path.read_text())
    data["classes"][1]["name"] = "heath"
    (tmp_path / "classes.json").write_text(json.dumps(data))
    import_file(run, tmp_path / "classes.json")
    assert open_run(run.path).classes[1].name == "heath"


def test_importing_nonsense_changes_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gpkg").write_bytes(b"not a database")
    before = run.classes
    with pytest.raises(InputError):
        import_file(run, tmp_path / "x.gpkg")
    with pytest.raises(InputError):
        import_file(run, tmp_path / "none.gpkg")
    assert run.classes == before and not len(run.corrections)


def test_carried_over_keeps_names_by_where_they_lie() -> None:
    old = Classes.from_json(
        json.dumps(
            {
                "version": 1,
                "classes": [
                    {"id": 0, "name": "cluster 0", "color": "#000000", "clusters": [0]},
                    {"id": 1, "name": "road", "color": "#111111", "clusters": [1, 2]},
                ],
            }
        )
    )
    overlap = np.zeros((4, 65536), np.int64)
    overlap[0, 1], overlap[0, 0] = 90, 10  # mostly road
    overlap[1, 0] = 50  # an unnamed one
    overlap[2, 255] = 40  # under nothing
    overlap[3, 1], overlap[3, 0], overlap[3, 255] = 4, 3, 3  # nothing by half
    kept = carried_over(old, overlap)
    assert kept.of_cluster[0] == 1 and kept[1].name == "road"
    assert {kept[kept.of_cluster[c]].name for c in (1, 2, 3)} == {"cluster 1", "cluster 2", "cluster 3"}
    assert 2 not in carried_over(old, overlap, dropped=True).of_cluster
    assert carried_over(old, overlap, {0})[0].name == "cluster 0"
