"""Split and merge: finds the number of separated Gaussians, streams, is defined for bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from terralabel.clusters.dpmm import SplitMerge
from terralabel.clusters.gaussian import Prior, Statistics
from terralabel.clusters.mixture import merge_gain, split_gain
from terralabel.contracts import Clusterer
from terralabel.errors import ContractError, SettingsError


def mixture(clusters, dimensions, count, seed=0, balanced=True, apart=9.0):
    """Gaussians of random shapes whose means are at least `apart` from each other; their vectors and true ids."""
    rng = np.random.default_rng([seed, clusters, dimensions])
    means: list[np.ndarray] = []
    while len(means) < clusters:
        candidate = rng.uniform(-1, 1, dimensions) * apart * clusters ** (1 / dimensions)
        if all(np.linalg.norm(candidate - mean) > apart for mean in means):
            means.append(candidate)
    weights = np.ones(clusters) if balanced else rng.dirichlet(np.full(clusters, 2.0)).clip(0.3 / clusters)
    truth = rng.choice(clusters, count, p=weights / weights.sum())
    shapes = rng.normal(size=(clusters, dimensions, dimensions)) * 0.6 / np.sqrt(dimensions) + np.eye(dimensions) * 0.7
    noise = np.einsum("nij,nj->ni", shapes[truth], rng.normal(size=(count, dimensions)))
    return (np.array(means)[truth] + noise).astype(np.float32), truth


def parts(vectors, size):
    return lambda: (vectors[i : i + size] for i in range(0, len(vectors), size))


def test_is_a_clusterer():
    assert isinstance(SplitMerge(), Clusterer)


def test_evidence_is_the_product_of_the_predictive_densities():
    """Chain rule: p(x1, x2, ...) = p(x1) p(x2 | x1)...; each a Student t of the posterior so far."""
    from scipy.stats import multivariate_t

    prior = Prior(3)
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    expected = 0.0
    for i, vector in enumerate(vectors):
        seen = Statistics.of(vectors[:i], np.ones(i), np.zeros(i, int), 1)
        kappa, nu, mean, scale = (value[0] for value in prior._posterior(seen))
        freedom = nu - 3 + 1
        expected += multivariate_t(mean, scale * (kappa + 1) / (kappa * freedom), df=freedom).logpdf(vector)
    whole = Statistics.of(vectors, np.ones(6), np.zeros(6, int), 1)
    assert prior.evidence(whole)[0] == pytest.approx(expected, rel=1e-9)
    assert prior.evidence(Statistics.zeros(1, 3))[0] == pytest.approx(0)


def test_densities_are_scipys():
    vectors = np.random.default_rng(1).normal(size=(50, 4))
    groups = Statistics.of(vectors, np.ones(50), np.arange(50) % 2, 2)
    prior = Prior(4)
    means, whiteners, normalisers = prior.gaussians(groups)
    for k in range(2):
        covariance = np.linalg.inv(whiteners[k] @ whiteners[k].T)
        away = (vectors - means[k]) @ whiteners[k]
        ours = normalisers[k] - 0.5 * (away**2).sum(axis=1)
        np.testing.assert_allclose(ours, multivariate_normal(means[k], covariance).logpdf(vectors))
        assert np.allclose(covariance, np.cov(vectors[k::2].T, bias=True), atol=0.2)


def test_merging_undoes_splitting():
    vectors, _ = mixture(2, 3, 400)
    prior = Prior(3)
    halves = Statistics.of(vectors.astype(float), np.ones(400), np.arange(400) % 2, 2)
    assert merge_gain(prior, halves, np.array([[0, 1]]), 10.0) == pytest.approx(-split_gain(prior, halves, 10.0))


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("clusters", "dimensions"), [(3, 2), (5, 40), (9, 6), (20, 2), (20, 12)])
def test_finds_the_number_of_clusters(clusters, dimensions, balanced):
    vectors, truth = mixture(clusters, dimensions, 2500, balanced=balanced)
    model = SplitMerge().fit(parts(vectors, 1000))
    assert abs(len(model.state()["centres"]) - clusters) <= 1
    assert adjusted_rand_score(truth, model.predict(vectors)[0]) > 0.97


@pytest.mark.parametrize("dimensions", [1, 2, 12, 50])
def test_one_gaussian_is_one_cluster(dimensions):
    vectors, _ = mixture(1, dimensions, 2000)
    assert len(SplitMerge().fit(parts(vectors, 300)).state()["centres"]) == 1


def test_streams_what_the_sample_does_not_hold():
    vectors, truth = mixture(7, 6, 6000)
    whole = SplitMerge().fit(parts(vectors, 5000))
    lines: list[str] = []
    streamed = SplitMerge(sample=800).fit(parts(vectors, 5000), progress=lines.append)
    assert len(streamed.state()["centres"]) == len(whole.state()["centres"]) == 7
    assert streamed.state()["weights"].sum() == pytest.approx(6000)
    assert adjusted_rand_score(truth, streamed.predict(vectors)[0]) > 0.98
    assert any("pass 1 of at most 6" in line for line in lines)


def test_resumes_from_any_pass_to_the_same_bytes():
    vectors, _ = mixture(6, 4, 3000)
    kept: list[dict] = []
    model = SplitMerge(sample=300).fit(parts(vectors, 512), checkpoint=lambda s: kept.append(dict(s))).state()
    assert len(kept) >= 3
    for state in kept:
        again = SplitMerge(sample=300).fit(parts(vectors, 100), resume=state).state()
        assert all(again[k].tobytes() == v.tobytes() for k, v in model.items())


def test_a_cluster_too_small_for_the_sample_is_found_in_the_stream():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 1, (9000, 3)), rng.normal(12, 1, (60, 3))]).astype(np.float32)
    vectors = vectors[rng.permutation(len(vectors))]
    model = SplitMerge(sample=4000).fit(parts(vectors, 2000))
    assert len(model.state()["centres"]) == 2
    assert model.state()["weights"].round().tolist() == [9000, 60]


def test_same_bytes_however_it_is_cut_and_threaded():
    vectors, _ = mixture(6, 40, 5000)
    one = SplitMerge(sample=1000).fit(parts(vectors, 5000)).state()
    with threadpool_limits(4):
        other = SplitMerge(sample=1000).fit(parts(vectors, 77)).state()
    assert one.keys() == other.keys()
    assert all(one[k].tobytes() == other[k].tobytes() for k in one)


def test_state_rebuilds_it():
    vectors, _ = mixture(5, 6, 2000)
    model = SplitMerge(scale="l2", pca=4).fit(parts(vectors, 512))
    again = SplitMerge.from_state(model.state())
    for a, b in zip(again.predict(vectors), model.predict(vectors), strict=True):
        assert np.array_equal(a, b)
    assert again.state()["centres"].dtype == np.float32
    ids, sure = model.predict(vectors)
    assert ids.dtype == np.int32
    assert sure.dtype == np.float32
    assert 0 <= sure.min() <= sure.max() <= 1
    nearest = ((model.transform(vectors)[:, None] - model.state()["centres"]) ** 2).sum(-1).argmin(axis=1)
    assert (nearest == ids).mean() > 0.9


def test_certainty_is_low_between_two_clusters():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(-5, 1, (1000, 2)), rng.normal(5, 1, (1000, 2))]).astype(np.float32)
    model = SplitMerge().fit(lambda: [vectors])
    _, sure = model.predict(np.array([[-5, -5], [5, 5], [0, 0]], np.float32))
    assert sure[0] > 0.999
    assert sure[1] > 0.999
    assert sure[2] < 0.95


def test_weights_of_any_unit_are_counts():
    """Areas in square metres or pixels: the number of clusters must not depend on their unit."""
    vectors, _ = mixture(4, 3, 2000)
    areas = np.random.default_rng(0).uniform(1, 3, len(vectors)).astype(np.float32)
    found = [SplitMerge().fit(lambda unit=unit: [(vectors, areas * unit)]).state() for unit in (1, 1000)]
    assert len(found[0]["centres"]) == len(found[1]["centres"]) == 4
    assert found[1]["weights"].sum() == pytest.approx(2000, rel=1e-5)


def test_never_more_than_the_largest():
    vectors, _ = mixture(12, 2, 3000)
    assert len(SplitMerge(largest=5).fit(parts(vectors, 999)).state()["centres"]) <= 5


def test_defined_for_bad_input():
    vectors, _ = mixture(3, 4, 1000)
    none = SplitMerge().fit(list)
    assert none.predict(vectors)[0].tolist() == [-1] * 1000
    assert none.state()["centres"].shape[0] == 0
    assert SplitMerge.from_state(none.state()).predict(vectors)[0].tolist() == [-1] * 1000
    one = SplitMerge().fit(lambda: [np.full((50, 3), 2.5, np.float32)])
    assert one.predict(np.full((2, 3), 2.5, np.float32))[0].tolist() == [0, 0]
    assert np.isfinite(one.state()["centres"]).all()
    single = SplitMerge().fit(lambda: [vectors[:1]])
    assert single.predict(vectors[:1])[0].tolist() == [0]
    copies = SplitMerge().fit(lambda: [np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)])
    assert len(set(copies.predict(np.eye(3, dtype=np.float32))[0].tolist())) == 3
    spoiled = np.insert(vectors, 500, np.nan, axis=0)
    model = SplitMerge().fit(parts(spoiled, 300))
    ids, sure = model.predict(spoiled)
    assert ids[500] == -1
    assert sure[500] == 0
    assert (np.delete(ids, 500) >= 0).all()
    clean = SplitMerge().fit(parts(vectors, 300)).state()
    assert all(clean[k].tobytes() == v.tobytes() for k, v in model.state().items())
    with pytest.raises(ContractError, match="not fitted"):
        SplitMerge().predict(vectors)


@pytest.mark.parametrize("settings", [{"alpha": 0}, {"largest": 0}, {"sample": 1}, {"scale": "x"}, {"pca": 0}])
def test_refuses_settings(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        SplitMerge(**settings)
