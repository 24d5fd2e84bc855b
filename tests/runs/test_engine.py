from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from terralabel.errors import InputError
from terralabel.runs.engine import Crash, InlineEngine, ProcessEngine, engine_for


def square(x: int) -> int:
    return x * x


def die_on_three(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def refuse(x: int) -> int:
    raise InputError(f"{x} is no image", "not-a-raster")


def blas_threads(x: int) -> list[int]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.dot(np.ones((2, 2)), np.ones((2, 2)))
    return [pool["num_threads"] for pool in threadpool_info()]


@pytest.mark.parametrize("engine", [InlineEngine(), ProcessEngine(1), ProcessEngine(2)], ids=["inline", "one", "two"])
def test_every_task_once(engine) -> None:
    assert dict(engine.map(square, list(range(7)))) == {x: x * x for x in range(7)}
    assert list(engine.map(square, [])) == []


def test_a_task_that_kills_its_worker_is_the_only_one_lost() -> None:
    results = dict(ProcessEngine(2).map(die_on_three, list(range(8))))
    crash = results.pop(3)
    assert isinstance(crash, Crash) and "died" in crash.reason
    assert results == {x: x * x for x in range(8) if x != 3}


def test_an_exception_comes_back_as_itself() -> None:
    with pytest.raises(InputError, match="is no image") as caught:
        list(ProcessEngine(1).map(refuse, [1]))
    assert caught.value.status == "not-a-raster"


def test_workers_compute_on_one_thread() -> None:
    ((_, threads),) = ProcessEngine(1).map(blas_threads, [0])
    assert threads and set(threads) == {1}


def test_engine_for() -> None:
    assert isinstance(engine_for(0), InlineEngine)
    assert engine_for(3).workers == 3


def test_a_script_without_main_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import math
            from terralabel.runs.engine import ProcessEngine
            print(sorted(r for _, r in ProcessEngine(2).map(math.factorial, [1, 2, 3])))
            """
        )
    )
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[1, 2, 6]", found.stderr


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys; sys.path.insert(0, {str(tmp_path)!r})
            import child
            from terralabel.runs.engine import ProcessEngine
            list(ProcessEngine(1).map(child.work, [0]))
            """
        )
    )
    (tmp_path / "child.py").write_text(
        f"import os, time\ndef work(x):\n    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    pid_file = tmp_path / "pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").exists() and " Z " in Path(f"/proc/{worker}/stat").read_text():
            return  # dead, only not reaped by whoever adopted it
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


def process_id(x: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def test_closing_waits_for_no_worker() -> None:
    """One that was killed may have held the lock of the queue from which the others would hear that they may leave."""
    engine = ProcessEngine(2)
    workers = sorted({pid for _, pid in engine.map(process_id, [0, 1, 2, 3])})
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # nor do these hear anything
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 8
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    engine = ProcessEngine(2)
    ((_, worker),) = engine.map(process_id, [0])
    os.kill(worker, signal.SIGKILL)
    assert dict(engine.map(square, list(range(5)))) == {x: x * x for x in range(5)}
    engine.close()
