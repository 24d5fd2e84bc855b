"""Out-of-fold predictions of the labelled images: how good a model is on images it has not seen, and the judge fitted on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.files import write_text
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage
from terralabel.core.scene import Scene
from terralabel.imagery.datasets import read_label
from terralabel.labels.quality.evidence import true_iou
from terralabel.labels.quality.judge import fit_judge, rules_judge
from terralabel.recipes.annotate.cut import Sample, fit_cut
from terralabel.recipes.annotate.pictures import Decided, Labelling, Signalled
from terralabel.recipes.annotate.views import Seen, look, make_views
from terralabel.recipes.quality.recipe import save_judge
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress
from terralabel.train.annotation.settings import ApplySettings

if TYPE_CHECKING:
    from terralabel.labels.quality.judge import Judge
    from terralabel.recipes.annotate.plan import Plan

__all__ = ["HeldOut", "judge_folds", "learned_cut", "look_at_item", "measured_in"]

#: Images that were learned from of which the cut is learned, at most.
_CUT_ON = 32


@dataclass(frozen=True)
class HeldOut:
    """How well images were labelled by networks that had not seen them, and the judge that was fitted on these.

    `iou`: class id -> IoU over all labelled pixels, NaN for a class in neither labels nor predictions. `cut`: weights of the classes
    that these images advise (`annotating_cut`).
    """

    iou: dict[int, float]
    accuracy: float
    judge: Judge
    cut: tuple[float, ...] = ()

    @property
    def miou(self) -> float:
        """Mean over the classes that are there."""
        return float(np.nanmean(list(self.iou.values()))) if self.iou else float("nan")


def judge_folds(plan: Plan, folder: Path, progress: Progress) -> HeldOut | None:
    """Predict every fold by its network, fit a judge on what came out, and store it in the model's folder; resumes as a whole.

    Without folds the judge is a set of rules, and None is returned.
    """
    path = folder / "held_out.json"
    if not plan.folds:
        save_judge(rules_judge(note="no folds were held out: rules only, scores are an order"), folder / "judge.json", 0.5)
        return None
    if path.is_file() and (folder / "judge.json").is_file():
        return read_held_out(folder)
    counts, true, groups = np.zeros((256, 256), np.int64), [], []
    ids = plan.labelled.classes
    found = Signalled(plan.background)
    progress.start("held out", 2 * len(plan.survey.sizes), "images")
    by_fold = _by_fold(plan, folder)
    cut = _cut(plan, by_fold, progress)
    for item, picture in _pictures(plan, by_fold, progress, cut):
        truth = read_label(plan.labelled, item, picture.window)
        rows = found.add(item.key, picture)
        true.append(true_iou(picture.evidence, truth, plan.background))
        groups += [f"{item.key} {picture.window.x} {picture.window.y}"] * len(rows)
        known = (truth != IGNORE) & (picture.evidence.label != IGNORE)
        np.add.at(counts, (picture.evidence.label[known], truth[known]), 1)
    progress.finish()
    judge = fit_judge(found.signals, np.concatenate([*true, np.zeros(0, np.float32)]), groups, seed=plan.settings.seed)
    save_judge(judge, folder / "judge.json", 0.5)
    iou = {entry.id: _iou(counts, entry.id) for entry in ids}
    accuracy = float(counts.diagonal().sum() / max(counts.sum(), 1))
    made = {
        "iou": {str(k): None if np.isnan(v) else v for k, v in iou.items()},
        "accuracy": accuracy,
        "folds": plan.folds,
        "cut": cut,
    }
    write_text(path, json.dumps(made, indent=1) + "\n")
    return HeldOut(iou, accuracy, judge, cut)


def read_held_out(folder: Path) -> HeldOut | None:
    """What `judge_folds` found, as it stands in a model's folder; None where nothing was held out."""
    from terralabel.recipes.quality.recipe import load_judge

    path = folder / "held_out.json"
    if not path.is_file():
        return None
    made = json.loads(path.read_text(encoding="utf-8"))
    iou = {int(k): float("nan") if v is None else float(v) for k, v in made["iou"].items()}
    return HeldOut(iou, float(made["accuracy"]), load_judge(folder), tuple(made.get("cut", ())))


