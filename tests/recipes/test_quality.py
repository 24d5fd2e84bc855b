"""Labels of any origin are judged: runs, folders of masks, GeoTIFFs without images; verdicts stay in the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import geopandas
import numpy as np
import pytest
import rasterio

import terralabel as tl
from terralabel.core.grid import Window
from terralabel.core.quality import EMPTY
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.recipes.detected_run import open_any
from terralabel.recipes.label import label
from terralabel.recipes.labels_run import LabelsRun
from terralabel.recipes.quality.recipe import load_judge
from terralabel.recipes.run import export_run, open_run, report_run
from tests.recipes.conftest import tree_hashes


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, labels/ and truth/ of 16 pictures of 64 px: a bright square each; labels are shifted by 0 to 15 px, two are empty."""
    folder = tmp_path_factory.mktemp("squares")
    for name in ("images", "labels", "truth"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for k in range(16):
        truth = np.zeros((64, 64), dtype=np.uint8)
        truth[12:44, 10:42] = 1
        wrong = np.roll(truth, k, axis=(0, 1))
        wrong[:] *= k not in (7, 15)
        noise = rng.integers(0, 60, (64, 64, 3))
        cv2.imwrite(str(folder / "images" / f"p{k:02}.png"), (noise + 150 * truth[..., None]).astype(np.uint8))
        cv2.imwrite(str(folder / "labels" / f"p{k:02}.png"), wrong)
        cv2.imwrite(str(folder / "truth" / f"p{k:02}.png"), truth)
    return folder


@pytest.fixture(scope="module")
def judge(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted on all of them."""
    path = tmp_path_factory.mktemp("judge") / "judge.json"
    tl.quality_fit(squares / "labels", squares / "truth", path, images=squares / "images", background=0)
    return path


@pytest.fixture(scope="module")
def scored(squares: Path, judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the labels, judged; tests must not change it."""
    out = tmp_path_factory.mktemp("scored") / "run"
    tl.quality_score(squares / "labels", out, images=squares / "images", judge=judge, background=0)
    return out


def test_shifted_labels_get_lower_scores(scored: Path) -> None:
    run = open_any(scored)
    assert isinstance(run, LabelsRun) and run.verdicts is not None
    quality = dict(zip(run.verdicts.scene, run.verdicts.quality.tolist(), strict=True))
    shift = [k for k in range(16) if k not in (7, 15)]
    found = [quality[f"p{k:02}"] for k in shift]
    assert np.corrcoef(shift, found)[0, 1] < -0.8 and found[0] > found[-1] + 0.3
    assert [k for k, c in zip(run.verdicts.scene, run.verdicts.units.class_id, strict=True) if c == EMPTY] == ["p07", "p15"]
    assert quality["p07"] < 0.3, "the judge has seen that empty ones are wrong"
    worst = run.verdicts.reasons[run.verdicts.scene.index("p14")]
    assert "edges do not follow the picture" in worst or "pixels look unlike" in worst


def test_judge_and_pictures_are_files(judge: Path) -> None:
    assert load_judge(judge).fitted and load_judge(judge).empty == (2, 0)
    for name in ("judge_reliability.png", "judge_risk_coverage.png"):
        assert cv2.imread(str(judge.with_name(name))).shape == (360, 720, 3)


def test_verdicts_are_seen_by_export_report_and_status(scored: Path, tmp_path: Path) -> None:
    run = open_any(scored)
    assert (
        "labels judged:" in run.summary() and sum(run.facts()["quality"][name] for name in ("accept", "review", "reject")) == 16
    )
    (package,) = export_run(run, ["geopackage"], tmp_path)
    rejected = geopandas.read_file(package, layer="rejected")
    assert len(rejected) == run.verdicts.counts["reject"] > 0 and rejected["quality"].is_monotonic_increasing
    masks = geopandas.read_file(package, layer="masks")
    assert masks["quality"].between(0, 1).all()
    page = report_run(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Why labels are doubted" in page and "On labels with truth that the judge had not seen" in page


def test_another_gate_measures_nothing_again(
    scored: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(scored, out)
    monkeypatch.setattr("terralabel.recipes.quality.recipe.measure", lambda *_: pytest.fail("measured again"))
    shared = tl.quality_score(out, judge=judge, review="25%", background=0)
    assert shared.verdicts.counts["accept"] == 12
    strict = tl.quality_score(out, judge=judge, promise="mean IoU >= .99", background=0)
    assert strict.verdicts.counts["accept"] == 0 and "nothing is accepted" in strict.text
    assert len(list((out / "parts" / "quality").iterdir())) == 1


def test_changed_labels_are_told_and_judged_again(scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(scored, out)
    with rasterio.open(out / "labels" / "p03.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.write(np.ones((64, 64), np.uint8), 1)
    assert open_any(out).judged.stale == ("p03",) and "other labels since" in open_any(out).summary()
    tl.quality_score(out, review=0.1, background=0)
    assert open_any(out).judged.stale == ()


def test_the_same_labels_give_the_same_bytes(squares: Path, scored: Path, judge: Path, tmp_path: Path) -> None:
    tl.quality_score(squares / "labels", tmp_path / "run", images=squares / "images", judge=judge, background=0)
    assert tree_hashes(tmp_path / "run") == tree_hashes(scored)


def test_a_run_of_label_keeps_its_verdicts(run: tl.Run, painted: Path) -> None:
    found = tl.quality_score(run.path, pixels=False, review="50%")
    assert found.run.verdicts is not None and len(found.verdicts) > 6
    label(painted / "images", run.path, clusters=6, workers=0)
    again = open_run(run.path)
    assert again.verdicts is not None and again.judged.stale == ()
    assert "quality" in again.facts() and "labels judged" in again.summary()


def test_geotiffs_without_images_are_judged_by_their_shapes(scored: Path, tmp_path: Path) -> None:
    found = tl.quality_score(scored / "labels", tmp_path / "run", units="object", background=0)
    assert len(found.verdicts) == 16 and not found.failures
    assert found.note.endswith("scores are an order")
    assert "reject" not in {d for d in found.verdicts.decision if d} and found.verdicts.counts["review"] >= 3
    assert (found.run.read_rgb("p00", Window(0, 0, 8, 9)) == 226).all(), "no image: grey"


def test_labels_that_do_not_fit_are_failures_and_the_others_go_on(squares: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    shutil.copytree(squares / "labels", labels)
    cv2.imwrite(str(labels / "p03.png"), np.zeros((32, 64), np.uint8))
    cv2.imwrite(str(labels / "stranger.png"), np.zeros((64, 64), np.uint8))
    (labels / "p05.png").write_bytes((labels / "p05.png").read_bytes()[:60])
    found = tl.quality_score(labels, tmp_path / "run", images=squares / "images", background=0, pixels=False)
    told = " ".join(failure.reason for failure in found.failures)
    assert "is 64 x 32, its image" in told and "has no image of its name" in told
    assert len(found.run.scenes) == 14 and len(found.verdicts) == 14


def test_a_judge_that_does_not_know_says_so_wherever_it_is_seen(squares: Path, scored: Path, tmp_path: Path) -> None:
    """Truth that the labels have nothing to do with: an order at best, of which nothing is rejected by its value."""
    (tmp_path / "truth").mkdir()
    for k, other in enumerate(np.random.default_rng(1).permutation(16).tolist()):
        shutil.copy(squares / "labels" / f"p{other:02}.png", tmp_path / "truth" / f"p{k:02}.png")
    fitted = tl.quality_fit(
        squares / "labels", tmp_path / "truth", tmp_path / "j.json", images=squares / "images", background=0, pixels=False
    )
    assert fitted.judge.fitted and not fitted.judge.knows
    shutil.copytree(scored, tmp_path / "run")
    found = tl.quality_score(tmp_path / "run", judge=fitted.judge, background=0)
    assert found.verdicts.counts["reject"] == 0 and "left to a person" in found.gate.note
    said = "does not know good labels from bad"
    assert said in fitted.text and said in found.text and said in found.run.summary()
    assert said in report_run(found.run).read_text(encoding="utf-8")


def test_what_cannot_be_is_refused_in_one_line(squares: Path, scored: Path, judge: Path, tmp_path: Path) -> None:
    labels, images = squares / "labels", squares / "images"
    with pytest.raises(SettingsError, match="needs a judge that was fitted"):
        tl.quality_score(labels, tmp_path / "a", images=images, promise="mean IoU >= .8")
    with pytest.raises(SettingsError, match="give one of them"):
        tl.quality_score(scored, judge=judge, promise="mean IoU >= .8", review=0.2)
    with pytest.raises(SettingsError, match="leave out --out"):
        tl.quality_score(scored, tmp_path / "b")
    with pytest.raises(InputError, match="background 9 is no class"):
        tl.quality_score(labels, tmp_path / "c", images=images, background=9)
    with pytest.raises(InputError, match="does not exist"):
        tl.quality_score(tmp_path / "nowhere", tmp_path / "d")
    with pytest.raises(InputError, match="No judge at"):
        load_judge(tmp_path)
    with pytest.raises(InputError, match="no label rasters"):
        (tmp_path / "empty").mkdir()
        tl.quality_score(tmp_path / "empty", tmp_path / "e")
    with pytest.raises(InputError, match=r"has the classes \[0, 1\], the labels \[3\]"):
        cv2.imwrite(str(tmp_path / "p00.png"), np.full((64, 64), 3, np.uint8))
        tl.quality_fit(tmp_path / "p00.png", squares / "truth", tmp_path / "j.json", pixels=False)
    with pytest.raises(RunError, match="holds finished labels"):
        open_run(scored)
