"""How good are labels made without labels? mIoU on real sets, beside k-means on pixels and on superpixels.

    python benchmarks/proof_label.py --data DIR [--json FILE] [--pictures DIR] [--sets NAME ...] [--seeds N]

Ours is what `terralabel.label` writes with its defaults: the rasters of the run are read back and compared. Each method is
run over all images of a set together, with 16 clusters that take the class they share most pixels with ("majority"), and
with as many clusters as classes, matched one to one ("hungarian"). Every pixel with a true class counts; one without a
label is wrong. All methods see the same pixels: those of the run's radiometry.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rasterio

import terralabel as tl
from baselines import BASELINES
from terralabel.core.grid import Window
from terralabel.evaluate.confusion import Confusion
from terralabel.evaluate.report import LabelReport, report_of
from terralabel.imagery.radiometry import fit_radiometry

MODES = ("majority", "hungarian")
METHODS = (*BASELINES, "terralabel")
CLUSTERS = 16
UNKNOWN = 255


@dataclass(frozen=True)
class DataSet:
    """A set of images and their truth. `classes` turns a stored mask into class ids; those in `ignore` do not count."""

    name: str
    sensor: str = "optical"
    classes: Callable[[np.ndarray], np.ndarray] = lambda mask: mask
    ignore: tuple[int, ...] = (0,)
    pairs: tuple[tuple[str, str], ...] = ()

    def files(self, data: Path) -> list[tuple[Path, Path]]:
        """(image, mask) paths in the order of names."""
        if self.pairs:
            return [(data / self.name / image, data / self.name / mask) for image, mask in self.pairs]
        images = sorted((data / self.name / "images").iterdir())
        return [(image, data / self.name / "masks" / f"{image.stem}.png") for image in images]


def instances(mask: np.ndarray) -> np.ndarray:
    """1 where any instance is, 0 elsewhere: both are classes."""
    return (mask > 0).astype(np.uint8)


def bright(mask: np.ndarray) -> np.ndarray:
    """1 where a grey mask is at least half white."""
    return (mask >= 128).astype(np.uint8)


SETS = (
    DataSet("multiclass/penang"),
    DataSet("multiclass/dronedeploy"),
    DataSet("multiclass/forest"),
    DataSet("multiclass/loveda"),
    DataSet("multiclass/potsdam"),
    DataSet("roads-epfl", classes=bright, ignore=()),
    DataSet("oam-buildings", classes=instances, ignore=()),
    DataSet("sar-oil", "sar", bright, ()),
    DataSet("sar-water", "sar"),
    DataSet("lakes"),
    DataSet("geo-io/torchsat", pairs=(("tiff_3channel_uint8.tif", "mask_tiff_3channel_uint8.png"),)),
)


@dataclass(frozen=True)
class Loaded:
    """A set in memory: its image paths, (H, W, C) uint8 images and (H, W) true class ids."""

    paths: list[Path]
    images: list[np.ndarray]
    truth: list[np.ndarray]

    @property
    def stems(self) -> list[str]:
        """Names of the images, unique in the set."""
        return [path.stem for path in self.paths]


def load(data_set: DataSet, data: Path) -> Loaded:
    """Read a set through the run's own radiometry."""
    files = data_set.files(data)
    radiometry = fit_radiometry([image for image, _ in files], sensor=data_set.sensor).radiometry
    images, truth = [], []
    for image, mask in files:
        with radiometry.open(image) as raster:
            images.append(radiometry.apply(*raster.read(Window(0, 0, raster.width, raster.height))))
        stored = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        truth.append(data_set.classes(stored if stored.ndim == 2 else stored[..., 0]))
    return Loaded([image for image, _ in files], images, truth)


def our_labels(loaded: Loaded, data_set: DataSet, clusters: int, seed: int, out: Path, workers: int) -> list[np.ndarray]:
    """What the public recipe writes, read back from the run's rasters; masks and features are reused from run to run."""
    run = tl.label(
        loaded.paths, out, clusters=str(clusters), seed=seed, sensor=data_set.sensor, workers=workers, overwrite=True
    )
    if run.failures:
        raise RuntimeError(f"{data_set.name}: {run.failures[0]}")
    key = {Path(scene.source).stem: scene.key for scene in run.scenes}
    labels = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for stem in loaded.stems:
            with rasterio.open(run.label_path(key[stem])) as raster:
                labels.append(raster.read(1))
    return labels


def score(labels: Sequence[np.ndarray], loaded: Loaded, data_set: DataSet, mode: str) -> LabelReport:
    """All measures of one labelling of the set."""
    confusion = Confusion((*data_set.ignore, UNKNOWN))
    for found, true in zip(labels, loaded.truth, strict=True):
        confusion.add(found.astype(np.int64), true.astype(np.int64))
    return report_of(confusion.contingency(), mode)


