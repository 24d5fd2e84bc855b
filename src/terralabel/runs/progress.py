"""How long work tells of itself; the command line draws it, Python callers may pass their own."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Receives what a recipe is doing. Called from the main process only."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """A stage begins: `total` units, of which `done` were already finished by an earlier invocation."""
        ...

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more units of the current stage are done."""
        ...

    def finish(self) -> None:
        """The current stage is done."""
        ...

    def say(self, text: str) -> None:
        """One line worth reading."""
        ...


class Silent:
    """Says nothing."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """See `Progress.start`."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """See `Progress.advance`."""

    def finish(self) -> None:
        """See `Progress.finish`."""

    def say(self, text: str) -> None:
        """See `Progress.say`."""
