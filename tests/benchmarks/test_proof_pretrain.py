"""The proof of pre-training: what is drawn, what is tested on, what the table says; and all of it, tiny."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import numpy as np

import proof_pretrain as proof
from proof_pretrain import Cell, DataSet, Plan
from terralabel.core.labelled import LabelledSet
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.imagery.painter import write_demo


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set `painted` of nine scenes of 64 px."""
    folder = tmp_path_factory.mktemp("data") / "painted"
    write_demo(folder, seed=1, scenes=9, size=64)
    (folder / "truth").rename(folder / "masks")
    return folder.parent


@pytest.fixture(scope="module")
def labelled(data: Path) -> LabelledSet:
    return open_labelled(data / "painted", format="folder")


def test_drawn_images_are_nested_and_never_tested_on(labelled: LabelledSet) -> None:
    pool, tested = proof.split(labelled)
    assert len(tested) == 3
    assert not set(pool) & set(tested)
    for seed in range(3):
        few = [{item.key for item in proof.drawn(labelled, pool, count, seed).images} for count in (1, 3, 6)]
        assert [len(keys) for keys in few] == [1, 3, 6]
        assert few[0] < few[1] < few[2]
        assert few[2] <= set(pool)
        only = proof.drawn(labelled, pool, 1, seed)
        assert len(set(np.unique(read_label(only, only.images[0]))) - {255}) > 1


def test_the_table_compares_seed_by_seed() -> None:
    values = {("scratch", 0): 0.4, ("scratch", 1): 0.5, ("tree", 0): 0.5, ("tree", 1): 0.52}
    cells = {Cell("forest", start, 1, seed): miou for (start, seed), miou in values.items()}
    text = proof.table(cells)
    assert "| forest | 1 | 2 | 0.450 ± 0.050 | 0.510 ± 0.010 | +6.0 (least +2.0) |" in text
    assert "Gain of tree at 1 image(s), mean over 1 set(s): **+6.0** points." in text
    assert "| 0.450" in proof.table({cell: v for cell, v in cells.items() if cell.start == "scratch"})
    lines = proof.chart("forest", cells).lines
    assert [line.name for line in lines] == ["scratch", "pre-trained, tree"]
    assert lines[1].spread == pytest.approx([0.01])


@pytest.mark.slow
def test_the_whole_proof_tiny_and_resumed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"batch_size": 2, "crop": 64, "optimizer": "adamw", "lr": 1e-3, "device": "cpu", "threads": 1, "save_every": 200}
    plan = Plan("timm:test_resnet:fcn", 2, 2, settings)
    sets = [DataSet("painted", "painted")]
    starts = [proof.SCRATCH, proof.LONGER, "tree"]
    proof.prove(sets, data, tmp_path, starts, [1], 1, plan)
    assert capsys.readouterr().out.count("mIoU") == 3
    assert len(proof.read_cells(tmp_path)) == 3
    assert (tmp_path / "pretrain.png").exists()
    assert "painted" in (tmp_path / "pretrain.md").read_text()
    proof.prove(sets, data, tmp_path, starts, [1], 1, plan)
    assert capsys.readouterr().out == ""
