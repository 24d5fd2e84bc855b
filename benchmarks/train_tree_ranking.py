"""Train the ranking of nodes that ships with the `tree` backend.

    python benchmarks/train_tree_ranking.py --data DIR --out src/terralabel/masks/tree_ranking.npz

Data: `oam-buildings-multi/area1` (OpenAerialMap imagery CC BY 4.0, labels from hotosm/fAIr-utilities) and `fields`
(NAIP, public domain; labels MIT, superlinear-ai/agoro-field-boundary-detector), each at several scales, so that no size counts as
an object by itself. The target of a node is its best IoU with a labelled instance. Needs scikit-learn only to fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.tile import Tile
from terralabel.masks.hierarchies import Nodes, Tree, build_trees, describe
from terralabel.masks.regions import Regions, find_regions

#: (folder, scales): pictures are resized by each scale.
SETS = (("oam-buildings-multi/area1", (1.0, 0.6, 1.5)), ("fields", (0.5, 0.25)))


def pictures(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(RGB uint8, instances int32) of every picture of a set, by name."""
    pairs = []
    for path in sorted((folder / "images").iterdir()):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        pairs.append((image, mask.astype(np.int32)))
    return pairs


def best_overlap(regions: Regions, trees: list[Tree], nodes: Nodes, truth: np.ndarray) -> np.ndarray:
    """(m,) best IoU of every node with an instance of `truth`."""
    ids, flat = np.unique(truth, return_inverse=True)
    count = len(ids)
    table = np.bincount(regions.labels.ravel().astype(np.int64) * count + flat.ravel(), minlength=regions.n * count)
    table = table.reshape(regions.n, count).astype(np.float64)
    total = table.sum(0)
    best = []
    for i, tree in enumerate(trees):
        running = np.concatenate([np.zeros((1, count)), np.cumsum(table[tree.order], 0)])
        inside = running[tree.first + tree.count] - running[tree.first]
        union = nodes.area[nodes.tree == i][:, None] + total - inside
        overlap = inside / union
        best.append(overlap[:, ids > 0].max(1) if (ids > 0).any() else np.zeros(len(inside)))
    return np.concatenate(best)


def samples(data: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets and weights of the nodes of at least 32 pixels; poor ones are thinned."""
    rng = np.random.default_rng(seed)
    features, targets = [], []
    for folder, scales in SETS:
        for image, truth in pictures(data / folder):
            for scale in scales:
                size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
                tile = Tile.from_array(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
                regions = find_regions(tile)
                trees = build_trees(regions)
                nodes = describe(regions, trees)
                overlap = best_overlap(
                    regions, trees, nodes, cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
                )
                keep = (nodes.area >= 32) & (rng.random(len(overlap)) < np.where(overlap > 0.3, 1.0, 0.25))
                features.append(nodes.features[keep])
                targets.append(overlap[keep])
    x, y = np.concatenate(features), np.concatenate(targets)
    return x, y, np.where(y > 0.3, 1.0, 4.0)


def main() -> None:
    """Fit and write."""
    from sklearn.neural_network import MLPRegressor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    x, y, weight = samples(options.data, options.seed)
    mean, scale = x.mean(0), x.std(0) + 1e-3
    network = MLPRegressor(
        hidden_layer_sizes=(48, 24), alpha=1e-3, batch_size=512, max_iter=20, early_stopping=True, random_state=options.seed
    )
    network.fit(np.clip((x - mean) / scale, -6, 6), y, sample_weight=weight)
    arrays = {"mean": mean, "scale": scale}
    for i, (matrix, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        arrays |= {f"weight{i}": matrix, f"bias{i}": bias}
    np.savez_compressed(options.out, **{name: value.astype(np.float32) for name, value in arrays.items()})
    print(
        f"{len(y)} nodes, mean target {y.mean():.3f}, validation R2 {max(network.validation_scores_):.3f}, wrote {options.out}"
    )


if __name__ == "__main__":
    main()
