"""What `pretrain` and `finetune` share: a labelled set, a network and a folder, made into a training that can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.files import space_error, write_text
from terralabel.core.labelled import LabelledSet
from terralabel.core.settings import changed
from terralabel.errors import InputError, MissingExtraError, RunError, SettingsError, WeightsError
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.progress import Progress, Silent
from terralabel.train.segmentation.settings import TrainSettings, stored

if TYPE_CHECKING:
    from terralabel.nets.segmentation.network import Network
    from terralabel.train.segmentation.checkpoint import Checkpoint
    from terralabel.train.segmentation.distributed import Team
    from terralabel.train.segmentation.loop import Job
    from terralabel.train.segmentation.survey import Survey

__all__ = [
    "DEFAULT_NETWORK",
    "LOADS",
    "Start",
    "Trained",
    "checkpoint_of",
    "few_images",
    "fitted_radiometry",
    "needs_torch",
    "own_folder",
    "train",
]

#: The network when nothing names one: small enough for a laptop.
DEFAULT_NETWORK = "upernet-r18"
#: What of a checkpoint can be loaded.
LOADS = ("overall", "backbone", "head")
_FORMAT = 1
#: What a training folder may hold of its own.
_OWN = ("training.json", "log.csv", "curves.png", "last.json", "best.json", "tensorboard", ".lock", "drawn", "sure")


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with: a checkpoint of ours or a weights file, and which part of it is loaded."""

    path: Path
    load: str = "overall"

    def __post_init__(self) -> None:
        if self.load not in LOADS:
            raise SettingsError(f"--load: expected one of {', '.join(LOADS)}; got {self.load!r}.")


@dataclass(frozen=True)
class Trained:
    """A finished training. `checkpoint` is the folder's best one (by the val split), else its last; `loaded` what it began with."""

    folder: Path
    checkpoint: Checkpoint
    classes: Classes
    images: int
    loaded: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        """What the command prints at the end."""
        record = self.checkpoint.record
        network, measures = record["network"], record["best"] or record["measures"]
        lines = [
            f"network     {network['name']}, {network['classes']} classes, {network['bands']} bands",
            f"learned     {self.images} images, {record['steps']:,} steps of {record['settings']['batch_size']} crops",
        ]
        if measures:
            lines.append(
                f"val split   mIoU {measures['miou']:.4f} at step {record['step']:,} (classes in neither labels nor prediction left out)"
            )
        lines += [f"checkpoint  {self.checkpoint.path}", f"curves      {self.folder / 'curves.png'}, {self.folder / 'log.csv'}"]
        return "\n".join(lines)


def needs_torch() -> None:
    """Raise `MissingExtraError`, with the way out, where networks cannot run."""
    missing = [name for name in ("torch", "timm", "safetensors") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"Training and prediction need {', '.join(missing)}: pip install 'terralabel[torch]'.")


def few_images(labelled: LabelledSet, count: int, seed: int) -> LabelledSet:
    """`count` of the images to learn from, drawn by the seed; the val split stays whole. 0 keeps all."""
    learned = [item for item in labelled.images if item.split in ("train", "")]
    if not count:
        return labelled
    if count > len(learned):
        raise SettingsError(f"--images {count}: {labelled.name} has {len(learned)} labelled images to learn from.")
    drawn = {learned[i].key for i in np.random.default_rng(seed).permutation(len(learned))[:count]}
    return labelled.with_images(item for item in labelled.images if item.key in drawn or item.split == "val")


def fitted_radiometry(labelled: LabelledSet, settings: TrainSettings, progress: Progress) -> Radiometry:
    """One radiometry for the images to learn from; images that it is not for are an error, as their labels would be lost.

    A set that knows what took its images (SOS: a radar) is read so, whatever the settings.
    """
    paths = [item.image for item in labelled.images]
    fit = fit_radiometry(paths, sensor=labelled.sensor or settings.sensor, bands=settings.bands)
    if fit.unfit:
        more = f"{len(fit.unfit)} of {len(paths)} images cannot be used together; the first: " if len(fit.unfit) > 1 else ""
        raise InputError(f"{more}{fit.unfit[0].reason}", fit.unfit[0].status)
    return fit.radiometry


