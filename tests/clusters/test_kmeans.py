"""Online k-means: as good as the batch algorithm, the same bytes however it is fed, defined for bad input."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from terralabel.clusters.kmeans import OnlineKMeans
from terralabel.clusters.lloyd import certainty
from terralabel.contracts import Clusterer
from terralabel.errors import ContractError, SettingsError


def mixture(count=6000, clusters=12, dimensions=8, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dimensions)) * spread
    truth = rng.integers(0, clusters, count)
    return (centres[truth] + rng.normal(size=(count, dimensions))).astype(np.float32), truth


def cut(vectors, *sizes):
    """A `Batches` that cuts the vectors into batches of these sizes, over and over."""

    def batches():
        start, turn = 0, 0
        while start < len(vectors):
            yield vectors[start : start + sizes[turn % len(sizes)]]
            start += sizes[turn % len(sizes)]
            turn += 1

    return batches


def same(a, b):
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() and a[k].dtype == b[k].dtype for k in a)


def inertia(vectors, model):
    ids, _ = model.predict(vectors)
    return float(((model.transform(vectors) - model.centres[ids]) ** 2).sum(dtype=np.float64))


def test_is_a_clusterer():
    assert isinstance(OnlineKMeans(), Clusterer)


@pytest.mark.parametrize(("spread", "k"), [(3.0, 12), (0.6, 16), (0.0, 10)])
def test_inertia_within_one_percent_of_sklearn(spread, k):
    from sklearn.cluster import KMeans

    vectors, _ = mixture(spread=spread, seed=3)
    reference = KMeans(k, n_init=5, random_state=0).fit(vectors).inertia_
    model = OnlineKMeans(k, scale="none", sample=1500, batch_size=256, passes=2).fit(cut(vectors, 700))
    assert inertia(vectors, model) <= 1.01 * reference


def test_sorted_input_is_no_harder_than_shuffled():
    vectors, truth = mixture(spread=5.0)
    ordered = vectors[np.argsort(truth, kind="stable")]
    model = OnlineKMeans(12, scale="none", sample=500, batch_size=64).fit(cut(ordered, 333))
    ids = model.predict(ordered)[0].reshape(-1)
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(np.sort(truth), ids) > 0.99


@pytest.mark.parametrize("scale", ["none", "standard", "l2"])
def test_same_bytes_however_it_is_cut_and_threaded(scale):
    vectors, _ = mixture(5000, dimensions=70)
    settings = {"clusters": 9, "scale": scale, "pca": 20, "sample": 700, "batch_size": 100}
    one = OnlineKMeans(**settings).fit(cut(vectors, 5000))
    with threadpool_limits(4):
        other = OnlineKMeans(**settings).fit(cut(vectors, 1, 900, 7, 64))
    assert same(one.state(), other.state())


def test_the_seed_matters_where_there_is_no_structure():
    vectors, _ = mixture(2000, spread=0.0)
    models = [OnlineKMeans(9, seed=seed, restarts=1).fit(cut(vectors, 300)) for seed in (0, 0, 1)]
    assert same(models[0].state(), models[1].state())
    assert not same(models[0].state(), models[2].state())


def test_prediction_of_a_vector_does_not_depend_on_its_neighbours():
    vectors, _ = mixture(3000, dimensions=33)
    model = OnlineKMeans(20).fit(cut(vectors, 1000))
    ids, sure = model.predict(vectors)
    for rows in (slice(0, 1), slice(17, 90), slice(1500, 2999)):
        alone = model.predict(vectors[rows])
        assert np.array_equal(alone[0], ids[rows])
        assert np.array_equal(alone[1], sure[rows])


def test_state_rebuilds_it():
    vectors, _ = mixture()
    model = OnlineKMeans(7, scale="l2", pca=4).fit(cut(vectors, 512))
    again = OnlineKMeans.from_state(model.state())
    assert same(again.state(), model.state())
    for a, b in zip(again.predict(vectors), model.predict(vectors), strict=True):
        assert np.array_equal(a, b)
    assert model.state()["centres"].dtype == np.float32
    assert model.state()["centres"].shape == (7, 4)


def test_resumes_from_any_pass_to_the_same_bytes():
    vectors, _ = mixture(spread=0.5)
    kept: list[dict] = []
    settings = {"clusters": 8, "passes": 2, "sample": 300, "batch_size": 128}
    model = OnlineKMeans(**settings).fit(cut(vectors, 512), checkpoint=lambda s: kept.append(dict(s)))
    assert len(kept) >= 5
    for state in kept:
        assert same(OnlineKMeans(**settings).fit(cut(vectors, 100), resume=state).state(), model.state())


def test_tells_its_progress():
    lines: list[str] = []
    OnlineKMeans(3).fit(cut(mixture()[0], 512), progress=lines.append)
    assert lines[0].startswith("k-means: 3 centres")
    assert "mini-batch pass 1 of 1" in lines[1]
    assert "exact pass" in lines[-1]


def test_weights_count_like_copies():
    vectors, _ = mixture(800, spread=1.0)
    weights = np.random.default_rng(5).integers(1, 6, len(vectors))
    weighted = OnlineKMeans(5, scale="standard").fit(lambda: [(vectors, weights.astype(np.float32))])
    copies = np.repeat(vectors, weights, axis=0)
    repeated = OnlineKMeans(5, scale="standard").fit(lambda: [copies])
    assert weighted.weights.sum() == pytest.approx(weights.sum())
    assert inertia(copies, weighted) == pytest.approx(inertia(copies, repeated), rel=0.01)
    np.testing.assert_allclose(weighted.state()["mean"], repeated.state()["mean"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weighted.state()["factor"], repeated.state()["factor"], rtol=1e-5)


def test_the_heaviest_cluster_is_the_first():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(m, 0.1, (n, 2)) for m, n in [(0, 50), (5, 500), (10, 200)]]).astype(np.float32)
    model = OnlineKMeans(3).fit(lambda: [vectors])
    assert model.weights.tolist() == [500, 200, 50]
    assert np.bincount(model.predict(vectors)[0]).tolist() == [500, 200, 50]


def test_more_clusters_than_distinct_vectors():
    vectors = np.repeat(np.array([[0, 0], [1, 5], [7, 2]], np.float32), 40, axis=0)
    model = OnlineKMeans(16).fit(cut(vectors, 9))
    ids, sure = model.predict(vectors)
    assert model.centres.shape == (3, 2)
    assert sorted(set(ids.tolist())) == [0, 1, 2]
    assert len(set(ids[:40].tolist())) == 1
    assert (sure > 0.999).all()


def test_copies_of_one_vector_are_one_cluster():
    model = OnlineKMeans(4).fit(lambda: [np.full((100, 3), 7.25, np.float32)])
    ids, sure = model.predict(np.full((5, 3), 7.25, np.float32))
    assert len(model.centres) == 1
    assert ids.tolist() == [0] * 5
    assert sure.tolist() == [1.0] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_unusable_vectors_change_nothing_and_are_in_no_cluster(bad):
    vectors, _ = mixture(1000)
    spoiled = np.insert(vectors, 500, vectors[0], axis=0)
    spoiled[500, 3] = bad
    clean = OnlineKMeans(4).fit(cut(vectors, 100))
    model = OnlineKMeans(4).fit(cut(spoiled, 100))
    assert same(clean.state(), model.state())
    ids, sure = model.predict(spoiled)
    assert ids[500] == -1
    assert sure[500] == 0
    assert (np.delete(ids, 500) >= 0).all()


@pytest.mark.parametrize("scale", ["none", "standard", "l2"])
def test_constant_features_and_no_vectors(scale):
    vectors, _ = mixture(1000)
    padded = np.concatenate([vectors, np.full((1000, 1), 2026, np.float32), np.zeros((1000, 1), np.float32)], axis=1)
    model = OnlineKMeans(4, scale=scale, pca=9).fit(cut(padded, 100))
    assert np.isfinite(model.centres).all()
    assert set(model.predict(padded)[0].tolist()) == {0, 1, 2, 3}
    none = OnlineKMeans(4, scale=scale, pca=9).fit(list)
    assert none.predict(vectors)[0].tolist() == [-1] * 1000
    assert OnlineKMeans.from_state(none.state()).predict(vectors)[0].tolist() == [-1] * 1000
    nothing, sure = model.predict(padded[:0])
    assert nothing.shape == sure.shape == (0,)


def test_features_far_from_zero_are_told_apart():
    rng = np.random.default_rng(0)
    vectors = (np.repeat([[0.0], [4.0]], 500, axis=0) + rng.normal(size=(1000, 3)) * 0.5 + 30_000).astype(np.float32)
    ids, _ = OnlineKMeans(2, scale="none").fit(lambda: [vectors]).predict(vectors)
    assert len(set(ids[:500].tolist())) == len(set(ids[500:].tolist())) == 1
    assert ids[0] != ids[-1]


def test_starved_centres_are_placed_anew():
    vectors, truth = mixture(2000, clusters=4, spread=20.0)
    kept: list[dict] = []
    OnlineKMeans(4, scale="none").fit(cut(vectors, 500), checkpoint=lambda s: kept.append(dict(s)))
    poor = dict(kept[0])
    poor["centres"] = poor["centres"].copy()
    poor["centres"][1:] = 1e6 + np.arange(3)[:, None]  # three centres nowhere near any vector
    model = OnlineKMeans(4, scale="none").fit(cut(vectors, 500), resume=poor)
    ids = model.predict(vectors)[0]
    assert len({(i, t) for i, t in zip(ids.tolist(), truth.tolist(), strict=True)}) == 4


def test_partial_fit_follows_a_stream():
    vectors, _ = mixture(spread=4.0)
    model = OnlineKMeans(12, scale="none")
    for batch in cut(vectors, 500)():
        model.partial_fit(batch)
    exact = OnlineKMeans(12, scale="none").fit(cut(vectors, 500))
    assert model.weights.sum() == len(vectors)
    assert inertia(vectors, model) < 1.15 * inertia(vectors, exact)
    with pytest.raises(ContractError, match="3 features"):
        model.partial_fit(np.zeros((4, 3), np.float32))


def test_certainty_is_one_at_a_centre_and_zero_half_way():
    centres = np.array([[0, 0], [4, 0], [0, 9]], np.float32)
    ids, sure = certainty(np.array([[0, 0], [2, 0], [1, 0]], np.float32), centres)
    assert ids.tolist() == [0, 0, 0]
    assert sure.tolist() == pytest.approx([1, 0, 2 / 3])


def test_thousands_of_clusters():
    vectors, truth = mixture(6000, clusters=1500, dimensions=6, spread=300.0)
    model = OnlineKMeans(1500, passes=1, refinements=3).fit(cut(vectors, 2500))
    assert 1400 <= len(model.centres) <= 1500
    ids, sure = model.predict(vectors)
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(truth, ids) > 0.8
    assert sure.min() >= 0
    assert np.array_equal(model.predict(vectors[777:1234])[0], ids[777:1234])


@pytest.mark.parametrize(
    "settings",
    [{"clusters": 0}, {"clusters": 2.5}, {"batch_size": 0}, {"passes": -1}, {"scale": "l3"}, {"pca": 0}, {"sample": 0}],
)
def test_refuses_settings(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        OnlineKMeans(**settings)


def test_refuses_batches_that_break_the_contract():
    good = np.zeros((4, 3), np.float32)
    for batches, words in [
        ([good, np.zeros((4, 2), np.float32)], "2 features a vector"),
        ([np.zeros(4, np.float32)], "expected \\(m, d\\)"),
        ([np.array([["a"]])], "expected \\(m, d\\)"),
        ([(good, np.ones(3))], "one for each vector"),
        ([(good, -np.ones(4))], "negative weights"),
    ]:
        with pytest.raises(ContractError, match=words):
            OnlineKMeans(2).fit(lambda batches=batches: batches)
    with pytest.raises(ContractError, match="not fitted"):
        OnlineKMeans(2).predict(good)
    with pytest.raises(ContractError, match="expected \\(n, 3\\)"):
        OnlineKMeans(2).fit(lambda: [good + np.arange(4, dtype=np.float32)[:, None]]).predict(good[:, :2])


def test_memory_is_bounded_by_the_buffer():
    """The longest-lived array is a buffer or the sample, not the stream."""
    import tracemalloc

    rng_rows = 2000

    def batches():
        for part in range(60):
            yield np.random.default_rng(part).normal(size=(rng_rows, 16)).astype(np.float32)

    tracemalloc.start()
    OnlineKMeans(4, batch_size=256, sample=2000, restarts=1, refinements=2).fit(batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * rng_rows * 16 * 4 / 2
