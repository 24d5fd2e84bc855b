"""Does pre-training on labels that nobody drew help, when only few are drawn? mIoU against the same network from scratch.

    python benchmarks/proof_pretrain.py --data DIR --out proof/pretrain [--sets NAME ...] [--masks tree nano] [--seeds N]

For each set: `terralabel.label` makes pseudo-labels of all its images, without any truth; `terralabel.pretrain` trains on them;
`terralabel.finetune` trains on the true labels of 1, 3 and 10 images, once from the pre-trained network (`--load overall`) and
once from scratch, with the same steps, crops and seed; `terralabel.predict` labels the test images, a third of the set that is
never fine-tuned on, and `terralabel.evaluate_segmentation` measures them. The images of 1, 3 and 10 are nested and are the
same for all. `--longer` adds a third start: from scratch with as many steps as both trainings have together, all of them on the few drawn
labels, which tells a gain by labels from one by steps. (The test images are in the set that is pre-trained on, without their truth: that is what a user has.)

Every cell (set, start, images, seed) is a small JSON file in `OUT/cells`, so that the proof goes on where it was stopped, and a
training inside a cell does, too. `OUT/pretrain.md` has the table, `OUT/pretrain.png` the curves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

import terralabel as tl
from terralabel.core.classes import IGNORE
from terralabel.core.files import write_text
from terralabel.core.labelled import LabelledSet
from terralabel.evaluate.curves import Chart, Line, draw_charts
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.recipes.training import train

#: The start of a network that was not pre-trained.
SCRATCH = "scratch"
#: The same with as many steps as pre-training and fine-tuning have together, all of them on the few drawn labels.
LONGER = "scratch, all steps"
#: Images that a network is fine-tuned on.
COUNTS = (1, 3, 10)
#: Clusters of the pseudo-labels.
CLUSTERS = 16


@dataclass(frozen=True)
class DataSet:
    """A set with images/ and masks/: `ignore` are true ids that do not count, `threshold` makes grey masks 0 and 1."""

    name: str
    folder: str
    ignore: tuple[int, ...] = ()
    threshold: int | None = None

    def labelled(self, data: Path) -> LabelledSet:
        """Its images with their true labels."""
        return open_labelled((data / self.folder).absolute(), format="folder", ignore=self.ignore, threshold=self.threshold)


SETS = (
    DataSet("roads-epfl", "roads-epfl", threshold=128),
    DataSet("oam-buildings", "oam-buildings", threshold=1),
    DataSet("penang", "multiclass/penang", ignore=(0,)),
    DataSet("forest", "multiclass/forest", ignore=(0,)),
)


@dataclass(frozen=True)
class Plan:
    """How every network is trained: the same for all starts."""

    network: str
    pretrain_steps: int
    steps: int
    settings: dict[str, object]


@dataclass(frozen=True)
class Cell:
    """One network: where it started, how many images it was fine-tuned on, the seed."""

    data_set: str
    start: str
    images: int
    seed: int

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.data_set}-{self.start.replace(', ', '-').replace(' ', '-')}-{self.images}-{self.seed}"

    @property
    def pretrained(self) -> bool:
        """Whether it began with weights of a training on pseudo-labels."""
        return self.start not in (SCRATCH, LONGER)


def split(labelled: LabelledSet) -> tuple[list[str], list[str]]:
    """(keys to draw from, keys to test on): a third is tested on, the same for every seed."""
    order = np.random.default_rng(2024).permutation(len(labelled.images))
    keys = [labelled.images[i].key for i in order]
    tested = len(keys) // 3
    return sorted(keys[tested:]), sorted(keys[:tested])


def drawn(labelled: LabelledSet, pool: Sequence[str], count: int, seed: int) -> LabelledSet:
    """`count` images of the pool: the first of one order by seed, which begins with an image of two classes or more."""
    order = [pool[i] for i in np.random.default_rng([seed, 7]).permutation(len(pool))]
    by_key = {item.key: item for item in labelled.images}
    mixed = [key for key in order if len(set(np.unique(read_label(labelled, by_key[key]))) - {IGNORE}) > 1]
    first = mixed[0] if mixed else order[0]
    chosen = [first, *(key for key in order if key != first)][:count]
    return labelled.with_images(by_key[key] for key in sorted(chosen))


def pseudo_labels(data_set: DataSet, labelled: LabelledSet, masks: str, out: Path) -> tl.Run:
    """The run over all images; resumed, or read where it is finished."""
    images = [item.image for item in labelled.images]
    return tl.label(images, out / "runs" / f"{data_set.name}-{masks}", masks=masks, clusters=str(CLUSTERS), workers=0)


def pretrained(data_set: DataSet, run: tl.Run, masks: str, seed: int, plan: Plan, out: Path) -> Path:
    """The folder of a network that was trained on a run's labels."""
    folder = out / "trainings" / f"{data_set.name}-{masks}-{seed}"
    tl.pretrain(run.path, folder, network=plan.network, steps=plan.pretrain_steps, seed=seed, **plan.settings)
    return folder


