"""Locators that learn from triplets: the small one from nothing, or a model of transformers from its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.core.triplets import Triplet
from terralabel.errors import SettingsError
from terralabel.nets.backbones import choose_device
from terralabel.nets.grounding.eyes import load_eyes
from terralabel.nets.grounding.models import Grounding
from terralabel.nets.grounding.small import CELL, SIDE, PhraseNet, word_numbers
from terralabel.nets.grounding.small_locator import looked_at, write_small
from terralabel.train.referring.losses import locator_loss

__all__ = ["ReleasedPupil", "SmallPupil"]

#: Features of so many pictures are kept (.4 MB each); others are looked at again.
_KEPT = 2000
#: Proposals of the small locator that learn a box; of others, which have a few hundred queries, one, as in their training.
_TAUGHT = 4

Pictures = Callable[[Path], np.ndarray]


class SmallPupil:
    """The small locator, from nothing. `pictures` reads an image file as (H, W, 3) uint8."""

    lr, early = 1e-3, True

    def __init__(self, pictures: Pictures, seed: int, device: str = "auto") -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net: nn.Module = PhraseNet().to(choose_device(device))
        self._pictures, (self._eyes, self._seen_with) = pictures, load_eyes()
        self._seen: dict[Path, tuple[Tensor, float]] = {}

    def loss(self, items: Sequence[Triplet], rng: np.random.Generator | None = None) -> Tensor:
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

    lr, early = 1e-5, True

    def __init__(self, pictures: Pictures, model: Grounding) -> None:
        if model.family == "sam3":
            raise SettingsError("SAM 3 is not fitted here; fit grounding-dino, owlv2 or the small locator.")
        self.net, self._model, self._pictures = model.net, model, pictures

    def loss(self, items: Sequence[Triplet], rng: np.random.Generator | None = None) -> Tensor:
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
        """See `Pupil`: what `save_pretrained` writes, so that transformers reads it, too. The weights come last."""
        beside = folder / f"{TEMPORARY_PREFIX}saved"
        shutil.rmtree(beside, ignore_errors=True)  # what a kill left
        self._model.net.save_pretrained(str(beside), safe_serialization=True)
        self._model.processor.save_pretrained(str(beside))
        for file in sorted(beside.iterdir(), key=lambda file: (file.name == "model.safetensors", file.name)):
            file.replace(folder / file.name)
        beside.rmdir()
