"""Which class each cluster stands for, from a table of counts: many to one by majority, or one to one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["least_cost", "majority", "one_to_one"]


def majority(table: np.ndarray) -> np.ndarray:
    """For each row (cluster) of a (k, c) table of counts the column (class) with the most: (k,) int64.

    -1 for rows of zeros. Of equal counts the first column wins.
    """
    table = np.asarray(table)
    if table.shape[1] == 0:
        return np.full(len(table), -1, np.int64)
    return np.where(table.max(axis=1) > 0, table.argmax(axis=1), -1)


def one_to_one(table: np.ndarray) -> np.ndarray:
    """The pairs of rows (clusters) and columns (classes) of a (k, c) table that agree in most counts: (k,) int64.

    No two rows get one column; -1 for rows that get none, and for pairs that share no count. Which of several best
    solutions is taken does not depend on the order of the rows (rows with the same counts may swap).
    """
    table = np.asarray(table, np.int64)
    columns = np.full(len(table), -1, np.int64)
    if table.size == 0:
        return columns
    order = np.lexsort(table.T[::-1])[::-1]
    cost = table.max() - table[order]
    if cost.shape[0] <= cost.shape[1]:
        columns[order] = least_cost(cost)
    else:
        columns[order[least_cost(np.ascontiguousarray(cost.T))]] = np.arange(cost.shape[1])
    shared = table[np.arange(len(table)), columns]  # of column -1 too, which is masked in the next line
    return np.where((columns >= 0) & (shared > 0), columns, -1)


def least_cost(cost: np.ndarray) -> np.ndarray:
    """The assignment of every row of (n, m) int64 costs, n <= m, to a column of its own with the least sum: (n,) int64.

    The Hungarian method with potentials, one shortest augmenting path a row (Jonker and Volgenant 1987), in whole
    numbers, so that equal input gives equal output everywhere.
    """
    rows, columns = cost.shape
    row_potential, column_potential = np.zeros(rows + 1, np.int64), np.zeros(columns + 1, np.int64)
    owner = np.zeros(columns + 1, np.int64)  # of each column the row, from 1; 0: free. Column 0 starts the paths
    for row in range(1, rows + 1):
        owner[0] = row
        column = 0
        least = np.full(columns + 1, np.iinfo(np.int64).max, np.int64)
        came_from = np.zeros(columns + 1, np.int64)
        reached = np.zeros(columns + 1, bool)
        while True:
            reached[column] = True
            reduced = cost[owner[column] - 1] - row_potential[owner[column]] - column_potential[1:]
            better = np.flatnonzero(~reached[1:] & (reduced < least[1:])) + 1
            least[better] = reduced[better - 1]
            came_from[better] = column
            free = np.flatnonzero(~reached)
            column = free[least[free].argmin()]
            step = least[column]
            row_potential[owner[reached]] += step
            column_potential[reached] -= step
            least[free] -= step
            if owner[column] == 0:
                break
        while column:
            owner[column] = owner[came_from[column]]
            column = came_from[column]
    return _inverse(owner[1:], rows)


def _inverse(owner: Iterable[int], rows: int) -> np.ndarray:
    found = np.empty(rows, np.int64)
    for column, row in enumerate(owner):
        if row:
            found[row - 1] = column
    return found
