"""Progress: lines with rate and time left in a log, a bar on a terminal, nothing when quiet."""

from __future__ import annotations

import io
import re
import sys

import pytest

from terralabel.cli import progress
from terralabel.cli.progress import terminal_progress
from terralabel.runs.progress import Progress


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds that progress sees; a test sets it."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def tell(shown: Progress, clock: list[float]) -> None:
    """40 of 100 tiles were done before; 20 in 20 s; then the rest."""
    shown.start("masks", 100, "tiles", 40)
    for _ in range(20):
        clock[0] += 1
        shown.advance()
    clock[0] += 40
    shown.advance(40)
    shown.finish()


def test_lines_have_rate_and_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    tell(terminal_progress(), clock)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "masks: 40 of 100 tiles were done before",
        "masks: 50/100 tiles, 1 tiles/s, 0:50 left",
        "masks: 60/100 tiles, 1 tiles/s, 0:40 left",
        "masks: 100/100 tiles, 1 tiles/s, 1:00",
    ]


def test_a_stage_that_was_done_before_says_only_that(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = terminal_progress()
    shown.start("masks", 1000, "tiles", 1000)
    shown.finish()
    assert capsys.readouterr().err == "masks: 1,000 of 1,000 tiles were done before\n"


def test_long_times_have_hours(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = terminal_progress()
    shown.start("masks", 1000, "tiles")
    clock[0] = 36.0
    shown.advance()
    assert "9:59:24 left" in capsys.readouterr().err


def test_quiet_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = terminal_progress(quiet=True)
    tell(shown, clock)
    shown.say("a line")
    assert capsys.readouterr() == ("", "")


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal of 120 columns, from here on (pytest sets its own after fixtures have run)."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    for name in ("NO_COLOR", "CI", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return screen


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    shown = terminal_progress()
    shown.start("masks", 100, "tiles", 40)
    shown.advance(60, note="last one")
    shown.finish()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "masks" in text and "━" in text and "100/100" in text and "tiles" in text and "ETA" in text
    assert "\x1b[" in screen.getvalue()


def test_lines_beside_the_bar_are_whole_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    shown = terminal_progress()
    shown.start("masks", 2, "tiles")
    shown.say("failed: tile [red]x[/red] " + "long " * 40)
    shown.finish()
    shown.finish()  # nothing is left to end
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "failed: tile [red]x[/red] " + "long " * 39 + "long" in text
