from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.errors import InputError, RunError, SettingsError
from terralabel.recipes.curate import change_clusters
from terralabel.recipes.painting import load_splits
from terralabel.recipes.reviewed import settled
from terralabel.recipes.run import Run, export_run, open_run
from terralabel.review.desk import Desk
from terralabel.runs.journal import Conflict


def names(desk: Desk) -> dict[int, str]:
    return {entry.id: entry.name for entry in desk.now().classes}


def written(desk: Desk) -> None:
    desk.write()
    deadline = time.monotonic() + 60
    while desk.writing.active:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not desk.writing.error


def test_every_change_is_seen_at_once_and_kept(desk: Desk) -> None:
    desk.change_classes("name", classes=[2], name="water", seen=0)
    desk.change_classes("color", classes=[2], color="#0000ff", seen=1)
    desk.change_classes("merge", classes=[2, 3], seen=2)
    desk.change_classes("drop", classes=[4], seen=3)
    state = desk.now()
    assert state.classes[2].name == "water" and state.classes[2].clusters == (2, 3) and state.classes[2].color == "#0000ff"
    assert 4 not in state.classes.of_cluster and state.pending == 4
    with Desk(open_run(desk.run.path)).journal as again:
        assert [entry.who for entry in again.entries()] == ["ada"] * 4
    desk.change_classes("restore", clusters=[4], seen=4)
    desk.change_classes("move", clusters=[4], classes=[2], seen=5)
    assert desk.now().classes[2].clusters == (2, 3, 4)


def test_undo_and_redo_walk_through_all_of_it(desk: Desk) -> None:
    start = desk.now().classes
    desk.change_classes("merge", classes=[1, 2], seen=0)
    desk.change_classes("name", classes=[1], name="road", seen=1)
    after = desk.now()
    assert after.undo == "“cluster 1” is now “road”" and after.redo == ""
    desk.undo(seen=2)
    desk.undo(seen=3)
    assert desk.now().classes == start and desk.now().redo
    desk.undo(seen=4, redo=True)
    desk.undo(seen=5, redo=True)
    assert desk.now().classes == after.classes
    with pytest.raises(RunError, match="nothing to redo"):
        desk.undo(seen=6, redo=True)


def test_a_split_is_whole_in_its_row(desk: Desk, tmp_path: Path) -> None:
    assert desk.survey is not None and isinstance(desk.run, Run)
    before = desk.survey.cards[0].objects
    desk.change_classes("split", clusters=[0], parts=2, seen=0)
    assert desk.now().classes.of_cluster[6] not in (0, None)
    assert desk.survey.cards[0].objects + desk.survey.cards[6].objects == before
    splits = desk.run.layout.splits_path()
    splits.unlink()  # as after a kill between the row and the file
    settled(desk.run)
    assert [split.ids for split in load_splits(splits)] == [(0, 6)]
    with rasterio.open(desk.run.label_path("scene_1")) as labels:
        assert desk.now().classes.of_cluster[6] in np.unique(labels.read(1))
    desk.undo(seen=1)
    settled(desk.run)
    export_run(desk.run, ["geotiff"], tmp_path / "out")
    assert 6 not in {entry.id for entry in desk.run.classes}


def test_two_tabs_get_a_conflict_where_they_meet(desk: Desk) -> None:
    desk.change_classes("name", classes=[2], name="water", seen=0)
    desk.change_classes("name", classes=[3], name="road", seen=0)
    for bad in (
        lambda: desk.change_classes("name", classes=[2], name="lake", seen=0),
        lambda: desk.change_classes("merge", classes=[1, 2], seen=0),
        lambda: desk.undo(seen=1),
    ):
        with pytest.raises(Conflict):
            bad()
    assert names(desk)[2] == "water" and desk.now().version == 2


def test_what_cannot_be_is_refused_and_nothing_changes(desk: Desk) -> None:
    for action, values, error in (
        ("name", {"classes": [99], "name": "x"}, InputError),
        ("name", {"classes": [1], "name": "bell\x07"}, InputError),
        ("name", {"classes": [], "name": "x"}, SettingsError),
        ("merge", {"classes": [1]}, InputError),
        ("drop", {"classes": [99]}, InputError),
        ("drop", {}, SettingsError),
        ("split", {"clusters": [99]}, InputError),
        ("split", {"clusters": [1, 2]}, SettingsError),
        ("color", {"classes": [1], "color": "red"}, InputError),
        ("color", {"classes": [1], "color": desk.now().classes[1].color}, InputError),
    ):
        with pytest.raises(error):
            desk.change_classes(action, seen=0, **values)  # type: ignore[arg-type]
    assert desk.now().version == 0


def test_while_another_process_holds_the_run_nothing_is_taken(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terralabel.review.desk._PATIENCE", 0.1)
    with desk.run.folder.lock(), pytest.raises(RunError, match="Another process is working"):
        desk.change_classes("name", classes=[1], name="road", seen=0)
    desk.change_classes("name", classes=[1], name="road", seen=0)


def test_a_run_that_became_another_takes_nothing(desk: Desk) -> None:
    manifest = desk.run.folder.manifest()
    for now in ({**manifest, "finished": False}, {**manifest, "run_id": "0" * 16}):
        desk.run.folder.write_manifest(now)
        with pytest.raises(RunError, match="start `terralabel review` on it again"):
            desk.change_classes("name", classes=[1], name="road", seen=0)
    desk.run.folder.write_manifest(manifest)
    desk.change_classes("name", classes=[1], name="road", seen=0)


def test_what_the_command_line_does_meanwhile_is_seen(desk: Desk) -> None:
    desk.change_classes("name", classes=[2], name="water", seen=0)
    change_clusters(open_run(desk.run.path), "name", ["3", "road"])
    assert names(desk)[2] == "water" and names(desk)[3] == "road" and desk.now().pending == 0
    desk.change_classes("merge", classes=[3, 4], seen=1)
    change_clusters(open_run(desk.run.path), "merge", ["3", "5"])
    with pytest.raises(RunError, match="changed elsewhere"):
        desk.undo(seen=2)


def test_writing_goes_on_in_the_background(desk: Desk) -> None:
    desk.change_classes("merge", classes=[1, 2], seen=0)
    written(desk)
    assert desk.now().pending == 0 and desk.run.classes == desk.now().classes == desk.now().painted
