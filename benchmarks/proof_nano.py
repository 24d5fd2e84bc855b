"""What `masks nano` does on images it was not trained on, beside `tree` in the same run.

    python benchmarks/proof_nano.py --data DIR [--json FILE] [--weights FILE] [--labels [--label-sets NAME ...] [--seeds N] [--encoder NPZ]] [--limit N]

Of the sets trained on, only the third of tiles is used that training never reads (`terralabel.train.pictures.held_out`; `tree`
was fitted on all of `area1` and `fields`, so its figures there are flattered). All other sets are for evaluation only.
Prompts: the true box, the box with every side moved by up to 10 % of its length, the centre of the box (of three answers the one
with the highest *predicted* IoU). Everything: the 300 best-ranked masks of a tile. `calibration` is the expected calibration
error of the predicted IoU over all box and centre prompts, in ten bins; `off` the mean absolute error.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import terralabel as tl
from proof_label import CLUSTERS, score
from proof_label import SETS as LABEL_SETS
from proof_label import load as load_set
from proof_masks import iou, read_image
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.evaluate.instances import instance_masks, score_instances
from terralabel.masks.nano import Nano
from terralabel.masks.tree import TreeMasks
from terralabel.train.pictures import held_out

MOST_MASKS = 300
#: Ways to label, as (masks, features).
LABEL_WAYS = {
    "tree + appearance": ("tree", "appearance"),
    "tree + fused": ("tree", "fused"),
    "nano + appearance": ("nano", "appearance"),
    "nano + fused": ("nano", "fused"),
    "nano + pooled": ("nano", "pooled"),
}
#: Sets for labels of which part was trained on.
TRAINED_ON = ("oam-buildings",)
#: Targets of the held-out sets: true box, disturbed box, centre, everything's best overlap, its recall at .5.
TARGETS = {"buildings": (0.82, 0.78, 0.65, 0.75, 0.87), "fields": (0.85, None, None, 0.70, None)}


@dataclass(frozen=True)
class Proof:
    """A set: folders, whether only held-out tiles count, smallest instance in pixels, and how instances come from a mask."""

    name: str
    folders: tuple[str, ...]
    only_held_out: bool = False
    smallest: int = 64
    instances: Callable[[np.ndarray], np.ndarray] = lambda mask: mask.astype(np.int32)
    sensor: str = "optical"
    everything: bool = False


def components(*classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Connected parts of each of these classes; of every class but 0 where none are named."""

    def found(mask: np.ndarray) -> np.ndarray:
        flat = mask if mask.ndim == 2 else mask[..., 0]
        out, total = np.zeros(flat.shape, np.int32), 0
        for value in classes or [int(v) for v in np.unique(flat) if v]:
            count, parts = cv2.connectedComponents((flat == value).astype(np.uint8), connectivity=4)
            out[parts > 0] = parts[parts > 0] + total
            total += count - 1
        return out

    return found


def bright_parts(mask: np.ndarray) -> np.ndarray:
    """Connected parts of what is at least half white."""
    flat = mask if mask.ndim == 2 else mask[..., 0]
    return components(1)((flat >= 128).astype(np.uint8))


PROOFS = (
    Proof("buildings", ("oam-buildings", "oam-buildings-multi/area1"), True, everything=True),
    Proof("fields", ("fields",), True, everything=True),
    Proof("roofs", ("roofs",)),
    Proof("houses and trees", ("houses",)),
    *(Proof(name, (f"multiclass/{name}",), smallest=100, instances=components()) for name in ("penang", "dronedeploy", "forest", "loveda", "potsdam")),
    Proof("roads", ("roads-epfl",), smallest=100, instances=bright_parts),
    Proof("slicks", ("sar-oil",), smallest=100, instances=bright_parts, sensor="sar"),
    Proof("lakes", ("lakes",), smallest=100, instances=components(2)),
    Proof("SAR water", ("sar-water",), smallest=100, instances=components(2), sensor="sar"),
    Proof("sea farms", ("sar-aquaculture",), smallest=100, instances=components(1), sensor="sar"),
)  # fmt: skip


