"""What the parts of `refer`'s second stage are worth, and whether relations pick the right things, on true instances.

    python benchmarks/proof_refer.py --data DIR [--json FILE] [--masks nano,tree] [--limit N] [--most N]

Masks: every true instance's box, and the box with each side moved by up to 10 or 20 % of its length, prompts a promptable: with the
box alone, with the foreground point, with the boundary redrawn, with both (the default of `refer`), and with both as the paper has
the point ("always"). mIoU is the mean IoU, oIoU the sum of intersections over the sum of unions.

Relations: expressions are made from the attributes of the true instances of an image by templates (largest, northernmost, nearest
to the largest, east of the largest, the two smallest...; they are templated, no person wrote them), their answers computed here
anew with numpy. `refer`'s grammar resolves them on the masks that the second stage gives; `right` is the share of expressions whose
set of things is exactly the true one, oIoU that of the masks they choose with the true masks.

Only what the networks' training never read of `oam-buildings` and `fields` is used. The cars of dronedeploy are one car; those of
`potsdam` stand beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from proof_masks import read_image
from proof_nano import Proof, components, corners
from terralabel import registry
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.evaluate.instances import instance_masks
from terralabel.export.polygons import trace
from terralabel.export.segments import run_segments
from terralabel.labels.phrases import parse
from terralabel.labels.relations import Ground, Things, resolve
from terralabel.masks.foreground import foreground_point
from terralabel.masks.referred import referred_masks
from terralabel.train.pictures import held_out

PROOFS = (
    Proof("buildings", ("oam-buildings",), True),
    Proof("fields", ("fields",), True),
    Proof("roofs", ("roofs",)),
    Proof("houses and trees", ("houses",)),
    Proof("cars", ("multiclass/dronedeploy",), smallest=100, instances=components(6)),
    Proof("more cars", ("multiclass/potsdam",), smallest=100, instances=components(5)),
)
BACKENDS = ("nano", "tree")
#: Name -> settings of `referred_masks`.
WAYS: dict[str, dict[str, Any]] = {
    "box": {"point": "off", "refine": False},
    "+ point": {"point": "missed", "refine": False},
    "+ refinement": {"point": "off", "refine": True},
    "both": {"point": "missed", "refine": True},
    "paper's point": {"point": "always", "refine": True},
}
MOVED = (0.0, 0.1, 0.2)


@dataclass
class Once:
    """A promptable whose map of one tile is made once."""

    backend: Any
    encoded: Any
    name: str = "once"
    version: str = "1"

    def encode(self, tile: Tile) -> Any:
        """The map that is there."""
        return self.encoded

    def predict(self, *given: Any, **more: Any) -> Any:
        """The backend's answer."""
        return self.backend.predict(*given, **more)


def tiles(proof: Proof, data: Path, limit: int | None, most: int) -> Iterator[tuple[Tile, Masks]]:
    """(tile, true instances), at most `limit` images of a set that have some, evenly spread, and `most` instances of each, too."""
    (folder,) = proof.folders
    found = []
    for path in sorted((data / folder / "images").iterdir()):
        if not proof.only_held_out or held_out(path.stem):
            mask = next((data / folder / "masks").glob(f"{path.stem}*.png"))
            truth = instance_masks(proof.instances(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)), min_size=proof.smallest)
            found += [(path, truth)] if len(truth) else []
    if limit and len(found) > limit:
        found = [found[i] for i in np.linspace(0, len(found) - 1, limit).astype(int)]
    for path, truth in found:
        some = np.linspace(0, len(truth) - 1, min(most, len(truth))).astype(int)
        yield Tile.from_array(read_image(path)), truth.select(some)


def overlap(masks: Masks, truth: Masks, k: int) -> tuple[int, int]:
    """(pixels in both, pixels in either) of the masks number `k`."""
    common = int((masks.crop(k) & rle.decode_box(truth.code(k), masks.bbox[k], truth.size)).sum())
    return common, int(masks.area[k] + truth.area[k]) - common


