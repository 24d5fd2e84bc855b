"""From 30 % of the labels to a network as good as from all of them? And do coarse labels get better, and is it known which are good?

    python benchmarks/proof_annotate.py --data DIR --out proof/annotate [--sets NAME ...] [--seeds N] [--encoder FILE]

Protocol, for each set and seed: a third of the images is tested on, the same for all seeds. Of the others 30 % are A, drawn by the seed,
and keep their labels; the rest is B, whose labels nobody sees. `annotate fit` learns from A, `annotate apply` labels B and judges its
labels, and B' is what it accepts. Then one network, with the same steps, crops and seed, learns from

    D0  all true labels            D1  B' alone: automatic labels only       D2  A alone
    D3  A and B'                   D4  B without the filter

and is measured on the test images, from one confusion matrix summed over all pixels. Beside it stand what else the same few labels can
be used for: a random forest on pixels, and a plain U-Net. The network that annotates and the one that learns from its labels are the
same, so that every difference is one of labels; B is labelled with mirror images, as `annotate apply` does by default, test images are
looked at once. (B's images, without their truth, are what a user has: they may be looked at.)

Enhancement: coarse versions of true labels (`terralabel.testing.coarse`) go through `enhance`; the IoU to the truth before and after.

Every cell is a small JSON file in `OUT/cells`, so that the proof goes on where it was stopped, a training inside a cell too. `OUT/annotate.md`
has the tables, `OUT/*.png` the charts, `OUT/labels-*.jpg` automatic labels beside the truth. Its parts: `proof_annotate_baselines.py`,
`proof_annotate_pictures.py`, `proof_annotate_tables.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import terralabel as tl
from proof_annotate_baselines import forest_labels, unet_labels
from proof_annotate_pictures import draw_labels
from proof_annotate_tables import Cell, write_results
from terralabel.core.classes import IGNORE
from terralabel.core.files import write_text
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.quality import EMPTY, Verdicts
from terralabel.errors import InputError
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.recipes.experiment.protocol import Annotation, Protocol, as_ids
from terralabel.testing.coarse import KINDS, coarse
from terralabel.train.annotation.settings import AnnotateSettings, ApplySettings, EnhanceSettings
from terralabel.train.pictures import held_out

#: Of the images that are learned from: those with labels.
SHARE = 0.3
#: What a network downstream learns from.
STARTS = ("D2", "D0", "D1", "D4", "D3")
#: Sets whose coarse versions are enhanced; of the second, tiles that `nano`, which draws objects anew, has never seen.
COARSE = ("roads-epfl", "oam-buildings")
#: What labels are made into before they are enhanced: "exact" ones must stay.
MADE = (*KINDS, "exact")


@dataclass(frozen=True)
class DataSet:
    """A set with images/ and masks/. `background` None: no class is one, and the target is the mean over all classes."""

    name: str
    folder: str
    ignore: tuple[int, ...] = ()
    threshold: int | None = None
    background: int | None = 0
    sensor: str = "optical"

    def labelled(self, data: Path, out: Path) -> LabelledSet:
        """Its images with their true labels as ids, in files of their own below `out`."""
        folder = (data / self.folder).absolute()
        how: dict[str, Any] = {"ignore": self.ignore, "threshold": self.threshold}
        found = open_labelled(folder / "images", labels=folder / "masks", format="folder", **how)
        return replace(as_ids(found, (out / "truth" / self.name).absolute()), name=self.name, sensor=self.sensor)


SETS = (
    DataSet("sar-oil", "sar-oil", threshold=128, sensor="sar"),
    DataSet("roads-epfl", "roads-epfl", threshold=128),
    DataSet("oam-buildings", "oam-buildings", threshold=1),
    DataSet("penang", "multiclass/penang", ignore=(0,), background=None),
)

#: Sets whose labels are coarse by nature.
SHOWN = (
    DataSet("area5", "oam-buildings-multi/area5", threshold=1),
    DataSet("coarse-s2", "coarse-s2", ignore=(0,), background=None),
)


@dataclass(frozen=True)
class Plan:
    """How every network is trained, how B is labelled and judged, and how networks look at test images, and `enhance` at its own."""

    fit: AnnotateSettings
    apply: ApplySettings
    tested: ApplySettings
    unet: str
    unet_steps: int
    coarse_images: int = 0


class Proof:
    """One set and seed: the protocol on two thirds of the images, and networks downstream that are tested on the last third."""

    def __init__(self, data_set: DataSet, seed: int, plan: Plan, data: Path, out: Path) -> None:
        self.data_set, self.seed, self.plan, self.out = data_set, seed, plan, out
        self.work = (out / "work" / f"{data_set.name}-{seed}").absolute()
        self.whole = data_set.labelled(data, out)
        order = np.random.default_rng(2024).permutation(len(self.whole)).tolist()
        third = len(order) // 3
        self.tested, learned = (
            self.whole.with_images(self.whole.images[i] for i in sorted(p)) for p in (order[:third], order[third:])
        )
        annotation = Annotation(SHARE, plan.fit, plan.apply)
        self.protocol = Protocol(learned, annotation, seed, self.work / "protocol", data_set.background)

    def measured(self, which: str) -> dict[str, Any]:
        """One network downstream on the test images."""
        try:
            labelled = self.protocol.learned_from(which)
        except InputError as error:
            return {"images": 0, "why": str(error), "measures": measures([], [], None)}
        model, run_folder = self.work / which, self.work / f"{which}-tested"
        tl.annotate_fit(labelled, model, replace(self.protocol.settings, folds=0))
        run = tl.annotate_apply(model, [item.image for item in self.tested.images], run_folder, self.plan.tested)
        key = {Path(scene.source): scene.key for scene in run.scenes}
        found = {"images": len(labelled), "measures": self.compared(lambda item: run.label_path(key[item.image]))}
        shutil.rmtree(model)
        shutil.rmtree(run_folder)
        return found

    def compared(self, path: Callable[[LabelledImage], Path]) -> dict[str, Any]:
        """Predictions of the test images against the truth."""
        pairs = [
            (read_label(self.whole, replace(item, label=path(item))), read_label(self.whole, item))
            for item in self.tested.images
        ]
        return measures(pairs, [entry.id for entry in self.whole.classes], self.data_set.background)

    def baseline(self, name: str) -> dict[str, Any]:
        """A random forest on pixels, or a plain U-Net, that learns from A."""
        folder, few = self.work / name, self.protocol.few
        if name == "forest":
            forest_labels(few, self.tested, folder, self.seed)
        else:
            s = self.plan.fit
            unet_labels(few, self.tested, folder, self.seed, self.plan.unet, self.plan.unet_steps, s.crop, s.batch_size)
        suffix = "png" if name == "forest" else "tif"
        found = self.compared(lambda item: folder / "labels" / f"{item.key}.{suffix}")
        shutil.rmtree(folder)
        return {"images": len(few), "measures": found}

    def judged(self) -> dict[str, Any]:
        """What the evaluator thought of every label of B and how good it was; and all labels of B, as they are."""
        run, verdicts = self.protocol.run, self.protocol.verdicts
        key = {Path(scene.source): scene.key for scene in run.scenes}
        truth = {key[item.image]: read_label(self.whole, item) for item in self.protocol.rest.images}
        label = {name: read_label(self.whole, LabelledImage(name, Path(), run.label_path(name))) for name in truth}
        units = [
            {
                "scene": verdicts.scene[k],
                "class": int(verdicts.units.class_id[k]),
                "quality": float(verdicts.quality[k]),
                "true": true_iou(verdicts, k, label, truth, self.data_set.background),
                "decision": verdicts.decision[k],
                "reasons": verdicts.reasons[k],
            }
            for k in range(len(verdicts))
        ]
        draw_labels(self.protocol, [unit["true"] for unit in units], self.out / f"labels-{self.data_set.name}-{self.seed}.jpg")
        pairs = [(label[name], truth[name]) for name in sorted(truth)]
        classes = [entry.id for entry in self.whole.classes]
        return {"images": len(label), "units": units, "measures": measures(pairs, classes, self.data_set.background)}


def true_iou(
    verdicts: Verdicts, k: int, label: dict[str, np.ndarray], truth: dict[str, np.ndarray], background: int | None
) -> float | None:
    """The IoU of a judged label with the truth; of an empty picture 1 where the truth is empty, else 0. None: no truth there."""
    at = Window(*verdicts.window[k].tolist()).slices()
    found, real = label[verdicts.scene[k]][at], truth[verdicts.scene[k]][at]
    known = real != IGNORE
    if not known.any():
        return None
    class_id = int(verdicts.units.class_id[k])
    if class_id == EMPTY:
        return float(not ((real != background) & known).any())
    either = ((found == class_id) | (real == class_id)) & known
    return float(((found == class_id) & (real == class_id)).sum() / max(int(either.sum()), 1))


def measures(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: Sequence[int], background: int | None) -> dict[str, Any]:
    """IoU, precision, recall and F1 by class, from one confusion matrix over all pixels that have a true class.

    `target`: the means of IoU over the classes but the background; `miou`: over all. Pixels without a prediction are wrong. Classes in
    neither truth nor prediction are left out of the means.
    """
    confusion = np.zeros((256, 256), dtype=np.int64)  # predicted, true
    for found, real in pairs:
        known = real != IGNORE
        confusion += np.bincount(found[known].astype(np.int64) * 256 + real[known], minlength=65536).reshape(256, 256)
    rows = {}
    for i in classes:
        right, predicted, true = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
        if predicted + true:
            precision, recall = right / max(predicted, 1), right / max(true, 1)
            rows[i] = {
                "iou": right / (predicted + true - right),
                "precision": precision,
                "recall": recall,
                "f1": 2 * right / (predicted + true),
            }
    objects = [row for i, row in rows.items() if i != background]
    out: dict[str, Any] = {name: _mean([row[name] for row in objects]) for name in ("precision", "recall", "f1")}
    out |= {"target": _mean([row["iou"] for row in objects]), "miou": _mean([row["iou"] for row in rows.values()])}
    return {**out, "classes": {str(i): row for i, row in rows.items()}}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def enhanced(data_set: DataSet, kind: str, seed: int, plan: Plan, data: Path, out: Path) -> dict[str, Any]:
    """Coarse labels of one kind made better: the IoU to the truth before and after, over all images."""
    whole = _looked_at(data_set.labelled(data, out), plan.coarse_images)
    work = out / "work" / f"enhance-{data_set.name}-{kind}-{seed}"
    truth = {item.key: read_label(whole, item) for item in whole.images}
    made = {
        key: label if kind == "exact" else coarse(label, kind, background=data_set.background or 0, seed=seed)
        for key, label in truth.items()
    }
    items = []
    for item in whole.images:
        path = work / "coarse" / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made[item.key]).save(path)
        items.append(replace(item, label=path))
    tl.enhance(whole.with_images(items), work / "run", enhancing(plan, seed, data_set))
    classes = [entry.id for entry in whole.classes]
    after = {i.key: read_label(whole, replace(i, label=work / "run" / "labels" / f"{i.key}.tif")) for i in whole.images}
    found = {
        name: measures([(labels[key], truth[key]) for key in sorted(truth)], classes, data_set.background)
        for name, labels in (("before", made), ("after", after))
    }
    shutil.rmtree(work)
    return found


def _looked_at(whole: LabelledSet, count: int) -> LabelledSet:
    """`count` images (0: all), spread evenly over every second one, or over those that `nano` has not seen."""
    items = (
        [i for i in whole.images if held_out(i.key)]
        if whole.name == COARSE[1]
        else list(whole.images[1::2] if count else whole.images)
    )
    chosen = np.linspace(0, len(items) - 1, min(count or len(items), len(items))).round().astype(int)
    return whole.with_images(items[i] for i in chosen.tolist())


def enhancing(plan: Plan, seed: int, data_set: DataSet) -> EnhanceSettings:
    """The settings of `enhance` that go with those of `annotate fit`."""
    same = {
        item.name: getattr(plan.fit, item.name) for item in fields(plan.fit) if item.name not in ("seed", "background", "folds")
    }
    background = -2 if data_set.background is None else data_set.background
    return EnhanceSettings(**same, seed=seed, background=background, tile_size=plan.tested.tile_size, flips=plan.tested.flips)


def show(data_set: DataSet, plan: Plan, data: Path, out: Path) -> None:
    """`OUT/enhanced/NAME`: pictures of naturally coarse labels before and after; there is no truth to measure them by."""
    target = out / "enhanced" / data_set.name
    if target.is_dir():
        return
    run = tl.enhance(data_set.labelled(data, out), out / "work" / f"enhanced-{data_set.name}", enhancing(plan, 0, data_set))
    pictures = sorted((run.path / "pictures").iterdir())
    target.mkdir(parents=True)
    for path in pictures:
        shutil.copy(path, target / path.name)
    shutil.copy(run.path / "changes.csv", target / "changes.csv")
    shutil.rmtree(run.path)
    print(f"{data_set.name}: {len(pictures)} pictures of before and after in {target}", flush=True)


# ------------------------------------------------------------------------------------------------------------------ all


def prove(sets: Sequence[DataSet], names: Sequence[str], data: Path, out: Path, seeds: int, plan: Plan) -> None:
    """Every cell that is not there yet, seed by seed; the tables and pictures after each.

    `names`: of "judge", "D0" .. "D4", "forest", "unet", and kinds of coarse labels.
    """
    for seed in range(seeds):
        for data_set in sets:
            proof: Proof | None = None
            for name in names:
                if name in MADE and data_set.name not in COARSE:
                    continue
                cell = Cell(data_set.name, name, seed)
                path = out / "cells" / f"{cell.name}.json"
                if path.exists():
                    continue
                proof = proof or Proof(data_set, seed, plan, data, out)
                began = time.process_time()
                found = _found(proof, name, data, out)
                found |= {"cell": asdict(cell), "cpu_seconds": round(time.process_time() - began), "plan": asdict(plan)}
                write_text(path, json.dumps(found, indent=1) + "\n")
                print(f"{cell.name}: {_headline(found)} ({found['cpu_seconds']} s of one core)", flush=True)
                write_results(out)


def _found(proof: Proof, name: str, data: Path, out: Path) -> dict[str, Any]:
    if name == "judge":
        return proof.judged()
    if name in STARTS:
        return proof.measured(name)
    if name in MADE:
        return enhanced(proof.data_set, name, proof.seed, proof.plan, data, out)
    return proof.baseline(name)


def _headline(found: dict[str, Any]) -> str:
    if "before" in found:
        return f"IoU {found['before']['target']:.3f} -> {found['after']['target']:.3f}"
    return f"target IoU {found['measures']['target']:.3f}, mIoU {found['measures']['miou']:.3f}, {found['images']} images"


def main() -> None:
    """Prove, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--out", type=Path, default=Path("proof/annotate"), help="folder of cells, tables and pictures")
    parser.add_argument("--sets", nargs="*", default=[s.name for s in SETS], help="only these sets")
    parser.add_argument("--cells", nargs="*", default=["judge", *STARTS, "forest", "unet", *MADE], help="only these cells")
    parser.add_argument("--only", choices=("enhance",), help="the coarse kinds alone")
    parser.add_argument("--coarse-images", type=int, default=0, help="of each set whose coarse versions are enhanced; 0: all")
    parser.add_argument("--show", nargs="*", default=[s.name for s in SHOWN], help="coarse sets to be shown before and after")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--trunk", default="mobilenet_v2", help="trunk of the network, as of annotate fit; nano knows oam-buildings"
    )
    parser.add_argument("--encoder", type=Path, help="weights of the trunk, where its name does not find them")
    parser.add_argument("--width", type=int, default=32, help="channels of the decoder")
    parser.add_argument("--steps", type=int, default=100, help="of every training")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--folds", type=int, default=2, help="of the annotator, for its judge, and of enhance")
    parser.add_argument(
        "--flips", action="store_true", help="mirror images for test images and enhance, too: four times the work"
    )
    parser.add_argument("--unet", default="smp:unet:mobilenet_v2")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    fit = AnnotateSettings(
        trunk=given.trunk, weights=str(given.encoder or "auto"), width=given.width, steps=given.steps, batch_size=given.batch_size,
        crop=given.crop, lr=given.lr, folds=given.folds, device=given.device, threads=1, save_every=1000, workers=0,
    )  # fmt: skip
    apply = ApplySettings(tile_size=256, review="20%", device=given.device, threads=1)
    plan = Plan(fit, apply, replace(apply, flips=given.flips), given.unet, given.steps)
    sets = [data_set for data_set in SETS if data_set.name in given.sets]
    prove(sets, MADE if given.only else given.cells, given.data, given.out, given.seeds, plan)
    for data_set in (data_set for data_set in SHOWN if data_set.name in given.show):
        show(data_set, plan, given.data, given.out)
    print(write_results(given.out))


if __name__ == "__main__":
    main()
