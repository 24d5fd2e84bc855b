"""From labels to a network to labels: resumed bit for bit, stopped in order, refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rasterio  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import terralabel as tl  # noqa: E402
from terralabel.core.files import TEMPORARY_PREFIX  # noqa: E402
from terralabel.core.labelled import LabelledSet  # noqa: E402
from terralabel.errors import RunError, SettingsError, WeightsError  # noqa: E402
from terralabel.imagery.datasets import open_labelled  # noqa: E402
from terralabel.imagery.painter import write_demo  # noqa: E402
from terralabel.runs.progress import Silent  # noqa: E402
from terralabel.train.segmentation.checkpoint import open_checkpoint  # noqa: E402
from terralabel.train.segmentation.logs import read_log  # noqa: E402

TINY = {
    "network": "timm:test_resnet:fcn",
    "crop": 64,
    "batch_size": 2,
    "threads": 1,
    "log_every": 4,
    "lr": 0.02,
    "save_every": 4,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, truth/ and classes.json of four painted scenes of 96 px."""
    folder = tmp_path_factory.mktemp("scenes")
    write_demo(folder, seed=2, scenes=4, size=96)
    return folder


@pytest.fixture(scope="module")
def labelled(scenes: Path) -> LabelledSet:
    return open_labelled(scenes / "images", labels=scenes / "truth", classes=scenes / "classes.json")


