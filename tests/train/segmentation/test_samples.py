"""Batches that are functions of seed, step and place; sets that cannot be learned from."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.radiometry import Radiometry
from terralabel.runs.progress import Silent
from terralabel.train.segmentation import samples as module
from terralabel.train.segmentation.augment import Augmentation
from terralabel.train.segmentation.samples import Reader, Samples
from terralabel.train.segmentation.survey import survey


def make(labelled: LabelledSet, radiometry: Radiometry, seed: int = 0, crop: int = 64) -> Samples:
    sizes = survey(labelled, radiometry, Silent()).sizes
    return Samples(Reader(labelled, radiometry), sizes, Augmentation(crop), seed, 4)


def test_a_batch_depends_on_seed_and_step_alone(labelled: LabelledSet, radiometry: Radiometry) -> None:
    first, again, other = (make(labelled, radiometry, seed) for seed in (0, 0, 1))
    first.batch(0, range(4))  # another history
    a, b = first.batch(5, range(4)), again.batch(5, range(4))
    assert (a.pixels == b.pixels).all()
    assert (a.labels == b.labels).all()
    assert (a.pixels != first.batch(6, range(4)).pixels).any()
    assert (a.pixels != other.batch(5, range(4)).pixels).any()


def test_shares_of_a_batch_are_the_batch_and_threads_change_nothing(labelled: LabelledSet, radiometry: Radiometry) -> None:
    samples = make(labelled, radiometry)
    whole = samples.batch(2, range(4))
    with ThreadPoolExecutor(3) as pool:
        parts = [samples.batch(2, places, pool.map) for places in (range(2), range(2, 4))]
    assert (np.concatenate([part.pixels for part in parts]) == whole.pixels).all()


def test_every_image_is_seen_once_an_epoch(labelled: LabelledSet, radiometry: Radiometry) -> None:
    samples = make(labelled, radiometry, crop=96)
    assert len(samples) == 4
    for step in range(3):
        assert len({samples.image(step, place).key for place in range(4)}) == 4
    orders = {tuple(samples.image(step, place).key for place in range(4)) for step in range(6)}
    assert len(orders) > 1


def test_large_images_have_more_places(labelled: LabelledSet, radiometry: Radiometry) -> None:
    samples = make(labelled, radiometry, crop=32)
    assert len(samples) == 4 * 9


def test_windows_of_large_images_are_those_of_the_whole(
    labelled: LabelledSet, radiometry: Radiometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, window = labelled.images[0], Window(10, 20, 30, 40)
    whole = Reader(labelled, radiometry)
    kept = whole.pixels(item, window, (96, 96)), whole.labels(item, window, (96, 96))
    monkeypatch.setattr(module, "_WHOLE_PIXELS", 100)
    reader = Reader(labelled, radiometry)
    assert (reader.pixels(item, window, (96, 96)) == kept[0]).all()
    assert (reader.labels(item, window, (96, 96)) == kept[1]).all()
    assert not reader._kept


def test_what_is_kept_is_bounded(labelled: LabelledSet, radiometry: Radiometry) -> None:
    reader = Reader(labelled, radiometry, kept_bytes=3 * 96 * 96)
    for item in labelled.images:
        reader.pixels(item, Window(0, 0, 96, 96), (96, 96))
        assert sum(array.nbytes for array in reader._kept.values()) <= 3 * 96 * 96


def test_survey_counts(labelled: LabelledSet, radiometry: Radiometry) -> None:
    found = survey(labelled, radiometry, Silent())
    assert set(found.sizes.values()) == {(96, 96)}
    assert sum(found.pixels.values()) <= 4 * 96 * 96
    assert sum(count > 0 for count in found.pixels.values()) >= 3


@pytest.fixture
def own(painted: Path, tmp_path: Path) -> Path:
    shutil.copytree(painted, tmp_path / "own")
    return tmp_path / "own"


def opened(own: Path) -> LabelledSet:
    return open_labelled(own / "images", labels=own / "truth", classes=own / "classes.json")


def first_label(own: Path) -> Path:
    return sorted((own / "truth").iterdir())[0]


def rewrite(path: Path, ids: np.ndarray) -> None:
    path.unlink()
    cv2.imwrite(str(path.with_suffix(".png")), ids.astype(np.uint8))


def refused(own: Path, radiometry: Radiometry, status: str, *words: str) -> None:
    with pytest.raises(InputError) as found:
        survey(opened(own), radiometry, Silent())
    assert found.value.status == status
    assert all(word in str(found.value) for word in words), str(found.value)


def test_unknown_ids_are_refused_with_counts(own: Path, radiometry: Radiometry) -> None:
    ids = np.ones((96, 96))
    ids[:2] = 77
    rewrite(first_label(own), ids)
    refused(own, radiometry, "unknown-ids", "77", "192")


def test_another_size_is_refused(own: Path, radiometry: Radiometry) -> None:
    rewrite(first_label(own), np.ones((96, 80)))
    refused(own, radiometry, "wrong-size", "80 x 96", "96 x 96")


def test_several_bad_labels_are_counted(own: Path, radiometry: Radiometry) -> None:
    for path in sorted((own / "truth").iterdir())[:2]:
        rewrite(path, np.full((96, 96), 99))
    refused(own, radiometry, "unknown-ids", "2 of 4 labels cannot be used")


def test_one_class_only_is_refused(own: Path, radiometry: Radiometry) -> None:
    for path in sorted((own / "truth").iterdir()):
        rewrite(path, np.ones((96, 96)))
    refused(own, radiometry, "one-class", "class 1")


def test_images_without_a_labelled_pixel_are_left_out(own: Path, radiometry: Radiometry) -> None:
    rewrite(first_label(own), np.full((96, 96), IGNORE))
    found = survey(opened(own), radiometry, Silent())
    assert len(found.sizes) == 3
    assert len(found.bare) == 1


def test_no_label_at_all_is_refused(own: Path, radiometry: Radiometry) -> None:
    for path in sorted((own / "truth").iterdir()):
        rewrite(path, np.full((96, 96), IGNORE))
    refused(own, radiometry, "no-labels")
    with pytest.raises(InputError, match="no labelled images"):
        survey(replace(opened(own), images=()), radiometry, Silent())


def test_images_of_another_kind_are_refused(own: Path, radiometry: Radiometry) -> None:
    path = sorted((own / "images").iterdir())[0]
    path.unlink()
    cv2.imwrite(str(path.with_suffix(".png")), np.full((96, 96, 3), 9000, np.uint16))
    refused(own, radiometry, "mixed")
