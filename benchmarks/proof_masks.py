"""How good are the masks of `tree`? Automatic masks and prompts against true instances, with baselines in the same run.

    python benchmarks/proof_masks.py --data DIR [--json FILE] [--pictures DIR]

Automatic masks: the best-ranked 300 per 65,536 pixels; beside them the cuts of Felzenszwalb's method at four scales, all of them.
Prompts: the true box and the centre of the true box; beside them the filled box and OpenCV's grabCut from the box.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.evaluate.instances import instance_masks, score_instances
from terralabel.masks.tree import TreeMasks

SETS = ("oam-buildings", "fields", "houses", "roofs")
#: Sets that go into the pictures, and the sensor of each.
SCENES = {
    "oam-buildings": "optical", "fields": "optical", "houses": "optical", "roofs": "optical", "roads-epfl": "optical",
    "lakes": "optical", "landslide": "optical", "multiclass/penang": "optical", "multiclass/dronedeploy": "optical",
    "multiclass/forest": "optical", "multiclass/loveda": "optical", "multiclass/potsdam": "optical", "coarse-s2": "optical",
    "boxes-aerial": "optical", "sar-oil": "sar", "sar-water": "sar", "sar-aquaculture": "sar",
}  # fmt: skip
SMALLEST = 64
BUDGET = 300


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, or (H, W) for one band; 16-bit amplitudes are stretched between their 1st and 99th percentile in dB."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8:
        level = 20 * np.log10(np.maximum(image.astype(np.float32), 1))
        low, high = np.percentile(level, (1, 99))
        return np.clip((level - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return image if image.ndim == 2 else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)


def labelled(folder: Path, limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(image, instances) of a set, in the order of names."""
    for path in sorted((folder / "images").iterdir())[:limit]:
        mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        yield read_image(path), mask.astype(np.int32)


def felzenszwalb(image: np.ndarray) -> Masks:
    """All segments of Felzenszwalb's method at four scales."""
    from skimage.segmentation import felzenszwalb as cut

    arrays = []
    for scale in (50, 100, 200, 400):
        arrays += list(instance_masks(cut(image, scale=scale, sigma=0.8, min_size=SMALLEST) + 1))
    return Masks.from_arrays(arrays, image.shape[:2])


def box_of(mask: np.ndarray) -> np.ndarray:
    """xyxy of a bool mask, past-the-last on the right and below."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)


def grabcut(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(H, W) bool: OpenCV's grabCut from a box, seeing half the box's size around it; the filled box where it keeps under a tenth."""
    left, top, right, bottom = box.astype(int)
    margin = max(16, (right - left) // 2, (bottom - top) // 2)
    x, y = max(left - margin, 0), max(top - margin, 0)
    crop = np.ascontiguousarray(image[y : bottom + margin, x : right + margin])
    label = np.zeros(crop.shape[:2], dtype=np.uint8)
    cv2.setRNGSeed(0)
    rectangle = (int(left - x), int(top - y), int(right - left), int(bottom - top))
    out, filled = np.zeros((2, *image.shape[:2]), dtype=bool)
    filled[top:bottom, left:right] = True
    try:
        cv2.grabCut(crop, label, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # the box is the whole crop: no background to learn from
        return filled
    out[y : y + crop.shape[0], x : x + crop.shape[1]] = (label == cv2.GC_FGD) | (label == cv2.GC_PR_FGD)
    return out if out.sum() >= filled.sum() / 10 else filled


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def automatic(folder: Path, limit: int | None, baseline: bool) -> dict[str, object]:
    """Scores of the automatic masks of a set."""
    backend = TreeMasks()
    capped, whole, flat, counts, flat_counts, seconds, pixels = [], [], [], [], [], 0.0, 0
    for image, truth in labelled(folder, limit):
        tile, target = Tile.from_array(image), instance_masks(truth, min_size=SMALLEST)
        start = time.perf_counter()
        masks = backend.generate(backend.encode(tile))
        seconds += time.perf_counter() - start
        pixels += truth.size
        budget = BUDGET * truth.size // 65536
        counts.append(len(masks) * 65536 / truth.size)
        whole.append((masks, target))
        capped.append((masks.select(np.argsort(-masks.predicted_iou, kind="stable")[:budget]), target))
        if baseline:
            cuts = felzenszwalb(image)
            flat.append((cuts, target))
            flat_counts.append(len(cuts) * 65536 / truth.size)
    result: dict[str, object] = {
        "tree": asdict(score_instances(capped)),
        "tree_uncapped": asdict(score_instances(whole)),
        "masks_per_65536_px": float(np.mean(counts)),
        "most_masks_per_65536_px": float(np.max(counts)),
        "megapixels_per_second": pixels / 1e6 / seconds,
    }
    if baseline:
        result |= {
            "felzenszwalb": asdict(score_instances(flat)),
            "felzenszwalb_masks_per_65536_px": float(np.mean(flat_counts)),
        }
    return result


def prompted(folder: Path, limit: int | None, baseline: bool) -> dict[str, float]:
    """Mean IoU of the answers to true boxes and true centres."""
    backend, results = TreeMasks(), {}
    seconds, prompts = 0.0, 0
    for image, truth in labelled(folder, limit):
        encoded = backend.encode(Tile.from_array(image))
        arrays = list(instance_masks(truth, min_size=SMALLEST))
        if not arrays:
            continue
        boxes = np.stack([box_of(mask) for mask in arrays])
        centres = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2], 1)[:, None].astype(np.float32)
        ones = np.ones((len(boxes), 1), dtype=np.int64)
        start = time.perf_counter()
        by_box = backend.predict(encoded, boxes=boxes, multimask=False).masks
        seconds, prompts = seconds + time.perf_counter() - start, prompts + len(boxes)
        by_point = backend.predict(encoded, points=centres, point_labels=ones, multimask=False).masks
        by_three = backend.predict(encoded, points=centres, point_labels=ones).masks
        for i, mask in enumerate(arrays):
            filled = np.zeros_like(mask)
            left, top, right, bottom = boxes[i].astype(int)
            filled[top:bottom, left:right] = True
            results.setdefault("filled_box", []).append(iou(filled, mask))
            results.setdefault("tree_box", []).append(iou(by_box.array(i), mask))
            results.setdefault("tree_box_promised", []).append(float(by_box.predicted_iou[i]))
            results.setdefault("tree_centre", []).append(iou(by_point.array(i), mask))
            results.setdefault("tree_centre_best_of_3", []).append(max(iou(by_three.array(3 * i + k), mask) for k in range(3)))
            if baseline:
                results.setdefault("grabcut", []).append(iou(grabcut(image, boxes[i]), mask))
    means = {name: float(np.mean(values)) for name, values in results.items()}
    return means | {"prompts": prompts, "milliseconds_per_box": 1e3 * seconds / max(prompts, 1)}


