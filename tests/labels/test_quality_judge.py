"""The judge predicts what it was shown to predict, and is a file of plain numbers; the gate keeps what it promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from terralabel.contracts import Judge as JudgeContract
from terralabel.core.quality import EMPTY, Signals, Units
from terralabel.errors import ContractError, InputError, SettingsError
from terralabel.labels.quality.calibration import Calibration, fit_calibration
from terralabel.labels.quality.forest import fit_forest
from terralabel.labels.quality.gate import Gate, gate_for_promise, gate_for_share, parse_promise, parse_share
from terralabel.labels.quality.judge import Judge, fit_judge, rules_judge
from terralabel.labels.quality.reasons import reasons
from terralabel.labels.quality.signals import SIGNALS

NAMES = tuple(signal.name for signal in SIGNALS)


def rows(n: int, **columns: np.ndarray) -> Signals:
    """n units with these signals, NaN in the others."""
    values = np.full((n, len(NAMES)), np.nan, dtype=np.float32)
    for name, column in columns.items():
        values[:, NAMES.index(name)] = column
    units = Units.of_rows([(1, 0, (0, 0, 10, 10), 100)] * n)
    return Signals(NAMES, values, units)


def painted(n: int, seed: int = 0) -> tuple[Signals, np.ndarray, np.ndarray]:
    """Signals that follow the true IoU with noise, and one that is only noise."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 1, n)

    def noisy(spread: float) -> np.ndarray:
        return np.clip(true + rng.normal(0, spread, n), 0, 1)

    found = rows(
        n,
        expected_iou=noisy(0.1),
        stability=noisy(0.2) ** 2,  # right in its order, wrong in its size
        views=noisy(0.15),
        edge_follow=noisy(0.3),
        edge_contrast=4 * noisy(0.05) ** 2,  # no share: rules cannot weigh it, a forest can
        fraction=rng.uniform(0, 1, n),
    )
    return found, true, np.array([f"picture {k // 2}" for k in range(n)])


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Fitted on 120 labels: a forest."""
    return fit_judge(*painted(120))


def test_predictions_follow_the_truth_of_labels_never_seen(judge: Judge) -> None:
    signals, true, _ = painted(200, seed=2)
    predicted = judge.predict(signals)
    assert isinstance(judge, JudgeContract) and judge.fitted
    assert predicted.dtype == np.float32 and predicted.min() >= 0 and predicted.max() <= 1
    assert np.corrcoef(predicted, true)[0, 1] > 0.93
    assert np.abs(predicted - true).mean() < 0.08
    assert "fitted on 120 labels of 60 pictures" in judge.note


def test_a_judge_comes_back_from_json_byte_by_byte(judge: Judge) -> None:
    signals, _, _ = painted(120)
    text = judge.to_json()
    again = Judge.from_json(text)
    assert again.to_json() == text and again.version == judge.version
    assert np.array_equal(again.predict(signals), judge.predict(signals))
    assert judge.models[0].forest is not None, "120 labels are enough for a forest"


def test_equal_labels_give_equal_bytes() -> None:
    first, again, other = (fit_judge(*painted(30), seed=seed).to_json() for seed in (0, 0, 1))
    assert first == again != other


def test_a_changed_or_foreign_judge_is_refused(judge: Judge) -> None:
    text = judge.to_json()
    data = json.loads(text)
    data["empty"] = [5, 5]
    with pytest.raises(InputError, match="is damaged"):
        Judge.from_json(json.dumps(data))
    data = json.loads(text)
    data["models"][0]["signals"][0] = "aura"
    with pytest.raises(InputError, match="'aura'"):
        Judge.from_json(json.dumps(data))
    for nonsense in ("", "[]", "{}", '{"terralabel": "judge", "format": 9}', text[:-9]):
        with pytest.raises(InputError, match="no judge of this TerraLabel"):
            Judge.from_json(nonsense)


def test_trees_that_lead_in_circles_are_refused(judge: Judge) -> None:
    data = json.loads(judge.to_json())
    forest = data["models"][0]["forest"]
    inner = next(i for i, f in enumerate(forest["feature"]) if f >= 0)
    forest["left"][inner] = inner
    with pytest.raises(InputError, match="trees are damaged"):
        Judge.from_json(json.dumps(data))


def test_the_forest_as_arrays_is_the_forest_of_scikit_learn() -> None:
    from sklearn.ensemble import ExtraTreesRegressor

    rng = np.random.default_rng(0)
    values, target = rng.uniform(size=(80, 4)).astype(np.float32), rng.uniform(size=80)
    theirs = ExtraTreesRegressor(50, min_samples_leaf=3, max_leaf_nodes=24, max_features=0.5, random_state=3).fit(
        values, target
    )
    new = rng.uniform(size=(50, 4)).astype(np.float32)
    assert fit_forest(values, target, 3).predict(new) == pytest.approx(theirs.predict(new), abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_labels_give_rules_that_say_so(count: int) -> None:
    signals, true, groups = painted(count)
    judge = fit_judge(signals, true, groups)
    assert not judge.fitted and not judge.knows
    assert f"{count} labels with truth" in judge.note and "too few to know good labels from bad" in judge.note
    assert judge.to_json() == Judge.from_json(judge.to_json()).to_json()
    new, wanted, _ = painted(200, seed=5)
    assert np.corrcoef(judge.predict(new), wanted)[0, 1] > 0.8
    assert len(judge.predict(new.take(np.zeros(0, int)))) == 0


def test_a_few_labels_tell_how_good_labels_are_as_a_whole() -> None:
    """Rules that think too well of labels come down; that is no knowledge of which are better."""
    signals, true, groups = painted(5)
    new, wanted, _ = painted(200, seed=5)
    judge = fit_judge(signals, np.maximum(true - 0.4, 0), groups)
    before, after = rules_judge().predict(new), judge.predict(new)
    assert not judge.fitted and after.mean() < before.mean() - 0.1
    assert (np.diff(after[np.argsort(before)]) >= 0).all(), "the order is that of the rules"


def test_a_judge_that_cannot_tell_good_from_bad_says_so() -> None:
    signals, true, _ = painted(20)
    each = [f"picture {k}" for k in range(20)]
    assert fit_judge(signals, true, each).knows and "; off by 0.05 on average" in fit_judge(signals, true, each).note
    shuffled = fit_judge(signals, np.random.default_rng(0).permutation(true), each)
    assert shuffled.fitted and not shuffled.knows
    assert "does not know good labels from bad" in shuffled.note and "0.29 is asked for" in shuffled.note
    assert not fit_judge(signals, np.full(20, 0.5), each).knows, "of labels that are all as good nothing can be learned"
    assert Judge.from_json(shuffled.to_json()).knows is False


def test_many_labels_of_few_pictures_are_few() -> None:
    signals, true, _ = painted(50)
    assert not fit_judge(signals, true, ["one"] * 50).fitted


def test_labels_without_truth_do_not_teach() -> None:
    signals, true, groups = painted(22)
    some = np.where(np.arange(22) < 16, true, np.nan)
    kept = np.arange(16)
    assert fit_judge(signals, some, groups).to_json() == fit_judge(signals.take(kept), true[kept], groups[kept]).to_json()


def test_what_is_unknown_of_a_label_is_done_without(judge: Judge) -> None:
    signals, true, _ = painted(160, seed=3)
    bare = rows(160, edge_follow=signals["edge_follow"], fraction=signals["fraction"])
    predicted = judge.predict(bare)
    assert np.isfinite(predicted).all() and np.corrcoef(predicted, true)[0, 1] > 0.5
    assert np.isnan(judge.predict(rows(2))).all()
    assert np.isnan(rules_judge().predict(rows(2, fraction=np.array([0.1, 0.2])))).all(), "rules do not weigh sizes"


def test_empty_pictures_have_a_rate_of_their_own() -> None:
    signals, true, groups = painted(20)
    units = Units.of_rows([(EMPTY, 0, (0, 0, 9, 9), 0)] * 4)
    values = np.full((4, len(NAMES)), np.nan, dtype=np.float32)
    values[:, NAMES.index("strongest")] = [0.0, 0.1, 0.9, 1.0]
    nothing = Signals(NAMES, values, units)
    both = Signals.join([signals, nothing])
    judge = fit_judge(both, np.concatenate([true, [1, 1, 1, 0]]), [*groups, "a", "b", "c", "d"])
    assert judge.empty == (4, 3)
    # three of four were right: (3 + 1) / (4 + 2), times what the probabilities say
    assert judge.predict(nothing) == pytest.approx([4 / 6, 3.6 / 6, 0.4 / 6, 0.0])
    without = fit_judge(signals, true, groups)
    assert judge.models[0].held_out[0] == without.models[0].held_out[0]
    assert without.predict(nothing) == pytest.approx([0.5, 0.45, 0.05, 0.0]), "never seen right: for a person"
    assert rules_judge().predict(nothing) == pytest.approx([0.5, 0.45, 0.05, 0.0]), "rules alone have seen none right, either"


def test_arguments_that_do_not_belong_together_are_refused() -> None:
    signals, true, groups = painted(20)
    with pytest.raises(ContractError, match="20 rows of signals, 19 true values"):
        fit_judge(signals, true[:-1], groups)


# --------------------------------------------------------------------------------------------------------- calibration


def test_calibration_joins_the_middles_of_isotonic_steps() -> None:
    scores = np.repeat([0.1, 0.3, 0.5, 0.7], 15)
    target = np.repeat([0.2, 0.6, 0.4, 0.8], 15)  # the middle two are in the wrong order: one step
    found = fit_calibration(scores, target)
    assert found.x == pytest.approx((0.1, 0.4, 0.7)) and found.y == pytest.approx((0.2, 0.5, 0.8))
    assert found.apply(np.array([0.25, 0.55])) == pytest.approx([0.35, 0.65])


def test_ranks_survive_calibration() -> None:
    scores = np.linspace(0, 1, 101)
    found = Calibration((0.4, 0.6), (0.3, 0.5)).apply(scores)
    assert (np.diff(found) > 0).all() and found[0] == pytest.approx(0.26) and found[-1] == pytest.approx(0.54)


def test_few_scores_give_a_line_that_leans_on_the_identity() -> None:
    scores = np.array([0.2, 0.5, 0.8])
    assert fit_calibration(scores, scores).apply(np.array([0.1, 0.9])) == pytest.approx([0.1, 0.9])
    lower = fit_calibration(scores, scores - 0.2)
    slope = (0.3 * 0.3 * 2 + 0.5 * 0.5 * 2 + 0.5 * 0.2 * 3 - 0.5 * 0.2 * 3) / (0.3 * 0.3 * 2 + 0.5 * 0.5 * 2)
    assert lower.apply(np.array([0.5]))[0] == pytest.approx((0.0 + 0.3 + 0.6 + 0.0 + 1.0) / 5)
    assert np.diff(lower.apply(np.array([0.4, 0.6])))[0] == pytest.approx(0.2 * slope)


def test_equal_scores_have_no_slope_to_learn() -> None:
    found = fit_calibration(np.full(50, 0.5), np.full(50, 0.7))
    assert found.apply(np.array([0.5]))[0] == pytest.approx((50 * 0.7 + 1.0) / 52)


# ---------------------------------------------------------------------------------------------------------------- gate


def test_promises_are_read() -> None:
    assert parse_promise("mean IoU >= .85").value == 0.85
    assert parse_promise(" Mean iou>=85% ").value == 0.85
    for wrong in ("", "IoU >= .8", "mean IoU > .8", "mean IoU >= 85", "mean IoU >= 0", "mean IoU >= x"):
        with pytest.raises(SettingsError, match='expected "mean IoU >= X"'):
            parse_promise(wrong)
    assert parse_share("20%") == 0.2 == parse_share(".2") == parse_share(0.2)
    for nonsense in ("", "120%", "-1%", "many", "nan"):
        with pytest.raises(SettingsError, match="expected a share"):
            parse_share(nonsense)


def test_the_promise_is_kept_on_labels_never_seen() -> None:
    kept = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        true = np.clip(rng.beta(3, 2, 400), 0, 1)
        scores = np.clip(true + rng.normal(0, 0.15, 400), 0, 1)
        gate = gate_for_promise(scores[:100], true[:100], "mean IoU >= .75")
        passed = np.array(gate.decide(scores[100:])) == "accept"
        assert passed.sum() > 30, "a gate that lets nothing through keeps every promise"
        kept.append(true[100:][passed].mean())
    assert np.mean(np.array(kept) >= 0.75) >= 0.85 and np.mean(kept) < 0.82


def test_labels_of_one_picture_are_one_witness() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0.6, 1.0, 10), 20)
    true = np.clip(level + rng.normal(0, 0.01, 200), 0, 1)
    scores = rng.uniform(0.5, 1, 200)
    promise = f"mean IoU >= {true.mean() - 0.02:.3f}"
    assert gate_for_promise(scores, true, promise).accept <= scores.min() + 0.01
    assert gate_for_promise(scores, true, promise, pictures=np.repeat(np.arange(10), 20)).accept > scores.min() + 0.01


@pytest.mark.parametrize("count", [0, 1, 9])
def test_what_nobody_can_promise_accepts_nothing(count: int) -> None:
    gate = gate_for_promise(np.full(count, 0.9), np.full(count, 0.9), "mean IoU >= .5")
    assert gate.decide(np.array([1.0, 0.2])) == ("review", "reject") and "cannot be promised" in gate.note


def test_equal_scores_fare_alike() -> None:
    scores, true = np.repeat([0.9, 0.6], 20), np.repeat([0.9, 0.5], 20)
    gate = gate_for_promise(scores, true, "mean IoU >= .8")
    assert gate.accept == 0.9
    share = gate_for_share(np.array([0.5, 0.7, 0.7, 0.7, 0.9]), "40%")
    assert share.decide(np.array([0.5, 0.7, 0.7, 0.7, 0.9])) == ("review", "review", "review", "review", "accept")


def test_a_share_is_left_to_a_person() -> None:
    scores = np.linspace(0.1, 1.0, 10)
    gate = gate_for_share(scores, "30%", reject=0.25)
    assert gate.decide(scores) == ("reject", "reject", "review", *["accept"] * 7)
    assert gate_for_share(scores, 0).decide(scores) == ("accept",) * 10
    assert "accept" not in gate_for_share(scores, 1.0).decide(scores)
    assert gate_for_share(np.zeros(0), 0.2).decide(np.zeros(0)) == ()


def test_an_unknown_quality_is_for_review() -> None:
    assert Gate(0.7).decide(np.array([np.nan, 0.7, 0.69, 0.1])) == ("review", "accept", "review", "reject")
    with pytest.raises(SettingsError):
        Gate(float("nan"))


# ------------------------------------------------------------------------------------------------------------- reasons


def test_reasons_name_what_was_spoilt(judge: Judge) -> None:
    rest = {"expected_iou": 0.95, "stability": 0.9, "edge_follow": 0.9, "fraction": 0.5, "edge_contrast": 3.6}
    good, spoilt = rows(1, views=0.95, **rest), rows(1, views=0.05, **rest)
    both = Signals.join([good, spoilt])
    quality = judge.predict(both)
    found = reasons(quality, ("review", "review"), both.units.empty, judge.gains(both))
    assert quality[1] < quality[0] and found[1].split("; ")[0] == "flipped views disagree"
    assert "flipped" not in found[0]


def test_the_sentences_of_special_cases() -> None:
    quality, empty = np.array([0.9, np.nan, 0.3, 0.3]), np.array([False, False, True, False])
    told = reasons(quality, ("accept", "review", "review", "reject"), empty, {"edges": np.array([0.5, 0.5, 0.5, 0.001])})
    assert told == (
        "",
        "nothing to judge it by",
        "nothing is labelled, something may be missing",
        "all signals are somewhat low",
    )