def tiles(proof: Proof, data: Path, limit: int | None) -> Iterator[tuple[Tile, Masks]]:
    """(tile, true instances), by name; at most 40 instances of a tile, spread evenly over its list, where nothing is generated."""
    for folder in proof.folders:
        paths = [p for p in sorted((data / folder / "images").iterdir()) if not proof.only_held_out or held_out(p.stem)]
        for path in paths if proof.only_held_out else paths[:limit]:
            mask = next((data / folder / "masks").glob(f"{path.stem}*.png"))  # some are named for the scene and more
            stored = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            truth = instance_masks(proof.instances(stored), min_size=proof.smallest)
            if not proof.everything and len(truth) > 40:
                truth = truth.select(np.linspace(0, len(truth) - 1, 40).astype(int))
            yield Tile.from_array(read_image(path), sensor=proof.sensor), truth


def corners(masks: Masks) -> np.ndarray:
    """(n, 4) float32 xyxy."""
    box = masks.bbox.astype(np.float32)
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)


def prompted(backend: Any, encoded: Any, truth: Masks, seed: int) -> dict[str, list[float]]:
    """IoU of the answers to each kind of prompt, and what was predicted of them."""
    boxes = corners(truth)
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + np.random.default_rng(seed).uniform(-0.1, 0.1, boxes.shape).astype(np.float32) * size
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None].astype(np.float32)
    ones = np.ones((len(boxes), 1), np.int64)
    by_box = backend.predict(encoded, boxes=boxes, multimask=False).masks
    by_moved = backend.predict(encoded, boxes=moved.astype(np.float32), multimask=False).masks
    three = backend.predict(encoded, points=centres, point_labels=ones)
    k = three.alternatives
    promised = three.masks.predicted_iou.reshape(-1, k)
    by_point = three.masks.select(promised.argmax(1) + k * np.arange(len(boxes)))
    best = [max(iou(three.masks.array(k * i + j), truth.array(i)) for j in range(k)) for i in range(len(boxes))]
    found: dict[str, list[float]] = {"oracle of three": best, "predicted": [], "true": []}
    for kind, masks in (("box", by_box), ("moved box", by_moved), ("centre", by_point)):
        found[kind] = [iou(masks.array(i), truth.array(i)) for i in range(len(boxes))]
        if kind != "moved box":
            found["predicted"] += masks.predicted_iou.tolist()
            found["true"] += found[kind]
    return found


def calibration(predicted: np.ndarray, true: np.ndarray) -> float:
    """Expected calibration error in ten bins of the prediction."""
    bins = np.minimum((predicted * 10).astype(int), 9)
    gaps = [
        abs(predicted[bins == b].mean() - true[bins == b].mean()) * (bins == b).mean() for b in range(10) if (bins == b).any()
    ]
    return float(np.sum(gaps))


def prove(backend: Any, proof: Proof, data: Path, limit: int | None) -> dict[str, float]:
    """All figures of one backend on one set."""
    every: dict[str, list[float]] = {}
    pairs, seconds, pixels = [], 0.0, 0
    for number, (tile, truth) in enumerate(tiles(proof, data, limit)):
        began = time.perf_counter()
        encoded = backend.encode(tile)
        if proof.everything:
            masks = backend.generate(encoded)
            seconds, pixels = seconds + time.perf_counter() - began, pixels + tile.valid.size
            best = np.argsort(-masks.predicted_iou, kind="stable")[:MOST_MASKS]
            pairs.append((masks.select(best), truth))
        if len(truth):
            for key, values in prompted(backend, encoded, truth, number).items():
                every.setdefault(key, []).extend(values)
    predicted, true = np.array(every.pop("predicted")), np.array(every.pop("true"))
    result = {key: float(np.mean(values)) for key, values in every.items()} | {"prompts": len(every["box"])}
    result |= {"calibration": calibration(predicted, true), "off": float(np.abs(predicted - true).mean())}
    if pairs:
        scores = score_instances(pairs)
        result |= {"best overlap": scores.best_overlap, "recall .5": scores.recall[0.5], "MP/s": pixels / 1e6 / seconds}
    return result