def measure(
    data_set: DataSet, cell: Cell, labelled: LabelledSet, start: Path | None, plan: Plan, data: Path, out: Path
) -> dict:
    """Fine-tune, predict the test images, compare."""
    pool, tested = split(labelled)
    few = drawn(labelled, pool, cell.images, cell.seed)
    work = out / "work" / cell.name
    radiometry = None if start is not None else _radiometry(labelled)
    if cell.start == LONGER:
        plan = replace(plan, steps=plan.pretrain_steps + plan.steps)
    tuned = _finetuned(few, work / "tuned", start, radiometry, plan, cell.seed)
    images = [item.image for item in labelled.images if item.key in set(tested)]
    tl.predict(tuned, images, work / "predicted", tile_size=256, device=str(plan.settings["device"]), threads=1)
    report = tl.evaluate_segmentation(
        work / "predicted", data / data_set.folder / "masks", ignore=(*data_set.ignore, IGNORE), threshold=data_set.threshold
    )
    shutil.rmtree(work)
    return {
        "miou": report.miou,
        "iou": dict(zip(map(str, report.ids), report.iou, strict=True)),
        "convention": report.convention,
        "tuned_on": [item.key for item in few.images],
        "tested_on": len(images),
    }


def _radiometry(labelled: LabelledSet) -> Radiometry:
    """That of all images, as the run's: a network from scratch sees the same numbers as a pre-trained one."""
    return fit_radiometry([item.image for item in labelled.images]).radiometry


def _finetuned(few: LabelledSet, out: Path, start: Path | None, radiometry: Radiometry | None, plan: Plan, seed: int) -> Path:
    if start is not None:
        tl.finetune(few, out, start=start, load="overall", steps=plan.steps, seed=seed, **plan.settings)
        return out
    assert radiometry is not None
    settings = tl.TrainSettings(network=plan.network, steps=plan.steps, seed=seed, **plan.settings)  # type: ignore[arg-type]
    train("finetune", few, radiometry, out, settings)
    return out


def prove(
    sets: Sequence[DataSet], data: Path, out: Path, starts: Sequence[str], counts: Sequence[int], seeds: int, plan: Plan
) -> None:
    """Every cell that is not there yet; the table and the picture after each."""
    for data_set in sets:
        labelled = data_set.labelled(data)
        for seed, start in product(range(seeds), starts):
            cells = [Cell(data_set.name, start, count, seed) for count in counts]
            missing = [cell for cell in cells if not (out / "cells" / f"{cell.name}.json").exists()]
            if not missing:
                continue
            folder = None
            if cells[0].pretrained:
                folder = pretrained(data_set, pseudo_labels(data_set, labelled, start, out), start, seed, plan, out)
            for cell in missing:
                began = time.process_time()
                found = measure(data_set, cell, labelled, folder, plan, data, out)
                found |= {"cell": vars(cell), "cpu_seconds": round(time.process_time() - began), "plan": vars(plan)}
                write_text(out / "cells" / f"{cell.name}.json", json.dumps(found, indent=1) + "\n")
                print(f"{cell.name}: mIoU {found['miou']:.4f}", flush=True)
                write_results(out)


