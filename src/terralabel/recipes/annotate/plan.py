"""What `annotate fit` and `enhance` are about to do: which images are learned from, in which folds, by which network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.labelled import LabelledSet
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.recipes.annotate.checks import check_labels
from terralabel.runs.folder import digest
from terralabel.runs.progress import Progress
from terralabel.train.annotation.settings import AnnotateSettings
from terralabel.train.segmentation.settings import stored

if TYPE_CHECKING:
    import torch

    from terralabel.nets.elnet.network import ELNet
    from terralabel.train.segmentation.checkpoint import Checkpoint
    from terralabel.train.segmentation.samples import Reader
    from terralabel.train.segmentation.survey import Survey

__all__ = ["FORMAT", "Plan", "fold_of", "prepare"]

#: Version of what a model's folder says of itself.
FORMAT = 1
#: Epochs that are learned where the settings do not say, and how many steps at least.
_EPOCHS, _LEAST = 20, 300
_CROP = 352


@dataclass(frozen=True)
class Plan:
    """What is learned from: the labelled images of a set, its radiometry, which fold each image is in."""

    labelled: LabelledSet
    radiometry: Radiometry
    settings: AnnotateSettings
    survey: Survey
    fold: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def folds(self) -> int:
        """How many parts the images are cut into; 0 for none."""
        return max(self.fold.values(), default=-1) + 1

    def held_out(self, fold: int) -> int:
        """Images of a fold."""
        return sum(mine == fold for mine in self.fold.values())

    @property
    def crop(self) -> int:
        """The side of a crop: as set, else 352 or what the largest image has."""
        longest = max(max(size) for size in self.survey.sizes.values())
        return self.settings.crop or min(_CROP, max(32, -(-longest // 32) * 32))

    @property
    def steps(self) -> int:
        """Batches: as set, else 20 epochs, 300 at least."""
        crops = sum(max(1, round(w * h / self.crop**2)) for w, h in self.survey.sizes.values())
        return self.settings.steps or max(_LEAST, math.ceil(_EPOCHS * crops / self.settings.batch_size))

    @property
    def background(self) -> int | None:
        """The id of the class that is no object."""
        ids = [entry.id for entry in self.labelled.classes]
        if self.settings.background < 0:
            return ids[0] if len(ids) == 2 and self.settings.background == -1 else None
        if self.settings.background not in ids:
            raise SettingsError(f"background {self.settings.background} is no class; the classes are {ids}.")
        return self.settings.background

    def manifest(self) -> dict[str, Any]:
        """What a model is recognised by when it is gone on with."""
        found = self.survey
        data = {
            "name": self.labelled.name,
            "images": len(found.sizes),
            "digest": digest([sorted(found.sizes.items()), found.pixels]),
        }
        classes = json.loads(self.labelled.classes.to_json())
        made = {"format": FORMAT, "settings": stored(self.settings), "steps": self.steps, "data": data, "classes": classes}
        return json.loads(json.dumps({**made, "radiometry": asdict(self.radiometry), "folds": dict(self.fold)}))

    def network(self) -> ELNet:
        """The network with its first weights."""
        from terralabel.nets.elnet.network import build_elnet

        s = self.settings
        how: dict[str, Any] = {
            "learns": s.learns,
            "weights": s.weights,
            "edge": s.edge,
            "zoom": s.zoom,
            "width": s.width,
            "seed": s.seed,
        }
        return build_elnet(s.trunk, len(self.labelled.classes), self.radiometry.count, **how)

    def reader(self) -> Reader:
        """Windows of the images and their labels."""
        from terralabel.train.segmentation.samples import Reader

        return Reader(self.labelled, self.radiometry)

    def device(self) -> torch.device:
        """Where the network learns."""
        import torch

        from terralabel.train.segmentation.distributed import device_of

        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        return device_of(self.settings.device)

    def train(self, folder: Path, progress: Progress, without: int | None = None) -> Checkpoint:
        """Train a network in a folder, on all images but those of a fold; goes on where it stopped."""
        from terralabel.train.annotation.objective import Structure
        from terralabel.train.segmentation.augment import Augmentation
        from terralabel.train.segmentation.checkpoint import marked, open_checkpoint
        from terralabel.train.segmentation.loop import Job, Training
        from terralabel.train.segmentation.samples import Samples
        from terralabel.train.segmentation.schedule import resolve

        folder.mkdir(parents=True, exist_ok=True)
        before = open_checkpoint(folder, "last") if marked(folder, "last") is not None else None
        if before is not None and before.step == self.steps:
            return before
        settings, network = self.settings.training(self.steps), self.network()
        sizes = {key: size for key, size in self.survey.sizes.items() if without is None or self.fold[key] != without}
        colours = self.radiometry.count == 3 and self.radiometry.sensor == "optical"
        views = Augmentation.of(settings, self.crop, colours=colours)
        samples = Samples(self.reader(), sizes, views, settings.seed, settings.batch_size)
        schedule, objective = resolve(network.schedule, settings), Structure(settings.auxiliary)
        job = Job(network, samples, schedule, settings, folder, self.record(network), self.device(), objective=objective)
        training = Training(job)
        if before is not None:
            training.resume(before)
            progress.say(f"going on from step {training.step:,} of {self.steps:,}")
        training.run(progress)
        return open_checkpoint(folder, "last")

    def record(self, network: ELNet) -> dict[str, Any]:
        """What every checkpoint says besides its step."""
        learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
        made = {
            "name": network.name, "trunk": network.backbone.name, "origin": network.origin, "learns": network.learns,
            "bands": network.bands, "classes": network.classes, "edge": network.edge, "zoom": network.zoom,
            "width": network.width, "hiera": network.backbone.hiera, "learned": learned, "weights": sum(p.numel() for p in network.parameters()),
        }  # fmt: skip
        return {
            "network": made,
            "classes": json.loads(self.labelled.classes.to_json()),
            "background": self.background,
            "radiometry": json.loads(self.radiometry.to_json()),
            "mean": list(network.mean),
            "std": list(network.std),
            "crop": self.crop,
            "settings": stored(self.settings),
        }


def prepare(
    labelled: LabelledSet, settings: AnnotateSettings, progress: Progress, radiometry: Radiometry | None = None
) -> Plan:
    """Look at everything once: labels, radiometry, folds. Raises `InputError` for what cannot be learned from."""
    mine = labelled.labelled
    if not len(mine):
        raise InputError(
            f"{labelled.name}: none of its {len(labelled)} images has a label: label a few of them first.", "no-labels"
        )
    radiometry = radiometry or _radiometry(labelled, settings)
    found = _surveyed(mine, radiometry, progress)
    check_labels(mine, found)
    notes = [f"{len(found.bare)} labelled images have no pixel with a class, the first {found.bare[0]!r}"] if found.bare else []
    fold = fold_of(sorted(found.sizes), settings.folds, settings.seed)
    if settings.folds and not fold:
        notes.append("one labelled image cannot be cut into folds: no scores of quality are fitted")
    plan = Plan(mine, radiometry, settings, found, fold, tuple(notes))
    plan.background  # noqa: B018 - a wrong one is told now, not after the training
    return plan


def _surveyed(labelled: LabelledSet, radiometry: Radiometry, progress: Progress) -> Survey:
    """What the labels hold; masks of 0 and 255, of which 255 reads as "no label", and drawings of one class are told what they want."""
    from terralabel.train.segmentation.survey import survey

    try:
        return survey(labelled, radiometry, progress)
    except InputError as error:
        if error.status == "one-class" and labelled.format == "drawn":
            raise InputError(
                f"{error} Where nobody drew is no label: --rest background makes it a class.", error.status
            ) from error
        if error.status == "one-class" and labelled.to_ids is None:
            raise InputError(f"{error} Masks of 0 and 255 are read with --threshold 128.", error.status) from error
        raise


def _radiometry(labelled: LabelledSet, settings: AnnotateSettings) -> Radiometry:
    """One for all images, those without label too; a labelled one that it is not for is an error, another is left for later."""
    fit = fit_radiometry(
        [item.image for item in labelled.images], sensor=labelled.sensor or settings.sensor, bands=settings.bands
    )
    ours = {str(item.image) for item in labelled.labelled.images}
    unfit = [failed for failed in fit.unfit if str(failed.path) in ours]
    if unfit:
        more = f"{len(unfit)} of {len(ours)} labelled images cannot be used together; the first: " if len(unfit) > 1 else ""
        raise InputError(f"{more}{unfit[0].reason}", unfit[0].status)
    return fit.radiometry


def fold_of(keys: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Key -> fold 0 .. folds - 1, drawn by the seed, as even as can be; nothing where there are fewer than two keys."""
    count = min(folds, len(keys))
    if count < 2:
        return {}
    order = np.random.default_rng([seed, len(keys)]).permutation(len(keys)).tolist()
    return {keys[position]: rank % count for rank, position in enumerate(order)}
