"""Learning rates over the iterations, without torch."""

from __future__ import annotations

import pytest

from terralabel.errors import SettingsError
from terralabel.nets.segmentation.catalogue import DESIGNS
from terralabel.nets.segmentation.schedules import CONVOLUTIONAL, SEGFORMER, SEGMENTER, TRANSFORMER


def test_the_convolutional_rate_falls_as_a_polynomial() -> None:
    rates = [CONVOLUTIONAL.rate(step) for step in (0, 40_000, 79_999, 80_000, 90_000)]
    assert rates[0] == 0.01
    assert rates[1] == pytest.approx((0.01 - 1e-4) * 0.5**0.9 + 1e-4)
    assert rates[2] > rates[3] == rates[4] == 1e-4


def test_transformers_warm_up_linearly() -> None:
    assert TRANSFORMER.rate(0) == pytest.approx(6e-11)
    assert TRANSFORMER.rate(750) == pytest.approx(0.5 * 6e-5 * (1 - 750 / 160_000), rel=1e-3)
    assert TRANSFORMER.rate(1500) == pytest.approx(6e-5 * (1 - 1500 / 160_000))
    assert max(range(0, 3000, 10), key=TRANSFORMER.rate) == 1500


def test_a_multiplier_scales_the_base_and_not_the_end() -> None:
    assert CONVOLUTIONAL.rate(0, 10) == pytest.approx(0.1)
    assert CONVOLUTIONAL.rate(80_000, 10) == CONVOLUTIONAL.rate(80_000) == 1e-4
    assert CONVOLUTIONAL.rate(0, 1e-3) == CONVOLUTIONAL.rate(80_000, 1e-3) == 1e-5, "the rate of a group never grows"


def test_shortened_schedules_keep_their_shape() -> None:
    short = TRANSFORMER.shortened(1600)
    assert (short.iterations, short.warmup) == (1600, 15)
    assert short.rate(800) == pytest.approx(TRANSFORMER.rate(80_000))
    assert TRANSFORMER.shortened(320_000).warmup == 1500
    with pytest.raises(SettingsError, match="expected 1 or more"):
        TRANSFORMER.shortened(0)


def test_settings_are_those_of_the_study() -> None:
    assert {d.schedule.iterations for d in DESIGNS.values() if d.schedule is CONVOLUTIONAL} == {80_000}
    assert (CONVOLUTIONAL.optimizer, CONVOLUTIONAL.momentum, CONVOLUTIONAL.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (SEGMENTER.optimizer, SEGMENTER.lr, SEGMENTER.weight_decay) == ("sgd", 1e-3, 0)
    assert (SEGFORMER.lr, SEGFORMER.weight_decay, SEGFORMER.head_multiplier) == (6e-5, 0.01, 10)
    by_name = {name: design.schedule for name, design in DESIGNS.items()}
    assert by_name["segformer-mit-b5"] is SEGFORMER and by_name["segmenter-vit-b"] is SEGMENTER
    assert by_name["upernet-vit-b"] is by_name["upernet-swin-b"] is TRANSFORMER
    assert sum(schedule is CONVOLUTIONAL for schedule in by_name.values()) == 8
