"""Labels against the truth: measures equal to sklearn's, outlines to brute force, one-line refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn import metrics

from terralabel.errors import InputError, SettingsError
from terralabel.evaluate import rasters
from terralabel.evaluate.boundary import BoundaryF
from terralabel.evaluate.confusion import Confusion, adjusted_rand, matched, mutual_information, purity
from terralabel.evaluate.labels import evaluate_folders
from terralabel.evaluate.picture import confusion_picture
from terralabel.evaluate.report import report_of


def counted(prediction, truth, ignore=(255,)):
    confusion = Confusion(ignore)
    confusion.add(np.asarray(prediction), np.asarray(truth))
    return confusion.contingency()


def save(path, ids, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png" and not options:
        Image.fromarray(ids).save(path)
        return
    ids = ids if ids.ndim == 3 else ids[None]
    profile = {"driver": "GTiff", "count": len(ids), "height": ids.shape[1], "width": ids.shape[2], "dtype": ids.dtype}
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path, "w", **{**profile, **options}) as target,
    ):
        target.write(ids)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[arrays(np.uint8, n, elements=st.integers(0, 5))] * 2)))
@settings(deadline=None, max_examples=150)
def test_clustering_measures_are_sklearns(pair):
    prediction, truth = pair
    counts = counted(prediction, truth).with_unlabelled
    ari = adjusted_rand(counts)
    assert ari == pytest.approx(metrics.adjusted_rand_score(truth, prediction), abs=1e-9)
    assert -1 <= ari <= 1
    assert mutual_information(counts) == pytest.approx(metrics.normalized_mutual_info_score(truth, prediction), abs=1e-9)


def test_measures_of_large_counts_do_not_overflow():
    counts = np.array([[10**12, 10**11], [3 * 10**10, 10**12]])
    small = counts // 10**9
    assert adjusted_rand(counts) == pytest.approx(adjusted_rand(small), abs=1e-2)
    assert 0 < mutual_information(counts) < 1


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[arrays(np.uint8, n, elements=st.integers(0, 5))] * 2)))
@settings(deadline=None, max_examples=100)
def test_per_class_measures_are_sklearns_after_matching(pair):
    prediction, truth = pair
    report = report_of(counted(prediction, truth), "majority")
    named = np.array([report.matching[int(p)] for p in prediction])
    ids = list(report.classes)
    np.testing.assert_allclose(report.iou, metrics.jaccard_score(truth, named, labels=ids, average=None), atol=1e-12)
    np.testing.assert_allclose(report.f1, metrics.f1_score(truth, named, labels=ids, average=None, zero_division=0), atol=1e-12)
    assert report.accuracy == pytest.approx(metrics.accuracy_score(truth, named))
    assert report.mean_accuracy == pytest.approx(
        metrics.recall_score(truth, named, labels=ids, average="macro", zero_division=0)
    )
    assert report.miou == pytest.approx(np.mean(report.iou))
    assert report.purity == pytest.approx(report.accuracy)  # majority makes every pure pixel right


@given(
    st.integers(1, 80).flatmap(lambda n: st.tuples(*[arrays(np.uint8, n, elements=st.integers(0, 6))] * 2)),
    st.permutations(range(7)),
    st.sampled_from(["majority", "hungarian"]),
)
@settings(deadline=None, max_examples=150)
def test_renaming_clusters_changes_no_measure(pair, names, match):
    prediction, truth = pair
    before = report_of(counted(prediction, truth), match)
    after = report_of(counted(np.array(names, np.uint8)[prediction], truth), match)
    if match == "majority":
        assert before.iou == after.iou
    assert before.accuracy == after.accuracy
    assert before.ari == pytest.approx(after.ari, abs=1e-12)
    assert before.nmi == pytest.approx(after.nmi, abs=1e-12)
    assert before.purity == after.purity


def test_hungarian_gives_a_class_to_one_cluster_and_the_rest_to_none():
    prediction = np.repeat([0, 1, 2], [6, 3, 4]).astype(np.uint8)
    truth = np.repeat([1, 1, 2], [6, 3, 4]).astype(np.uint8)
    table = counted(prediction, truth)
    assert matched(table, "hungarian") == {0: 1, 1: None, 2: 2}
    assert matched(table, "majority") == {0: 1, 1: 1, 2: 2}
    assert report_of(table, "hungarian").iou == (6 / 9, 1.0)
    assert matched(table, "none") == {0: None, 1: 1, 2: 2}
    with pytest.raises(SettingsError, match="majority, hungarian, none"):
        matched(table, "best")


def test_unlabelled_is_wrong_and_ignored_is_not_there():
    prediction = np.array([[1, 1, 255, 255, 2, 7]], np.uint8)
    truth = np.array([[1, 1, 1, 255, 2, 0]], np.uint8)
    report = report_of(counted(prediction, truth, ignore=(0, 255)), "none")
    assert report.classes == (1, 2)
    assert report.iou == (2 / 3, 1.0)
    assert report.accuracy == 3 / 4
    assert (report.pixels, report.unlabelled, report.ignored) == (4, 1, 2)
    assert report.confusion.tolist() == [[2, 0], [0, 1], [1, 0]]
    assert 255 not in report.matching
    assert purity(counted(prediction, truth, ignore=(0, 255))) == 3 / 4


def test_fed_in_pieces_and_widths_it_counts_the_same():
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 9, (2, 50, 40)).astype(np.uint8)
    whole = counted(prediction, truth)
    pieces = Confusion()
    for i, rows in enumerate(np.split(np.arange(50), 5)):
        kind = [np.uint8, np.uint16, np.int64, np.int32, np.uint8][i]
        pieces.add(prediction[rows].astype(kind), truth[rows].astype(np.uint16 if i == 4 else kind))
    assert np.array_equal(pieces.contingency().counts, whole.counts)


def test_ids_past_255_are_counted_and_wrong_arrays_refused():
    table = counted(np.array([[300, 65535, 256]], np.uint16), np.array([[1, 2, 300]], np.uint16))
    assert table.predicted.tolist() == [256, 300, 65535]
    assert table.true.tolist() == [1, 2, 300]
    for prediction, truth, words in [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "expected equal sizes"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), "float64"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "-1..-1"),
    ]:
        with pytest.raises(InputError, match=words):
            Confusion().add(prediction, truth)


def slow_boundary(prediction, truth, classes, tolerance):
    """F1 of one class after another, by comparing every outline pixel with every other."""
    scores = {}
    for c in classes:
        points = []
        for ids in (prediction, truth):
            edge = []
            for y, x in np.ndindex(ids.shape):
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                inside = [(a, b) for a, b in around if 0 <= a < ids.shape[0] and 0 <= b < ids.shape[1]]
                seen = [ids[p] for p in inside if truth[p] != 255]
                if truth[y, x] != 255 and ids[y, x] == c and any(other != c for other in seen):
                    edge.append((y, x))
            points.append(np.array(edge).reshape(-1, 2))
        distances = np.sqrt(((points[0][:, None] - points[1][None]) ** 2).sum(-1)).reshape(len(points[0]), len(points[1]))
        right = (distances.min(axis=1, initial=np.inf) <= tolerance).sum()
        found = (distances.min(axis=0, initial=np.inf) <= tolerance).sum()
        if len(points[0]) + len(points[1]):
            precision, recall = right / max(len(points[0]), 1), found / max(len(points[1]), 1)
            scores[c] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3, 9.5])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_is_that_of_brute_force_however_it_is_cut(tolerance, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (6, 5))
    truth = np.kron(coarse, np.ones((5, 6), int)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.05] = 255
    prediction = np.roll(np.where(truth == 255, 0, truth), rng.integers(-3, 4, 2), axis=(0, 1)).astype(np.uint8)
    expected = slow_boundary(prediction, truth, range(3), tolerance)
    for rows in (1, 7, 30):
        outlines = BoundaryF(range(3), {0: 0, 1: 1, 2: 2}, tolerance)
        for top in range(0, 30, rows):
            outlines.add(prediction[top : top + rows], truth[top : top + rows])
        outlines.end_image()
        assert outlines.per_class() == pytest.approx(expected)
        assert outlines.mean() == pytest.approx(np.mean(list(expected.values())))


def test_boundary_of_images_without_outline_does_not_exist():
    outlines = BoundaryF([1], {4: 1}, 3)
    outlines.add(np.full((9, 9), 4, np.uint8), np.ones((9, 9), np.uint8))
    outlines.end_image()
    assert math.isnan(outlines.mean())


def scene(seed=0, shape=(40, 60)):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(1, 4, (4, 6)), np.ones((10, 10), int)).astype(np.uint8)
    truth = truth[: shape[0], : shape[1]]
    clusters = (truth * 2 + (rng.random(truth.shape) < 0.3)).astype(np.uint8)  # two clusters a class
    return clusters, truth


def test_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(rasters, "STRIP", 900)
    for i in range(3):
        clusters, truth = scene(i)
        truth[0, :3] = 0
        save(tmp_path / "p" / f"tile {i}.png", clusters)
        save(tmp_path / "t" / f"tile {i}.tif", truth.astype(np.uint16))
    save(tmp_path / "p" / "extra.png", clusters)
    save(tmp_path / "t" / "sub" / "only.png", truth)
    steps: list[tuple[int, int]] = []
    report = evaluate_folders(
        tmp_path / "p", tmp_path / "t", ignore=[0], names={2: "roof"}, progress=lambda a, b: steps.append((a, b))
    )
    assert report.miou == report.accuracy == report.boundary_f == 1.0
    assert report.matching == {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3}
    assert (report.images, report.ignored, report.pixels) == (3, 9, 3 * 2400 - 9)
    assert (report.only_predicted, report.only_true) == (("extra",), ("sub/only",))
    assert steps == [(i, 6) for i in range(1, 7)]
    found = json.loads(report.to_json())
    assert {"miou", "iou_per_class", "ari", "nmi", "purity", "boundary_f", "matching", "confusion", "pixels"} <= found.keys()
    assert found["iou_per_class"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    assert found["matching"]["7"] == 3
    assert found["unmatched_images"] == {"prediction": ["extra"], "truth": ["sub/only"]}
    assert "2 roof" in report.to_text()
    report.write_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == found


def test_strips_give_what_the_whole_gives(tmp_path, monkeypatch):
    clusters, truth = scene(7)
    shifted = np.roll(clusters, 2, axis=0)
    save(tmp_path / "p" / "a.tif", shifted)
    save(tmp_path / "t" / "a.png", truth)
    whole = evaluate_folders(tmp_path / "p", tmp_path / "t", match="hungarian", tolerance=1)
    monkeypatch.setattr(rasters, "STRIP", 1000)
    assert evaluate_folders(tmp_path / "p", tmp_path / "t", match="hungarian", tolerance=1).to_json() == whole.to_json()
    assert 0 < whole.boundary_f < 1


@pytest.mark.parametrize(
    ("left", "right"), [("a/x.png", "x.tif"), ("x.png", "x_mask.png"), ("x_labels.tif", "x-gt.png"), ("é 'q'.png", "é 'q'.tif")]
)
def test_stems_meet(tmp_path, left, right):
    clusters, truth = scene()
    save(tmp_path / "p" / left, clusters)
    save(tmp_path / "t" / right, truth)
    assert evaluate_folders(tmp_path / "p", tmp_path / "t").images == 1


def test_nodata_of_the_truth_is_ignored_and_of_the_prediction_unlabelled(tmp_path):
    clusters, truth = scene()
    truth[:, :10] = 9
    clusters[:10] = 0
    save(tmp_path / "p" / "a.tif", clusters, nodata=0)
    save(tmp_path / "t" / "a.tif", truth.astype(np.int16), nodata=9)
    report = evaluate_folders(tmp_path / "p", tmp_path / "t")
    assert report.ignored == 400
    assert report.unlabelled == 500
    assert 9 not in report.classes


def test_palette_masks_are_their_indices(tmp_path):
    clusters, truth = scene()
    picture = Image.fromarray(truth, mode=None).convert("L")
    indexed = Image.new("P", picture.size)
    indexed.putpalette([10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.putdata(truth.ravel().tolist())
    (tmp_path / "t").mkdir()
    indexed.save(tmp_path / "t" / "a.png")
    save(tmp_path / "p" / "a.png", clusters)
    assert evaluate_folders(tmp_path / "p", tmp_path / "t").classes == (1, 2, 3)


def refuse_size(truth):
    return {"a.png": truth[:-1]}


def refuse_rgb(truth):
    return {"a.png": np.stack([truth * 80, truth, truth], axis=-1)}


def refuse_float(truth):
    return {"a.tif": truth.astype(np.float32) + 0.5}


def refuse_negative(truth):
    return {"a.tif": truth.astype(np.int16) - 3}


def refuse_stems(truth):
    return {"b.png": truth}


def refuse_twice(truth):
    return {"a.png": truth, "a.tif": truth}


def refuse_all_ignored(truth):
    return {"a.png": truth * 0 + 255}


def refuse_yes_no(truth):
    return {"a.png": np.where(truth == 1, 255, 0).astype(np.uint8)}


def refuse_grey_yes_no(truth):
    grey = np.where(truth == 1, 255, 0).astype(np.uint8)
    grey[::7] = np.arange(grey[::7].size, dtype=np.uint8).reshape(grey[::7].shape)  # every level of grey
    return {"a.png": grey}


def refuse_empty(truth):
    return {}


@pytest.mark.parametrize(
    ("made", "status", "words"),
    [
        (refuse_size, "wrong-size", "60 x 40 against 60 x 39"),
        (refuse_rgb, "rgb-coded", "#500101"),
        (refuse_float, "not-class-ids", "2400 of 2400 pixels are fractions"),
        (refuse_negative, "not-class-ids", r"-2 \(\d+ px\)"),
        (refuse_stems, "no-equal-stems", "a against b"),
        (refuse_twice, "ambiguous-stem", "one stem"),
        (refuse_all_ignored, "no-labels", "all 2,400"),
        (refuse_yes_no, "yes-no-mask", "as 0 and 1"),
        (refuse_grey_yes_no, "yes-no-mask", "128 or more"),
        (refuse_empty, "no-equal-stems", "no PNG or TIFF"),
    ],
)
def test_refuses_truth_in_one_line(tmp_path, made, status, words):
    clusters, truth = scene()
    save(tmp_path / "p" / "a.png", clusters)
    (tmp_path / "t").mkdir()
    for name, ids in made(truth).items():
        if ids.ndim == 3:
            Image.fromarray(ids).save(tmp_path / "t" / name)
        else:
            save(tmp_path / "t" / name, ids)
    with pytest.raises(InputError, match=words) as error:
        evaluate_folders(tmp_path / "p", tmp_path / "t")
    assert error.value.status == status
    assert "\n" not in str(error.value)


def test_refuses_unknown_ids_with_their_counts(tmp_path):
    clusters, truth = scene()
    save(tmp_path / "p" / "a.png", clusters)
    save(tmp_path / "t" / "a.png", truth)
    with pytest.raises(InputError, match=rf"3 \({(truth == 3).sum():,} px\); known are 1, 2"):
        evaluate_folders(tmp_path / "p", tmp_path / "t", known=[1, 2])


def test_refuses_files_that_are_no_masks(tmp_path):
    clusters, truth = scene()
    save(tmp_path / "p" / "a.png", clusters)
    save(tmp_path / "t" / "a.png", truth)
    whole = (tmp_path / "t" / "a.png").read_bytes()
    flipped = whole[:70] + bytes([whole[70] ^ 1]) + whole[71:]
    for content, status in [
        (b"", "not-a-raster"),
        (b"<VRTDataset/>", "not-a-raster"),
        (whole[:60], "truncated"),
        (whole[:-20], "truncated"),
        (flipped, "damaged"),
    ]:
        (tmp_path / "t" / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.png") as error:
            evaluate_folders(tmp_path / "p", tmp_path / "t")
        assert error.value.status == status
    save(tmp_path / "t" / "a.tif", truth)
    (tmp_path / "t" / "a.png").unlink()
    (tmp_path / "t" / "a.tif").write_bytes((tmp_path / "t" / "a.tif").read_bytes()[:-900])
    with pytest.raises(InputError, match=r"a\.tif cannot be read"):
        evaluate_folders(tmp_path / "p", tmp_path / "t")
    with pytest.raises(InputError, match="is not a folder"):
        evaluate_folders(tmp_path / "p", tmp_path / "nothing")


def test_picture_of_the_confusion(tmp_path):
    clusters, truth = scene()
    report = report_of(counted(clusters, truth), names={1: "a very long name of a class", 2: "wood"})
    path = confusion_picture(report, tmp_path / "deep" / "confusion.png")
    with Image.open(path) as picture:
        cells = np.asarray(picture.convert("RGB"))
    assert (cells == (35, 132, 67)).all(axis=-1).sum() > 3 * 40 * 40  # three full diagonal cells
    assert (cells[8:24, 215:231] < 128).any(), "the caption is not covered by the name of the first column"
    assert not list(tmp_path.rglob(".tmp-*"))


def test_reports_what_does_not_exist_as_null():
    report = report_of(counted(np.zeros(3, np.uint8), np.full(3, 255, np.uint8)))
    assert json.loads(report.to_json())["miou"] is None
    assert math.isnan(report.ari)
    assert "-" in report.to_text()


@pytest.mark.data
def test_real_truth_against_itself(data_dir):
    folder = data_dir / "multiclass" / "dronedeploy" / "masks"
    report = evaluate_folders(folder, folder, ignore=[0], match="hungarian")
    assert report.miou == report.boundary_f == report.ari == 1.0
    assert report.images == 22