def paint_picture(image: np.ndarray, masks: Masks) -> np.ndarray:
    """The picture, and beside it the masks painted large to small, each in the mean colour of a scattered palette."""
    rgb = np.dstack([image] * 3) if image.ndim == 2 else image
    label = np.zeros(image.shape[:2], dtype=np.int64)
    for rank, i in enumerate(np.argsort(-masks.area, kind="stable")):
        x, y, w, h = masks.bbox[i]
        label[y : y + h, x : x + w][masks.crop(int(i))] = rank + 1
    palette = np.random.default_rng(0).integers(40, 255, (len(masks) + 1, 3), dtype=np.uint8)
    painted = cv2.addWeighted(rgb, 0.45, palette[label], 0.55, 0)
    outlined = rgb.copy()
    for i in np.argsort(-masks.predicted_iou, kind="stable")[: max(12, rgb.shape[0] * rgb.shape[1] // 6000)]:
        contours, _ = cv2.findContours(masks.array(int(i)).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, contours, -1, tuple(int(v) for v in palette[(i * 7 + 3) % len(palette)]), 1)
    return np.hstack([rgb, outlined, painted])


def write_pictures(data: Path, out: Path) -> None:
    """One JPEG per set: image, best-ranked masks outlined, all masks painted; under 250 kB each."""
    out.mkdir(parents=True, exist_ok=True)
    backend = TreeMasks()
    for name, sensor in SCENES.items():
        rows = []
        paths = sorted((data / name / "images").iterdir())
        for path in paths[:: max(1, len(paths) // 3)][:3]:
            image = read_image(path)[:640, :640]
            encoded = backend.encode(Tile.from_array(image, sensor=sensor))
            row = paint_picture(image, backend.generate(encoded))
            rows.append(cv2.resize(row, (960, 960 * row.shape[0] // row.shape[1]), interpolation=cv2.INTER_AREA))
        picture = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
        target = out / f"masks-{name.split('/')[-1]}.jpg"
        for quality in (85, 75, 60, 45, 30, 20):
            cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if target.stat().st_size < 250_000:
                break


def show(results: dict[str, dict]) -> None:
    """The figures as two tables."""
    print(
        f"\n{'automatic masks':<16}{'n':>6}{'overlap':>9}{'recall.5':>9}{'recall.75':>10}{'AP.5':>7}{'masks':>7}{'MP/s':>7}   (per 65,536 px)"
    )
    for name, result in results.items():
        auto = result["automatic"]
        for method in ("tree", "felzenszwalb"):
            if method not in auto:
                continue
            s = auto[method]
            masks = min(auto["masks_per_65536_px"], BUDGET) if method == "tree" else auto["felzenszwalb_masks_per_65536_px"]
            rate = f"{auto['megapixels_per_second']:7.2f}" if method == "tree" else ""
            print(
                f"{name if method == 'tree' else '  ' + method:<16}{s['instances']:>6}{s['best_overlap']:>9.3f}{s['recall'][0.5]:>9.3f}"
                f"{s['recall'][0.75]:>10.3f}{s['precision'][0.5]:>7.3f}{masks:>7.0f}{rate}"
            )
    columns = (
        "filled_box",
        "grabcut",
        "tree_box",
        "tree_box_promised",
        "tree_centre",
        "tree_centre_best_of_3",
        "milliseconds_per_box",
    )
    print(f"\n{'prompts, mIoU':<16}" + "".join(f"{c.replace('tree_', ''):>23}" for c in columns))
    for name, result in results.items():
        print(f"{name:<16}" + "".join(f"{result['prompts'].get(c, float('nan')):>23.3f}" for c in columns))


def main() -> None:
    """Run all sets that are there and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation data")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--pictures", type=Path, help="write one picture per set into this folder")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated folders of --data")
    parser.add_argument("--limit", type=int, help="only the first pictures of each set")
    parser.add_argument("--no-baselines", action="store_true", help="leave out Felzenszwalb and grabCut")
    options = parser.parse_args()
    results = {}
    for name in options.sets.split(","):
        folder = options.data / name
        if not folder.is_dir():
            print(f"{name}: not in {options.data}, left out")
            continue
        baseline = not options.no_baselines
        results[name] = {
            "automatic": automatic(folder, options.limit, baseline),
            "prompts": prompted(folder, options.limit, baseline),
        }
        print(f"{name} done", flush=True)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.pictures:
        write_pictures(options.data, options.pictures)


if __name__ == "__main__":
    main()
