"""A disk that is full at any byte, out of inodes or read-only: one line, nothing half-written, and the rerun completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.errors import SpaceError
from terralabel.imagery.painter import write_demo
from terralabel.recipes.run import export_run, open_run, report_run
from tests.recipes.conftest import tree_hashes

_DRIVER = Path(__file__).with_name("crash_driver.py")
_PAGE = 4096
_MB = r"[\d,]+\.\d MB"
_FORMATS = ["geotiff", "geopackage", "geoparquet", "geojson", "coco", "yolo", "mmseg", "png", "instances"]

Disk = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes small disks: disk("name", "size=64k"); an existing one is given other limits."""
    mounted: list[Path] = []

    def make(name: str, options: str) -> Path:
        folder = tmp_path / name
        again = folder in mounted
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", ("remount," if again else "") + options, "tmpfs", str(folder)]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            pytest.skip(f"needs the right to mount a small disk: {found.stderr.strip()}")
        if not again:
            mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("disk"), seed=4, scenes=2, size=64)[0]


def drive(images: Path, runs: list[Path], scratch: Path) -> list[dict[str, Any]]:
    """Label into each of `runs` in a process of its own: {"exit", "error", "kind"}."""
    faults = [{"out": str(run)} for run in runs]
    spec = {"sources": [str(images)], "settings": {"clusters": 3, "tile_size": 48, "overlap": 16}, "faults": faults}
    (scratch / "spec.json").write_text(json.dumps({**spec, "shard_pixels": 5000}))
    command = [sys.executable, str(_DRIVER), str(scratch / "spec.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment, check=True)
    out: list[dict[str, Any]] = [{}]
    for line in map(json.loads, found.stdout.splitlines()):
        out[-1] |= line
        if "exit" in line:
            out.append({})
    assert len(out) == len(runs) + 1, found.stderr
    assert "Traceback" not in found.stderr, found.stderr
    return out[:-1]


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The control's files."""
    folder = tmp_path_factory.mktemp("control")
    (end,) = drive(images, [folder / "run"], folder)
    assert end["exit"] == 0
    return tree_hashes(folder / "run")


def fill(images: Path, limits: list[str], plenty: str, disk: Disk, undisturbed: dict[str, str], tmp_path: Path) -> int:
    """Label onto disks with these limits, then again with `plenty`; returns on how many the first attempt failed."""
    runs = [disk(f"disk{i}", limit) / "run" for i, limit in enumerate(limits)]
    full = 0
    for run, limit, end in zip(runs, limits, drive(images, runs, tmp_path), strict=True):
        found = tree_hashes(run)
        assert not list(run.rglob(f"{TEMPORARY_PREFIX}*"))
        assert all(found[path] == undisturbed[path] for path in found if path != "manifest.json"), limit
        if end["exit"]:
            full += 1
            assert end["exit"] == 1 and end["kind"] == "SpaceError", (limit, end)
            assert "Disk full" in end["error"] and "MB free" in end["error"] and "\n" not in end["error"], end
    for i in range(len(limits)):
        disk(f"disk{i}", plenty)
    for run, end in zip(runs, drive(images, runs, tmp_path), strict=True):
        assert end["exit"] == 0, end
        assert tree_hashes(run) == undisturbed
    return full


def pages(undisturbed: dict[str, str]) -> int:
    """About as many pages as the run needs: a page for every file and folder here."""
    return len(undisturbed) + 12


def test_a_full_disk(images: Path, undisturbed: dict[str, str], disk: Disk, tmp_path: Path) -> None:
    limits = [f"size={int(pages(undisturbed) * share) * _PAGE}" for share in (0.1, 0.6)]
    assert fill(images, limits, "size=8m", disk, undisturbed, tmp_path) == 2


def test_no_inodes_left(images: Path, undisturbed: dict[str, str], disk: Disk, tmp_path: Path) -> None:
    limits = [f"size=8m,nr_inodes={count}" for count in (2, 20)]
    assert fill(images, limits, "size=8m,nr_inodes=1000", disk, undisturbed, tmp_path) == 2


@pytest.mark.slow
def test_a_disk_full_at_every_page(images: Path, undisturbed: dict[str, str], disk: Disk, tmp_path: Path) -> None:
    limits = [f"size={count * _PAGE}" for count in range(1, 2 * pages(undisturbed))]
    assert 20 < fill(images, limits, "size=8m", disk, undisturbed, tmp_path) <= len(limits)


@pytest.mark.slow
def test_inodes_used_up_at_every_file(images: Path, undisturbed: dict[str, str], disk: Disk, tmp_path: Path) -> None:
    limits = [f"size=8m,nr_inodes={count}" for count in range(2, len(undisturbed) + 25)]
    assert 20 < fill(images, limits, "size=8m,nr_inodes=1000", disk, undisturbed, tmp_path) < len(limits)


def test_a_read_only_disk(images: Path, undisturbed: dict[str, str], disk: Disk, tmp_path: Path) -> None:
    """New, and half-way through a run that is there."""
    folder = disk("disk", "size=8m")
    (end,) = drive(images, [folder / "run"], tmp_path)
    assert end["exit"] == 0
    next((folder / "run" / "labels").glob("*.tif")).unlink()
    disk("disk", "ro")
    for run in (folder / "run", folder / "other"):
        (end,) = drive(images, [run], tmp_path)
        assert end["exit"] == 1 and end["kind"] == "SpaceError"
        assert "Read-only file system" in end["error"] and "\n" not in end["error"]
    disk("disk", "rw")
    (end,) = drive(images, [folder / "run"], tmp_path)
    assert end["exit"] == 0 and tree_hashes(folder / "run") == undisturbed


def export(run: Path, name: str, out: Path) -> None:
    """Everything that writes outside of `label`."""
    if name == "report":
        report_run(open_run(run), out / "report.html")
    else:
        export_run(open_run(run), [name], out)


def fill_export(run: Path, name: str, shares: list[float], disk: Disk, tmp_path: Path) -> None:
    """Export onto disks that hold these shares of what the export needs, then with room."""
    whole = disk("whole", "size=64m")
    export(run, name, whole / "out")
    expected = tree_hashes(whole / "out")
    need = sum(path.lstat().st_blocks * 512 for path in (whole / "out").rglob("*")) // _PAGE
    for i, share in enumerate(shares):
        folder = disk(f"{name}{i}", f"size={max(int(need * share), 1) * _PAGE}")
        with pytest.raises(
            SpaceError, match=rf"^Disk full while writing .* \({_MB} free(, at most {_MB} needed for this file)?\): free[^\n]*$"
        ):
            export(run, name, folder / "out")
        found = tree_hashes(folder / "out")
        assert found.items() <= expected.items() and len(found) < len(expected)
        assert not list(folder.rglob(f"{TEMPORARY_PREFIX}*"))
        disk(f"{name}{i}", "size=64m")
        export(run, name, folder / "out")
        assert tree_hashes(folder / "out") == expected


@pytest.mark.parametrize("name", [*_FORMATS, "report"])
def test_an_export_onto_a_full_disk(finished: Path, name: str, disk: Disk, tmp_path: Path) -> None:
    fill_export(finished, name, [0.5], disk, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*_FORMATS, "report"])
def test_an_export_onto_a_disk_full_anywhere(finished: Path, name: str, disk: Disk, tmp_path: Path) -> None:
    fill_export(finished, name, [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9], disk, tmp_path)


@pytest.mark.parametrize("name", ["geotiff", "geopackage", "coco", "report"])
def test_an_export_onto_a_read_only_disk(finished: Path, name: str, disk: Disk) -> None:
    folder = disk("ro", "size=1m,ro")
    with pytest.raises(SpaceError, match="Read-only file system"):
        export(finished, name, folder / "out")
