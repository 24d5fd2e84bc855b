"""Progress on a terminal (a bar with rate and ETA) or in a log (a line now and then)."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["terminal_progress"]


def terminal_progress(quiet: bool = False) -> Any:
    """The `runs.progress.Progress` that suits where standard error goes."""
    from terralabel.runs.progress import Silent

    if quiet:
        return Silent()
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Lines:
    """One line when a stage begins and ends, and one every ten seconds between."""

    interval = 10.0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.total, self.unit, self.done, self.resumed = stage, total, unit, done, done
        self.began = self.last = time.monotonic()
        self.note = ""
        if done:
            self.say(f"{stage}: {done:,} of {total:,} {unit} were done before")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.note = note
        now = time.monotonic()
        if now - self.last >= self.interval and self.done < self.total:
            self.last = now
            self.say(self._line(now))

    def _line(self, now: float) -> str:
        elapsed = max(now - self.began, 1e-6)
        rate = (self.done - self.resumed) / elapsed
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        eta = f", {_clock(left)} left" if self.done < self.total and left != float("inf") else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.stage}: {self.done:,}/{self.total:,} {self.unit}, {rate:.3g} {self.unit}/s{note}{eta}"

    def finish(self) -> None:
        if self.total > self.resumed:
            self.say(f"{self._line(time.monotonic())}, {_clock(time.monotonic() - self.began)}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Bar:
    """rich's bar: stage, share, count, rate, time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.bar: Any = None

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.began, self.resumed = time.monotonic(), done
        self.task = self.bar.add_task(stage, total=total, completed=done, unit=unit, rate="")
        self.bar.start()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.bar.update(self.task, advance=amount)
        finished = self.bar.tasks[0].completed - self.resumed
        rate = finished / max(time.monotonic() - self.began, 1e-6)
        self.bar.update(self.task, rate=f"{rate:.3g}/s {note}".strip())

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
