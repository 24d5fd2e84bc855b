"""Merged k-means: Ward's hierarchy is the textbook's, the contract holds."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.clusters.kmeans import MANY, OnlineKMeans
from terralabel.clusters.ward import MergedKMeans, agreed, ward
from terralabel.errors import SettingsError
from terralabel.testing import check_clusterer


def bars(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Three long bars side by side, (n, 2) float32."""
    rng = np.random.default_rng(seed)
    bar = rng.integers(0, 3, count)
    return np.stack([rng.normal(0, 3, count), bar * 4 + rng.normal(0, 0.4, count)], axis=1).astype(np.float32)


def pairs_alike(ids: np.ndarray, truth: np.ndarray) -> float:
    return float(((ids[:, None] == ids) == (truth[:, None] == truth)).mean())


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_hierarchy_is_that_of_scipy(count):
    from scipy.cluster.hierarchy import fcluster, linkage

    centres = np.random.default_rng(1).normal(size=(40, 5))
    expected = fcluster(linkage(centres, "ward"), count, "maxclust")
    found = ward(centres, np.ones(40), count)
    assert found.max() + 1 == count
    assert pairs_alike(found, expected) == 1.0


def test_weight_counts_as_copies():
    centres = np.random.default_rng(2).normal(size=(12, 3))
    copies = np.random.default_rng(3).integers(1, 5, 12)
    repeated = np.repeat(np.arange(12), copies)
    assert pairs_alike(ward(centres, copies, 4)[repeated], ward(centres[repeated], np.ones(len(repeated)), 4)) == 1.0


def test_hierarchies_agree_on_what_is_apart():
    rng = np.random.default_rng(5)
    blob = np.arange(60) % 6
    centres = rng.normal(0, 8, (6, 4))[blob] + rng.normal(0, 0.3, (60, 4))
    found = agreed(centres, rng.random(60) + 0.1, 6)
    assert pairs_alike(found, blob) == 1.0
    assert agreed(centres[:4], np.ones(4), 6).tolist() == [0, 1, 2, 3]
    assert agreed(centres, np.ones(60), 1).tolist() == [0] * 60


def test_agreement_hangs_less_on_the_weights_than_one_hierarchy():
    centres = np.random.default_rng(6).normal(size=(48, 6))
    weights = np.random.default_rng(7).uniform(0.7, 1.4, (4, 48))

    def steadiness(merge) -> float:
        """Of the pairs that are together with some weights, the share that is with others, too."""
        together = [(group := merge(centres, row, 8))[:, None] == group for row in weights]
        return float(np.mean([(a & b).sum() / (a | b).sum() for i, a in enumerate(together) for b in together[:i]]))

    assert steadiness(agreed) > steadiness(ward) + 0.1


def test_is_a_clusterer():
    check_clusterer(MergedKMeans(3))


def test_never_more_clusters_than_asked_for_and_the_heaviest_first():
    vectors = bars()
    model = MergedKMeans(5).fit(lambda: [vectors])
    ids, sure = model.predict(vectors)
    counts = np.bincount(ids)
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert len(counts) == len(model.centres) == 5
    np.testing.assert_allclose(model.weights, counts)
    assert sure.min() >= 0
    assert sure.max() <= 1


def test_certainty_is_about_the_nearest_other_cluster():
    vectors = np.repeat(np.float32([[0, 0], [1, 0], [9, 0]]), 20, axis=0)
    model = MergedKMeans(2, scale="none").fit(lambda: [vectors])
    ids, sure = model.predict(np.float32([[0, 0], [0.6, 0], [4, 0], [9, 0]]))
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]
    np.testing.assert_allclose(sure, [1, 1 - 0.4 / 8.4, 1 - 3 / 5, 1], atol=1e-6)


def test_fitting_goes_on_from_a_checkpoint_to_the_same_bytes():
    vectors = bars()
    kept: list = []
    whole = MergedKMeans(4).fit(lambda: [vectors], checkpoint=kept.append).state()
    resumed = MergedKMeans(4).fit(lambda: [vectors], resume=kept[1]).state()
    assert all(whole[key].tobytes() == resumed[key].tobytes() for key in whole)


def test_many_clusters_are_plain_k_means():
    vectors = np.random.default_rng(4).normal(size=(2000, 3)).astype(np.float32)
    merged, plain = MergedKMeans(MANY + 1).fit(lambda: [vectors]), OnlineKMeans(MANY + 1).fit(lambda: [vectors])
    np.testing.assert_array_equal(merged.predict(vectors)[0], plain.predict(vectors)[0])


def test_refuses_what_is_no_number_of_clusters():
    with pytest.raises(SettingsError, match="clusters 0"):
        MergedKMeans(0)
