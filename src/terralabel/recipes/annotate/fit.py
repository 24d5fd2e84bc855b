"""Learn from few labels to label the rest: `annotate fit`. One network on all of them, and one a fold for honest scores.

MODEL/
  annotation.json         what was learned, on what, with which settings
  step-*.safetensors      the network that `annotate apply` uses, with its record (`train.segmentation.checkpoint`)
  log.csv, curves.png     how it learned
  folds/1/ ...            the same for each fold's network
  held_out.json           how well these label the images that they have not seen
  cut.json                how much of each class to find, by images that were learned from; held_out.json has it by others
  judge.json              what predicts the quality of labels, fitted on these; its pictures beside it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terralabel.core.classes import Classes
from terralabel.core.files import write_text
from terralabel.core.labelled import LabelledSet
from terralabel.core.settings import changed
from terralabel.errors import RunError, SettingsError
from terralabel.recipes.annotate.folds import HeldOut, judge_folds, learned_cut
from terralabel.recipes.annotate.plan import FORMAT, Plan, prepare
from terralabel.recipes.pretrain import opened, run_radiometry
from terralabel.recipes.training import needs_torch, own_folder
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress, Silent
from terralabel.train.annotation.settings import AnnotateSettings

if TYPE_CHECKING:
    from terralabel.train.segmentation.checkpoint import Checkpoint

__all__ = ["Fitted", "agree", "annotate_fit", "made_folder"]

#: What a model's folder may hold of its own; `step-*` and temporary files besides.
_OWN = (
    "annotation.json", "log.csv", "curves.png", "last.json", "best.json", "tensorboard", ".lock", "folds", "judge.json",
    "judge_reliability.png", "judge_risk_coverage.png", "held_out.json", "cut.json", "drawn", "sure",
)  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """A model that has learned: its folder, its network's last checkpoint, the images it learned from."""

    folder: Path
    checkpoint: Checkpoint
    classes: Classes
    images: int
    folds: int
    held_out: HeldOut | None = None
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the command prints at the end."""
        record = self.checkpoint.record
        network, names = record["network"], ", ".join(entry.name for entry in self.classes)
        lines = [
            f"network     {network['name']} ({network['origin']}), {network['learned']:,} of {network['weights']:,} numbers learned",
            f"classes     {names}"
            + ("" if record["background"] is None else f"; background: {self.classes[record['background']].name}"),
            f"learned     {self.images} labelled images, {record['steps']:,} steps of {record['settings']['batch_size']} crops"
            + (f", and {self.folds} times without a part of them" if self.folds else ""),
            f"model       {self.folder}",
            f"curves      {self.folder / 'curves.png'}, {self.folder / 'log.csv'}",
            f"next        terralabel annotate apply {self.folder} IMAGES --out RUN",
        ]
        if self.held_out is not None:
            each = ", ".join(f"{entry.name} {self.held_out.iou[entry.id]:.3f}" for entry in self.classes)
            lines[3:3] = [f"held out    mIoU {self.held_out.miou:.3f} on images not seen: {each}"]
            lines[4:4] = [f"judge       {self.held_out.judge.note}"]
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])


def annotate_fit(
    images: str | Path | LabelledSet,
    out: str | Path,
    settings: AnnotateSettings | None = None,
    *,
    labels: str | Path | None = None,
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> Fitted:
    """Learn to label images from those of them that have a label.

    `images`: a folder or a `LabelledSet`, of which as many as you like are without label; `labels`: where labels lie, if not
    beside the images; `reading`: more keywords for `open_labelled`. `settings`, or its fields as `values`. All images, with and
    without label, have a say in the radiometry. Goes on where it stopped; raises `SettingsError` where the model in `out` was
    started differently, unless `overwrite`, and `InputError` for labels that cannot be learned from.

        >>> import terralabel as tl
        >>> few = {"steps": 2, "batch_size": 2, "crop": 64, "folds": 0, "trunk": "scratch"}  # hundreds of steps, in earnest
        >>> fitted = tl.annotate_fit("images", "model", labels="truth", reading={"classes": "classes.json"}, **few)
        >>> fitted.checkpoint.step
        2
    """
    needs_torch()
    settings, progress = settings or AnnotateSettings(**values), progress or Silent()
    given = {**(reading or {}), **({} if labels is None else {"labels": labels})}
    folder = made_folder(Path(out))
    how: dict[str, Any] = {"sensor": settings.sensor, "bands": settings.bands}
    labelled = images if isinstance(images, LabelledSet) else opened(images, progress, given, out=folder, **how)
    own = None if isinstance(images, LabelledSet) else run_radiometry(Path(images))
    with RunFolder(folder).lock(progress.say):
        plan = prepare(labelled, settings, progress, own)
        agree(folder, plan, overwrite, progress)
        for fold in range(plan.folds):
            progress.say(f"fold {fold + 1} of {plan.folds}: learning without {plan.held_out(fold)} images")
            plan.train(folder / "folds" / str(fold + 1), progress, without=fold)
        held_out = judge_folds(plan, folder, progress)
        checkpoint = plan.train(folder, progress)
        learned_cut(plan, folder, progress)
    return Fitted(folder, checkpoint, labelled.classes, len(plan.survey.sizes), plan.folds, held_out, plan.notes)


# -------------------------------------------------------------------------------------------------------------- folder


def made_folder(folder: Path) -> Path:
    """The model's folder; one with files of something else in it is refused."""
    return own_folder(folder, _OWN, "model")


def agree(folder: Path, plan: Plan, overwrite: bool, progress: Progress) -> None:
    """Write what a new model is; refuse to go on with one that was started differently."""
    path, wanted = folder / "annotation.json", plan.manifest()
    if path.is_file():
        different = _differences(_read(path), wanted, plan.settings)
        if not different:
            return
        if not overwrite:
            raise SettingsError(
                f"{folder} was started differently: {'; '.join(different)}. Give another --out, or --overwrite to start anew."
            )
        progress.say(f"starting {folder} anew")
        _clear(folder)
    write_text(path, json.dumps(wanted, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, expected {FORMAT}")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged or of another version ({error}): start anew with --overwrite.") from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], settings: AnnotateSettings) -> list[str]:
    """In words, what two manifests do not share."""
    out = changed(old["settings"], settings)
    words = {
        "data": "other images or labels",
        "classes": "other classes",
        "radiometry": "another radiometry",
        "folds": "other folds",
    }
    return out + [text for name, text in words.items() if old.get(name) != new[name] and not (name == "folds" and out)]


def _clear(folder: Path) -> None:
    """Remove what an earlier fit left, and nothing else; labels that were drawn anew already stay."""
    for path in [*folder.glob("step-*"), *(folder / name for name in _OWN if name not in (".lock", "drawn", "sure"))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
