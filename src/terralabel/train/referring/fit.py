"""Fit a locator to triplets: the small one from nothing, or a model of transformers from its weights.

Every batch is a function of the seed and its step, so a fit that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from terralabel.core.files import atomic_path
from terralabel.core.settings import coerce, setting
from terralabel.core.triplets import Triplet
from terralabel.errors import RunError, SettingsError
from terralabel.nets.backbones import choose_device
from terralabel.nets.grounding.eyes import load_eyes
from terralabel.nets.grounding.models import Grounding
from terralabel.nets.grounding.small import CELL, SIDE, PhraseNet, word_numbers
from terralabel.nets.grounding.small_locator import looked_at, write_small
from terralabel.train.referring.losses import locator_loss

__all__ = ["FitSettings", "ReleasedPupil", "SmallPupil", "fit", "stored"]

#: What is needed to go on, beside the locator's own files.
_STATE = "resume.pt"
#: Features of so many pictures are kept (.4 MB each); others are looked at again.
_KEPT = 2000
#: Proposals of the small locator that learn a box; of others, which have a few hundred queries, one, as in their training.
_TAUGHT = 4

Pictures = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class FitSettings:
    """Settings of `terralabel refer-fit`."""

    steps: int = setting(600, "Batches in all.", low=1)
    batch_size: int = setting(8, "Triplets in a batch.", low=1)
    lr: float = setting(0.0, "Learning rate at its highest; 0: 0.001 for the small locator, 0.00001 for others.", low=0.0)
    seed: int = setting(0, "Seed of the start and of the batches.", low=0)
    save_every: int = setting(100, "Steps between two checkpoints.", low=1, results=False)
    device: str = setting("auto", "Where the network runs: auto, cpu, cuda, cuda:1, mps.", results=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))


class Pupil(Protocol):
    """A locator that learns."""

    net: nn.Module
    lr: float

    def loss(self, items: Sequence[Triplet]) -> Tensor:
        """The loss of a batch."""
        ...

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """Write what `--locator fitted:FOLDER` reads."""
        ...


class SmallPupil:
    """The small locator, from nothing. `pictures` reads an image file as (H, W, 3) uint8."""

    lr = 1e-3

    def __init__(self, pictures: Pictures, seed: int, device: str = "auto") -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net: nn.Module = PhraseNet().to(choose_device(device))
        self._pictures, (self._eyes, self._seen_with) = pictures, load_eyes()
        self._seen: dict[Path, tuple[Tensor, float]] = {}

    def loss(self, items: Sequence[Triplet]) -> Tensor:
        """See `Pupil`. Smaller pictures are filled up with nothing, where nothing is to be found."""
        seen = [self._look(item.image) for item in items]
        height, width = (max(features.shape[axis] for features, _ in seen) for axis in (1, 2))
        together = seen[0][0].new_zeros((len(seen), height, width, seen[0][0].shape[3]))
        for row, (features, _) in zip(together, seen, strict=True):
            row[: features.shape[1], : features.shape[2]] = features[0]
        place = next(self.net.parameters()).device
        logits, boxes = self.net(together.to(place), word_numbers([item.text for item in items]).to(place))
        truth = torch.tensor([[v / cell for v in item.xyxy] for item, (_, cell) in zip(items, seen, strict=True)])
        cells = SIDE / CELL  # boxes in shares of the longer side
        return locator_loss(logits, boxes / cells, truth.to(place) / cells, _TAUGHT)

    def _look(self, path: Path) -> tuple[Tensor, float]:
        found = self._seen.get(path)
        if found is None:
            found = looked_at(self._pictures(path), self._eyes)
            if len(self._seen) < _KEPT:
                self._seen[path] = found
        return found

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """See `Pupil`."""
        assert isinstance(self.net, PhraseNet)
        write_small(self.net, folder, self._seen_with, dict(note))


class ReleasedPupil:
    """A model of transformers that goes on learning: Grounding DINO or OWL. SAM 3 has no boxes that a text alone would teach."""

    lr = 1e-5

    def __init__(self, pictures: Pictures, model: Grounding) -> None:
        if model.family == "sam3":
            raise SettingsError("SAM 3 is not fitted here; fit grounding-dino, owlv2 or the small locator.")
        self.net, self._model, self._pictures = model.net, model, pictures

    def loss(self, items: Sequence[Triplet]) -> Tensor:
        """See `Pupil`. One picture at a time, since their sizes differ."""
        parts = []
        for item in items:
            picture = self._pictures(item.image)
            height, width = picture.shape[:2]
            logits, boxes = self._model.forward(self._model.inputs([picture], [item.text]), (height, width))
            truth = torch.tensor([item.xyxy]) / torch.tensor([width, height, width, height], dtype=torch.float32)
            parts.append(locator_loss(logits, boxes, truth.to(boxes.device)))
        return torch.stack(parts).mean()

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """See `Pupil`: what `save_pretrained` writes, so that transformers reads it, too."""
        with atomic_path(folder / "model.safetensors") as temporary:
            self._model.net.save_pretrained(str(Path(temporary).parent / f".{folder.name}-saved"), safe_serialization=True)
            saved = Path(temporary).parent / f".{folder.name}-saved"
            (saved / "model.safetensors").replace(temporary)
            (saved / "config.json").replace(folder / "config.json")
            for left in saved.iterdir():
                left.unlink()
            saved.rmdir()
        self._model.processor.save_pretrained(str(folder))


def fit(
    pupil: Pupil,
    items: Sequence[Triplet],
    out: Path,
    settings: FitSettings,
    note: Mapping[str, Any],
    *,
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Teach to the last step, going on from what lies in `out`; returns the mean loss of the last steps.

    `note` is kept beside the locator and tells one fit from another: `RunError` where `out` holds one of other triplets or settings,
    and where a loss is not finite (the last checkpoint stays).
    """
    out.mkdir(parents=True, exist_ok=True)
    state, step = out / _STATE, 0
    optimizer = torch.optim.AdamW(pupil.net.parameters(), lr=settings.lr or pupil.lr, weight_decay=1e-4)
    if state.exists():
        stored = torch.load(state, weights_only=True)
        if stored["note"] != dict(note):
            raise RunError(
                f"{out} holds a locator that was fitted to other triplets or with other settings: choose another folder."
            )
        step = int(stored["step"])
        pupil.net.load_state_dict(stored["net"])
        optimizer.load_state_dict(stored["optimizer"])
    recent: list[float] = []
    while step < settings.steps:
        chosen = np.random.default_rng([settings.seed, step]).integers(0, len(items), settings.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = _rate(settings, pupil.lr, step)
        pupil.net.train()
        loss = pupil.loss([items[k] for k in chosen.tolist()])
        if not bool(loss.isfinite()):
            raise RunError(
                f"The loss is {float(loss)} at step {step}: the last checkpoint in {out} stays; take a smaller --lr."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(pupil.net.parameters(), 1.0)
        optimizer.step()
        step += 1
        recent = [*recent[-49:], float(loss.detach())]
        advance(step, recent[-1])
        if step % settings.save_every == 0 or step == settings.steps:
            pupil.net.eval()
            pupil.save(out, note)
            held = {"step": step, "note": dict(note), "net": pupil.net.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_path(state) as temporary:
                torch.save(held, temporary)
    pupil.net.eval()
    return float(np.mean(recent)) if recent else math.nan


def _rate(settings: FitSettings, usual: float, step: int) -> float:
    """Up over 20 steps, then down along a cosine to a hundredth."""
    down = 0.505 + 0.495 * math.cos(math.pi * step / settings.steps)
    return (settings.lr or usual) * min(1.0, (step + 1) / 20) * down


def stored(settings: FitSettings) -> dict[str, Any]:
    """The settings that decide what comes out."""
    return {f.name: getattr(settings, f.name) for f in fields(settings) if f.metadata.get("results", True)}
