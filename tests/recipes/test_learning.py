"""What objects weigh when clusters are fitted."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.recipes.learning import weight_of


@pytest.mark.parametrize(
    ("clusters", "expected"), [("2", [0, 1, 900]), ("15", [0, 1, 900]), ("16", [0, 1, 30]), ("auto", [0, 1, 30])]
)
def test_few_clusters_count_pixels_many_count_objects(clusters, expected):
    weights = weight_of(np.array([0, 1, 900], np.int32), clusters)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, expected)
