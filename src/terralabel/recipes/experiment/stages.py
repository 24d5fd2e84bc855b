"""What a cell of an experiment goes through: data set, labels, pre-training, fine-tuning, prediction, comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.scene import Scene
from terralabel.errors import InputError, SettingsError
from terralabel.evaluate.labels import evaluate_pairs
from terralabel.evaluate.segmentation import SegmentationReport, segmentation_report
from terralabel.export.rasters import write_label_raster
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.imagery.painter import write_demo
from terralabel.recipes.detected import detect_label
from terralabel.recipes.experiment.config import DataSpec, Experiment, LabelSpec, Start
from terralabel.recipes.experiment.ledger import Cell, annotation_digest, data_digest, label_digest, pretraining_digest
from terralabel.recipes.experiment.protocol import Protocol, as_ids
from terralabel.recipes.finetune import finetune
from terralabel.recipes.label import label_settings
from terralabel.recipes.predict import Predicted, predict
from terralabel.recipes.pretrain import pretrain
from terralabel.recipes.training import fitted_radiometry, train
from terralabel.runs.progress import Progress

__all__ = ["Measured", "Stages"]

#: Settings of `label` that `detect-label` has, too.
_FOR_BOXES = ("masks", "tile_size", "overlap", "bands", "sensor", "device", "precision", "threads", "workers", "follow_vrt")
#: Truth that has to be rewritten as ids is read in bands of so many pixels.
_BAND = 16_000_000
_T = TypeVar("_T")


@dataclass(frozen=True)
class Measured:
    """The figures of a cell: means, IoU by class, the convention of the means, and what the second mean leaves out."""

    measures: Mapping[str, float]
    iou: Mapping[str, float]
    convention: str
    left_out: str


class Stages:
    """The recipes on one experiment's data; what cells share is made once, and what could not be made fails for all of them."""

    def __init__(self, experiment: Experiment, data: Path, out: Path, progress: Progress) -> None:
        self.experiment, self.data, self.out, self.progress = experiment, data, out, progress
        self._made: dict[tuple[str, str], Any] = {}

    def measure(self, cell: Cell, work: Path) -> Measured:
        """Fine-tune from the cell's start, predict the images to test on, compare. `work`: the cell's own folder."""
        start = self._pretrained(cell.network, cell.start, cell.seed) if cell.start.on else None
        learned, tested = self._split(cell.data)
        self._finetuned(cell, self._annotated(cell, learned) if cell.start.learns else learned, start, work / "tuned")
        images = [item.image for item in tested.images]
        predicted = predict(work / "tuned", images, work / "predicted", self.experiment.predict, progress=self.progress)
        if predicted.failures:
            raise InputError(f"{len(predicted.failures)} images could not be predicted: {predicted.failures[0].reason}")
        return self._compared(cell.data, tested, predicted)

    # ------------------------------------------------------------------------------------------------------------- data

    def _split(self, name: str) -> tuple[LabelledSet, LabelledSet]:
        """(images to learn from, images to test on) of a data set."""
        spec, whole = self.experiment.data[name], self._whole(name)
        learn = ("train",) if spec.hold_out else spec.train
        learned = _some(whole.split(*learn), self.experiment.few)
        tested = _some(whole.split("test" if spec.hold_out else spec.test), self.experiment.few)
        as_train = learned.with_images(replace(item, split="train") for item in learned.images)
        return as_train, tested

    def _whole(self, name: str) -> LabelledSet:
        return self._once("data", name, lambda: self._opened(name, self.experiment.data[name]))

    def _opened(self, name: str, spec: DataSpec) -> LabelledSet:
        if spec.painted:
            root = (self.out / "data" / self._folder(name)).absolute()
            if not (root / "classes.json").is_file():  # written last
                self.progress.say(f"painting {spec.painted} scenes of {spec.side} x {spec.side} pixels")
                write_demo(root, seed=1, scenes=spec.painted, size=spec.side)
            found = open_labelled(root / "images", labels=root / "truth", classes=root / "classes.json")
        else:
            labels = self._below(spec.labels) if spec.labels else None
            classes = self._below(spec.classes) if spec.classes else None
            found = open_labelled(
                self._below(spec.folder), format=spec.format, labels=labels, classes=classes, ignore=spec.ignore,
                threshold=spec.threshold,
            )  # fmt: skip
        for problem in found.problems:
            self.progress.say(f"{name}: left out: {problem}")
        _check_names(spec, found)
        return _held_out(found.labelled, spec.hold_out) if spec.hold_out else found.labelled

    def _folder(self, name: str) -> str:
        """The name of a data set's folder in `out`."""
        return f"{_slug(name)}-{data_digest(self.experiment, name)}"

    def _below(self, name: str) -> Path:
        return (self.data / name).absolute()

    # ----------------------------------------------------------------------------------------------------------- labels

    def _labels(self, name: str) -> LabelledSet | Path:
        """A label set to pre-train on: a run, or a data set with its own labels."""
        spec = self.experiment.labels[name]
        if spec.by == "run":
            return self._below(spec.run)
        if spec.by == "own":
            return self._labelled_images(spec).binary if spec.binary else self._labelled_images(spec)
        out = self.out / "labels" / f"{_slug(name)}-{label_digest(self.experiment, name)}"
        return self._once("labels", name, lambda: self._labelled(spec, out))

    def _labelled(self, spec: LabelSpec, out: Path) -> Path:
        """The folder of a finished run of `label` or `detect-label`; resumed where it is there."""
        images = [item.image for item in self._labelled_images(spec).images]
        if spec.by == "label":
            out.parent.mkdir(parents=True, exist_ok=True)
            label_settings(images, out, spec.settings, progress=self.progress)
            return out
        settings = {name: value for name, value in asdict(spec.settings).items() if name in _FOR_BOXES}
        return detect_label(images, self._below(spec.boxes), out, progress=self.progress, **settings).path

    def _labelled_images(self, spec: LabelSpec) -> LabelledSet:
        return _some(self._whole(spec.of).split(*spec.splits), self.experiment.few) if spec.splits else self._split(spec.of)[0]

    def _annotated(self, cell: Cell, learned: LabelledSet) -> LabelledSet:
        """The labels of D0 .. D4; in a rehearsal, where automatic ones are no good, always with the few true ones."""
        which = cell.start.learns
        if self.experiment.few and which not in ("D0", "D2"):
            which = "D3"
        return self._protocol(cell, learned).learned_from(which)

    def _protocol(self, cell: Cell, learned: LabelledSet) -> Protocol:
        """The split of a data set by a seed, its model and the labels that it made; shared by all networks and starts."""
        name = annotation_digest(self.experiment, cell.data, cell.seed)
        out = (self.out / "annotated" / f"{_slug(cell.data)}-{name}").absolute()
        background = self.experiment.data[cell.data].background

        def make() -> Protocol:
            ids = as_ids(learned, (self.out / "truth" / f"{self._folder(cell.data)}-learned").absolute())
            return Protocol(ids, self.experiment.annotate, cell.seed, out, background, self.progress)

        return self._once("annotated", name, make)

    # --------------------------------------------------------------------------------------------------------- networks

    def _pretrained(self, network: str, start: Start, seed: int) -> Path:
        """The folder of the last pre-training of a start, after those before it."""
        before = replace(start, on=start.on[:-1])
        first = self._pretrained(network, before, seed) if before.on else None
        name = pretraining_digest(self.experiment, network, start, seed)
        out = self.out / "pretrained" / f"{_slug('-'.join(start.on))}-{name}"
        return self._once("pretrained", name, lambda: self._pretrain(network, start, seed, first, out))

    def _pretrain(self, network: str, start: Start, seed: int, first: Path | None, out: Path) -> Path:
        spec, given = self.experiment.labels[start.on[-1]], self.experiment.pretrain
        seed = given.seed if self.experiment.shared_pretraining else seed
        settings = replace(given, network=self._network(network), seed=seed, steps=start.steps or given.steps)
        if self.experiment.few:
            settings = replace(settings, steps=given.steps)
        source = self._labels(start.on[-1])
        reading = None if isinstance(source, LabelledSet) else {"binary": spec.binary}
        out.parent.mkdir(parents=True, exist_ok=True)
        pretrain(source, out, settings, start=first, load=start.between, reading=reading, progress=self.progress)
        return out

    def _finetuned(self, cell: Cell, learned: LabelledSet, start: Path | None, out: Path) -> None:
        """A network from scratch gets the radiometry of all images to learn from, as a pre-trained one has that of many."""
        few = drawn(learned, cell.images, cell.seed)
        settings = replace(self.experiment.finetune, network=self._network(cell.network), seed=cell.seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        if start is not None:
            finetune(few, out, settings, start=start, load=cell.start.load, progress=self.progress)
            return
        key = f"{cell.data} {settings.sensor} {settings.bands}"
        everything = self._split(cell.data)[0]
        radiometry = self._once("radiometry", key, lambda: fitted_radiometry(everything, settings, self.progress))
        train("finetune", few, radiometry, out, settings, progress=self.progress)

    def _network(self, name: str) -> str:
        return self.experiment.tiny_network or name

    # ------------------------------------------------------------------------------------------------------- comparison

    def _compared(self, name: str, tested: LabelledSet, predicted: Predicted) -> Measured:
        spec = self.experiment.data[name]
        by_path = {item.image.absolute(): item for item in tested.images}
        pairs = []
        for scene in predicted.scenes:
            truth = self._truth(name, tested, by_path[Path(scene.source).absolute()], scene)
            pairs.append((predicted.label_path(scene.key), truth))
        names = {entry.id: entry.name for entry in tested.classes}
        found = evaluate_pairs(pairs, match="none", known=list(names), names=names)
        report = segmentation_report(found, classes=names, background=spec.background)
        return _measured(report, spec.leave_out, len(pairs))

    def _truth(self, name: str, tested: LabelledSet, item: LabelledImage, scene: Scene) -> Path:
        """The label file where it holds ids as they are, else a copy in ids, made once."""
        if tested.to_ids is None and item.label is not None:
            return item.label
        path = self.out / "truth" / self._folder(name) / f"{scene.key}.tif"
        if not path.is_file():
            write_label_raster(path, scene, tested.classes, _bands(tested, item, scene))
        return path

    def _once(self, kind: str, name: str, make: Callable[[], _T]) -> _T:
        """What `make` gave the first time; where it failed, the same error again."""
        if (kind, name) not in self._made:
            try:
                self._made[kind, name] = make()
            except Exception as error:
                self._made[kind, name] = error
        found = self._made[kind, name]
        if isinstance(found, Exception):
            raise found
        return found


def drawn(learned: LabelledSet, count: int, seed: int) -> LabelledSet:
    """`count` images, 0 for all: the first of one order by seed, so that 3 are among 10; it begins with one of two classes or more."""
    if not count:
        return learned
    if count > len(learned):
        raise SettingsError(f"images: {count} wanted, {learned.name} has {len(learned)} to learn from.")
    order = [learned.images[i] for i in np.random.default_rng(seed).permutation(len(learned))]
    first = next((item for item in order if len(set(np.unique(read_label(learned, item))) - {IGNORE}) > 1), order[0])
    chosen = [first, *(item for item in order if item is not first)][:count]
    return learned.with_images(sorted(chosen, key=lambda item: item.key))


def _held_out(whole: LabelledSet, share: float) -> LabelledSet:
    """Splits "test" and "train" by one order that no seed changes."""
    order = np.random.default_rng(2024).permutation(len(whole))
    tested = set(order[: max(round(share * len(whole)), 1)].tolist())
    return whole.with_images(replace(item, split="test" if i in tested else "train") for i, item in enumerate(whole.images))


def _some(images: LabelledSet, few: int) -> LabelledSet:
    return images.with_images(images.images[:few]) if few else images


def _check_names(spec: DataSpec, found: LabelledSet) -> None:
    """The classes that the file names are in the set."""
    names = [entry.name for entry in found.classes]
    unknown = [name for name in spec.leave_out if name not in names]
    if unknown:
        raise SettingsError(f"{spec.where}leave_out: {unknown[0]!r} is no class of {found.name}; they are: {', '.join(names)}.")


def _bands(tested: LabelledSet, item: LabelledImage, scene: Scene) -> Iterator[tuple[Window, np.ndarray]]:
    """The label of a scene in ids, from the top."""
    rows = max(_BAND // scene.width // 256 * 256, 256)
    for y in range(0, scene.height, rows):
        window = Window(0, y, scene.width, min(rows, scene.height - y))
        yield window, read_label(tested, item, window)


def _measured(report: SegmentationReport, leave_out: Sequence[str], images: int) -> Measured:
    names = (
        report.names
        if len(set(report.names)) == len(report.names)
        else [f"{i} {n}" for i, n in zip(report.ids, report.names, strict=True)]
    )
    iou = dict(zip(names, report.iou, strict=True))
    rest = [value for name, value in iou.items() if name not in leave_out]
    measures = {
        "miou": report.miou,
        "miou_without": float(np.mean(rest)) if leave_out and rest else math.nan,
        "macc": report.mean_accuracy,
        "mf1": report.mean_f1,
        "boundary_f": report.boundary_f,
        "pixel_accuracy": report.pixel_accuracy,
        "tested_on": images,
    }
    return Measured(measures, iou, report.convention, ", ".join(leave_out))


def _slug(name: str) -> str:
    """As the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
