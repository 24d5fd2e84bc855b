from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.errors import RunError
from terralabel.runs.folder import FORMAT, RunFolder, digest


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with a manifest and nothing else."""
    made = RunFolder(tmp_path / "run")
    made.create()
    made.write_manifest({"format": FORMAT, "settings": {}})
    return made


def test_digest_depends_on_content_only() -> None:
    assert digest({"b": 1, "a": [1.5, "ä"]}) == digest({"a": [1.5, "ä"], "b": 1}) == digest({"a": (1.5, "ä"), "b": 1})
    assert digest({"a": 1}) != digest({"a": "1"}) != digest({"a": 1.0})
    assert len(digest(None)) == 16


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        RunFolder(tmp_path / "file").create()
    with pytest.raises(RunError, match=r"not empty and not a run \(it holds 'file'\)"):
        RunFolder(tmp_path).create()
    with pytest.raises(RunError, match="Cannot create"):
        RunFolder(tmp_path / "file" / "run").create()


def test_what_an_early_kill_leaves_is_taken_up(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    (run.path / f"{TEMPORARY_PREFIX}1-2.json").write_text("half")
    for name in (".lock", "scenes.jsonl", "radiometry.json", "history.jsonl"):
        (run.path / name).write_text("")
    (run.path / "parts").mkdir()
    run.create()
    with pytest.raises(RunError, match=r"no manifest\.json"):
        run.manifest()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("null", "is damaged"),
        ("{}", "is damaged"),
        ("\udcff", "is damaged"),
        ('{"format": 0}', f"run format 0, this TerraLabel reads {FORMAT}"),
        ('{"format": 99}', "run format 99"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(folder: RunFolder, text: str, message: str) -> None:
    folder.manifest_path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=message):
        folder.manifest()


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it does not exist"):
        RunFolder(tmp_path / "none").manifest()


def test_history_survives_a_line_cut_off(folder: RunFolder) -> None:
    folder.note_history({"verb": "a"})
    with folder.history_path.open("a") as file:
        file.write('{"verb": "cut')
    folder.note_history({"verb": "b", "name": "\udcff"})
    folder.note_history({"verb": "c"})
    assert [entry["verb"] for entry in folder.history()] == ["a", "b", "c"]
    assert all(entry["time"].endswith("Z") for entry in folder.history())


def test_a_history_that_cannot_be_written_hides_nothing(folder: RunFolder) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    folder.history_path.symlink_to("/dev/full")
    folder.note_history({"verb": "a"})


def test_the_lock_is_waited_for_and_freed_by_death(folder: RunFolder) -> None:
    code = (
        "import sys, time; from terralabel.runs.folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said: list[str] = []
        entered = threading.Event()

        def wait_for_it() -> None:
            with folder.lock(said.append):
                entered.set()

        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        assert not entered.wait(0.3) and said == [f"another process is working on {folder.path}; waiting for it"]
        other.kill()
        assert entered.wait(10)
        waiting.join()


def test_the_lock_removes_what_a_killed_process_left(folder: RunFolder) -> None:
    deep = folder.path / "parts" / "masks"
    deep.mkdir(parents=True)
    (deep / f"{TEMPORARY_PREFIX}9-1.parquet").write_text("half")
    (deep / "whole.parquet").write_text("whole")
    with folder.lock():
        assert os.listdir(deep) == ["whole.parquet"]  # noqa: PTH208


def test_unused_parts_go_and_used_ones_stay(folder: RunFolder) -> None:
    used = folder.part_path("masks", "000000-00000", "a" * 16)
    unused = folder.part_path("masks", "000000-00000", "b" * 16)
    used.parent.mkdir(parents=True)
    for path in (used, unused):
        path.write_text("x")
    assert folder.remove_unused_parts({used}) == 1
    assert used.exists() and not unused.exists() and folder.manifest_path.exists()


def test_equal_manifests_have_equal_bytes(folder: RunFolder) -> None:
    folder.write_manifest({"format": 1, "b": "ä", "a": 2})
    before = folder.manifest_path.read_bytes()
    folder.write_manifest(json.loads(before))
    assert folder.manifest_path.read_bytes() == before
