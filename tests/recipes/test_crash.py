"""Whatever ends `label`, the same command goes on and comes to the same bytes, and nothing half-written is ever found."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.imagery.painter import write_demo
from terralabel.runs.folder import FORMAT
from tests.recipes.conftest import tree_hashes

_SETTINGS = {"clusters": 4, "tile_size": 64, "overlap": 32, "min_size": 16}
#: Small, so that a small set has several groups and shards, and so many parts to be killed between.
_SHARD_PIXELS = 9_000
_DRIVER = Path(__file__).with_name("crash_driver.py")
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image that is cut into four tiles, and two that fit into one."""
    import rasterio
    from rasterio.windows import Window

    folder = tmp_path_factory.mktemp("crash")
    write_demo(folder, seed=5, scenes=1, size=96)
    with rasterio.open(folder / "images" / "scene_1.tif") as source:
        for name, x in (("east", 44), ("west", 0)):
            window = Window(x, 20, 50, 60)
            profile = {**source.profile, "width": 50, "height": 60, "transform": source.window_transform(window)}
            with rasterio.open(folder / "images" / f"{name}.tif", "w", **profile) as target:
                target.write(source.read(window=window))
    return folder / "images"


def drive(images: Path, faults: list[dict[str, Any]], scratch: Path) -> list[list[dict[str, Any]]]:
    """What the driver says of each fault: any lines of the child, then how it ended."""
    spec = {"sources": [str(images)], "settings": _SETTINGS, "shard_pixels": _SHARD_PIXELS, "faults": faults}
    (scratch / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, str(_DRIVER), str(scratch / "spec.json")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=_ENVIRONMENT, check=True)
    said: list[list[dict[str, Any]]] = [[]]
    for line in map(json.loads, found.stdout.splitlines()):
        said[-1].append(line)
        if "exit" in line:
            said.append([])
    assert len(said) == len(faults) + 1, found.stderr
    return said[:-1]


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The control: its files, and how often it renames and syncs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ((seen, end),) = drive(images, [{"out": str(folder / "run")}], folder)
    assert end == {"exit": 0}
    return {"files": tree_hashes(folder / "run"), "seen": seen["seen"], "run": folder / "run"}


def whole(run: Path, undisturbed: dict[str, Any]) -> None:
    """No result lies under its final name unless it is, byte for byte, what an undisturbed run writes there."""
    expected = undisturbed["files"]
    for path, found in tree_hashes(run).items():
        if Path(path).name.startswith(TEMPORARY_PREFIX) or path == "manifest.json":
            continue  # the manifest is rewritten as the run proceeds; it must be readable:
        assert found == expected[path], path
    if (run / "manifest.json").exists():
        assert json.loads((run / "manifest.json").read_text())["format"] == FORMAT


def finished_like(run: Path, undisturbed: dict[str, Any]) -> None:
    assert tree_hashes(run) == undisturbed["files"]
    assert not list(run.rglob(f"{TEMPORARY_PREFIX}*"))


