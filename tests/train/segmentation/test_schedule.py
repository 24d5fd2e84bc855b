"""The published schedules, and what settings change in them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from terralabel.errors import SettingsError
from terralabel.nets.segmentation.catalogue import find
from terralabel.train.segmentation.schedule import resolve
from terralabel.train.segmentation.settings import PredictSettings, TrainSettings, stored


def test_nothing_set_is_the_networks_own() -> None:
    own = find("upernet-r50").schedule
    assert resolve(own, TrainSettings()) == own
    assert own.iterations == 80_000
    assert own.rate(0) == pytest.approx(0.01)
    assert own.rate(80_000) == pytest.approx(1e-4)


def test_settings_win_and_a_warm_up_shrinks_with_the_steps() -> None:
    own = find("upernet-swin-b").schedule
    found = resolve(own, TrainSettings(steps=1600, lr=1e-3, weight_decay=0.0))
    assert (found.iterations, found.lr, found.weight_decay, found.warmup) == (1600, 1e-3, 0.0, 15)
    assert found.rate(0) < found.rate(14) < found.rate(15)
    assert resolve(own, TrainSettings(steps=1600, warmup=0)).rate(0) == pytest.approx(6e-5)


def test_another_optimizer_brings_its_own_rate() -> None:
    found = resolve(find("upernet-r50").schedule, TrainSettings(optimizer="adamw", steps=100))
    assert (found.optimizer, found.lr, found.weight_decay, found.iterations) == ("adamw", 6e-5, 0.01, 100)


@pytest.mark.parametrize(
    "values",
    [
        {"scale_min": 2.0, "scale_max": 1.0},
        {"batch_size": 4, "accumulate": 3},
        {"crop": 8},
        {"optimizer": "adam"},
        {"precision": "int8"},
        {"bands": (0,)},
        {"lr": "fast"},
    ],
)
def test_contradictions_are_refused(values: dict) -> None:
    with pytest.raises(SettingsError):
        TrainSettings(**values)


def test_windows_that_overlap_by_more_than_half_are_refused() -> None:
    with pytest.raises(SettingsError, match="overlap"):
        PredictSettings(tile_size=64, overlap=40)


def test_the_backbone_may_learn_slower() -> None:
    own = find("upernet-r50").schedule
    found = resolve(own, TrainSettings(backbone_lr=0.1))
    assert found.rate(0, found.backbone_multiplier) == pytest.approx(1e-3)
    assert found.rate(0, found.head_multiplier) == pytest.approx(0.01)


def test_settings_that_came_later_change_no_digest_by_default() -> None:
    assert not {"backbone_lr", "classifier"} & stored(TrainSettings()).keys()
    assert stored(TrainSettings(classifier="fitted"))["classifier"] == "fitted"