def train(
    kind: str,
    labelled: LabelledSet,
    radiometry: Radiometry,
    out: Path,
    settings: TrainSettings,
    *,
    start: Start | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a network on the images of a set (splits "train" and "") and measure it on its split "val".

    Goes on from the last checkpoint in `out` where there is one of the same training. See `pretrain` and `finetune`.
    """
    from terralabel.train.segmentation.checkpoint import marked, open_checkpoint
    from terralabel.train.segmentation.distributed import join
    from terralabel.train.segmentation.loop import Training

    _set_threads(settings.threads)
    team, device = join(settings.device)
    progress = progress if progress is not None and team.leads else Silent()
    if settings.batch_size % team.size or settings.batch_size // team.size % settings.accumulate:
        raise SettingsError(
            f"batch_size {settings.batch_size}: expected a multiple of {team.size} processes x {settings.accumulate} parts."
        )
    folder = own_folder(Path(out), _OWN, "training")
    with _held(folder, team, progress):
        plan = _plan(kind, labelled, radiometry, settings, start, progress)
        _agree(folder, plan.manifest, overwrite, team, progress)
        team.wait()
        training = Training(plan.job(folder, device, team))
        if marked(folder, "last") is not None:
            training.resume(open_checkpoint(folder, "last"))
            progress.say(f"going on from step {training.step:,} of {plan.schedule_steps:,}")
        else:
            fitted = plan.fit_classifier(training.job)
            for line in filter(None, (plan.loaded, fitted)):
                progress.say(line)
        team.wait()
        training.run(progress)
    team.leave()
    return Trained(folder, open_checkpoint(folder), labelled.classes, len(plan.survey.sizes), plan.loaded)


def _set_threads(threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)


def own_folder(folder: Path, own: Collection[str], what: str) -> Path:
    """The folder of a training of the kind `what`, made if new; one with files of something else in it is refused.

    `own` are the names of what such a folder holds, checkpoints apart; the first says that it is one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith((".tmp-", "step-")) and p.name not in own]
    except OSError as error:
        raise space_error(error, folder) or RunError(f"{folder} cannot be made a folder: {error.strerror}.") from error
    if foreign and not (folder / next(iter(own))).exists():
        raise RunError(f"{folder} is not empty and no {what} (it holds {foreign[0]!r}): give a new or an empty folder.")
    return folder


@contextmanager
def _held(folder: Path, team: Team, progress: Progress) -> Iterator[None]:
    """The process that leads keeps others from writing into the folder."""
    if not team.leads:
        yield
        return
    with RunFolder(folder).lock(progress.say):
        yield


@dataclass(frozen=True)
class _Begun:
    """What a network begins with: for a person, for the manifest, and whether its classifier was loaded."""

    loaded: str
    origin: dict[str, str]
    classified: bool = False


