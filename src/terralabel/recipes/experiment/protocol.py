"""The 30 % protocol: a few images keep their labels, a model learned from them labels the rest, and what is good enough is kept.

D0  all true labels       D1  automatic labels alone, those accepted       D2  the few true labels alone
D3  the few true labels and the accepted automatic ones                    D4  automatic labels alone, all of them
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.quality import Verdicts
from terralabel.core.scene import Scene
from terralabel.core.settings import setting
from terralabel.errors import InputError
from terralabel.export.rasters import write_label_raster
from terralabel.imagery.datasets import read_label
from terralabel.imagery.datasets.reading import image_size
from terralabel.recipes.annotate.apply import annotate_apply
from terralabel.recipes.annotate.fit import annotate_fit
from terralabel.recipes.labels_run import LabelsRun
from terralabel.recipes.quality.store import load_verdicts
from terralabel.runs.progress import Progress, Silent
from terralabel.train.annotation.settings import AnnotateSettings, ApplySettings

__all__ = ["PROTOCOL", "Annotation", "Protocol", "accepted_only", "as_ids", "few_and_rest"]

#: What a network downstream learns from.
PROTOCOL = ("D0", "D1", "D2", "D3", "D4")
#: Rows of a label are written in bands of so many pixels.
_BAND = 16_000_000


@dataclass(frozen=True)
class Annotation:
    """How the rest is labelled: the share that keeps its labels, and the settings of `annotate fit` and `annotate apply`."""

    share: float = setting(0.3, "Share of the images to learn from that keep their labels.", low=0.01, high=0.99)
    fit: AnnotateSettings = field(default_factory=AnnotateSettings)
    apply: ApplySettings = field(default_factory=lambda: ApplySettings(review="20%"))


def few_and_rest(labelled: LabelledSet, share: float, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """A and B: a share of the images, two at least, drawn by the seed, and the others."""
    order = np.random.default_rng([seed, len(labelled)]).permutation(len(labelled)).tolist()
    count = max(round(share * len(order)), 2)
    if count >= len(order):
        raise InputError(
            f"{labelled.name} has {len(order)} images to learn from: too few to label {share:.0%} and leave a rest.",
            "no-images",
        )
    few, rest = (labelled.with_images(labelled.images[i] for i in sorted(part)) for part in (order[:count], order[count:]))
    return few, rest


def as_ids(labelled: LabelledSet, folder: Path) -> LabelledSet:
    """The same set with label files of plain ids, copies in `folder` where its own are others; made once."""
    if labelled.to_ids is None:
        return labelled
    items = []
    for item in labelled.labelled.images:
        path = folder / f"{item.key}.tif"
        if not path.is_file():
            width, height = image_size(item.image)
            write_label_raster(path, _scene(item, width, height), labelled.classes, _bands(labelled, item, width, height))
        items.append(replace(item, label=path))
    return replace(labelled, images=tuple(items), to_ids=None)


def _scene(item: LabelledImage, width: int, height: int) -> Scene:
    return Scene(item.key, str(item.image), item.image.stem, width, height)


def _bands(labelled: LabelledSet, item: LabelledImage, width: int, height: int) -> Iterator[tuple[Window, np.ndarray]]:
    rows = max(_BAND // width // 256 * 256, 256)
    for y in range(0, height, rows):
        window = Window(0, y, width, min(rows, height - y))
        yield window, read_label(labelled, item, window)


def accepted_only(label: np.ndarray, origin: tuple[int, int], key: str, verdicts: Verdicts, has_background: bool) -> np.ndarray:
    """(H, W) uint8: a copy of a part of the label of scene `key`, 255 where it was not accepted; `origin` is its corner, (x, y).

    Where there is a background, all of a picture whose object is not accepted: what was missed would count as background. Where
    every class has a verdict of its own, only the pixels of that class.
    """
    out = label.copy()
    frame = Window(*origin, label.shape[1], label.shape[0])
    for k in range(len(verdicts)):
        if verdicts.scene[k] != key or verdicts.decision[k] == "accept":
            continue
        at = Window(*verdicts.window[k].tolist()).intersect(frame)
        if at.area:
            place = at.relative_to(frame).slices()
            out[place][... if has_background else label[place] == verdicts.units.class_id[k]] = IGNORE
    return out


class Protocol:
    """One split of a set: the few with labels, the rest, the model and its labels, all below `out`; resumed like its parts.

    `labelled` holds labels of plain ids (`as_ids`). `background`: the class that is no object, None where every class is one.
    """

    def __init__(
        self,
        labelled: LabelledSet,
        annotation: Annotation,
        seed: int,
        out: Path,
        background: int | None,
        progress: Progress | None = None,
    ) -> None:
        self.labelled, self.annotation, self.out, self.background = labelled, annotation, out, background
        self.few, self.rest = few_and_rest(labelled, annotation.share, seed)
        background_id = -2 if background is None else background
        self.settings = replace(annotation.fit, seed=seed, background=background_id)
        self.progress = progress or Silent()

    @cached_property
    def model(self) -> Path:
        """The folder of the model that has learned from the few; the rest has a say in its radiometry, without labels."""
        bare = [replace(item, label=None) for item in self.rest.images]
        images = self.labelled.with_images(sorted((*self.few.images, *bare), key=lambda item: item.key))
        annotate_fit(images, self.out / "model", self.settings, progress=self.progress)
        return self.out / "model"

    @cached_property
    def run(self) -> LabelsRun:
        """The run with the labels of the rest."""
        images = [item.image for item in self.rest.images]
        return annotate_apply(self.model, images, self.out / "run", self.annotation.apply, progress=self.progress)

    @cached_property
    def verdicts(self) -> Verdicts:
        """What is thought of each label of the run."""
        found = load_verdicts(self.run.folder)
        return Verdicts.join([found[0]] if found else [])

    def automatic(self, filtered: bool) -> LabelledSet:
        """The rest with automatic labels; `filtered`: what was not accepted is no label, and images without any are left out."""
        key = {Path(scene.source): scene.key for scene in self.run.scenes}
        items = [(item, key[item.image]) for item in self.rest.images if item.image in key]
        made = [replace(item, label=self.run.label_path(name)) for item, name in items]
        if filtered:
            made = [replace(item, label=self._accepted(item, name)) for item, (_, name) in zip(made, items, strict=True)]
        return self.labelled.with_images(item for item in made if self._says_something(item))

    def _accepted(self, item: LabelledImage, key: str) -> Path:
        """A copy of a label with only what was accepted."""
        width, height = image_size(item.image)
        whole = replace(self.labelled, to_ids=None)
        kept = (
            (window, accepted_only(label, (window.x, window.y), key, self.verdicts, self.background is not None))
            for window, label in _bands(whole, item, width, height)
        )
        path = self.out / "accepted" / f"{item.key}.tif"
        write_label_raster(path, _scene(item, width, height), self.labelled.classes, kept)
        return path

    def _says_something(self, item: LabelledImage) -> bool:
        bands = _bands(replace(self.labelled, to_ids=None), item, *image_size(item.image))
        return any((label != IGNORE).any() for _, label in bands)

    def learned_from(self, which: str) -> LabelledSet:
        """The labels of one of D0 .. D4; `InputError` where the filter left none."""
        if which == "D0":
            return self.labelled
        if which == "D2":
            return self.few
        automatic = self.automatic(filtered=which != "D4")
        together = (*self.few.images, *automatic.images) if which == "D3" else automatic.images
        if not together:
            raise InputError(
                f"{self.labelled.name}: none of the automatic labels was accepted, nothing is left to learn from.", "no-labels"
            )
        return self.labelled.with_images(sorted(together, key=lambda item: item.key))