def speed(backend: Nano, side: int = 1024, small: int = 256) -> dict[str, float]:
    """Seconds of one core for a megapixel of everything-mode, as one tile and as small ones, and one click; a generated scene,
    the best of three."""
    from terralabel.imagery.painter import paint_scene

    scene = paint_scene(side, side, 5)[0]
    cuts = [Tile.from_array(scene[y : y + small, x : x + small]) for y in range(0, side, small) for x in range(0, side, small)]
    point = np.array([[[side / 2, side / 3]]], np.float32)
    encoded = backend.encode(Tile.from_array(scene))
    ones = np.ones((1, 1), np.int64)
    alone = replace(backend, fill=False)
    tasks: dict[str, Callable[[], Any]] = {
        "everything, core-s/MP": lambda: backend.generate(backend.encode(encoded.tile)),
        "everything without tree, core-s/MP": lambda: alone.generate(alone.encode(encoded.tile)),
        f"everything on tiles of {small}, core-s/MP": lambda: [backend.generate(backend.encode(tile)) for tile in cuts],
        "click, core-ms": lambda: backend.predict(encoded, points=point, point_labels=ones),
    }
    found: dict[str, float] = {}
    for name, task in tasks.items():
        spent = []
        for _ in range(3):
            began = time.process_time()
            task()
            spent.append(time.process_time() - began)
        found[name] = 1e3 * min(spent) if name.endswith("ms") else min(spent) / (side**2 / 1e6)
    return found


def label_scores(
    data: Path, names: list[str], limit: int | None, ways: dict[str, tuple[str, str]], seeds: int
) -> dict[str, dict[str, list[float]]]:
    """mIoU of whole labellings with K = 16 for every seed, of at most `limit` images of a set, spread evenly over it."""
    results: dict[str, dict[str, list[float]]] = {}
    for data_set in (s for s in LABEL_SETS if s.name.split("/")[-1] in names):
        loaded = some_of(load_set(data_set, data), limit, only_held_out=data_set.name in TRAINED_ON)
        found: dict[str, list[float]] = {way: [] for way in ways}
        with tempfile.TemporaryDirectory() as folder:
            for way, seed in ((way, seed) for way in ways for seed in range(seeds)):
                masks, features = ways[way]
                run = tl.label(
                    loaded.paths,
                    Path(folder) / masks,
                    masks=masks,
                    features=features,
                    clusters=str(CLUSTERS),
                    sensor=data_set.sensor,
                    seed=seed,
                    workers=0,
                    overwrite=True,
                )
                reached = score(painted(run, loaded), loaded, data_set, "majority").miou
                found[way].append(round(float(reached), 4))
        results[data_set.name] = found
        print(data_set.name, found, flush=True)
    return results


