"""The proof of annotation: its measures, its tables, and all of it, tiny."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import numpy as np

import proof_annotate as proof
from proof_annotate import DataSet, Plan
from proof_annotate_baselines import pixel_features
from proof_annotate_tables import Cell, read_cells, write_results
from terralabel.core.quality import EMPTY, Units, Verdicts
from terralabel.imagery.painter import write_demo
from terralabel.train.annotation.settings import AnnotateSettings, ApplySettings


def test_measures_are_of_one_matrix_over_all_pixels() -> None:
    real = np.array([[0, 0, 1, 1, 255]], np.uint8)
    found = np.array([[0, 1, 1, 255, 1]], np.uint8)
    whole = proof.measures([(found, real)] * 3, [0, 1, 7], 0)
    assert whole["target"] == pytest.approx(1 / 3) and whole["miou"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (whole["precision"], whole["recall"], whole["f1"]) == (0.5, 0.5, 0.5), (
        "no prediction is a miss, no truth counts nothing"
    )
    assert set(whole["classes"]) == {"0", "1"}, "a class in neither is left out"
    assert proof.measures([(found, real)], [0, 1, 7], None)["target"] == whole["miou"]
    assert proof.measures([], [], None)["target"] == 0.0


def test_the_true_iou_of_units_and_of_empty_pictures() -> None:
    units = Units.of_rows([(1, 0, (0, 0, 2, 2), 4), (EMPTY, 0, (2, 0, 2, 2), 0), (EMPTY, 0, (4, 0, 2, 2), 0)])
    window = np.array([[0, 0, 2, 2], [2, 0, 2, 2], [4, 0, 2, 2]])
    verdicts = Verdicts(("a",) * 3, window, units, np.ones(3, np.float32), ("accept",) * 3, ("",) * 3)
    real = {"a": np.array([[1, 0, 0, 0, 0, 255], [1, 1, 0, 0, 1, 0]], np.uint8)}
    found = {"a": np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], np.uint8)}
    assert [proof.true_iou(verdicts, k, found, real, 0) for k in range(3)] == [0.75, 1.0, 0.0]
    assert proof.true_iou(verdicts, 0, found, {"a": np.full((2, 6), 255, np.uint8)}, 0) is None


def cell(out: Path, what: str, seed: int, **found: object) -> None:
    (out / "cells").mkdir(exist_ok=True)
    made = Cell("roads", what, seed)
    record = {"cell": vars(made), "cpu_seconds": 30, "images": 4, **found}
    (out / "cells" / f"{made.name}.json").write_text(json.dumps(record))


def test_the_tables_compare_seed_by_seed(tmp_path: Path) -> None:
    for what, values in {"D0": (0.8, 0.6), "D1": (0.76, 0.48), "D4": (0.7, 0.5), "D2": (0.7, 0.4), "D3": (0.8, 0.6)}.items():
        for seed, target in enumerate(values):
            measures = {"target": target, "miou": target, "precision": 0.5, "recall": 0.5, "f1": 0.5}
            cell(tmp_path, what, seed, measures=measures)
    for seed in (0, 1):
        units = [{"quality": q, "true": q - 0.1, "decision": d} for q, d in ((0.9, "accept"), (0.8, "accept"), (0.3, "reject"))]
        cell(tmp_path, "judge", seed, units=[*units, {"quality": 0.5, "true": None, "decision": "review"}], measures=measures)
        cell(tmp_path, "boxes", seed, before={"target": 0.5}, after={"target": 0.6 + 0.1 * seed})
    text = write_results(tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| roads | 2 |"))
    assert "| 0.700 ± 0.141 | 0.620 ± 0.198 |" in row and "| 0.88 ± 0.11 | +0.020 ± 0.057 | +0.150 ± 0.071 |" in row
    assert (
        "| roads | 6 | 4 / 0 / 2 | 0.567 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 | 0.100 ± 0.000 | 0.750 ± 0.000 |  |" in text
    )
    assert "| roads | boxes | 2 | 0.500 ± 0.000 | 0.650 ± 0.071 | +0.150 |" in text
    assert "14 cells, 7 minutes of one core." in text
    assert {"protocol.png", "enhance.png", "reliability.png", "risk_coverage.png"} <= {p.name for p in tmp_path.iterdir()}


def test_pixels_are_described_with_their_neighbourhoods() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 1), dtype=np.uint8)
    maps = pixel_features(pixels)
    assert maps.shape == (20, 30, 10) and np.isfinite(maps).all()
    assert maps[..., 7].std() < maps[..., 1].std() < pixels.std(), "wider means are smoother"


@pytest.mark.slow
def test_the_whole_proof_tiny_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demo(tmp_path / "painted", seed=1, scenes=9, size=64)
    (tmp_path / "painted/truth").rename(tmp_path / "painted/masks")
    fit = AnnotateSettings(
        trunk="scratch", width=8, steps=2, batch_size=2, crop=64, folds=2, device="cpu", threads=1, workers=0
    )
    apply = ApplySettings(tile_size=64, flips=False, review="20%", device="cpu", threads=1)
    plan = Plan(fit, apply, apply, "timm:test_resnet:fcn", 2)
    sets, names = [DataSet("painted", "painted", background=None)], ["judge", *proof.STARTS, "forest", "unet"]
    proof.prove(sets, names, tmp_path, tmp_path / "out", 1, plan)
    assert capsys.readouterr().out.count("mIoU") == 8
    assert len(read_cells(tmp_path / "out")) == 8 and "| painted | 1 |" in (tmp_path / "out/annotate.md").read_text()
    proof.prove(sets, names, tmp_path, tmp_path / "out", 1, plan)
    assert capsys.readouterr().out == ""