@dataclass(frozen=True)
class _Plan:
    """Everything a training needs but its folder and its machine."""

    network: Network
    labelled: LabelledSet
    radiometry: Radiometry
    settings: TrainSettings
    survey: Survey
    val: Survey | None
    manifest: dict[str, Any]
    begun: _Begun

    @property
    def loaded(self) -> str:
        """What the network begins with, for a person."""
        return self.begun.loaded

    def fit_classifier(self, job: Job) -> str:
        """Fit the classifier where that is asked for and it was not loaded; what came of it, for a person."""
        from terralabel.train.segmentation.fitting import fit_classifiers

        if self.settings.classifier != "fitted" or self.begun.classified:
            return ""
        found = fit_classifiers(job.network, job.samples, job.device)
        return str(found or f"{self.network.name} has no classifier that can be fitted: it begins at random")

    @property
    def schedule_steps(self) -> int:
        return int(self.manifest["steps"])

    @property
    def crop(self) -> int:
        """The side of a crop: as set, else 512 or what the largest image has."""
        longest = max(max(size) for size in self.survey.sizes.values())
        return self.settings.crop or min(512, max(32, -(-longest // 32) * 32))

    def job(self, folder: Path, device: Any, team: Team) -> Job:
        """The training on a machine, in a folder."""
        from terralabel.train.segmentation.augment import Augmentation
        from terralabel.train.segmentation.loop import Job
        from terralabel.train.segmentation.samples import Reader, Samples
        from terralabel.train.segmentation.schedule import resolve
        from terralabel.train.segmentation.validation import Validation

        s, network = self.settings, self.network
        reader = Reader(self.labelled, self.radiometry)
        colours = self.radiometry.count == 3 and self.radiometry.sensor == "optical"
        samples = Samples(reader, self.survey.sizes, Augmentation.of(s, self.crop, colours=colours), s.seed, s.batch_size)
        validation = Validation(reader, self.val.sizes, self.crop, s.precision) if self.val else None
        return Job(network, samples, resolve(network.schedule, s), s, folder, self.record(), device, team, validation)

    def record(self) -> dict[str, Any]:
        """What every checkpoint says besides its step and measures."""
        network = self.network
        auxiliary = network.auxiliary is not None
        return {
            "network": {"name": network.name, "bands": network.bands, "classes": network.classes, "auxiliary": auxiliary},
            "classes": json.loads(self.labelled.classes.to_json()),
            "radiometry": json.loads(self.radiometry.to_json()),
            "mean": list(network.mean),
            "std": list(network.std),
            "crop": self.crop,
            "settings": stored(self.settings),
            "trained": {"kind": self.manifest["kind"], "data": self.manifest["data"], "start": self.manifest["start"]},
        }


def _plan(
    kind: str, labelled: LabelledSet, radiometry: Radiometry, settings: TrainSettings, start: Start | None, progress: Progress
) -> _Plan:
    from terralabel.train.segmentation.schedule import resolve
    from terralabel.train.segmentation.survey import survey

    labelled = labelled.labelled
    learned = labelled.with_images(item for item in labelled.images if item.split in ("train", ""))
    held_out = labelled.with_images(item for item in labelled.images if item.split == "val")
    found = survey(learned, radiometry, progress)
    val = survey(held_out, radiometry, progress, needs_two=False) if held_out.images else None
    network, begun = _network(labelled.classes, radiometry.count, settings, start)
    data = {"name": labelled.name, "images": len(found.sizes), "digest": digest([sorted(found.sizes.items()), found.pixels])}
    manifest = {
        "format": _FORMAT,
        "kind": kind,
        "network": network.name,
        "settings": stored(settings),
        "steps": resolve(network.schedule, settings).iterations,
        "data": data,
        "classes": digest(labelled.classes.to_json()),
        "radiometry": asdict(radiometry),
        "start": begun.origin,
    }
    return _Plan(network, labelled, radiometry, settings, found, val, json.loads(json.dumps(manifest)), begun)


def _network(classes: Classes, bands: int, settings: TrainSettings, start: Start | None) -> tuple[Network, _Begun]:
    """The network with its first weights, and what they are."""
    from terralabel.nets.checkpoints import file_sha256
    from terralabel.nets.segmentation.building import build
    from terralabel.nets.segmentation.transfer import load_parts

    checkpoint = checkpoint_of(start)
    named = settings.network if settings.network != "auto" else None
    name = named or (str(checkpoint.record["network"]["name"]) if checkpoint else DEFAULT_NETWORK)
    kept = checkpoint is not None and start is not None and start.load == "head"  # the backbone begins as without a checkpoint
    weights = None if settings.weights == "none" or (checkpoint and not kept) else settings.weights
    if start is not None and checkpoint is None:
        if start.load != "backbone":
            raise SettingsError(
                f"{start.path} is no checkpoint of a TerraLabel training: only its backbone can be loaded: --load backbone."
            )
        weights = str(start.path)
    network = build(name, len(classes), bands, settings.auxiliary > 0, weights=weights, seed=settings.seed)
    if checkpoint is not None and start is not None:
        same = _names(checkpoint.classes) == _names(classes)
        report = load_parts(network, checkpoint.weights(), start.load, classifier=same)  # type: ignore[arg-type]
        origin = {"sha256": checkpoint.sha256, "load": start.load}
        return network, _Begun(f"{start.path}\n{report}", origin, same and start.load != "backbone")
    if start is not None:
        return network, _Begun(f"backbone: {network.origin}", {"sha256": file_sha256(start.path), "load": start.load})
    return network, _Begun("" if weights is None else f"backbone: {network.origin}", {"weights": network.origin})


def _names(classes: Classes) -> list[tuple[int, str]]:
    """Classes are the same when ids and names are: clusters of two runs are not, whatever their number."""
    return [(entry.id, entry.name) for entry in classes]


def checkpoint_of(start: Start | None) -> Checkpoint | None:
    """The checkpoint of a training that a start names; None for a weights file of another program."""
    from terralabel.nets.checkpoints import check
    from terralabel.train.segmentation.checkpoint import open_checkpoint

    if start is None:
        return None
    path = start.path
    if path.is_dir() or path.with_suffix(".json").is_file():
        return open_checkpoint(path)
    check(path)
    try:
        return open_checkpoint(path)
    except WeightsError:  # a sound weights file, but not of ours
        return None


def _agree(folder: Path, manifest: dict[str, Any], overwrite: bool, team: Team, progress: Progress) -> None:
    """Write the manifest of a new training; refuse to go on with one that was started differently."""
    path = folder / "training.json"
    if path.is_file() and not overwrite:
        different = _differences(_read(path), manifest)
        if different:
            raise SettingsError(
                f"{folder} was started differently: {'; '.join(different)}. Give another --out, or --overwrite to start anew."
            )
        return
    if not team.leads:
        return
    if path.is_file():
        progress.say(f"starting {folder} anew")
        _clear(folder)
    write_text(path, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError(f"format {found.get('format') if isinstance(found, dict) else None}, expected {_FORMAT}")
    except ValueError as error:
        raise RunError(f"{path} is damaged or of another version ({error}): start anew with --overwrite.") from error
    return found


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """In words, what two manifests do not share."""
    out = changed(old["settings"], replace(TrainSettings(), **_tuples(new["settings"])))
    for name in ("kind", "network", "steps"):
        if old[name] != new[name] and not any(line.startswith(f"{name}:") for line in out):
            out.append(f"{name}: {old[name]} -> {new[name]}")
    for name, words in (("data", "other images or labels"), ("classes", "other classes"), ("radiometry", "another radiometry"),
                        ("start", "other weights to begin with")):  # fmt: skip
        if old[name] != new[name]:
            out.append(words)
    return out


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _clear(folder: Path) -> None:
    """Remove what an earlier training left, and nothing else."""
    for path in [*folder.glob("step-*"), *(folder / name for name in _OWN if name not in (".lock", "drawn", "sure"))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
