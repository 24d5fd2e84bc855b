"""kill -9 at random moments of the commands beside `label`: run again, they come to the bytes of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.painter import write_demo
from tests.imagery.datasets.fake import isaid
from tests.recipes.conftest import tree_hashes
from tests.recipes.test_detected import write_pictures

_KILLS = 6
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _crop(inputs: Path) -> list[str]:
    isaid(inputs / "isaid", (300, 400))
    return ["datasets", "crop", str(inputs / "isaid"), "--size", "48", "--overlap", "24"]


def _detect_label(inputs: Path) -> list[str]:
    write_pictures(inputs)
    return ["detect-label", str(inputs / "images"), "--boxes", str(inputs / "boxes.json"), "--masks", "tree", "--workers", "2"]


def _predict(inputs: Path) -> list[str]:
    pytest.importorskip("torch")
    import terralabel as tl

    images, truth = write_demo(inputs, seed=3, scenes=3, size=160)
    training, few = inputs / "training", open_labelled(images, labels=truth)
    tl.finetune(few, training, network="timm:test_resnet:fcn", steps=2, batch_size=2, crop=32, device="cpu", threads=1)
    return ["predict", str(training), str(inputs / "images"), "--tile-size", "32", "--device", "cpu", "--threads", "1"]


def _start(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "terralabel", *arguments, "--out", str(out)]
    return subprocess.Popen(command, env=_ENVIRONMENT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [_crop, _detect_label, _predict], ids=lambda f: f.__name__.strip("_"))
def test_the_same_bytes_after_kills(prepare: Callable[[Path], list[str]], tmp_path: Path) -> None:
    arguments = prepare(tmp_path / "in")
    began = time.monotonic()
    undisturbed = _start(arguments, tmp_path / "undisturbed")
    said = undisturbed.communicate()[0].decode()
    assert undisturbed.returncode == 0, said
    took = time.monotonic() - began
    moments = random.Random(7)
    killed = 0
    for _ in range(_KILLS):
        process = _start(arguments, tmp_path / "killed")
        time.sleep(took * moments.uniform(0.3, 0.95))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed > 0, "every run was over before it could be killed"
    last = _start(arguments, tmp_path / "killed")
    said = last.communicate()[0].decode()
    assert last.returncode == 0, said
    assert not list((tmp_path / "killed").rglob(f"{TEMPORARY_PREFIX}*"))
    assert tree_hashes(tmp_path / "killed") == tree_hashes(tmp_path / "undisturbed")
