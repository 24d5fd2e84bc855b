"""pretrain, finetune, predict and evaluate segmentation as a person types them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

Say = Callable[..., Any]
TINY = ("--network", "timm:test_resnet:fcn", "--crop", 64, "--batch-size", 2, "--threads", 1, "--steps", 2, "--quiet")


def test_from_a_run_to_measured_maps(say: Say, finished: Path, painted: Path, tmp_path: Path) -> None:
    trained = say("pretrain", finished, "--out", tmp_path / "pre", *TINY)
    assert trained.code == 0, trained.err
    assert "2 steps of 2 crops" in trained.out
    drawn = ("--labels", painted / "truth", "--classes", painted / "classes.json")
    tuned = say("finetune", painted / "images", *drawn, "--from", tmp_path / "pre", "--out", tmp_path / "tuned", *TINY)
    assert tuned.code == 0, tuned.err
    images = tmp_path / "images"
    shutil.copytree(painted / "images", images)
    (images / "broken.tif").write_bytes(b"II*\x00 and nothing more")
    found = say("predict", tmp_path / "tuned", images, "--out", tmp_path / "p", "--quiet")
    assert found.code == 2, found.err
    assert "broken.tif" in found.out
    wanted = ("--truth", painted / "truth", "--json", tmp_path / "s.json", "--picture", tmp_path / "s.png")
    measured = say("evaluate", "segmentation", tmp_path / "p", *wanted)
    assert measured.code == 0, measured.err
    assert "convention: mIoU over" in measured.out
    assert (tmp_path / "s.json").exists()
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--lr", "-1"), "lr"),
        (("--optimizer", "adma"), "Did you mean 'adam"),
        (("--network", "upernet-r19"), "upernet-r18"),
        (("--from", "nothing"), "no such file"),
        (("--load", "feet"), "got 'feet'"),
        (("--device", "quantum"), "--device"),
    ],
)
def test_wrong_words_are_one_line(say: Say, finished: Path, tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    start = ("--from", tmp_path) if "--load" in words else ()
    found = say("pretrain", finished, "--out", tmp_path / "pre", "--steps", 1, "--quiet", *start, *words)
    assert found.code == 1
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert why in found.err


def test_an_empty_folder_is_one_line(say: Say, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = say("pretrain", tmp_path / "empty", "--out", tmp_path / "pre")
    assert found.code == 1
    assert found.err.count("\n") == 1
    assert not (tmp_path / "pre").exists()
