"""Clusters against scikit-learn: inertia and processor time of k-means; how often `auto` finds the number of clusters.

    python benchmarks/clusters.py [--vectors 1000000] [--mixtures 40]

Vectors are made here, from seeds. Times are processor time on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits

from terralabel.clusters.dpmm import SplitMerge
from terralabel.clusters.kmeans import OnlineKMeans
from terralabel.clusters.lloyd import nearest


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """The result, and seconds of processor time."""
    start = time.process_time()
    return work(), time.process_time() - start


def inertia(vectors: np.ndarray, centres: np.ndarray) -> float:
    """Sum of squared distances to the nearest centre."""
    return float(nearest(vectors, centres.astype(np.float32))[1].sum(dtype=np.float64))


def kmeans(count: int, dimensions: int = 64, clusters: int = 64) -> None:
    """One line a method: seconds, and inertia against ours."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(80, dimensions))
    vectors = (centres[rng.integers(0, 80, count)] + rng.normal(size=(count, dimensions))).astype(np.float32)
    vectors -= vectors.mean(axis=0)

    def parts() -> Iterator[np.ndarray]:
        return (vectors[i : i + 50_000] for i in range(0, count, 50_000))

    ours, seconds = timed(lambda: OnlineKMeans(clusters, scale="none").fit(parts))
    base = inertia(vectors, ours.centres)  # type: ignore[attr-defined]
    print(f"k-means of {count:,} vectors x {dimensions}, {clusters} clusters")
    print(f"  {'OnlineKMeans (streamed)':<36}{seconds:8.2f} s   inertia 1.0000")
    others = {
        "sklearn MiniBatchKMeans": lambda: MiniBatchKMeans(clusters, random_state=0).fit(vectors),
        "sklearn MiniBatchKMeans, batch 16384": lambda: MiniBatchKMeans(clusters, batch_size=16384, random_state=0).fit(
            vectors
        ),
        "sklearn KMeans, n_init 1 (in memory)": lambda: KMeans(clusters, n_init=1, random_state=0).fit(vectors),
    }
    for title, work in others.items():
        model, seconds = timed(work)
        print(f"  {title:<36}{seconds:8.2f} s   inertia {inertia(vectors, model.cluster_centers_) / base:.4f}")  # type: ignore[attr-defined]


def mixture(rng: np.random.Generator) -> tuple[np.ndarray, int] | None:
    """Vectors of 3 to 20 Gaussians at least 11 deviations apart, of unequal weight; None where they do not fit."""
    clusters, dimensions = int(rng.integers(3, 21)), int(rng.choice([2, 4, 8, 16, 32, 64]))
    for _ in range(500):
        centres = rng.uniform(-10, 10, (clusters, dimensions))
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(clusters)
        if apart.min() > 6.6:
            break
    else:
        return None
    weights = np.maximum(rng.dirichlet(np.full(clusters, 2.0)), 0.2 / clusters)
    truth = rng.choice(clusters, int(rng.choice([600, 2000, 5000])), p=weights / weights.sum())
    vectors = centres[truth] + 0.6 * rng.normal(size=(len(truth), dimensions))
    return vectors.astype(np.float32), len(np.unique(truth))


def auto(mixtures: int) -> None:
    """How many mixtures got their number of clusters, exactly and within one."""
    rng = np.random.default_rng(0)
    off: list[int] = []
    start = time.process_time()
    while len(off) < mixtures:
        made = mixture(rng)
        if made:
            vectors, true = made
            off.append(abs(len(SplitMerge().fit(lambda vectors=vectors: [vectors]).state()["centres"]) - true))  # type: ignore[misc]
    exact, near = sum(o == 0 for o in off), sum(o <= 1 for o in off)
    print(
        f"auto: {mixtures} mixtures of 3 to 20 Gaussians: {exact} exact, {near} within 1; {time.process_time() - start:.1f} s"
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--mixtures", type=int, default=40)
    given = parser.parse_args()
    with threadpool_limits(1):
        kmeans(given.vectors)
        auto(given.mixtures)


if __name__ == "__main__":
    main()