def _iou(counts: np.ndarray, class_id: int) -> float:
    right = counts[class_id, class_id]
    union = counts[class_id].sum() + counts[:, class_id].sum() - right
    return float(right / union) if union else float("nan")


def learned_cut(plan: Plan, folder: Path, progress: Progress) -> None:
    """How much of a class the network is to find, by images that it has learned from.

    These are found more easily than others, so that they can tell of too much only: no class gets more weight. (`cut_of` joins this
    with what held-out images say of the networks of the folds.)
    """
    path = folder / "cut.json"
    if path.is_file():
        return
    images = [item for item in plan.labelled.images if item.key in plan.survey.sizes]
    some = [images[i] for i in sorted(np.random.default_rng(plan.settings.seed).permutation(len(images))[:_CUT_ON].tolist())]
    progress.start("cut", len(some), "images")
    cut = _cut(plan, [(folder, some)], progress)
    progress.finish()
    write_text(path, json.dumps({"cut": [min(weight, 1.0) for weight in cut]}) + "\n")


#: A network, in its folder, and images to be looked at by it.
_Asked = list[tuple[Path, list[LabelledImage]]]


def _by_fold(plan: Plan, folder: Path) -> _Asked:
    """The network of every fold, with the images that it has not seen."""
    return [
        (folder / "folds" / str(fold + 1), [item for item in plan.labelled.images if plan.fold.get(item.key) == fold])
        for fold in range(plan.folds)
    ]


def _cut(plan: Plan, asked: _Asked, progress: Progress) -> tuple[float, ...]:
    """The weights of the classes with which as much of each would have been found as there is; none without a background."""
    if plan.background is None:
        return ()
    ids = [entry.id for entry in plan.labelled.classes]
    index = np.full(256, -1)
    index[ids] = np.arange(len(ids))
    sample = Sample(plan.settings.seed)
    for item, picture in _pictures(plan, asked, progress, flips=False):
        truth = np.where(picture.evidence.valid, index[read_label(plan.labelled, item, picture.window)], -1)
        assert picture.evidence.probability is not None
        sample.add(picture.evidence.probability, truth)
    return fit_cut(sample, ids.index(plan.background))


def _pictures(
    plan: Plan, asked: _Asked, progress: Progress, cut: tuple[float, ...] = (), *, flips: bool = True
) -> Iterator[tuple[LabelledImage, Decided]]:
    """Every labelled picture of the images, decided by the network that is asked."""
    from terralabel.train.segmentation.checkpoint import open_checkpoint

    labelling = Labelling(plan.labelled.classes, plan.background, 0, cut=cut)
    for place, items in asked:
        views = make_views(open_checkpoint(place, "last"), replace(measured_in(plan.settings), flips=flips))
        for item in items:
            for picture in look_at_item(plan, item, views, place, labelling):
                if (read_label(plan.labelled, item, picture.window) != IGNORE).any():
                    yield item, picture
            progress.advance()


def measured_in(settings: Any) -> ApplySettings:
    """How held-out images are looked at: as `annotate apply` does by default, on the machine of the training."""
    return ApplySettings(flips=True, precision=settings.precision, device=settings.device, threads=settings.threads)


def look_at_item(plan: Plan, item: LabelledImage, views: Any, place: Path, labelling: Labelling) -> Iterator[Decided]:
    """The pictures of a labelled image; what a large one leaves on disk meanwhile lies in `place`."""
    width, height = plan.survey.sizes[item.key]
    scene = Scene(item.key, str(item.image), item.key, width, height)
    with plan.radiometry.open(item.image) as raster:

        def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
            pixels, valid = raster.read(window)
            return plan.radiometry.apply(pixels, valid), valid

        seen: Seen = look(scene, raster, plan.radiometry, views, RunFolder(place), "held-out", lambda count: None)
        yield from labelling.pictures(seen, read, width, height)
    for _, _, path in seen.files:
        path.unlink()
