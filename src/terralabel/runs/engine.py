"""One machine: tasks over worker processes, with a quarantine for what kills its worker.

A task is a small picklable value; the work function writes its result as a part and returns a short summary. The parts
are the truth: the engine neither moves results around nor remembers anything between invocations. A cluster engine
(Dask) needs only the same `Engine` face: `map(function, tasks)`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol

__all__ = ["Crash", "Engine", "InlineEngine", "ProcessEngine", "engine_for"]


@dataclass(frozen=True)
class Crash:
    """Stands for the result of a task whose worker died, even when it ran alone."""

    reason: str


class Engine(Protocol):
    """Runs tasks, in any order, and yields (task, result or Crash) as they finish."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Run `function` on every task. An exception raised by `function` stops the map and is raised here."""
        ...

    def close(self) -> None:
        """End what is kept alive between maps."""
        ...


class InlineEngine:
    """Everything in this process: for debugging, and for callers that bring their own parallelism."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """See `Engine.map`; a task that kills the process kills the caller."""
        from threadpoolctl import threadpool_limits

        for task in tasks:
            with threadpool_limits(1):
                result = function(task)
            yield task, result

    def close(self) -> None:
        """See `Engine.close`."""


def _start_worker(parent: int) -> None:
    """One BLAS thread per worker (results must not depend on the machine), and no worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    for variable in _THREADS:  # read by the libraries when they load, and none has loaded yet
        os.environ[variable] = "1"


_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "NUMBA_NUM_THREADS",
)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Workers that start in here begin with Ctrl-C blocked: none dies with a traceback before `_start_worker` ignores it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep new workers from importing the caller's script: `tl.label(...)` works without a __main__ guard."""
    main = sys.modules["__main__"]
    saved = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        if "__file__" in saved:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        for name, value in saved.items():
            setattr(main, name, value)


class ProcessEngine:
    """`workers` processes; a task whose worker dies is tried again alone, and if it kills that one too, is a `Crash`."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """See `Engine.close`."""
        if self._idle is not None:
            _stop(self._idle)
            self._idle = None

    def _take_pool(self, workers: int) -> ProcessPoolExecutor:
        """The pool of the last map if there is one: starting a worker costs a second or two of imports."""
        if workers == self.workers and self._idle is not None:
            pool, self._idle = self._idle, None
            return pool
        return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),))

    def _give_back(self, pool: ProcessPoolExecutor, workers: int, sound: bool) -> None:
        if sound and workers == self.workers and self._idle is None:
            self._idle = pool
        else:
            _stop(pool)

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """See `Engine.map`."""
        waiting, suspects = list(tasks), []
        while waiting:
            lost, waiting = yield from self._until_broken(function, waiting, self.workers)
            suspects += lost
        for task in suspects:  # alone, so that only the guilty one is blamed
            lost, _ = yield from self._until_broken(function, [task], 1)
            for guilty in lost:
                yield guilty, Crash("the worker process died (killed, out of memory, or a crash in a native library)")

    def _until_broken(
        self, function: Callable[[Any], Any], tasks: list[Any], workers: int
    ) -> Generator[tuple[Any, Any], None, tuple[list[Any], list[Any]]]:
        """Until the end or a worker's death: yields what finished; returns (tasks then in flight, tasks not begun)."""
        pool = self._take_pool(workers)
        sound = False
        position = 0
        pending: dict[Future[Any], Any] = {}
        lost: list[Any] = []
        try:
            while position < len(tasks) or pending:
                # a short queue: little to repeat after a crash
                while position < len(tasks) and len(pending) < workers + 1 and not lost:
                    with _hidden_main(), _ctrl_c_later():
                        try:
                            pending[pool.submit(function, tasks[position])] = tasks[position]
                        # a worker that dies while another is being started closes the pool and its pipes under it
                        except (RuntimeError, OSError, ValueError):
                            lost.append(tasks[position])
                    position += 1
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in [f for f in pending if f in done]:  # in order of submission
                    task = pending.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        lost.append(task)
                        continue
                    yield task, result
                if lost and not pending:
                    break
            sound = not lost
            return lost, tasks[position:]
        finally:
            self._give_back(pool, workers, sound)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the pool now: what its workers still do is not wanted, or will be done again.

    Nobody asks them to leave: a worker that was killed may have died with the queue's lock in its hands, and the others
    would wait for that lock forever.
    """
    processes = list((pool._processes or {}).values())
    manager: Any = pool._executor_manager_thread
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    if manager is not None:
        manager.join(10)


def engine_for(workers: int) -> Engine:
    """`workers` 0: this process; otherwise that many worker processes."""
    return InlineEngine() if workers == 0 else ProcessEngine(workers)
