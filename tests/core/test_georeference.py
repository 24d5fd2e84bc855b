from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

from terralabel.core.georeference import Georeference

number = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.tuples(*[number] * 6), st.integers(-5000, 5000), st.integers(-5000, 5000))
def test_shifted_and_to_map_are_those_of_affine(transform: tuple, x: int, y: int) -> None:
    place, affine = Georeference(transform, "EPSG:32633"), Affine(*transform)
    shifted = place.shifted(x, y)
    assert shifted.crs == "EPSG:32633"
    assert np.allclose(shifted.transform, tuple(affine @ Affine.translation(x, y))[:6], rtol=1e-9, atol=1e-3)
    points = np.array([[0, 0], [1, 2], [x, y]])
    expected = np.array([affine @ (int(c), int(r)) for c, r in points])
    assert np.allclose(place.to_map(points), expected, rtol=1e-9, atol=1e-3)
    assert place.pixel_area == pytest.approx(abs(affine.determinant), rel=1e-9, abs=1e-3)


def test_what_counts_as_placed() -> None:
    assert not Georeference().is_placed
    assert Georeference(crs="EPSG:4326").is_placed
    assert Georeference((0.5, 0, 0, 0, -0.5, 0)).is_placed
