from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terralabel.core.grid import Window, plan_tiles

sides = st.integers(1, 300)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int]:
    tile_size = draw(st.integers(2, 120))
    return tile_size, draw(st.integers(0, tile_size // 2))


@given(sides, sides, cuts())
@settings(max_examples=150, deadline=None)
def test_cores_cover_every_pixel_once_and_lie_in_windows_in_the_scene(width: int, height: int, cut: tuple[int, int]) -> None:
    tile_size, overlap = cut
    covered = np.zeros((height, width), dtype=int)
    plans = plan_tiles("s", width, height, tile_size, overlap)
    for plan in plans:
        covered[plan.core.slices()] += 1
        assert plan.core.area > 0 and plan.window.intersect(plan.core) == plan.core
        assert plan.window.intersect(Window(0, 0, width, height)) == plan.window
        assert plan.window.width == min(tile_size, width) and plan.window.height == min(tile_size, height)
    assert (covered == 1).all()
    assert [p.key for p in plans] == sorted(p.key for p in plans) and len({p.key for p in plans}) == len(plans)


@given(sides, cuts())
@settings(max_examples=150, deadline=None)
def test_neighbours_share_at_least_the_overlap(width: int, cut: tuple[int, int]) -> None:
    tile_size, overlap = cut
    windows = [p.window for p in plan_tiles("s", width, 5, tile_size, overlap)]
    for a, b in pairwise(windows):
        assert a.right - b.x >= overlap


@given(*[st.integers(-20, 20) for _ in range(2)], *[st.integers(0, 20) for _ in range(2)])
def test_intersection_is_that_of_pixels(x: int, y: int, width: int, height: int) -> None:
    def pixels(w: Window) -> set[tuple[int, int]]:
        return {(i, j) for i in range(w.x, w.right) for j in range(w.y, w.bottom)}

    a, b = Window(x, y, width, height), Window(-3, 2, 11, 9)
    both = a.intersect(b)
    assert pixels(both) == pixels(a) & pixels(b) and both.area == len(pixels(both))
    assert pixels(a.relative_to(b)) == {(i + 3, j - 2) for i, j in pixels(a)}


@pytest.mark.parametrize("width, count", [(64, 1), (65, 2), (112, 2), (113, 3)])
def test_no_tile_more_than_needed(width: int, count: int) -> None:
    assert len(plan_tiles("s", width, 10, 64, 16)) == count
