"""The verbs `refer fit` and `evaluate referring`, and that `refer SOURCE` is `refer run SOURCE`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.docs.test_reference import texts


def test_fit_then_refer_with_what_was_fitted(say: Callable, tmp_path: Path) -> None:
    texts(tmp_path)
    said = say("refer", "fit", tmp_path / "triplets.csv", "--out", tmp_path / "locator", "--steps", "2", "--batch-size", "2")
    assert said.code == 0, said.err
    assert "fitted to 2 triplets" in said.out
    asked = ("--text", "building", "--locator", f"fitted:{tmp_path / 'locator'}", "--threshold", "0", "--masks", "tree")
    said = say("refer", tmp_path / "texts/images", *asked, "--workers", "0", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert (tmp_path / "run" / "labels").is_dir()


def test_evaluate_referring_with_true_boxes_and_with_given_masks(say: Callable, tmp_path: Path) -> None:
    texts(tmp_path)
    said = say("evaluate", "referring", tmp_path / "texts", "--locator", "truth", "--masks", "tree", "--published",
               "--out", tmp_path / "made", "--json", tmp_path / "scores.json")  # fmt: skip
    assert said.code == 0, said.err
    assert "1 texts, 480 px" in said.out
    assert "| DiCoR | 78.23 |" in said.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["native"]["miou"] > 90
    given = say(
        "evaluate", "referring", tmp_path / "texts", "--predictions", tmp_path / "made", "--json", tmp_path / "again.json"
    )
    assert given.code == 0, given.err
    assert json.loads((tmp_path / "again.json").read_text()) == scores


def test_what_is_missing_is_told(say: Callable, tmp_path: Path) -> None:
    texts(tmp_path)
    assert "it has test" in say("evaluate", "referring", tmp_path / "texts", "--split", "val", "--locator", "truth").err
    assert "Nothing says where things are" in say("evaluate", "referring", tmp_path / "texts").err
    assert "it has no masks" in say("evaluate", "referring", tmp_path / "triplets.csv", "--locator", "truth").err
    assert "expected small" in say("refer", "fit", tmp_path / "triplets.csv", "--out", tmp_path / "l", "--start", "huge").err