def prove(data_set: DataSet, data: Path, seeds: int, pictures: Path | None, workers: int = -1) -> dict:
    """Mean and spread of mIoU of each method and mode, and the IoU of each class."""
    loaded = load(data_set, data)
    present = np.unique(np.concatenate([np.unique(t) for t in loaded.truth]))
    classes = [int(c) for c in present if c not in (*data_set.ignore, UNKNOWN)]
    result: dict = {"set": data_set.name, "images": len(loaded.paths), "classes": classes}
    shown: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        labellers = {name: prepare(loaded.images) for name, prepare in BASELINES.items()}
        run = Path(folder) / "run"
        labellers["terralabel"] = lambda clusters, seed: our_labels(loaded, data_set, clusters, seed, run, workers)
        for mode, clusters in zip(MODES, (CLUSTERS, len(classes)), strict=True):
            for method, labeller in labellers.items():
                reports = []
                for seed in range(seeds):
                    labels = labeller(clusters, seed)
                    reports.append(score(labels, loaded, data_set, mode))
                    if seed == 0 and mode == "majority":
                        shown[method] = as_classes(labels, reports[0])
                result[f"{method} {mode}"] = summary(reports, classes)
    for mode in MODES:
        better = max(BASELINES, key=lambda name: result[f"{name} {mode}"]["miou"])
        result[f"gain {mode}"] = round(result[f"terralabel {mode}"]["miou"] - result[f"{better} {mode}"]["miou"], 4)
        if pictures is not None and mode == "majority":
            draw(data_set, loaded, shown["terralabel"], shown[better], pictures)
    return result


def summary(reports: Sequence[LabelReport], classes: Sequence[int]) -> dict:
    """Mean and spread over the seeds."""
    miou, iou = [report.miou for report in reports], np.mean([report.iou for report in reports], axis=0)
    return {
        "miou": round(float(np.mean(miou)), 4),
        "spread": round(float(np.std(miou)), 4),
        "iou": {str(c): round(float(v), 3) for c, v in zip(classes, iou, strict=True)},
    }


def as_classes(labels: Sequence[np.ndarray], report: LabelReport) -> list[np.ndarray]:
    """Cluster ids as the classes they stand for; 255 where they stand for none."""
    table = np.full(65536, UNKNOWN, np.int64)
    for cluster, meaning in report.matching.items():
        table[cluster] = UNKNOWN if meaning is None else meaning
    return [table[found] for found in labels]


def draw(data_set: DataSet, loaded: Loaded, ours: list[np.ndarray], baseline: list[np.ndarray], out: Path) -> None:
    """One picture of a set: three of its images, each beside its truth, our labels and the better baseline's."""
    palette = np.zeros((256, 3), np.uint8)
    palette[:10] = [
        (90, 90, 90), (227, 119, 30), (214, 39, 40), (44, 160, 44), (31, 119, 180),
        (240, 220, 90), (148, 103, 189), (150, 220, 120), (140, 86, 75), (23, 190, 207),
    ]  # fmt: skip
    rows = []
    for index in np.unique(np.linspace(0, len(loaded.images) - 1, min(3, len(loaded.images))).astype(int)):
        image = loaded.images[index]
        truth = np.where(np.isin(loaded.truth[index], data_set.ignore), UNKNOWN, loaded.truth[index])
        cells = [image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)]
        cells += [palette[np.minimum(labels, UNKNOWN)] for labels in (truth, ours[index], baseline[index])]
        rows.append(np.hstack([cv2.resize(cell, (384, 384), interpolation=cv2.INTER_NEAREST) for cell in cells]))
    out.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out / f"{data_set.name.replace('/', '-')}.png"), np.vstack(rows)[..., ::-1])


def table(results: Sequence[dict]) -> str:
    """Markdown: one row a set, mean mIoU +- spread over the seeds, and the gain over the better baseline in points."""
    lines = ["| set | mode | " + " | ".join(METHODS) + " | gain |", "|---|---|" + "--:|" * (len(METHODS) + 1)]
    for mode in MODES:
        for result in results:
            cells = [f"{result[f'{m} {mode}']['miou']:.3f} ± {result[f'{m} {mode}']['spread']:.3f}" for m in METHODS]
            lines.append(f"| {result['set']} | {mode} | {' | '.join(cells)} | {100 * result[f'gain {mode}']:+.1f} |")
        gains = [100 * result[f"gain {mode}"] for result in results]
        lines.append(f"| **mean** | {mode} |" + " |" * len(METHODS) + f" **{np.mean(gains):+.1f}** (least {min(gains):+.1f}) |")
    return "\n".join(lines)


def main() -> None:
    """Prove, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--json", type=Path, help="write all figures here, and the table beside it as .md")
    parser.add_argument("--pictures", type=Path, help="write one picture a set into this folder")
    parser.add_argument("--sets", nargs="*", default=[s.name for s in SETS], help="only these sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=-1, help="of terralabel.label; 0: none")
    arguments = parser.parse_args()
    results = []
    for data_set in SETS:
        if data_set.name not in arguments.sets:
            continue
        began = time.perf_counter()
        results.append(prove(data_set, arguments.data, arguments.seeds, arguments.pictures, arguments.workers))
        gains = ", ".join(f"{mode} {100 * results[-1][f'gain {mode}']:+.1f}" for mode in MODES)
        print(f"{data_set.name}: {gains} ({time.perf_counter() - began:.0f} s)", flush=True)
    print(table(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
        arguments.json.with_suffix(".md").write_text(table(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
