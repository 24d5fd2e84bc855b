"""Grids of trainings: every shipped file runs, tiny; what is done stays done; a cell that fails is a row; mistakes have lines."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import terralabel as tl  # noqa: E402
from terralabel.errors import RunError, SettingsError  # noqa: E402
from terralabel.labels.quality.gate import Gate  # noqa: E402
from terralabel.recipes.experiment import stages  # noqa: E402
from terralabel.recipes.experiment.config import Start, read_experiment, rehearsal  # noqa: E402
from terralabel.recipes.experiment.grid import experiment_plan  # noqa: E402
from terralabel.recipes.experiment.ledger import Ledger, Row, cells_of  # noqa: E402
from terralabel.recipes.experiment.table import entries, read_published, write_tables  # noqa: E402
from tests.imagery.datasets.fake import chn6, isaid, patches, potsdam, samrs, save, sos  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))

GRID = """about: a test
data:
  scenes: {painted: 4, side: 64, hold-out: 0.25}
labels:
  PL: {of: scenes, masks: tree, features: appearance, clusters: 3, workers: 0, min_size: 16}
networks: ["timm:test_resnet:fcn"]
starts: [none, {on: PL, load: [overall, head]}]
images: 2
seeds: 0
pretrain: {steps: 2, batch_size: 2, crop: 64, threads: 1, save_every: 1}
finetune: {steps: 2, batch_size: 2, crop: 64, threads: 1}
predict: {threads: 1}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets of the shipped files, in the layouts of the releases; flat patches with noise, so that there are masks."""
    root = tmp_path_factory.mktemp("data")
    isaid(root / "isaid-crops", (64, 64)), potsdam(root / "potsdam-crops", size=64), samrs(root / "samrs")
    images = [
        p
        for p in root.rglob("*.*")
        if not {"Semantic_masks", "Instance_masks", "gray"} & set(p.parts) and "label" not in p.name
    ]
    for seed, path in enumerate(images):
        flat = patches(64, 64, 6, seed, side=16)[..., None] * np.array([40, 25, 33]) + 20
        save(path, (flat + np.random.default_rng(seed).integers(0, 8, flat.shape)).astype(np.uint8))
    boxed = [p for p in images if "samrs" in p.parts]
    coco = {
        "images": [{"id": i, "file_name": p.name, "width": 64, "height": 64} for i, p in enumerate(boxed)],
        "annotations": [
            {"id": 2 * i + k, "image_id": i, "category_id": k, "bbox": [16 * k + 8, 16, 16, 16]} for i in range(len(boxed)) for k in (0, 1)
        ],
        "categories": [{"id": 0, "name": "plane"}, {"id": 1, "name": "ship"}],
    }  # fmt: skip
    (root / "samrs-boxes.json").write_text(json.dumps(coco))
    sos(root / "sos", count=4), chn6(root / "chn6-cug", count=4)
    return root


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with grid.yaml and `out`, gone through; tests must not change it."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.yaml").write_text(GRID)
    tl.run_experiment(folder / "grid.yaml", folder / "out")
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_runs_tiny(name: str, data: Path, tmp_path: Path) -> None:
    whole = read_experiment(CONFIGS / name)
    if whole.published:  # every published number is found by a cell, and every cell of these tables has one
        known = read_published(whole.published)
        cells = {(cell.data, cell.network, cell.start.name) for cell in cells_of(whole)}
        assert [key for key in cells if key not in known and ("", *key[1:]) not in known] == [] or name in WITHOUT
    result = tl.run_experiment(CONFIGS / name, tmp_path / "out", data=data, scale="tiny")
    assert [row.reason for row in result.failures] == []
    assert len(result.rows) == len(list(cells_of(rehearsal(whole))))
    table = (tmp_path / "out" / "table.md").read_text()
    assert "figures mean nothing" in table
    if name == "elnet_30.yaml":
        assert {row.start for row in result.rows} == {"D0", "D1", "D2", "D3", "D4"}
        assert all(number in table for number in ("84.20", "83.67")), "what others reached stands beside D0"
        means, _, by_class = table.partition("## IoU by class: chn6-cug")
        assert "66.60" in by_class and "66.60" not in means, "the IoU of roads is no mean over all classes"


#: Files with cells that the paper does not have.
WITHOUT = {"elnet_30.yaml", "area_threshold.yaml", "long_pretraining.yaml", "samrs_star.yaml"}


def test_what_is_done_is_not_done_again(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    before = (tmp_path / "out" / "cells.csv").read_text()
    monkeypatch.setattr(stages.Stages, "measure", None)  # whoever calls it fails
    again = tl.run_experiment(finished / "grid.yaml", tmp_path / "out")
    assert (tmp_path / "out" / "cells.csv").read_text() == before
    assert [(row.start, row.status) for row in again.rows] == [("none", "done"), ("PL overall", "done"), ("PL head", "done")]
    assert all(0 <= row.measures["miou"] <= 1 and len(row.iou) > 1 for row in again.rows)


def test_an_interrupted_one_goes_on_with_the_cell_and_gives_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the last cell predicts: its training is there, the cells before are done."""
    monkeypatch.chdir(tmp_path)
    out, calls, predict = Path("out"), [], stages.predict  # relative, as people give it
    shutil.copytree(finished / "out", out, ignore=shutil.ignore_patterns("cells.csv", "data"))  # labels and pre-training stay

    def third_time(*given: object, **named: object) -> object:
        calls.append(given[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "predict", third_time)
    with pytest.raises(KeyboardInterrupt):
        tl.run_experiment(finished / "grid.yaml", out)
    assert len(Ledger(out / "cells.csv").rows) == 2
    assert (
        experiment_plan(finished / "grid.yaml", out).splitlines()[2].startswith("to do scenes, timm:test_resnet:fcn, PL head")
    )
    tl.run_experiment(finished / "grid.yaml", out)
    assert len(calls) == 4 and calls[3] == calls[2]
    one, two = (figures(folder / "out" / "cells.csv") for folder in (finished, tmp_path))
    assert one == two


def figures(path: Path) -> list[dict[str, str]]:
    """The rows of a ledger without their times."""
    with open(path, encoding="utf-8", newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def test_a_cell_that_fails_is_a_row_and_the_others_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    (tmp_path / "grid.yaml").write_text(GRID.replace("images: 2", "images: [2, 99]").replace("[overall, head]", "overall"))
    result = tl.run_experiment(tmp_path / "grid.yaml", tmp_path / "out")
    assert [(row.images, row.status) for row in result.rows] == [(2, "done"), (99, "failed"), (2, "done"), (99, "failed")]
    assert "99 wanted, images has 3 to learn from" in result.failures[0].reason
    assert "99 images, seed 0: images: 99 wanted" in (tmp_path / "out" / "table.md").read_text()
    assert "2 of 4 cells done" in result.text
    monkeypatch.setattr(stages.Stages, "measure", lambda *given: 1 / 0)  # tried again; a bug has a page of its own
    again = tl.run_experiment(tmp_path / "grid.yaml", tmp_path / "out")
    assert again.failures[0].reason.startswith("ZeroDivisionError: division by zero (see ")
    assert "Traceback" in next((tmp_path / "out" / "failures").iterdir()).read_text()


def test_another_setting_is_another_cell(finished: Path, config: Path) -> None:
    plan = experiment_plan(config, finished / "out")
    assert plan.splitlines()[-1] == "3 cells, 3 done; 1 pre-trainings on labels PL"
    config.write_text(GRID.replace("clusters: 3", "clusters: 4"))
    assert experiment_plan(config, finished / "out").count("to do ") == 2
    config.write_text(GRID.replace("seeds: 0", "seeds: [0, 1]"))
    assert "6 cells, 3 done" in experiment_plan(config, finished / "out")
    config.write_text(GRID.replace("predict: {threads: 1}", "predict: {overlap: 3}"))
    assert "3 cells, 0 done" in experiment_plan(config, finished / "out")


MEASURES = dict.fromkeys(("miou", "miou_without", "macc", "mf1", "boundary_f", "pixel_accuracy", "tested_on", "seconds"), 0.5)


def test_the_table_has_mean_spread_gain_and_what_was_published(tmp_path: Path) -> None:
    experiment = read_experiment(CONFIGS / "isaid.yaml")
    rows = []
    for cell in cells_of(experiment):
        if cell.network == "upernet-r50" and cell.start.name in ("none", "iSAID-PL head"):
            miou = 0.60 + 0.02 * cell.seed + (0.05 if cell.start.on else 0.0)
            iou = {"ship": 0.5, "helicopter": 0.0}
            given = {**MEASURES, "miou": miou}
            rows.append(
                Row(
                    cell.data, cell.network, cell.start.name, 0, cell.seed, "done", cell.digest, given, iou, "all", "helicopter"
                )
            )
    scratch, head = entries(experiment, rows)
    assert (str(scratch.means["miou"]), str(head.means["miou"])) == ("62.00 ± 2.00", "67.00 ± 2.00")
    assert (str(head.gain), head.seeds, scratch.gain.count) == ("5.00 ± 0.00", 3, 0)
    assert scratch.published.means == {"mIoU": 64.52, "mAcc": 73.70}
    assert scratch.published_mean(False) == pytest.approx(60.485, abs=0.01)  # 16 classes
    assert scratch.published_mean(True) == pytest.approx(64.52, abs=0.01)  # what is printed leaves helicopter out
    table = write_tables(experiment, rows, tmp_path)
    assert "| upernet-r50 | iSAID-PL head | 3 | 67.00 ± 2.00 |" in table and "published, without helicopter" in table
    assert "| upernet-r50 | none | all | 50.00 ± 0.00 | 0.00 ± 0.00 |\n|  | published |  | 68.80 | 0.00 |" in (
        (tmp_path / "table.md").read_text()
    )
    assert r"67.00 $\pm$ 2.00" in (tmp_path / "table.tex").read_text()
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as handle:
        line = list(csv.DictReader(handle))[1]
    assert (line["mIoU"], line["mIoU spread"], line["published mIoU"], line["published IoU ship"]) == (
        "67.00",
        "2.00",
        "66.67",
        "70.20",
    )
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_starts_by_name() -> None:
    names = [start.name for start in read_experiment(CONFIGS / "mixed.yaml").starts]
    assert names == ["none", "iSAID-PL backbone", "SAMRS-PL backbone", "iSAID-PL then SAMRS-PL backbone"]
    assert Start(("A",), "head", steps=320000).name == "A head, 320,000 steps"


WRONG = {
    "seedz: 0": ("seeds: 0", "unknown setting 'seedz'. Did you mean 'seeds'?"),
    "pretrain: {stepz: 2}": (
        "pretrain: {steps: 2, batch_size: 2, crop: 64, threads: 1, save_every: 1}",
        "unknown setting 'stepz'",
    ),
    "tao: 3": ("clusters: 3", "unknown setting 'tao'. Did you mean 'tau'?"),
    "tau: 3": ("clusters: 3", "tau: expected at most 1; got 3"),
    "of: scens": ("of: scenes", "unknown data set 'scens'. Did you mean 'scenes'?"),
    "{on: LP,": ("{on: PL,", "unknown label set 'LP'. Known: PL."),
    "[overall, haed]": ("[overall, head]", "unknown part 'haed'. Did you mean 'head'?"),
    "[upernet-r51]": ('["timm:test_resnet:fcn"]', "Unknown network 'upernet-r51'"),
    "images: -1": ("images: 2", "expected a whole number, 0 or more; got -1"),
    "painted: 4, side: 8": ("painted: 4, side: 64", "side: expected at least 32; got 8"),
    "{painted: 4}": ("{painted: 4, side: 64, hold-out: 0.25}", "painted scenes have no splits: say hold_out"),
    "seeds: [1, 1]": ("seeds: 0", "expected one or more different values; got [1, 1]"),
    "published: no.csv": ("about: a test", "is no file; expected a CSV beside"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_named_with_its_line(wrong: str, config: Path) -> None:
    right, says = WRONG[wrong]
    text = GRID.replace(right, wrong)
    assert text != GRID
    line = text[: text.index(wrong)].count("\n") + 1
    config.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_experiment(config)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{config}:{line}: ")


def test_an_unknown_scale_is_refused(config: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected full or tiny; got 'small'"):
        tl.run_experiment(config, tmp_path / "out", scale="small")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"no experiment \(it holds 'thesis.tex'\)"):
        tl.run_experiment(config, tmp_path / "out")


def test_a_torn_ledger_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("data,network\nx,y\n")
    with pytest.raises(RunError, match="is no ledger of an experiment"):
        Ledger(tmp_path / "cells.csv")


def test_the_head_alone_leaves_the_backbone_its_own_weights(finished: Path, tmp_path: Path) -> None:
    timm, save_file = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch").save_file
    from terralabel.core.classes import Classes
    from terralabel.recipes.training import Start as Weights
    from terralabel.recipes.training import _network
    from terralabel.train.segmentation.settings import TrainSettings

    backbone = timm.create_model("test_resnet").state_dict()
    save_file(backbone, tmp_path / "backbone.safetensors")
    checkpoint = next((finished / "out" / "pretrained").iterdir())
    settings = TrainSettings(weights=str(tmp_path / "backbone.safetensors"))
    built = {load: _network(Classes.of_clusters(5), 3, settings, Weights(checkpoint, load))[0] for load in ("head", "overall")}
    first = {
        load: network.state_dict()[next(k for k in network.state_dict() if k.endswith("conv1.0.weight"))]
        for load, network in built.items()
    }
    assert torch.equal(first["head"], backbone["conv1.0.weight"]) and not torch.equal(
        first["overall"], backbone["conv1.0.weight"]
    )


ANNOTATED = """data:
  scenes: {painted: 8, side: 64, hold-out: 0.25}
networks: ["timm:test_resnet:fcn"]
starts: [D0, D1, D2, D3, D4]
annotate:
  share: 0.34
  fit: {trunk: scratch, width: 8, steps: 2, batch_size: 2, crop: 64, folds: 2, threads: 1, workers: 0}
  apply: {flips: false, cut: false, threads: 1}
seeds: 0
finetune: {steps: 2, batch_size: 2, crop: 64, threads: 1}
predict: {threads: 1}
"""


def test_the_protocol_learns_from_a_few_true_and_from_automatic_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: dict[str, list[str]] = {}
    train = stages.train

    def noted(kind: str, labelled: object, radiometry: object, out: Path, *given: object, **named: object) -> object:
        paths = [item.label for item in labelled.labelled.images]  # type: ignore[attr-defined]
        learned[len(learned)] = ["automatic" if {"run", "accepted"} & set(path.parts) else "true" for path in paths]
        return train(kind, labelled, radiometry, out, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "train", noted)
    monkeypatch.setattr("terralabel.recipes.annotate.apply.set_gate", lambda *given, **named: Gate(0.0, 0.0))
    (tmp_path / "grid.yaml").write_text(ANNOTATED)
    result = tl.run_experiment(tmp_path / "grid.yaml", tmp_path / "out")
    assert [row.reason for row in result.failures] == []
    assert [row.start for row in result.rows] == ["D0", "D1", "D2", "D3", "D4"]
    counts = [(kinds.count("true"), kinds.count("automatic")) for kinds in learned.values()]
    assert counts == [(6, 0), (0, 4), (2, 0), (2, 4), (0, 4)]
    assert "annotated" in {p.name for p in (tmp_path / "out").iterdir()} and "| D1 |" in result.table
    tl.run_experiment(tmp_path / "grid.yaml", tmp_path / "out")
    assert len(learned) == 5, "what is done is not done again"
    (tmp_path / "grid.yaml").write_text(ANNOTATED.replace("share: 0.34", "share: 0.5"))
    assert experiment_plan(tmp_path / "grid.yaml", tmp_path / "out").count("to do") == 5


def test_where_nothing_is_accepted_only_those_cells_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terralabel.recipes.annotate.apply.set_gate", lambda *given, **named: Gate(2.0, 1.0))
    (tmp_path / "grid.yaml").write_text(ANNOTATED.replace("[D0, D1, D2, D3, D4]", "[D1, D3]"))
    result = tl.run_experiment(tmp_path / "grid.yaml", tmp_path / "out")
    assert [(row.start, row.status) for row in result.rows] == [("D1", "failed"), ("D3", "done")]
    assert "none of the automatic labels was accepted" in result.failures[0].reason


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("share: 0.34", "share: 2", "share: expected at most 0.99; got 2"),
        ("apply: {flips", "apply: {flipz", "unknown setting 'flipz'. Did you mean 'flips'"),
        ("fit: {trunk", "fit: {seed: 3, trunk", "unknown setting 'seed'"),
        ("D4]", "D5]", "expected none, D0 to D4, or a start"),
    ],
)
def test_mistakes_in_the_protocol_have_their_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(ANNOTATED.replace(old, new))
    with pytest.raises(SettingsError, match=r"grid.yaml:\d+") as caught:
        read_experiment(tmp_path / "grid.yaml")
    assert said in str(caught.value)
