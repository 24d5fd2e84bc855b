"""The cut between classes: what held-out predictions advise, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.recipes.annotate.cut import Sample, cut_of, fit_cut, mean_iou, weighted


def said(truth: np.ndarray, offsets: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """(K, h, w) probabilities: right on average, but for the offsets of the classes' logits."""
    logits = np.random.default_rng(seed).normal(0, 1.0, (len(offsets), *truth.shape))
    for k, offset in enumerate(offsets):
        logits[k] += 2.0 * (truth == k) + offset
    return (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)


def test_a_network_that_finds_too_much_is_cut_back() -> None:
    truth = np.zeros((120, 120), int)
    truth[40:70, 30:90] = 1
    probabilities = said(truth, (0.0, 1.5))
    sample = Sample()
    sample.add(probabilities, truth)
    cut = fit_cut(sample, 0)
    assert cut[0] == 1.0 and cut[1] < 0.6
    before, after = (
        mean_iou(p.argmax(axis=0).ravel(), truth.ravel(), [1]) for p in (probabilities, weighted(probabilities, cut))
    )
    assert after > before + 0.05
    assert weighted(probabilities, cut).sum(axis=0) == pytest.approx(1.0, abs=1e-5)


def test_one_that_finds_the_right_amount_is_left_alone() -> None:
    truth = (np.indices((100, 100)).sum(axis=0) // 20 % 2).astype(int)
    sample = Sample()
    sample.add(said(truth, (0.0, 0.0)), truth)
    assert fit_cut(sample, 0) == pytest.approx((1.0, 1.0), abs=0.15)


def test_many_classes_with_a_background_and_without() -> None:
    truth = np.indices((150, 150))[1] // 50
    probabilities = said(truth, (0.0, 0.0, 2.0))
    sample = Sample()
    sample.add(probabilities, np.where(np.indices((150, 150))[0] < 10, -1, truth))  # no truth at the top
    assert len(sample) == 20_000
    cut = fit_cut(sample, 0)
    assert cut[0] == 1.0 and cut[2] < 0.5 * cut[1]
    assert fit_cut(sample, None) == ()


def test_nothing_held_out_is_no_cut(tmp_path: Path) -> None:
    assert fit_cut(Sample(), 0) == ()
    sample = Sample()
    sample.add(np.full((2, 4, 4), 0.5, np.float32), np.full((4, 4), -1))
    assert fit_cut(sample, 0) == ()
    probabilities = np.full((2, 3, 3), 0.5, np.float32)
    assert weighted(probabilities, ()) is probabilities
    assert cut_of(tmp_path) == () and cut_of(tmp_path / "step-1.json") == ()
    (tmp_path / "held_out.json").write_text(json.dumps({"iou": {}, "accuracy": 1, "cut": [1.0, 0.5]}))
    assert cut_of(tmp_path) == (1.0, 0.5) == cut_of(tmp_path / "step-1.safetensors")
    (tmp_path / "cut.json").write_text(json.dumps({"cut": [1.0, 0.8]}))
    assert cut_of(tmp_path) == pytest.approx((1.0, 0.4**0.5)), "networks of fewer images find more that is not there"
    (tmp_path / "cut.json").write_text(json.dumps({"cut": [1.0, 0.2]}))
    assert cut_of(tmp_path) == (1.0, 0.5), "of what it has seen the model is surer"


def test_a_model_without_folds_learns_its_cut_from_what_it_has_seen(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import terralabel as tl
    from tests.recipes.annotating import TINY, write_blobs

    blobs, few = write_blobs(tmp_path / "blobs", labelled=2, more=1), {**TINY, "steps": 2, "folds": 0}
    model = tl.annotate_fit(blobs / "images", tmp_path / "model", labels=blobs / "labels", **few).folder
    cut = cut_of(model)
    assert len(cut) == 2 and max(cut) <= 1 and json.loads((model / "cut.json").read_text())["cut"] == pytest.approx(cut)
    (model / "cut.json").write_text(json.dumps({"cut": [1.0, 1e-9]}))
    found = tl.annotate_apply(model, blobs / "images", tmp_path / "run", threads=1, flips=False, review="20%")
    plain = tl.annotate_apply(model, blobs / "images", tmp_path / "plain", threads=1, flips=False, cut=False, review="20%")
    with rasterio.open(found.label_path("scene_00")) as one, rasterio.open(plain.label_path("scene_00")) as other:
        assert not one.read(1).any() and other.read(1).shape == one.shape
    again = tl.annotate_fit(blobs / "images", model, labels=blobs / "labels", overwrite=True, **{**few, "steps": 3})
    assert cut_of(again.folder)[1] > 1e-6, "what was learned before is gone"