def things(masks: Masks) -> Things:
    """Masks of a picture as things, in its own pixels."""
    shapes = shapely.transform(trace(run_segments(masks.runs, masks.offsets, masks.size[0])), lambda xy: xy * [1.0, -1.0])
    return Things(shapes, shapes, masks.area.astype(float), masks.area, np.ones(len(masks)))


def expressions(truth: Masks) -> list[tuple[str, set[int]]]:
    """Templated expressions and the true instances they mean, from areas and centroids; ties are left out."""
    area = truth.area.astype(float)
    xy = np.stack(
        [truth.sums(np.dstack(np.mgrid[: truth.size[0], : truth.size[1]])[..., ::-1].astype(float))[:, k] for k in (0, 1)], 1
    )
    xy = xy / area[:, None] + 0.5
    found: list[tuple[str, set[int]]] = [("thing", set(range(len(truth))))]

    def add(text: str, value: np.ndarray, count: int = 1) -> None:
        """The `count` lowest values, where they are clearly lowest."""
        order = np.argsort(value, kind="stable")
        spread = max(float(np.ptp(value)), 1e-9)
        if len(order) > count and value[order[count]] - value[order[count - 1]] > 0.02 * spread:
            found.append((text, set(order[:count].tolist())))

    add("the largest thing", -area)
    add("the smallest thing", area)
    add("the two largest things", -area, 2)
    add("the three smallest things", area, 3)
    for word, value in (
        ("northernmost", xy[:, 1]),
        ("southernmost", -xy[:, 1]),
        ("westernmost", xy[:, 0]),
        ("rightmost", -xy[:, 0]),
    ):
        add(f"the {word} thing", value)
    for word, keep in (
        ("the upper left", (xy[:, 0] < truth.size[1] / 2) & (xy[:, 1] < truth.size[0] / 2)),
        ("the south", xy[:, 1] > truth.size[0] / 2),
    ):
        found.append((f"things in {word}", set(np.flatnonzero(keep).tolist())))
        add(f"the largest thing in {word}", np.where(keep, -area, 0.0)) if keep.any() else None
    return found


def prove(backend: Any, proof: Proof, data: Path, limit: int | None, most: int) -> dict[str, Any]:
    """All figures of one promptable on one set."""
    overlaps: dict[tuple[float, str], list[tuple[int, int]]] = {}
    hits: dict[float, list[bool]] = {moved: [] for moved in MOVED}
    right: dict[float, list[bool]] = {moved: [] for moved in MOVED}
    meant: dict[float, list[tuple[int, int]]] = {moved: [] for moved in MOVED}
    seconds = {"point": 0.0, "ways": 0.0}
    for number, (tile, truth) in enumerate(tiles(proof, data, limit, most)):
        once, boxes, arrays = Once(backend, backend.encode(tile)), corners(truth), list(truth)
        size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        asked = expressions(truth)
        for moved in MOVED:
            given = (boxes + np.random.default_rng(number).uniform(-moved, moved, boxes.shape) * size).astype(np.float32)
            for way, settings in WAYS.items():
                masks = referred_masks(once, tile, given, **settings).masks
                overlaps.setdefault((moved, way), []).extend(overlap(masks, truth, k) for k in range(len(truth)))
                if way == "both":
                    judge(masks, arrays, asked, right[moved], meant[moved])
            began = time.process_time()
            for box, array in zip(given, arrays, strict=True):
                x, y = foreground_point(tile.rgb("three bands"), box)[0]
                hits[moved].append(
                    bool(array[min(max(int(y), 0), array.shape[0] - 1), min(max(int(x), 0), array.shape[1] - 1)])
                )
            seconds["point"] += time.process_time() - began
    rows = {
        f"{moved:g}": {way: {"mIoU": mean_iou(overlaps[moved, way]), "oIoU": overall(overlaps[moved, way])} for way in WAYS}
        | {
            "point hits": float(np.mean(hits[moved])),
            "right": float(np.mean(right[moved])),
            "meant oIoU": overall(meant[moved]),
        }
        for moved in MOVED
    }
    count = len(hits[0.0])
    return {
        "instances": count,
        "expressions": len(right[0.0]),
        "ms a point": 1e3 * seconds["point"] / (3 * count),
        "moved": rows,
    }