@pytest.fixture(scope="module")
def undisturbed(labelled: LabelledSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 12 steps that nothing interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "training"
    tl.pretrain(labelled, out, steps=12, **TINY)
    return out


class Interrupt(Silent):
    """Does something when so many steps are done."""

    def __init__(self, step: int, act) -> None:
        self.left, self.act, self.stage = step, act, ""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage = stage

    def advance(self, amount: int = 1, note: str = "") -> None:
        if self.stage == "train":
            self.left -= amount
            if self.left == 0:
                self.act()


class Told(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Killed(BaseException):
    """Stands for kill -9: nothing is saved on the way out."""


def kill() -> None:
    raise Killed


def same_weights(a: Path, b: Path) -> bool:
    one, two = (open_checkpoint(folder, "last") for folder in (a, b))
    tensors = [(one.weights(), two.weights()), (one.optimizer_tensors(), two.optimizer_tensors())]
    return one.step == two.step and all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in tensors)


def test_killed_and_resumed_gives_the_same_weights(labelled: LabelledSet, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "training"
    for step in (3, 6, 6):  # before the first checkpoint, after step 4's, after step 8's
        with pytest.raises(Killed):
            tl.pretrain(labelled, out, steps=12, progress=Interrupt(step, kill), **TINY)
    assert open_checkpoint(out, "last").step == 8
    tl.pretrain(labelled, out, steps=12, **TINY)
    assert same_weights(out, undisturbed)
    assert [row["step"] for row in read_log(out / "log.csv")] == [row["step"] for row in read_log(undisturbed / "log.csv")]
    assert not list(out.glob(f"{TEMPORARY_PREFIX}*"))


def test_sigterm_finishes_the_step_and_saves(labelled: LabelledSet, undisturbed: Path, tmp_path: Path) -> None:
    out, received = tmp_path / "training", []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        stop = Interrupt(6, lambda: signal.raise_signal(signal.SIGTERM))
        tl.pretrain(labelled, out, steps=12, progress=stop, **TINY)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]  # it took its course after the save
    assert open_checkpoint(out, "last").step == 7  # noted in step 6's report, obeyed by the next step
    tl.pretrain(labelled, out, steps=12, **TINY)
    assert same_weights(out, undisturbed)


def test_a_finished_training_is_not_trained_again(labelled: LabelledSet, undisturbed: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in undisturbed.glob("step-*")}
    trained = tl.pretrain(labelled, undisturbed, steps=12, **TINY)
    assert {path.name: path.stat().st_mtime_ns for path in undisturbed.glob("step-*")} == before
    assert "12 steps" in trained.text


def test_parts_of_a_batch_add_up(labelled: LabelledSet, tmp_path: Path) -> None:
    """The loss of a batch is a mean over its pixels however it is cut; batch norm sees the parts, so weights differ a little."""
    losses = []
    for parts in (1, 2):
        out = tmp_path / str(parts)
        tl.pretrain(labelled, out, steps=1, accumulate=parts, **{**TINY, "log_every": 1, "batch_size": 4})
        losses.append(read_log(out / "log.csv")[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.15)


def test_learning_takes_place(labelled: LabelledSet, tmp_path: Path) -> None:
    tl.pretrain(labelled, tmp_path / "t", steps=40, seed=1, **{**TINY, "save_every": 40})
    rows = read_log(tmp_path / "t" / "log.csv")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["miou"] > rows[0]["miou"] + 0.05
    assert (tmp_path / "t" / "curves.png").exists()


def test_other_settings_are_refused_by_name(labelled: LabelledSet, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out)
    with pytest.raises(SettingsError, match=r"lr: 0\.02 -> 0\.5.*--overwrite"):
        tl.pretrain(labelled, out, steps=12, **{**TINY, "lr": 0.5})
    with pytest.raises(SettingsError, match="steps: 12 -> 30"):
        tl.pretrain(labelled, out, steps=30, **TINY)
    with pytest.raises(SettingsError, match="other images or labels"):
        tl.pretrain(labelled.with_images(labelled.images[:2]), out, steps=12, **TINY)
    tl.pretrain(labelled, out, overwrite=True, steps=2, **TINY)
    assert open_checkpoint(out).step == 2
    assert len(list(out.glob("step-*"))) == 3


def test_a_folder_of_something_else_is_refused(labelled: LabelledSet, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match=r"precious\.txt"):
        tl.pretrain(labelled, tmp_path, steps=2, **TINY)


def test_a_loss_that_is_nan_stops_with_the_last_good_checkpoint(
    labelled: LabelledSet, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terralabel.train.segmentation import losses

    normal, calls = losses.head_losses, []

    def poisoned(outputs, labels, auxiliary):
        calls.append(1)
        total, main = normal(outputs, labels, auxiliary)
        return (total * float("nan") if len(calls) == 10 else total), main

    monkeypatch.setattr(losses, "head_losses", poisoned)
    with pytest.raises(RunError, match=r"loss is nan .* step 10: .*step-00000008"):
        tl.pretrain(labelled, tmp_path / "t", steps=12, **TINY)
    kept = open_checkpoint(tmp_path / "t")
    assert kept.step == 8
    assert all(bool(torch.isfinite(value).all()) for value in kept.weights().values() if value.is_floating_point())
    monkeypatch.undo()
    tl.pretrain(labelled, tmp_path / "t", steps=12, **TINY)
    assert same_weights(tmp_path / "t", undisturbed)


def test_an_exploding_rate_stops_too(labelled: LabelledSet, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="training stopped"):
        tl.pretrain(labelled, tmp_path / "t", steps=12, **{**TINY, "lr": 1e30})


def test_batches_must_divide(labelled: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="accumulate 2"):
        tl.pretrain(labelled, tmp_path / "t", steps=2, accumulate=2, **{**TINY, "batch_size": 3})


# ------------------------------------------------------------------------------------------------------- fine-tuning


def test_finetune_begins_with_what_fits(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.json"
    entries = json.loads((scenes / "classes.json").read_text())
    entries["classes"] = [{**entry, "name": f"other {entry['id']}"} for entry in entries["classes"]]
    two.write_text(json.dumps(entries))
    reading = {"labels": scenes / "truth", "classes": two}
    tuned = tl.finetune(
        scenes / "images", tmp_path / "t", start=undisturbed, load="backbone", images=2, steps=1, reading=reading, **TINY
    )
    assert "loaded (backbone)" in tuned.loaded
    assert tuned.images == 2
    first, then = open_checkpoint(undisturbed).weights(), tuned.checkpoint.weights()
    moved = {key for key in then if torch.equal(first[key], then[key])}
    assert not any(key.startswith("head") and key.endswith("classifier.logits.weight") for key in moved)
    close = [key for key in then if key.startswith("backbone") and key.endswith("weight")]
    assert all(torch.allclose(first[key], then[key], atol=0.1) for key in close)
    assert tuned.checkpoint.record["trained"]["start"]["load"] == "backbone"
    assert tuned.checkpoint.radiometry == open_checkpoint(undisturbed).radiometry


def test_the_same_classes_keep_the_classifier(labelled: LabelledSet, undisturbed: Path, tmp_path: Path) -> None:
    tuned = tl.finetune(labelled, tmp_path / "t", start=undisturbed, steps=1, **{**TINY, "lr": 1e-9})
    first, then = open_checkpoint(undisturbed).weights(), tuned.checkpoint.weights()
    logits = [key for key in then if "classifier" in key and key.endswith("weight")]
    assert logits
    assert all(torch.allclose(first[key], then[key], atol=1e-6) for key in logits)


def test_a_classifier_can_be_fitted_before_the_first_step(
    scenes: Path, labelled: LabelledSet, undisturbed: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.json"
    entries = json.loads((scenes / "classes.json").read_text())
    entries["classes"] = [{**entry, "name": f"other {entry['id']}"} for entry in entries["classes"]]
    renamed.write_text(json.dumps(entries))
    given = {"reading": {"labels": scenes / "truth", "classes": renamed}, "start": undisturbed, "steps": 8, **TINY}
    said = Told()
    tl.finetune(scenes / "images", tmp_path / "whole", classifier="fitted", progress=said, **given)
    assert any("classifier fitted to" in line and "head" in line for line in said.lines)
    with pytest.raises(Killed):
        tl.finetune(scenes / "images", tmp_path / "t", classifier="fitted", progress=Interrupt(6, kill), **given)
    tl.finetune(scenes / "images", tmp_path / "t", classifier="fitted", **given)
    assert same_weights(tmp_path / "t", tmp_path / "whole")
    random = tl.finetune(scenes / "images", tmp_path / "random", **given)
    first = {folder: read_log(folder / "log.csv")[0]["loss"] for folder in (tmp_path / "whole", random.folder)}
    assert first[tmp_path / "whole"] < first[random.folder]
    with pytest.raises(SettingsError, match="classifier: fitted -> random"):
        tl.finetune(scenes / "images", tmp_path / "whole", **given)
    same, words = Told(), {"start": undisturbed, "steps": 1, "classifier": "fitted", **TINY}
    tl.finetune(labelled, tmp_path / "same", progress=same, **words)
    assert not any("fitted" in line for line in same.lines), "it was loaded: nothing is to be fitted"


def test_weights_that_do_not_fit_are_refused(labelled: LabelledSet, undisturbed: Path, tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError):
        tl.finetune(labelled, tmp_path / "t", start=tmp_path / "other.safetensors", load="backbone", steps=1, **TINY)
    with pytest.raises(SettingsError, match="only its backbone"):
        tl.finetune(labelled, tmp_path / "t", start=tmp_path / "other.safetensors", steps=1, **TINY)
    with pytest.raises(SettingsError, match="--load"):
        tl.finetune(labelled, tmp_path / "u", start=undisturbed, load="feet", steps=1, **TINY)
    with pytest.raises(SettingsError, match="--images 9"):
        tl.finetune(labelled, tmp_path / "u", images=9, steps=1, **TINY)


def test_the_val_split_is_measured_and_the_best_is_kept(labelled: LabelledSet, tmp_path: Path) -> None:
    from dataclasses import replace

    images = [replace(item, split="val" if i == 3 else "train") for i, item in enumerate(labelled.images)]
    trained = tl.pretrain(labelled.with_images(images), tmp_path / "t", steps=12, validate_every=4, **TINY)
    rows = [row for row in read_log(tmp_path / "t" / "log.csv") if "val_miou" in row]
    assert [row["step"] for row in rows] == [4, 8, 12]
    best = max(rows, key=lambda row: row["val_miou"])
    assert trained.checkpoint.step == best["step"]
    assert trained.checkpoint.record["best"]["miou"] == pytest.approx(best["val_miou"], abs=1e-5)
    assert open_checkpoint(tmp_path / "t", "last").step == 12
    assert trained.images == 3


# -------------------------------------------------------------------------------------------------------- prediction


def test_predictions_are_label_rasters_on_the_sources_grid(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    found = tl.predict(undisturbed, scenes / "images", tmp_path / "p", probabilities=True, threads=1)
    assert len(found.scenes) == 4
    assert not found.failures
    classes = found.classes
    for scene in found.scenes:
        with (
            rasterio.open(found.label_path(scene.key)) as labels,
            rasterio.open(scene.source) as source,
            rasterio.open(tmp_path / "p" / "probabilities" / f"{scene.key}.tif") as shares,
        ):
            ids, p = labels.read(1), shares.read()
            valid = source.read_masks(1) > 0
            assert labels.crs == shares.crs == source.crs
            assert labels.transform == shares.transform == source.transform
            assert labels.nodata == 255
            assert labels.colormap(1)[classes.entries[0].id][:3] == classes.entries[0].rgb
            assert shares.descriptions == tuple(entry.name for entry in classes)
        order = np.array([entry.id for entry in classes])
        assert (ids[~valid] == 255).all()
        assert (np.abs(p.astype(int).sum(axis=0) - 255)[valid] <= len(classes)).all()
        clear = valid & (np.sort(p, axis=0)[-1] > np.sort(p, axis=0)[-2])
        assert (order[p.argmax(axis=0)] == ids)[clear].all()
    report = tl.evaluate_segmentation(tmp_path / "p", scenes / "truth")
    assert 0 < report.miou <= 1
    assert "classes" in report.convention


def test_predictions_resume_scene_by_scene(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    found = tl.predict(undisturbed, scenes / "images", out, threads=1)
    before = {scene.key: found.label_path(scene.key).stat().st_mtime_ns for scene in found.scenes}
    first = found.scenes[0].key
    content = found.label_path(first).read_bytes()
    found.label_path(first).unlink()
    again = tl.predict(undisturbed, scenes / "images", out, threads=1)
    after = {scene.key: again.label_path(scene.key).stat().st_mtime_ns for scene in again.scenes}
    assert {key for key in before if before[key] != after[key]} == {first}
    assert found.label_path(first).read_bytes() == content
    with pytest.raises(SettingsError, match="tile_size: 0 -> 96"):
        tl.predict(undisturbed, scenes / "images", out, tile_size=96, threads=1)
    assert len(tl.predict(undisturbed, scenes / "images", out, tile_size=96, threads=1, overwrite=True).scenes) == 4


def test_a_scene_that_fails_is_a_row_and_the_others_are_done(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(scenes / "images", images)
    broken = sorted(images.iterdir())[1]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    found = tl.predict(undisturbed, images, tmp_path / "p", threads=1)
    assert len(found.scenes) == 3
    assert [failure.status for failure in found.failures] == ["truncated"]
    rows = [json.loads(line) for line in (tmp_path / "p" / "scenes.jsonl").read_text().splitlines()]
    assert sorted(row["status"] for row in rows) == ["ok", "ok", "ok", "truncated"]
    assert len(list((tmp_path / "p" / "labels").glob("*.tif"))) == 3


def test_foreign_weights_cannot_predict(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="empty file"):
        tl.predict(tmp_path / "w.safetensors", scenes / "images", tmp_path / "p")


# --------------------------------------------------------------------------------------------------- many processes


def drive(scenes: Path, out: Path, processes: int) -> None:
    """The command, in `processes` processes."""
    words = [scenes / "images", "--labels", scenes / "truth", "--classes", scenes / "classes.json", "--out", out]
    flags = {**TINY, "steps": 6, "batch_size": 4, "optimizer": "sgd", "device": "cpu"}
    options = [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "terralabel", "pretrain", *map(str, words), *options, "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(scenes: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        drive(scenes, tmp_path / str(processes), processes)
    one, two = (open_checkpoint(tmp_path / str(n)).weights() for n in (1, 2))
    start = {key: value for key, value in one.items() if value.is_floating_point()}
    assert max(float((start[key] - two[key]).abs().max()) for key in start) < 1e-3
    losses = [[row["loss"] for row in read_log(tmp_path / str(n) / "log.csv")] for n in (1, 2)]
    assert np.allclose(*losses, rtol=1e-3)
