"""The command as a whole: exit codes, one-line errors, help, pipes, and how fast it starts."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main

from terralabel.cli import main
from terralabel.cli.main import app

Say = Callable[..., Any]


def verbs(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be run, with the words that call it."""
    command = command or typer.main.get_command(app)
    for name, child in command.commands.items():
        yield from verbs(child, (*words, name)) if hasattr(child, "commands") else [((*words, name), child)]


VERBS = dict(verbs())


def is_one_line(said: Any, *parts: str) -> None:
    assert said.code == 1 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    for part in parts:
        assert part in said.err


# ------------------------------------------------------------------------------------------------- exit codes, errors


def test_version(say: Say) -> None:
    assert say("--version") == (0, f"terralabel {version('terralabel')}\n", "")


WRONG = {
    "labl": ["labl", "--help"],
    "label --out run": ["SOURCE"],
    "label images": ["--out"],
    "label images --out run --cluster 4": ["--cluster"],
    "label images --out run --tau 2": ["--tau", "at most 1"],
    "label images --out run --tau much": ["--tau", "a number", "'much'"],
    "label images --out run --sensor sra": ["--sensor", "optical, sar", "Did you mean 'sar'?"],
    "label images --out run --clusters 0": ["clusters", "1 to 60000"],
    "label images --out run --bands 4,x": ["--bands", "'4,x'"],
    "label images --out run --overlap 900": ["overlap 900", "tile_size 1024"],
    "label images --out run --masks tee": ["masks 'tee'", "tree"],
    "label no-such-folder --out run": ["no-such-folder does not exist"],
    "label images --out run --config no.yaml": ["no.yaml"],
    "demo --scenes none": ["--scenes"],
    "models pull no_such_weights": ["no_such_weights"],
    "evaluate lables run": ["lables"],
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_words_are_one_line(say: Say, line: str, tmp_path: Path, painted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(painted / "images")
    is_one_line(say(*line.split()), *WRONG[line])
    assert [p.name for p in tmp_path.iterdir()] == ["images"], "nothing was written"


RUN_VERBS = {
    "status": "",
    "export": "--out exported",
    "report": "",
    "clusters": "",
    "align": "--truth truth",
    "import": "file.gpkg",
    "evaluate labels": "--truth truth",
}


@pytest.mark.parametrize("verb", [verb for verb in RUN_VERBS if verb != "evaluate labels"])
def test_a_folder_that_is_no_run_is_one_line(say: Say, verb: str, tmp_path: Path) -> None:
    is_one_line(say(*verb.split(), tmp_path, *RUN_VERBS[verb].split()), "is not a TerraLabel run", "terralabel label")


@pytest.mark.parametrize("verb", [verb for verb in RUN_VERBS if verb != "status"])
def test_an_unfinished_run_is_one_line(
    say: Say, verb: str, unfinished: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(painted)
    is_one_line(say(*verb.split(), unfinished, *RUN_VERBS[verb].split()), "is not finished", "same `terralabel label` command")


def test_status_of_an_unfinished_run_says_how_to_go_on(say: Say, unfinished: Path) -> None:
    said = say("status", unfinished)
    assert said.code == 0 and "(unfinished)" in said.out and "same `terralabel label` command" in said.out


def test_failures_are_exit_code_2_and_listed_by_status(say: Say, painted: Path, tmp_path: Path) -> None:
    bad = tmp_path / "page.tif"
    bad.write_text("<html>404</html>")
    said = say("label", painted / "images", bad, "--out", tmp_path / "run", "--clusters", 4, "--workers", 0)
    assert said.code == 2
    assert "failed   1 input; the reasons: terralabel status" in said.out and "page.tif" not in said.out, (
        "told when it happened, not again at the end"
    )
    assert len([line for line in said.err.splitlines() if "page.tif" in line]) == 1
    said = say("status", tmp_path / "run")
    assert said.code == 2 and "page.tif" in said.out and said.err == ""


def test_a_finished_run_is_exit_code_0(say: Say, finished: Path) -> None:
    said = say("status", finished)
    assert said.code == 0 and "(finished)" in said.out and "failed" not in said.out


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, typer.Abort])
def test_an_interruption_is_exit_code_130(say: Say, interruption: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise interruption

    monkeypatch.setattr("terralabel.recipes.run.open_run", stop)
    said = say("status", "run")
    assert said.code == 130 and said.out == "" and said.err.strip() == "interrupted; the same command goes on from here"


def test_a_bug_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("terralabel.recipes.run.open_run", fail)
    with pytest.raises(ZeroDivisionError):
        main.run(["status", "run"])


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", [["-h"], ["--help"], []], ids=["-h", "--help", "nothing"])
def test_help_lists_every_verb(say: Say, words: list[str]) -> None:
    said = say(*words)
    assert said.code == 0 and said.err == ""
    for verb in VERBS:
        assert verb[0] in said.out


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_of_every_verb_has_an_example(say: Say, words: tuple[str, ...]) -> None:
    said = say(*words, "--help")
    assert said.code == 0 and "Usage:" in said.out
    assert re.search(rf"Examples?: terralabel {' '.join(words)}", " ".join(said.out.replace("│", " ").split()))


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_argument_and_option_has_its_sentence(words: tuple[str, ...]) -> None:
    for parameter in VERBS[words].params:
        assert (getattr(parameter, "help", "") or "").strip(), f"{' '.join(words)}: {parameter.name}"


# -------------------------------------------------------------------------------------------------------------- pipes


def test_a_reader_that_has_left_is_no_error(finished: Path) -> None:
    command = [sys.executable, "-c", f"from terralabel.cli.main import run; run(['status', {str(finished)!r}])"]
    reading, writing = os.pipe()
    os.close(reading)  # `| true`: nobody reads
    with os.fdopen(writing, "w") as pipe:
        left = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (left.returncode, left.stderr) == (0, "")


def test_a_reader_that_leaves_in_the_middle_is_no_error(finished: Path) -> None:
    code = (
        "from terralabel.recipes.run import Run; from terralabel.cli.main import run; "
        "Run.summary = lambda self: 'line\\n' * 200_000; "
        f"run(['status', {str(finished)!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as both:
        assert both.stdout is not None and both.stderr is not None
        assert both.stdout.readline() == "line\n"
        both.stdout.close()
        assert (both.stderr.read(), both.wait(60)) == ("", 0)


# -------------------------------------------------------------------------------------------------------------- start


def seconds(code: str, times: int = 4) -> float:
    """Processor time, interpreter included: the best of several runs, so that a busy machine does not count."""
    best = float("inf")
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


HELP = "from terralabel.cli.main import run\ntry: run(['label', '--help'])\nexcept SystemExit as left: assert left.code == 0\n"


def test_import_is_fast() -> None:
    assert seconds("import terralabel") < 0.3


def test_help_is_fast() -> None:
    assert seconds(HELP.replace("'label', ", "")) < 0.5


def test_help_loads_nothing_heavy() -> None:
    code = HELP + "import sys; print(sorted({'torch', 'numpy', 'cv2', 'rasterio', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert said.splitlines()[-1] == "[]"