def points(undisturbed: dict[str, Any], every: int) -> list[tuple[str, int, str]]:
    """(call, which one, how it goes wrong): every `every`-th of all renames and syncs of a run, in turn."""
    kinds = {"replace": ["kill-before", "kill-after", "ENOSPC", "EIO"], "fsync": ["kill-before", "ENOSPC", "EDQUOT", "EROFS"]}
    return [
        (call, count, kinds[call][(count // every) % 4])
        for call, total in sorted(undisturbed["seen"].items())
        for count in range(1 + (call == "fsync"), total + 1, every)
    ]


def survive(chosen: list[tuple[str, int, str]], images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Let each fault happen to a run of its own, look at what it left, finish the run, compare."""
    faults = [
        {"out": str(tmp_path / f"{i}"), "call": call, "count": count, "at": at} for i, (call, count, at) in enumerate(chosen)
    ]
    for fault, (*lines, end) in zip(faults, drive(images, faults, tmp_path), strict=True):
        whole(Path(fault["out"]), undisturbed)
        if fault["at"].startswith("kill"):
            assert end == {"exit": -signal.SIGKILL}, fault
        elif fault["at"] in ("ENOSPC", "EDQUOT", "EROFS"):
            assert end == {"exit": 1} and lines[0]["kind"] == "SpaceError", fault
            assert ("MB free" in lines[0]["error"]) or ("Read-only" in lines[0]["error"])
            assert "\n" not in lines[0]["error"] and not list(Path(fault["out"]).rglob(f"{TEMPORARY_PREFIX}*"))
    again = [{"out": fault["out"]} for fault in faults]
    for fault, (*_, end) in zip(faults, drive(images, again, tmp_path), strict=True):
        assert end == {"exit": 0}, fault
        finished_like(Path(fault["out"]), undisturbed)


def test_a_fault_between_write_sync_and_rename(images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    chosen = points(undisturbed, 5)
    survive(random.Random(1).sample(chosen, 3), images, undisturbed, tmp_path)


@pytest.mark.slow
def test_a_fault_at_every_sync_and_rename(images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    survive(points(undisturbed, 1), images, undisturbed, tmp_path)


# ------------------------------------------------------------------------------------------------ real processes, killed


def command(images: Path, out: Path, workers: int) -> list[str]:
    """`terralabel label` as a process, with small shards; Ctrl-C works even where our own parent ignores it."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import terralabel.recipes.plan as plan; plan._SHARD_PIXELS = {_SHARD_PIXELS}\n"
        "from terralabel.cli.main import run; run()"
    )
    settings = [text for name, value in _SETTINGS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-c", code, "label", str(images), "--out", str(out), "--workers", str(workers), *settings]


class Started:
    """The command in a session of its own, so that all its processes can be found and killed."""

    def __init__(self, images: Path, out: Path, workers: int, log: str = "log") -> None:
        self.out = out
        self.log = out.parent / f"{out.name}.{log}"
        arguments = command(images, out, workers)
        with self.log.open("w") as log_file:
            self.process = subprocess.Popen(
                arguments, stdout=log_file, stderr=log_file, start_new_session=True, env=_ENVIRONMENT
            )

    def wait_for_files(self, count: int) -> bool:
        """Wait until the command has said something and the run holds `count` files; False when it ended first."""
        deadline = time.monotonic() + 300
        while not self.said() or sum(path.is_file() for path in self.out.rglob("*")) < count:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return self.process.poll() is None

    def members(self) -> list[psutil.Process]:
        """Every living process of the session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """The worker processes, by how multiprocessing starts them."""
        return [p for p in self.members() if "--multiprocessing-fork" in " ".join(_arguments(p))]

    def end(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(timeout=300)
        deadline = time.monotonic() + 20
        while self.members():
            assert time.monotonic() < deadline, "processes were left behind"
            time.sleep(0.05)
        return code

    def said(self) -> str:
        """Everything it printed."""
        return self.log.read_text()


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def strike(started: Started, how: str) -> None:
    """One of the ways in which a run can be hit."""
    if how == "kill a worker":
        for worker in started.workers()[:1]:
            worker.kill()
    elif how == "kill the parent":
        started.process.kill()
    else:
        number = {"kill everything": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}[how]
        os.killpg(started.process.pid, number)


def check_end(started: Started, how: str) -> None:
    """The exit code and last words that belong to a strike; `finished` runs end by themselves."""
    began = time.monotonic()
    code = started.end()
    if " (finished)" in started.said():
        return  # all was done and said; a signal may still meet the interpreter on its way out
    expected = {"kill everything": -9, "kill the parent": -9, "SIGTERM": 143, "SIGINT": 130, "kill a worker": 0}[how]
    assert code == expected, f"{how}: {code}\n{started.said()}"
    if how in ("SIGTERM", "SIGINT"):
        word = "stopped" if how == "SIGTERM" else "interrupted"
        assert started.said().splitlines()[-1] == f"{word}; the same command goes on from here", started.said()
        assert "Traceback" not in started.said()
        assert time.monotonic() - began < 20


@pytest.mark.slow  # its moments are the machine's to choose; `make proof-crash` runs it with the other random kills
def test_stopped_politely_and_with_a_worker_killed(images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """SIGTERM ends it with a note; resumed with a worker killed midway it finishes with the same bytes."""
    first = Started(images, tmp_path / "run", 1)
    assert first.wait_for_files(5), first.said()
    strike(first, "SIGTERM")
    check_end(first, "SIGTERM")
    assert first.process.returncode == 143
    whole(tmp_path / "run", undisturbed)
    second = Started(images, tmp_path / "run", 2)
    while not second.workers() and second.process.poll() is None:
        time.sleep(0.01)
    strike(second, "kill a worker")
    assert second.end() == 0, second.said()
    finished_like(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_killed_at_random_moments(images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """As many strikes as TERRALABEL_CRASHES says, on runs that are started again until they finish."""
    wanted, rng = int(os.environ.get("TERRALABEL_CRASHES", "30")), random.Random(7)
    ways = ["kill everything", "kill a worker", "SIGTERM", "kill the parent", "SIGINT", "kill everything"]
    total, strikes, runs = len(undisturbed["files"]), 0, 0
    while strikes < wanted:
        out, runs = tmp_path / f"{runs}", runs + 1
        while not (out / "manifest.json").exists() or not json.loads((out / "manifest.json").read_text()).get("finished"):
            there = sum(path.is_file() for path in out.rglob("*"))
            started = Started(images, out, rng.choice([0, 1, 2, 4]))
            if strikes >= wanted or not started.wait_for_files(rng.randint(there, min(total, there + total // 2))):
                assert started.end() == 0, started.said()
                continue
            time.sleep(rng.random() * 0.5)
            how = ways[strikes % len(ways)]
            strike(started, how)
            check_end(started, how)
            strikes += 1
            whole(out, undisturbed)
        again = Started(images, out, 0)
        assert again.end() == 0, again.said()
        finished_like(out, undisturbed)
    print(f"{strikes} strikes on {runs} runs, all with the bytes of the undisturbed one")


@pytest.mark.slow
def test_one_and_four_workers_give_the_same_bytes(images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    for workers in (1, 4):
        started = Started(images, tmp_path / f"{workers}", workers)
        assert started.end() == 0, started.said()
        finished_like(tmp_path / f"{workers}", undisturbed)


# ------------------------------------------------------------------------------------------------- two on the same run


def test_two_processes_on_one_run(images: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Both finish well; together they write every part once. The first is held until the second is seen to wait."""
    first = Started(images, tmp_path / "run", 0)
    assert first.wait_for_files(5), first.said()
    first.process.send_signal(signal.SIGSTOP)
    made = {path: path.stat().st_ino for path in (tmp_path / "run").rglob("*.parquet")}
    second = Started(images, tmp_path / "run", 0, "second.log")
    while "another process is working on" not in second.said():
        assert second.process.poll() is None, second.said()
        time.sleep(0.05)
    first.process.send_signal(signal.SIGCONT)
    assert first.end() == 0 and second.end() == 0, second.said()
    finished_like(tmp_path / "run", undisturbed)
    assert {path: path.stat().st_ino for path in made} == made
    outcomes = [json.loads(line)["outcome"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert outcomes == ["finished", "finished"]


def test_other_settings_are_refused_by_name(images: Path, undisturbed: dict[str, Any]) -> None:
    """As a command: one line, exit code 1, the run untouched."""
    other = [*command(images, undisturbed["run"], 0), "--tau", "0.4", "--seed", "3"]
    found = subprocess.run(other, capture_output=True, text=True, env=_ENVIRONMENT, timeout=300)
    assert found.returncode == 1
    assert "tau: 0.3 -> 0.4; seed: 0 -> 3" in found.stderr and len(found.stderr.splitlines()) == 1
    finished_like(undisturbed["run"], undisturbed)
