"""The verbs on quality as a person types them."""

from __future__ import annotations

import shutil
from pathlib import Path


def test_a_run_is_scored_and_status_tells(say, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    found = say("quality", "score", run, "--review", "20%", "--no-pixels", "--quiet")
    assert found.code == 0 and "rules only, scores are an order" in found.out and "left to a person" in found.out
    told = say("status", run).out
    assert "labels judged:" in told and "judge: no label had truth to learn from: rules only, scores are an order" in told


def test_a_judge_of_too_few_labels_says_so(say, finished: Path, painted: Path, tmp_path: Path) -> None:
    found = say("quality", "fit", finished, "--truth", painted / "truth", "--out", tmp_path / "j.json", "--no-pixels", "-q")
    assert found.code == 0 and "too few to know good labels from bad" in found.out and (tmp_path / "j.json").is_file()


def test_what_is_wrong_is_one_line(say, finished: Path, tmp_path: Path) -> None:
    for words, told in (
        (("score", finished, "--promise", "good ones"), 'expected "mean IoU >= X"'),
        (("score", finished, "--promise", "mean IoU >= .8"), "needs a judge that was fitted on labels with truth"),
        (("score", finished, "--review", "many"), 'expected a share such as "20%" or .2'),
        (("score", finished, "--units", "picture"), "expected one of class, object"),
        (("score", finished, "--judge", tmp_path / "none.json"), "make one with `quality fit`"),
        (("fit", finished, "--truth", tmp_path, "--out", tmp_path / "j.json"), "has the stem of one in"),
    ):
        found = say("quality", *words, "--quiet", "--no-pixels")
        assert found.code == 1 and told in found.err and found.err.count("\n") == 1, words
