"""Does a judge know good labels from bad ones? Labels of other origin, on real pictures, half of them to fit on and half to test.

Two kinds of labels are judged on every set: those of a random forest on pixels that has not seen the picture ("forest"), and true
labels made worse in a way drawn for each picture ("coarse": as they are, dilated, eroded, shifted, few vertices, boxes, missing,
extra). Neither comes with probabilities: signals are of image, shape and pixels. Labels of `annotate` are judged in proof_annotate.

    python benchmarks/proof_quality.py --data DATA --json proof/quality.json --pictures proof/quality
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from terralabel.core.quality import Signals
from terralabel.evaluate.calibration import quality_report, reliability_picture, risk_coverage_picture
from terralabel.labels.quality.gate import Gate, gate_for_promise
from terralabel.labels.quality.judge import fit_judge
from terralabel.labels.quality.pixels import Pixels
from terralabel.recipes.foreign_labels import LabelReading, adopt
from terralabel.recipes.quality.measuring import measure, truth_of
from terralabel.recipes.quality.settings import QualitySettings
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Silent
from terralabel.testing.coarse import KINDS, coarse

#: Set -> (folder, values from which a grey mask is class 1; None: class ids, 0 is no label).
SETS = {
    "sar-oil": ("sar-oil", 128),
    "roads-epfl": ("roads-epfl", 128),
    "oam-buildings": ("oam-buildings", 1),
    "penang": ("multiclass/penang", None),
}
SIDE = 192
PROMISE = 0.7


def pictures(data: Path, name: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(stem, image (H, W, 3), truth (H, W) class ids) of a set, at most 192 pixels a side."""
    folder, level = SETS[name]
    found = []
    for path in sorted((data / folder / "images").iterdir()):
        mask = next((data / folder / "masks").glob(f"{path.stem}.*"))
        image, truth = cv2.imread(str(path)), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        truth = truth[..., 0] if truth.ndim == 3 else truth
        truth = (truth >= level).astype(np.uint8) if level else np.where(truth == 0, 255, truth).astype(np.uint8)
        if max(image.shape) > SIDE:
            image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            truth = cv2.resize(truth, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
        found.append((path.stem, image[..., ::-1].copy(), truth))
    return found


def of_forest(items: list[tuple[str, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Labels by a forest on pixels, each by one that learned from the truth of other pictures."""
    ids = tuple(sorted({int(i) for _, _, truth in items for i in np.unique(truth)} - {255}))
    forest = Pixels(ids, seed=7)
    for stem, image, truth in items:
        forest.add(stem, image, truth, truth != 255)
    labels = []
    for stem, image, _ in items:
        maps = forest.maps(stem, image)
        assert maps is not None
        smooth = np.stack([cv2.GaussianBlur(one, (0, 0), 2.0) for one in maps])
        labels.append(np.array(ids, np.uint8)[smooth.argmax(axis=0)])
    return labels


def of_coarse(items: list[tuple[str, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """The truth, made worse by a kind drawn for each picture, one in eight as it is."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, len(KINDS) + 1, len(items)).tolist()
    labels = []
    for seed, (kind, (_, _, truth)) in enumerate(zip(kinds, items, strict=True)):
        labels.append(truth if kind == len(KINDS) else coarse(truth, KINDS[kind], seed=seed))
    return labels


def measured(items: list[tuple[str, np.ndarray, np.ndarray]], labels: list[np.ndarray], units: str) -> tuple[Signals, Any, Any]:
    """(signals, true IoU, picture of each unit) of labels written to disk and read as anybody's."""
    with tempfile.TemporaryDirectory(prefix="terralabel-proof-") as scratch:
        place = Path(scratch)
        for name in ("images", "labels", "truth"):
            (place / name).mkdir()
        for (stem, image, truth), label in zip(items, labels, strict=True):
            cv2.imwrite(str(place / "images" / f"{stem}.png"), image[..., ::-1])
            cv2.imwrite(str(place / "labels" / f"{stem}.png"), label)
            cv2.imwrite(str(place / "truth" / f"{stem}.png"), truth)
        binary = {int(i) for label in labels for i in np.unique(label)} <= {0, 1}
        settings = QualitySettings(units=units, background=0 if binary else None)
        folder = RunFolder(place / "run")
        run = adopt(
            place / "labels", place / "images", folder, LabelReading(), background=settings.background, progress=Silent()
        )
        found = measure(run, settings, Silent(), truth_of(run, place / "truth", LabelReading()))
    return found.signals, found.true, np.array(found.scene)


def tested(signals: Signals, true: np.ndarray, groups: np.ndarray, seeds: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """One row a seed: fitted on half of the pictures, tested on the rest; and the pairs of all seeds, for the pictures."""
    rows, pairs = [], []
    names = np.unique(groups)
    for seed in range(seeds):
        chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
        mine = np.isin(groups, chosen)
        judge = fit_judge(signals.take(mine), true[mine], groups[mine], seed=seed)
        predicted = judge.predict(signals.take(~mine))
        gate = Gate(0.7, 0.5)
        report = quality_report(predicted, true[~mine], gate.decide(predicted))
        scores, held, pictures = judge.held_out()
        promised = gate_for_promise(scores, held, f"mean IoU >= {PROMISE}", pictures=pictures) if judge.fitted else None
        passed = np.zeros(len(predicted), bool) if promised is None else np.array(promised.decide(predicted)) == "accept"
        kept = true[~mine][passed & np.isfinite(true[~mine])]
        promise = {"promise_accepted": float(passed.mean()), "promise_mean": float(kept.mean()) if len(kept) else None}
        rows.append({"seed": seed, "form": judge.models[0].form, "fitted": int(mine.sum()), **report.as_dict(), **promise})
        pairs.append(np.stack([predicted, true[~mine]], axis=1))
    return rows, np.concatenate(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--kinds", nargs="*", default=["forest", "coarse"], choices=["forest", "coarse"])
    parser.add_argument("--units", default="class", choices=["class", "object"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    out: dict[str, Any] = {}
    shown = ("spearman", "auc", "ece", "mae", "kept", "reviewed", "rejected", "coverage", "promise_accepted", "promise_mean")
    print(f"{'set':<14} {'labels':<7} {'n':>4}" + "".join(f"{name[:9]:>10}" for name in shown))
    for name in given.sets:
        items = pictures(given.data, name)
        for kind in given.kinds:
            began = time.process_time()
            labels = of_forest(items) if kind == "forest" else of_coarse(items)
            signals, true, groups = measured(items, labels, given.units)
            rows, pairs = tested(signals, true, groups, given.seeds)
            out[f"{name} {kind}"] = {"rows": rows, "labels": len(signals), "cpu_seconds": time.process_time() - began}
            means = [[row[key] for row in rows if row[key] is not None] for key in shown]
            cells = "".join(f"{np.mean(values):>10.3f}" if values else f"{'-':>10}" for values in means)
            print(f"{name:<14} {kind:<7} {len(signals):>4}{cells}", flush=True)
            if given.json:
                given.json.parent.mkdir(parents=True, exist_ok=True)
                given.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
            if given.pictures:
                known = pairs[np.isfinite(pairs).all(axis=1)]
                given.pictures.mkdir(parents=True, exist_ok=True)
                reliability_picture(
                    given.pictures / f"{name}_{kind}_reliability.png", known[:, 0], known[:, 1], f"{name}, {kind}"
                )
                risk_coverage_picture(
                    given.pictures / f"{name}_{kind}_coverage.png", known[:, 0], known[:, 1], f"{name}, {kind}"
                )


if __name__ == "__main__":
    main()
