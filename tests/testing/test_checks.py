"""The shipped checks pass what is right and, each of them, stop what is wrong."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from terralabel.clusters.kmeans import OnlineKMeans
from terralabel.contracts import Encoded, Promptable
from terralabel.core.masks import Masks
from terralabel.features.appearance import Appearance
from terralabel.features.pooled import Pooled
from terralabel.masks.everything import Everything
from terralabel.testing import (
    FloodPromptable,
    check_clusterer,
    check_feature_extractor,
    check_mask_generator,
    check_promptable,
    sample_prompts,
    sample_tiles,
)

COUNTER = itertools.count()


class Parts:
    """A right generator: the valid pixels of each half."""

    name = "parts"
    version = "1"

    def encode(self, tile):
        return Encoded(tile, None)

    def generate(self, encoded):
        valid, left = encoded.tile.valid, np.arange(encoded.tile.size[1]) * 2 < encoded.tile.size[1]
        return Masks.from_arrays([m for m in (valid & left, valid & ~left) if m.any()], encoded.tile.size)


class Mean:
    """A right extractor: mean of each band."""

    name = "mean"
    version = "1"
    needs_encoded = False

    def extract(self, tile, masks, encoded=None):
        return (masks.sums(tile.pixels) / np.maximum(masks.area, 1)[:, None]).astype(np.float32)


def test_what_is_right_passes() -> None:
    assert isinstance(FloodPromptable(), Promptable)
    check_promptable(FloodPromptable())
    check_mask_generator(Parts())
    check_mask_generator(Everything(FloodPromptable(), points_per_side=3))
    check_feature_extractor(Mean())
    check_feature_extractor(Pooled())
    check_feature_extractor(Appearance())
    check_clusterer(OnlineKMeans(clusters=4))


class NoVersion(Parts):
    version = ""


class Everywhere(Parts):
    def generate(self, encoded):
        return Masks.from_arrays([np.ones(encoded.tile.size, dtype=bool)])


class Moody(Parts):
    def generate(self, encoded):
        return super().generate(encoded).select(np.arange(next(COUNTER) % 2))


class Shifted(Parts):
    def generate(self, encoded):
        masks = super().generate(encoded)
        return dataclasses.replace(masks, bbox=masks.bbox + 1)


class Proud(Parts):
    def generate(self, encoded):
        masks = super().generate(encoded)
        return dataclasses.replace(masks, predicted_iou=masks.predicted_iou * 2)


class Hollow(Parts):
    def generate(self, encoded):
        return Masks.from_arrays([np.zeros(encoded.tile.size, dtype=bool)])


class Clinging(Parts):
    def __init__(self) -> None:
        self.handle = (x for x in ())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (NoVersion, "version is ''"),
        (Everywhere, "holds invalid pixels"),
        (Moody, "asked twice"),
        (Shifted, "bbox is not the tight"),
        (Proud, r"predicted_iou .* leaves \[0, 1\]"),
        (Hollow, "is empty"),
    ],
)
def test_wrong_generators_are_stopped(wrong: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_mask_generator(wrong())


def test_what_cannot_be_pickled_is_stopped() -> None:
    with pytest.raises(TypeError, match="pickle"):
        check_mask_generator(Clinging())


class Stingy(FloodPromptable):
    def predict(self, encoded, **prompts):
        answer = super().predict(encoded, **prompts)
        return dataclasses.replace(answer, masks=answer.masks.select(np.arange(1)))


class Many(FloodPromptable):
    def predict(self, encoded, *, multimask=True, **prompts):
        return super().predict(encoded, multimask=True, **prompts)


class Crowd(FloodPromptable):
    """Answers by the batch: the first prompt's masks for all."""

    def predict(self, encoded, **prompts):
        answer = super().predict(encoded, **prompts)
        return dataclasses.replace(answer, masks=answer.masks.select(np.arange(len(answer.masks)) % answer.alternatives))


class Overlong(FloodPromptable):
    def encode(self, tile):
        encoded = super().encode(tile)
        return dataclasses.replace(encoded, covers=(1e3, 1e3))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Stingy, "1 masks for 3 prompts"),
        (Many, "3 alternatives with multimask=False"),
        (Crowd, "alone is answered otherwise"),
        (Overlong, "covers is"),
    ],
)
def test_wrong_promptables_are_stopped(wrong: type, words: str) -> None:
    for exact in (True, False):
        with pytest.raises(AssertionError, match=words):
            check_promptable(wrong(), exact=exact)


class Double(Mean):
    def extract(self, tile, masks, encoded=None):
        return super().extract(tile, masks).astype(np.float64)


class Ranked(Mean):
    def extract(self, tile, masks, encoded=None):
        return super().extract(tile, masks) + np.arange(len(masks), dtype=np.float32)[:, None]


class Elastic(Mean):
    def extract(self, tile, masks, encoded=None):
        return np.repeat(super().extract(tile, masks), 1 + (tile.size[0] > 10), axis=1)


class Divides(Mean):
    def extract(self, tile, masks, encoded=None):
        with np.errstate(divide="ignore"):
            return (1 / (super().extract(tile, masks) - 90)).astype(np.float32)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(Double, "float64"), (Ranked, "do not follow"), (Elastic, "expected one width"), (Divides, "not finite")],
)
def test_wrong_extractors_are_stopped(wrong: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_feature_extractor(wrong())


class Sure(OnlineKMeans):
    def predict(self, features):
        ids, sure = super().predict(features)
        return ids, sure + np.float32(1)


class Wide(OnlineKMeans):
    def predict(self, features):
        ids, sure = super().predict(features)
        return ids.astype(np.int64), sure


class One(OnlineKMeans):
    def predict(self, features):
        ids, sure = super().predict(features)
        return ids * 0, sure


class Forgetful(OnlineKMeans):
    @classmethod
    def from_state(cls, state):
        made = super().from_state(state)
        made.centres = made.centres[::-1].copy()
        return made


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Sure, "certainty leaves"),
        (Wide, "int64"),
        (One, "groups are mixed"),
        (Forgetful, "from its state, it predicts otherwise"),
    ],
)
def test_wrong_clusterers_are_stopped(wrong: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_clusterer(wrong(clusters=3))


def test_samples_are_always_the_same() -> None:
    for one, other in zip(sample_tiles(2), sample_tiles(2), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.pixels.shape[2] == 2 and not one.pixels[~one.valid].any()
    for prompts in sample_prompts(sample_tiles()[0]).values():
        assert {len(value) for value in prompts.values()} == {3}


def test_flood_answers_with_nested_regions_of_one_colour() -> None:
    tile = sample_tiles()[0]
    flood = FloodPromptable()
    answer = flood.predict(flood.encode(tile), points=np.array([[[5.0, 5.0]]]), point_labels=np.ones((1, 1), dtype=int))
    small, middle, large = answer.masks
    assert small[5, 5] and not (small & ~middle).any() and not (middle & ~large).any()
    assert small.sum() == 12 * 16  # one block of the painted four by four
