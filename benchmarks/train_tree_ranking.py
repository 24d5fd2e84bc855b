"""Train the three small rankings that ship with the `tree` backend: of nodes by themselves, for a box, and for a point.

    python benchmarks/train_tree_ranking.py --data DIR --out src/terralabel/masks

Data: `oam-buildings-multi/area1` (OpenAerialMap imagery CC BY 4.0, labels from hotosm/fAIr-utilities) and `fields`
(NAIP, public domain; labels MIT, superlinear-ai/agoro-field-boundary-detector), at several scales, in grey, at low contrast and with
SAR-like speckle, so that neither a size nor a sensor counts as an object by itself. The target of a node is its best IoU with a
labelled instance. Most things in a picture are not labelled, so nodes that touch no instance weigh little: what is learned is
when a grouping is right, not what a building looks like. Needs scikit-learn to fit; takes some ten minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.tile import Tile
from terralabel.masks.evidence import box_geometry, box_pixels, point_geometry, sum_over_nodes
from terralabel.masks.hierarchies import build_trees, describe
from terralabel.masks.proposals import Forest
from terralabel.masks.regions import find_regions

#: (folder, its number, scale, how the picture is changed)
RECIPE = (
    ("oam-buildings-multi/area1", 0, 1.0, "plain"), ("oam-buildings-multi/area1", 0, 0.6, "plain"),
    ("oam-buildings-multi/area1", 0, 1.5, "plain"), ("oam-buildings-multi/area1", 0, 1.0, "speckle"),
    ("oam-buildings-multi/area1", 0, 1.0, "grey"), ("oam-buildings-multi/area1", 0, 1.0, "faint"),
    ("fields", 1, 0.5, "plain"), ("fields", 1, 0.25, "plain"), ("fields", 1, 0.5, "speckle"), ("fields", 1, 0.5, "faint"),
)  # fmt: skip
#: Weight of nodes that hold almost nothing labelled.
BACKGROUND = 0.15


def pictures(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(RGB uint8, instances int32) of every picture of a set, by name."""
    pairs = []
    for path in sorted((folder / "images").iterdir()):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        pairs.append((image, mask.astype(np.int32)))
    return pairs


def changed(image: np.ndarray, how: str, rng: np.random.Generator) -> Tile:
    """The picture as it is, in grey, at low contrast with noise, or as SAR amplitude in dB with speckle of 1, 3 or 6 looks."""
    if how == "plain":
        return Tile.from_array(image)
    if how == "faint":
        share = rng.uniform(0.35, 0.7)
        faint = image * share + rng.uniform(0, 255 * (1 - share)) + rng.normal(0, 3, image.shape)
        return Tile.from_array(np.clip(faint, 0, 255).astype(np.uint8))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if how == "grey":
        return Tile.from_array(grey)
    looks = float(rng.choice([1, 3, 6]))
    level = 20 * np.log10(np.maximum((grey + 8.0) * np.sqrt(rng.gamma(looks, 1 / looks, grey.shape)), 1))
    low, high = np.percentile(level, (1, 99))
    return Tile.from_array(np.clip((level - low) / (high - low) * 255, 0, 255).astype(np.uint8), sensor="sar")


def forests(data: Path, rng: np.random.Generator) -> Iterator[tuple[Forest, np.ndarray, int, str]]:
    """Forest without scores, instances, number of the set, and change, of every picture in every way of `RECIPE`."""
    for folder, number, scale, how in RECIPE:
        for image, truth in pictures(data / folder):
            size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
            resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
            regions = find_regions(changed(resized, how, rng))
            trees = build_trees(regions)
            nodes = describe(regions, trees)
            instances = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
            yield Forest(regions, trees, nodes, np.zeros(len(nodes.area), dtype=np.float32)), instances, number, how


def overlap(forest: Forest, mask: np.ndarray, window: np.ndarray | None = None) -> np.ndarray:
    """(m,) IoU of every node, cut to the bool `window` if given, with a bool mask."""
    labels, n = forest.regions.labels, forest.regions.n
    use = np.ones(mask.shape, dtype=bool) if window is None else window
    shared = sum_over_nodes(forest, np.bincount(labels[mask & use], minlength=n))
    return shared / np.maximum(sum_over_nodes(forest, np.bincount(labels[use], minlength=n)) + mask.sum() - shared, 1)


