"""Awkward names and things that are no files go the whole way - label, status, export - or are skipped with the reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.cli.main import run as terralabel
from terralabel.errors import InputError
from terralabel.imagery.painter import write_demo
from terralabel.recipes import measuring
from terralabel.recipes.label import label
from terralabel.recipes.run import export_run, open_run
from tests.recipes.conftest import tree_hashes

NAMES = [
    "with space.tif",
    "-dash.tif",
    "--out.tif",
    'it\'s "quoted".tif',
    "two\nlines.tif",
    "größe 東京 🛰.tif",
    "ä" * 125 + ".tiff",  # 255 bytes
    "a" * 251 + ".tif",
    "semi;colon&and$HOME`id`.tif",
    "percent%20.tif",
    "<script>alert(1)</script>.tif".replace("/", "\u2215"),
    "con.tif",
    "no suffix",
    "one/same.tif",
    "two/same.tif",
    "two/SAME.tif",
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small painted image."""
    folder = tmp_path_factory.mktemp("names")
    write_demo(folder, seed=6, scenes=1, size=64)
    return folder / "images" / "scene_1.tif"


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Path -> (mode, time, content) of everything below a folder: what no run may change in its input."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(path.lstat().st_mode) else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def test_awkward_names_the_whole_way(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "input with 'quotes' and ü"
    for name in NAMES:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scene, images / name)
    before = state(images)
    monkeypatch.chdir(tmp_path)

    def say(*words: object) -> str:
        with pytest.raises(SystemExit) as left:
            terralabel([str(word) for word in words])
        said = capsys.readouterr()
        assert left.value.code == 0, said.err
        return said.out

    say("label", images, "--out", tmp_path / "-run", "--clusters", 3, "--workers", 0)
    facts = json.loads(say("status", tmp_path / "-run", "--json"))
    assert facts["scenes"] == len(NAMES) and facts["failures"] == [] and facts["tiles"]["ok"] == len(NAMES)
    run = open_run(tmp_path / "-run")
    assert {str(Path(s.source).relative_to(images)) for s in run.scenes} == set(NAMES)
    assert len({s.key.casefold() for s in run.scenes}) == len(NAMES)
    formats = "geotiff,geopackage,geoparquet,geojson,coco,yolo,mmseg,png,instances"
    written = say("export", tmp_path / "-run", "--format", formats, "--out", tmp_path / "exported").splitlines()
    assert len(written) >= 3 * len(NAMES)
    say("report", tmp_path / "-run")
    labels = [rasterio.open(run.label_path(s.key)) for s in run.scenes]
    first = labels[0].read(1)
    for raster in labels:
        assert np.array_equal(raster.read(1), first)  # the same image under every name
        raster.close()
    assert state(images) == before
    assert {path.name for path in tmp_path.iterdir()} == {images.name, "-run", "exported"}


def test_what_is_no_image_is_skipped_with_the_reason(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    shutil.copy(scene, images / "good.tif")
    (images / "deep" / "loop").symlink_to(images)
    (images / "self.tif").symlink_to(images / "self.tif")
    (images / "gone.tif").symlink_to(tmp_path / "nowhere")
    os.mkfifo(images / "pipe.tif")
    monkeypatch.chdir(images)  # the address of a socket is at most 107 bytes long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.tif")
    before = state(images)
    run = label(images, tmp_path / "run", clusters=3, workers=0)
    assert {Path(f.source).name: f.status for f in run.failures} == {
        "loop": "symlink-loop",
        "self.tif": "symlink-loop",
        "gone.tif": "dangling-link",
        "pipe.tif": "not-a-file",
        "socket.tif": "not-a-file",
    }
    assert [s.key for s in run.scenes] == ["good"] and run.tile_counts["ok"] == 1
    assert state(images) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_skipped(scene: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("good.tif", "locked.tif"):
        shutil.copy(scene, images / name)
    (images / "locked.tif").chmod(0)
    (failure,) = label(images, tmp_path / "run", clusters=3, workers=0).failures
    assert failure.status == "permission"


def test_an_input_folder_that_cannot_be_written_is_no_matter(scene: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(scene, images / "a.tif")
    (images / "a.tif").chmod(0o444)
    images.chmod(0o555)
    try:
        run = label(images, tmp_path / "run", clusters=3, workers=0)
        export_run(run, ["geotiff", "mmseg"], tmp_path / "out")
        assert not run.failures and [p.name for p in images.iterdir()] == ["a.tif"]
    finally:
        images.chmod(0o755)


def two(scene: Path, tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.tif", "b.tif"):
        shutil.copy(scene, images / name)
    return images


def meddle(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Do `what` once, when the first tile is about to be read."""
    real, todo = measuring.read_tile, [what]

    def read(*arguments: object) -> object:
        if todo:
            todo.pop()()
        return real(*arguments)

    monkeypatch.setattr(measuring, "read_tile", read)


def test_an_image_that_vanishes_midway_fails_alone_and_heals(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = two(scene, tmp_path)
    meddle(monkeypatch, lambda: (images / "b.tif").rename(tmp_path / "kept.tif"))
    run = label(images, tmp_path / "run", clusters=3, workers=0)
    (failure,) = run.failures
    assert failure.source == "b:00000:00000" and "b.tif" in failure.reason and "\n" not in failure.reason
    assert dict(run.tile_counts) == {"ok": 1, "failed": 1}
    (tmp_path / "kept.tif").rename(images / "b.tif")
    assert label(images, tmp_path / "run", clusters=3, workers=0).failures == ()


def test_an_image_that_is_changed_midway_fails_and_is_done_anew(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it belongs to no known content; the next invocation hashes it afresh."""
    images = two(scene, tmp_path)

    def change() -> None:
        with rasterio.open(images / "b.tif", "r+") as target:
            target.write(255 - target.read())

    meddle(monkeypatch, change)
    run = label(images, tmp_path / "run", clusters=3, workers=0)
    (failure,) = run.failures
    assert failure.source == "b:00000:00000" and failure.status == "changed"
    before = {s.key: s.sha256 for s in run.scenes}
    again = label(images, tmp_path / "run", clusters=3, workers=0)
    after = {s.key: s.sha256 for s in again.scenes}
    assert again.failures == () and before["a"] == after["a"] and before["b"] != after["b"]


def test_no_network_is_needed_or_tried(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    for call in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, call, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run = label(scene, tmp_path / "run", clusters=3, workers=0)
    assert not run.failures
    export_run(run, ["geotiff", "geopackage", "coco"], tmp_path / "out")


def test_a_disk_of_another_machine_is_refused(tmp_path: Path) -> None:
    for source in ("https://example.com/a.tif", "/vsicurl/https://example.com/a.tif", "s3://bucket/a.tif"):
        with pytest.raises(InputError, match="not on this machine"):
            label(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_same_process_sees_changed_images(scene: Path, tmp_path: Path) -> None:
    """Nothing of the first invocation is remembered beside what lies in the run."""
    images = two(scene, tmp_path)
    label(images, tmp_path / "run", clusters=3, workers=0)
    for name in ("a.tif", "b.tif"):
        with rasterio.open(images / name, "r+") as target:
            pixels = target.read()
            target.write(np.where(pixels > 0, pixels // 3 + 1, 0).astype(np.uint8))  # another stretch
    (tmp_path / "run" / "radiometry.json").unlink()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    again = label(images, tmp_path / "run", clusters=3, workers=0)
    elsewhere = label(images, tmp_path / "copy", clusters=3, workers=0)
    assert tree_hashes(again.path) == tree_hashes(elsewhere.path)