def read_cells(out: Path) -> dict[Cell, float]:
    """Cell -> mIoU of all that are done."""
    found = {}
    for path in sorted((out / "cells").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[Cell(**record["cell"])] = float(record["miou"])
    return found


def write_results(out: Path) -> None:
    """`pretrain.md` and `pretrain.png` of the cells that are done."""
    cells = read_cells(out)
    write_text(out / "pretrain.md", table(cells) + "\n")
    names = list(dict.fromkeys(cell.data_set for cell in cells))
    draw_charts(out / "pretrain.png", [chart(name, cells) for name in names], columns=min(2, len(names)))


def _ordered(values: Iterable[str]) -> list[str]:
    """Starts: from scratch first."""
    return sorted(set(values), key=lambda start: (start != SCRATCH, start != LONGER, start))


def table(cells: dict[Cell, float]) -> str:
    """Markdown: a row a set and number of images; mean +- spread over the seeds, and the gain over scratch seed by seed."""
    starts = _ordered(cell.start for cell in cells)
    others = [start for start in starts if start != SCRATCH]
    head = ["set", "images", "seeds", *starts, *(f"gain of {start}" for start in others)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    gains: dict[tuple[str, int], list[float]] = {}
    for name, count in sorted({(cell.data_set, cell.images) for cell in cells}):
        values = {start: _by_seed(cells, name, start, count) for start in starts}
        shown = [_spread(list(values[start].values())) for start in starts]
        row = []
        for start in others:
            both = sorted(values[start].keys() & values[SCRATCH].keys())
            found = [100 * (values[start][seed] - values[SCRATCH][seed]) for seed in both]
            gains.setdefault((start, count), []).extend([float(np.mean(found))] if found else [])
            least = f" (least {min(found):+.1f})" if len(found) > 1 else ""
            row.append(f"{np.mean(found):+.1f}{least}" if found else "")
        lines.append(f"| {name} | {count} | {max(len(v) for v in values.values())} | " + " | ".join([*shown, *row]) + " |")
    for (start, count), found in sorted(gains.items()):
        if found:
            lines.append(
                f"\nGain of {start} at {count} image(s), mean over {len(found)} set(s): **{np.mean(found):+.1f}** points."
            )
    return "\n".join(lines)


def _by_seed(cells: dict[Cell, float], name: str, start: str, count: int) -> dict[int, float]:
    return {c.seed: v for c, v in cells.items() if (c.data_set, c.start, c.images) == (name, start, count)}


def _spread(values: Sequence[float]) -> str:
    """Mean and spread; of one seed there is no spread."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def chart(name: str, cells: dict[Cell, float]) -> Chart:
    """mIoU over the number of labelled images, a line a start, bars for the spread over seeds."""
    lines = []
    for start in _ordered(cell.start for cell in cells if cell.data_set == name):
        counts = sorted({cell.images for cell in cells if (cell.data_set, cell.start) == (name, start)})
        values = [list(_by_seed(cells, name, start, count).values()) for count in counts]
        title = start if start in (SCRATCH, LONGER) else f"pre-trained, {start}"
        points = [(float(count), float(np.mean(v))) for count, v in zip(counts, values, strict=True)]
        lines.append(Line(title, points, [float(np.std(v)) for v in values], dots=True))
    return Chart(f"{name}: mIoU on test images", "images with drawn labels", lines)


def main() -> None:
    """Prove, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--out", type=Path, default=Path("proof/pretrain"), help="folder of cells, table and picture")
    parser.add_argument("--sets", nargs="*", default=[s.name for s in SETS], help="only these sets")
    parser.add_argument("--masks", nargs="*", default=["nano", "tree"], help="mask generators of the pseudo-labels")
    parser.add_argument("--longer", action="store_true", help="also from scratch with the steps of both trainings")
    parser.add_argument("--counts", nargs="*", type=int, default=list(COUNTS), help="numbers of labelled images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--network", default="upernet-r18")
    parser.add_argument("--pretrain-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning, and of the network from scratch")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3, help="of AdamW, for all trainings")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    settings = {"batch_size": given.batch_size, "crop": given.crop, "optimizer": "adamw", "lr": given.lr, "device": given.device,
                "warmup": 20, "threads": 1, "save_every": 200}  # fmt: skip
    plan = Plan(given.network, given.pretrain_steps, given.steps, settings)
    sets = [data_set for data_set in SETS if data_set.name in given.sets]
    starts = [SCRATCH, *([LONGER] if given.longer else []), *given.masks]
    prove(sets, given.data, given.out, starts, given.counts, given.seeds, plan)
    write_results(given.out)
    print(table(read_cells(given.out)))


if __name__ == "__main__":
    main()
