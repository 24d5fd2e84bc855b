"""Majority and one-to-one matching against scipy, and what must not change them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from terralabel.core.matching import least_cost, majority, one_to_one

tables = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(lambda s: arrays(np.int64, s, elements=st.integers(0, 12)))


def agreed(table, columns):
    return sum(int(table[row, column]) for row, column in enumerate(columns) if column >= 0)


def test_majority_takes_the_first_of_equals_and_leaves_empty_rows():
    assert majority(np.array([[1, 5, 5], [0, 0, 0], [9, 0, 1]])).tolist() == [1, -1, 0]
    assert majority(np.zeros((2, 0), int)).tolist() == [-1, -1]


def test_one_to_one_gives_each_class_once():
    assert one_to_one(np.array([[9, 8], [8, 0], [1, 1]])).tolist() == [1, 0, -1]
    assert one_to_one(np.array([[5, 0, 0]])).tolist() == [0]
    assert one_to_one(np.zeros((2, 3), int)).tolist() == [-1, -1]
    assert one_to_one(np.zeros((0, 3), int)).tolist() == []
    assert one_to_one(np.zeros((3, 0), int)).tolist() == [-1, -1, -1]


@given(tables)
@settings(deadline=None, max_examples=200)
def test_one_to_one_agrees_as_much_as_scipy(table):
    columns = one_to_one(table)
    used = columns[columns >= 0]
    assert len(set(used.tolist())) == len(used)
    rows, best = linear_sum_assignment(table, maximize=True)
    assert agreed(table, columns) == table[rows, best].sum()


@given(tables, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_the_order_of_clusters_changes_nothing(table, random):
    order = list(range(len(table)))
    random.shuffle(order)
    for match in (majority, one_to_one):
        before = sorted((tuple(table[i]), int(c)) for i, c in enumerate(match(table)))
        after = sorted((tuple(table[order][i]), int(c)) for i, c in enumerate(match(table[order])))
        assert before == after


def test_counts_of_whole_countries():
    rng = np.random.default_rng(0)
    cost = rng.integers(0, 10**13, (40, 60))
    rows, columns = linear_sum_assignment(cost)
    assert cost[np.arange(40), least_cost(cost)].sum() == cost[rows, columns].sum()