def judge(
    masks: Masks, arrays: list[np.ndarray], asked: list[tuple[str, set[int]]], right: list[bool], meant: list[tuple[int, int]]
) -> None:
    """Resolve every expression on the masks found, and compare what it picks with the truth."""
    height, width = masks.size
    ground = Ground(width, height, np.array([[0, 0], [width, 0], [width, -height], [0, -height]], float), "px")
    found = dict.fromkeys(("thing", "things"), things(masks))
    drawn = list(masks)
    for text, true in asked:
        which = set(resolve(parse(text), found, ground).which.tolist())
        right.append(which == true)
        chosen, wanted = (np.any([source[k] for k in picked], axis=0) if picked else np.zeros(masks.size, bool)
                          for source, picked in ((drawn, which), (arrays, true)))  # fmt: skip
        meant.append((int((chosen & wanted).sum()), int((chosen | wanted).sum())))


def mean_iou(pairs: list[tuple[int, int]]) -> float:
    """Mean of intersection over union; 0 where there is no union."""
    return float(np.mean([common / either if either else 0.0 for common, either in pairs]))


def overall(pairs: list[tuple[int, int]]) -> float:
    """Sum of intersections over sum of unions."""
    return sum(common for common, _ in pairs) / max(sum(either for _, either in pairs), 1)


def show(results: dict[str, dict[str, Any]]) -> None:
    """The figures as tables."""
    for backend, sets in results.items():
        print(
            f"\n{backend}: mIoU / oIoU" + "".join(f"{way:>16}" for way in WAYS) + f"{'point hits':>12}{'right':>8}{'oIoU':>7}"
        )
        for name, result in sets.items():
            for moved, row in result["moved"].items():
                cells = "".join(f"{100 * row[way]['mIoU']:>9.1f} /{100 * row[way]['oIoU']:>5.1f}" for way in WAYS)
                label = f"{name} ({result['instances']}) {moved}"
                print(f"{label:<28}{cells}{row['point hits']:>12.3f}{row['right']:>8.3f}{100 * row['meant oIoU']:>7.1f}")
        several = [r for r in sets.values() if r["instances"] > 1]  # one car is no set
        means = {
            way: np.mean([[row[way][k] for k in ("mIoU", "oIoU")] for r in several for row in r["moved"].values()], axis=0)
            for way in WAYS
        }
        print(f"{'mean':<28}" + "".join(f"{100 * means[way][0]:>9.1f} /{100 * means[way][1]:>5.1f}" for way in WAYS))


def main() -> None:
    """Run all sets that are there and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation data")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--masks", default=",".join(BACKENDS), help="comma-separated: nano, tree, nano:FILE, a SAM")
    parser.add_argument("--sets", default=",".join(p.name for p in PROOFS), help="comma-separated names of sets")
    parser.add_argument("--limit", type=int, help="at most so many images of a set, evenly spread")
    parser.add_argument("--most", type=int, default=40, help="at most so many instances of an image")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    results: dict[str, dict[str, Any]] = {}
    for backend in options.masks.split(","):
        results[backend] = {}
        for proof in PROOFS:
            if proof.name in options.sets.split(",") and (options.data / proof.folders[0]).is_dir():
                results[backend][proof.name] = prove(
                    registry.create("masks", backend), proof, options.data, options.limit, options.most
                )
                print(f"{backend} on {proof.name}: done", flush=True)
                if options.json:
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
