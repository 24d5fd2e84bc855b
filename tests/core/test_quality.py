"""The columns of judged units: checked at birth, joined, sorted the worst first."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.quality import EMPTY, Signals, Units, Verdicts
from terralabel.errors import ContractError


def units(*areas: int) -> Units:
    return Units.of_rows([(1, 0, (0, 0, 5, 5), area) for area in areas])


def verdicts(quality: list[float], areas: list[int], decision: list[str] | None = None) -> Verdicts:
    n = len(quality)
    window = np.tile(np.array([[0, 0, 9, 9]]), (n, 1)).astype(np.int64)
    keys = tuple(f"scene {k}" for k in range(n))
    return Verdicts(keys, window, units(*areas), np.array(quality, np.float32), tuple(decision or ["review"] * n), ("",) * n)


def test_the_worst_come_first_and_of_equals_the_larger() -> None:
    found = verdicts([0.5, np.nan, 0.2, 0.5, 0.5], [10, 1, 1, 30, 10])
    assert found.worst_first.tolist() == [1, 2, 3, 0, 4]


def test_decisions_are_counted_and_taken_apart() -> None:
    found = verdicts([0.9, 0.1, 0.5, 0.2], [1, 1, 1, 1], ["accept", "reject", "review", "reject"])
    assert found.counts == {"accept": 1, "review": 1, "reject": 2}
    assert found.decided("reject").scene == ("scene 1", "scene 3")
    assert len(found.decided("accept")) == 1


def test_nothing_is_a_number_of_units_too() -> None:
    none = Verdicts.join([])
    assert len(none) == 0 and none.counts == {"accept": 0, "review": 0, "reject": 0}
    assert none.worst_first.tolist() == [] and len(none.decided("review")) == 0
    assert len(Units.join([])) == 0 and len(Signals.join([])) == 0


def test_parts_are_joined_in_order() -> None:
    joined = Verdicts.join([verdicts([0.1], [1]), verdicts([0.2, 0.3], [2, 3])])
    assert joined.quality.tolist() == pytest.approx([0.1, 0.2, 0.3]) and joined.units.area.tolist() == [1, 2, 3]


def test_units_move_with_their_frame() -> None:
    moved = Units.of_rows([(2, 3, (4, 5, 6, 7), 42), (EMPTY, 0, (0, 0, 9, 9), 0)]).moved(100, 200)
    assert moved.box.tolist() == [[104, 205, 6, 7], [100, 200, 9, 9]]
    assert moved.empty.tolist() == [False, True]


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match=r"Verdicts.quality: expected \(1,\) float32"):
        Verdicts(("a",), np.zeros((1, 4), np.int64), units(1), np.zeros(1), ("review",), ("",))
    with pytest.raises(ContractError, match=r"Verdicts\.decision: expected accept, review, reject; got 'maybe'"):
        verdicts([0.1], [1], ["maybe"])
    with pytest.raises(ContractError, match=r"Verdicts\.scene: expected 1 entries, got 0"):
        Verdicts((), np.zeros((1, 4), np.int64), units(1), np.zeros(1, np.float32), ("review",), ("",))
    with pytest.raises(ContractError, match=r"Signals.values: expected \(1, 2\) float32"):
        Signals(("a", "b"), np.zeros((1, 1), np.float32), units(1))
    with pytest.raises(ContractError, match="different signals"):
        Signals.join([Signals((name,), np.zeros((1, 1), np.float32), units(1)) for name in ("a", "b")])
