"""The command `terralabel`: one thin function a verb, in the modules beside this one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from terralabel.cli import (
    annotating,
    classes,
    datasets,
    enhancing,
    experiment,
    labelling,
    machine,
    networks,
    quality,
    refer,
    results,
    review,
    training,
)

__all__ = ["app", "run"]

app = typer.Typer(
    name="terralabel",
    help="Turn unlabelled remote-sensing imagery into labels.\n\nStart with `terralabel demo`, or `terralabel label IMAGES --out RUN`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("label")(labelling.label)
app.command("detect")(labelling.detect)
app.command("detect-label")(labelling.detect_label)
app.add_typer(refer.refer, name="refer")
app.command("demo")(labelling.demo)
app.command("status")(results.status)
app.command("export")(results.export)
app.command("import")(results.import_corrections)
app.command("report")(results.report)
app.command("review")(review.review)
app.command("clusters")(classes.clusters)
app.command("align")(classes.align)
app.command("pretrain")(training.pretrain)
app.command("finetune")(training.finetune)
app.command("predict")(training.predict)
app.add_typer(annotating.annotate, name="annotate")
app.command("enhance")(enhancing.enhance)
app.add_typer(classes.evaluate, name="evaluate")
app.add_typer(machine.models, name="models")
app.add_typer(datasets.datasets, name="datasets")
app.add_typer(networks.networks, name="networks")
app.add_typer(experiment.experiment, name="experiment")
app.add_typer(quality.quality, name="quality")
app.command("doctor")(machine.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"terralabel {version('terralabel')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", callback=_version, is_eager=True),
) -> None:
    """Options before the verb."""


def run(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0: all good; 2: finished, but some inputs failed; 1: failed; 130: Ctrl-C; 143: SIGTERM."""
    with _sigterm_as_interrupt() as received:
        code = _run(arguments, received)
    raise SystemExit(code)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[list[int]]:
    """SIGTERM ends the work in the order of Ctrl-C; yields the list that will hold what was received."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals are the caller's business
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str] | None, received: list[int]) -> int:
    from terralabel.errors import TerraLabelError

    try:
        result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        if result == 130:  # what some versions of typer make of Ctrl-C
            return _interrupted(received)
        return result if isinstance(result, int) else 0
    except TerraLabelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _interrupted(received)
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as error:  # typer leaves so when the reader of a pipe has gone
        if isinstance(error.__context__, BrokenPipeError):
            return _reader_gone()
        raise
    except Exception as error:
        return _click_error(error, received)


def _interrupted(received: list[int]) -> int:
    word = "stopped" if received else "interrupted"
    print(f"{word}; the same command goes on from here", file=sys.stderr)
    return 128 + (received[0] if received else signal.SIGINT)


def _reader_gone() -> int:
    """`terralabel ... | head` has read enough: nothing is wrong, and nothing more can be said."""
    sys.stdout = sys.__stdout__
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _click_error(error: Exception, received: list[int]) -> int:
    """Wrong usage is one line and exit code 1 (click's own 2 means 'finished with failures' here); a bug is shown whole."""
    show = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # no verb: the help has been shown
        return 0
    if show is not None:
        print(f"error: {show()}  (see --help)", file=sys.stderr)
        return 1
    if type(error).__name__ == "Abort":
        return _interrupted(received)
    raise error