class Samples:
    """Rows of features with targets and weights, thinned as they come."""

    def __init__(self) -> None:
        self.features: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []

    def add(
        self, features: np.ndarray, target: np.ndarray, chance: np.ndarray, weight: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Keep each row with its chance; what is kept weighs for what is not."""
        kept = rng.random(len(target)) < chance
        self.features.append(features[kept])
        self.targets.append(target[kept])
        self.weights.append(np.minimum(weight[kept] / chance[kept], 60))

    def fit(self, out: Path, hidden: tuple[int, ...], alpha: float) -> None:
        """Fit a perceptron and write it as float32 arrays."""
        from sklearn.neural_network import MLPRegressor

        x, y, w = (np.concatenate(part) for part in (self.features, self.targets, self.weights))
        mean, scale = x.mean(0), x.std(0) + 1e-3
        network = MLPRegressor(batch_size=1024, max_iter=12, learning_rate_init=2e-3, random_state=0)
        network.set_params(hidden_layer_sizes=hidden, alpha=alpha)
        network.fit(np.clip((x - mean) / scale, -6, 6), y, sample_weight=w / w.mean())
        arrays = {"mean": mean, "scale": scale}
        for i, (matrix, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
            arrays |= {f"weight{i}": matrix, f"bias{i}": bias}
        np.savez_compressed(out, **{name: value.astype(np.float32) for name, value in arrays.items()})
        print(f"{out.name}: {len(y)} rows, mean target {np.average(y, weights=w):.3f}")


def add_nodes(samples: Samples, forest: Forest, truth: np.ndarray, number: int, rng: np.random.Generator) -> None:
    """Nodes of at least 32 pixels with their best IoU; sets weigh the same, fields being some ten times as many pixels."""
    best = np.zeros(len(forest.nodes.area))
    for name in np.unique(truth[truth > 0]):
        best = np.maximum(best, overlap(forest, truth == name))
    labelled = sum_over_nodes(forest, np.bincount(forest.regions.labels[truth > 0], minlength=forest.regions.n))
    touches = labelled > 0.1 * forest.nodes.area
    chance = (
        np.where(best > 0.3, 1.0, np.where(touches, 0.3, 0.05)) * (0.15 if number == 1 else 0.3) * (forest.nodes.area >= 32)
    )
    kept = chance > 0
    weight = np.where(touches, 1.0, BACKGROUND) * (0.1 if number == 1 else 1.0)
    samples.add(forest.nodes.features[kept], best[kept], chance[kept], weight[kept], rng)


def add_prompts(
    boxes: Samples, points: Samples, forest: Forest, truth: np.ndarray, number: int, rng: np.random.Generator
) -> None:
    """For up to 20 instances: candidates of the true box and of one moved by 5 %, of its centre and of a random point inside."""
    names = [name for name in np.unique(truth[truth > 0]) if (truth == name).sum() >= 64]
    for name in rng.permutation(names)[:20]:
        mask = truth == name
        rows, columns = np.nonzero(mask)
        exact = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)
        extent = np.tile(exact[2:] - exact[:2], 2)
        for box in (exact, exact + rng.normal(0, 0.05, 4) * extent):
            which, features = box_geometry(forest, box)
            left, top, right, bottom = box_pixels(box, mask.shape)
            window = np.zeros_like(mask)
            window[top:bottom, left:right] = True
            target = overlap(forest, mask, window)[which]
            boxes.add(features, target, np.full(len(which), min(1.0, 60 / max(len(which), 1))), np.ones(len(which)), rng)
        pick = rng.integers(len(rows))
        clicks = [(columns[pick] + 0.5, rows[pick] + 0.5)]
        middle = (exact[:2] + exact[2:]) / 2
        if mask[int(middle[1]), int(middle[0])]:
            clicks.append(tuple(middle))
        for click in clicks:
            which, _, features = point_geometry(forest, np.array([click]), np.ones(1, dtype=np.int64))
            weight = np.full(len(which), (1.0 if number == 1 else 3.0) / max(len(which), 1))
            points.add(features, overlap(forest, mask)[which], np.ones(len(which)), weight, rng)


def main() -> None:
    """Fit and write all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation data")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the .npz files")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    nodes, boxes, points = Samples(), Samples(), Samples()
    for forest, truth, number, how in forests(options.data, rng):
        add_nodes(nodes, forest, truth, number, rng)
        if how == "plain":
            add_prompts(boxes, points, forest, truth, number, rng)
    nodes.fit(options.out / "tree_ranking.npz", (32, 16), 1e-3)
    boxes.fit(options.out / "tree_box_ranking.npz", (24,), 1e-2)
    points.fit(options.out / "tree_point_ranking.npz", (24,), 1e-2)


if __name__ == "__main__":
    main()