def label_table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: mean and standard deviation over the seeds, a column a way, and the gain of each over the first."""
    ways = list(next(iter(results.values())))
    lines = ["| mIoU | " + " | ".join(ways) + " |", "|---|" + "--:|" * len(ways)]
    for name, found in results.items():
        cells = [f"{np.mean(found[way]):.3f} ± {np.std(found[way]):.3f}" for way in ways]
        lines.append(f"| {name.split('/')[-1]} | " + " | ".join(cells) + " |")
    means = [float(np.mean([np.mean(found[way]) for found in results.values()])) for way in ways]
    gains = [f"{mean:.3f} ({100 * (mean - means[0]):+.1f})" for mean in means]
    return "\n".join([*lines, "| **mean** | " + " | ".join(gains) + " |"])


def some_of(loaded: Any, limit: int | None, *, only_held_out: bool) -> Any:
    """At most `limit` images of a set; of one trained on, images that training never reads."""
    able = [i for i, path in enumerate(loaded.paths) if not only_held_out or held_out(path.stem)]
    places = np.unique(np.linspace(0, len(able) - 1, min(limit or len(able), len(able))).astype(int))
    return type(loaded)(*([column[able[i]] for i in places] for column in (loaded.paths, loaded.images, loaded.truth)))


def painted(run: Any, loaded: Any) -> list[np.ndarray]:
    """The run's label rasters, in the order of the images."""
    import warnings

    import rasterio

    key = {Path(scene.source).stem: scene.key for scene in run.scenes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        found = []
        for stem in loaded.stems:
            with rasterio.open(run.label_path(key[stem])) as raster:
                found.append(raster.read(1))
    return found


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown, nano beside tree."""
    columns = ("box", "moved box", "centre", "oracle of three", "best overlap", "recall .5", "calibration", "off")
    lines = ["| set | prompts | backend | " + " | ".join(columns) + " |", "|---|--:|---|" + "--:|" * len(columns)]
    for name, backends in results.items():
        for backend, values in backends.items():
            cells = [f"{values[c]:.3f}" if c in values else "" for c in columns]
            lines.append(f"| {name} | {values['prompts']:.0f} | {backend} | " + " | ".join(cells) + " |")
    for name, goals in TARGETS.items():
        if name in results:
            wanted = [
                f"{key} >= {goal}"
                for key, goal in zip(("box", "moved box", "centre", "best overlap", "recall .5"), goals, strict=True)
                if goal
            ]
            lines.append(f"\nTargets for {name}: " + ", ".join(wanted) + ".")
    return "\n".join(lines)


def main() -> None:
    """Prove, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--json", type=Path, help="write all figures here, and the table beside it as .md")
    parser.add_argument("--weights", help="another network's file instead of the shipped one")
    parser.add_argument("--sets", nargs="*", default=[p.name for p in PROOFS], help="only these sets")
    parser.add_argument(
        "--limit",
        type=int,
        help="only the first so many images of each folder of the sets for evaluation only; labellings: so many of each set",
    )
    parser.add_argument("--backends", nargs="*", default=["nano", "tree"], help="only these")
    parser.add_argument("--labels", action="store_true", help="also whole labellings (long), with the shipped network")
    names = [s.name.split("/")[-1] for s in LABEL_SETS]
    parser.add_argument("--label-sets", nargs="*", default=names, help="labellings of only these sets")
    parser.add_argument("--label-ways", nargs="*", default=list(LABEL_WAYS), help="labellings only these ways")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of every labelling")
    parser.add_argument("--encoder", type=Path, help="ImageNet weights of MobileNetV2 (npz), to compare features with")
    options = parser.parse_args()
    nano = Nano(weights=options.weights)
    backends: dict[str, Any] = {name: {"nano": nano, "tree": TreeMasks()}[name] for name in options.backends}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for proof in PROOFS:
        if proof.name in options.sets and all((options.data / folder).is_dir() for folder in proof.folders):
            results[proof.name] = {name: prove(b, proof, options.data, options.limit) for name, b in backends.items()}
            print(table({proof.name: results[proof.name]}).splitlines()[2:], flush=True)
    quick = speed(nano) if "nano" in backends else {}
    ways = {way: LABEL_WAYS[way] for way in options.label_ways}
    if options.encoder is not None:
        ways["nano + ImageNet"] = ("nano", f"mobilenet_v2:{options.encoder}")
    labels = label_scores(options.data, options.label_sets, options.limit, ways, options.seeds) if options.labels else {}
    text = (
        table(results)
        + (f"\n\n{label_table(labels)}" if labels else "")
        + "".join(f"\n\n{name}: {value:.2f}" for name, value in quick.items())
    )
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"masks": results, "speed": quick, "labels": labels}, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
