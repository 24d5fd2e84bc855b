"""`refer-fit`: a locator of one's own from triplets of image, text and box."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel import registry
from terralabel.contracts import Locator
from terralabel.core.tile import Tile
from terralabel.core.triplets import Triplet, TripletSet
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.datasets.referring import open_referring
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.imagery.tiles import read_whole
from terralabel.recipes.training import needs_torch, own_folder
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress, Silent
from terralabel.train.referring.settings import FitSettings, stored

__all__ = ["Fitted", "refer_fit"]

#: What a locator's folder may hold of its own: what is needed to go on, the log, weights of ours and of transformers.
_OWN = (
    "resume.pt",
    "log.csv",
    "tensorboard",
    ".lock",
    "locator.json",
    "locator.safetensors",
    "config.json",
    "model.safetensors",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class Fitted:
    """What `refer_fit` wrote, how many triplets it learned from, the loss of its last steps, and mean box IoU on unseen ones (NaN: none)."""

    folder: Path
    triplets: int
    loss: float
    box_iou: float
    problems: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A few words for a person."""
        seen = "" if np.isnan(self.box_iou) else f"; on the val split its surest box has a mean IoU of {self.box_iou:.3f}"
        return f"{self.folder}: fitted to {self.triplets:,} triplets, loss {self.loss:.3f}{seen}. Use it: --locator fitted:{self.folder}"


def refer_fit(
    source: str | Path | TripletSet,
    out: str | Path,
    *,
    start: str = "small",
    progress: Progress | None = None,
    settings: FitSettings | None = None,
    **values: Any,
) -> Fitted:
    """Teach a locator what texts mean, on (image, text, box) triplets; no masks are needed. Resumes.

    `source`: a set that `imagery.datasets.referring.open_referring` reads, or a table of triplets; its train split, or all where it
    says no split. `start`: "small" (a small network from nothing), ``grounding-dino[:FOLDER]`` or ``owlv2[:FOLDER]``, whose weights go on
    learning. `settings`, or their fields as `values`: see `train.referring.settings`. With the same seed on a CPU the same weights come out.

        >>> import terralabel as tl
        >>> fitted = tl.refer_fit("triplets.csv", "locator", steps=2)  # hundreds of steps, in earnest
        >>> fitted.triplets
        2
    """
    needs_torch()
    from terralabel.train.referring.fit import fit

    progress = progress or Silent()
    settings = settings or FitSettings(**values)
    found = source if isinstance(source, TripletSet) else open_referring(source)
    for problem in found.problems:
        progress.say(f"left out: {problem}")
    taught = found.split("train").items or tuple(item for item in found.items if not item.split)
    if not taught:
        raise InputError(f"{found.name}: no triplet of a train split to learn from.", "nothing")
    pictures = _Pictures([item.image for item in found.items])
    pupil = _pupil(start, pictures, settings.seed, settings.device)
    note = {"start": start, "settings": stored(settings), "triplets": _digest(taught)}
    folder = own_folder(Path(out), _OWN, "locator")
    with RunFolder(folder).lock(progress.say):
        progress.start("fit", settings.steps, "steps")
        loss = fit(pupil, taught, folder, settings, note, advance=lambda step, loss: progress.advance())
        progress.finish()
    locator = registry.create("locators", f"fitted:{Path(out)}").on(settings.device)
    unseen = found.split("val").items
    scored = [_surest(locator, pictures, item) for item in unseen[:500]]
    return Fitted(Path(out), len(taught), loss, float(np.mean(scored)) if scored else float("nan"), found.problems)


class _Pictures:
    """Images as a network sees them: (H, W, 3) uint8 after the set's radiometry."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._radiometry = fit_radiometry(sorted(set(paths))).radiometry

    def tile(self, path: Path) -> Tile:
        """The whole image as one tile."""
        return read_whole(path, self._radiometry)

    def __call__(self, path: Path) -> np.ndarray:
        return self.tile(path).rgb("give images with three bands")


def _pupil(start: str, pictures: _Pictures, seed: int, device: str) -> Any:
    from terralabel.nets.grounding.models import FAMILIES, load_grounding
    from terralabel.train.referring.pupils import ReleasedPupil, SmallPupil

    if start == "small":
        return SmallPupil(pictures, seed, device)
    family, _, argument = start.partition(":")
    if family not in FAMILIES:
        raise SettingsError(f"--start {start}: expected small, grounding-dino, owlv2, or one of these with :FOLDER.")
    return ReleasedPupil(pictures, load_grounding(family, argument, device))


def _digest(items: Sequence[Triplet]) -> str:
    said = json.dumps([(item.key, item.image.name, item.text, item.xyxy) for item in items])
    return hashlib.sha256(said.encode()).hexdigest()


def _surest(locator: Locator, pictures: _Pictures, item: Triplet) -> float:
    """IoU of the surest box with the true one; 0 where there is none."""
    boxes, scores = locator.locate(pictures.tile(item.image), item.text)
    if not len(boxes):
        return 0.0
    best, truth = boxes[int(scores.argmax())].astype(np.float64), np.array(item.xyxy)
    common = np.clip(np.minimum(best[2:], truth[2:]) - np.maximum(best[:2], truth[:2]), 0, None).prod()
    union = (best[2:] - best[:2]).prod() + (truth[2:] - truth[:2]).prod() - common
    return float(common / union)
