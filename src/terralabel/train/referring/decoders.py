"""Mask decoders that learn from true masks: those of the SAM family, and that of `nano`; their image encoders are at rest.

What the encoder makes of a window is made once and kept. A prompt is the box of a true mask with its sides moved, that box and a
point of the mask, or a point alone, which SAM answers with three masks of which the best one learns (SAM, arXiv 2304.02643, 3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terralabel.core.files import atomic_path
from terralabel.core.tile import Tile
from terralabel.imagery.datasets.instances import MaskTile
from terralabel.masks.lowres import Frame
from terralabel.masks.nano_views import FACTOR, LONGEST, as_input, shrunk
from terralabel.masks.sam_input import cell_shares, network_input
from terralabel.nets.backbones import choose_device
from terralabel.nets.nano.network import Seen, prompt_channels
from terralabel.nets.nano.sampling import around
from terralabel.nets.nano.shipped import SHIPPED, read_network, write_network
from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.tuning import TunableSam
from terralabel.train.referring.losses import mask_losses, mask_overlap

__all__ = ["Asked", "DecoderPupil", "Lesson", "NanoPupil", "SamPupil", "drawn_prompt"]

#: How often a prompt is a box, and a box with a point; else it is a point alone.
_BOX, _BOX_AND_POINT = 0.45, 0.3
#: The side of nano's grid, and how faint it draws a box that was guessed at a point (`masks.nano`).
_GRID, _SURE_OF_GUESS = 48, 0.5
#: Windows whose features nano keeps; others are looked at again.
_KEPT = 200

Pictures = Callable[[MaskTile], Tile]


@dataclass(frozen=True)
class Lesson:
    """One true mask: that of number `index` in a window."""

    tile: MaskTile
    index: int

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, window pixels."""
        return self.tile.truth.array(self.index)

    @property
    def box(self) -> np.ndarray:
        """(4,) float32 xyxy, window pixels."""
        x, y, w, h = self.tile.truth.bbox[self.index].tolist()
        return np.array([x, y, x + w, y + h], dtype=np.float32)


@dataclass(frozen=True)
class Asked:
    """A prompt: `box` (4,) float32 xyxy and `point` (2,) float32 xy in window pixels, each perhaps None, but not both."""

    box: np.ndarray | None
    point: np.ndarray | None


def drawn_prompt(lesson: Lesson, moved: float, rng: np.random.Generator) -> Asked:
    """A prompt for a true mask: its box, each side moved by up to `moved` of the box's length; that and a pixel of it; or a pixel."""
    kind, height, width = rng.random(), *lesson.tile.truth.size
    box = lesson.box
    x, y, w, h = lesson.tile.truth.bbox[lesson.index].tolist()
    box = box + rng.uniform(-moved, moved, 4).astype(np.float32) * np.array([w, h, w, h], dtype=np.float32)
    box = np.clip(box, 0, np.array([width, height, width, height], dtype=np.float32))
    rows, columns = np.nonzero(lesson.tile.truth.crop(lesson.index))
    chosen = int(rng.integers(len(rows)))
    point = np.array([x + columns[chosen] + 0.5, y + rows[chosen] + 0.5], dtype=np.float32)
    if kind < _BOX:
        return Asked(box, None)
    return Asked(box, point) if kind < _BOX + _BOX_AND_POINT else Asked(None, point)


class DecoderPupil(Protocol):
    """A mask decoder that learns: a `fit.Pupil`, and how good its answers are.

    name      what `--masks` calls the network it began with
    origin    the sha256 of that network's weights
    file      the name of the file that is written
    """

    net: nn.Module
    lr: float
    early: bool
    name: str
    origin: str
    file: str

    def loss(self, items: Sequence[Lesson], rng: np.random.Generator) -> Tensor:
        """See `fit.Pupil`."""
        ...

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """See `fit.Pupil`."""
        ...

    def overlap(self, lesson: Lesson) -> float:
        """IoU of the answer to the true box with the true mask, on the decoder's own cells."""
        ...


class SamPupil:
    """The decoder of a network of the SAM family. `pictures` reads a window; `kept` is the folder for its features."""

    lr, early, file = 1e-4, False, "model.safetensors"

    def __init__(self, source: str, pictures: Pictures, kept: Path, moved: float, device: str = "auto") -> None:
        self._sam = TunableSam(source, device)
        self.net, self.name, self.origin = self._sam.decoder, str(self._sam.checkpoint), self._sam.sha256
        self._pictures, self._kept, self._moved = pictures, kept, moved

    def loss(self, items: Sequence[Lesson], rng: np.random.Generator) -> Tensor:
        """See `fit.Pupil`."""
        return torch.stack([self._loss(item, drawn_prompt(item, self._moved, rng)) for item in items]).mean()

    def _loss(self, lesson: Lesson, asked: Asked) -> Tensor:
        frame = self._frame(lesson.tile)
        logits, expected = self._answers(lesson, asked, multimask=asked.box is None)
        share = cell_shares(frame, lesson.mask).to(logits.device)
        inside = logits[:, : share.shape[0], : share.shape[1]]
        judged = (expected - mask_overlap(inside, share)).square()
        return mask_losses(inside, share).min() + judged.mean()

    def _answers(self, lesson: Lesson, asked: Asked, *, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits (k, m, m) and expected IoU (k,)."""
        frame, given = self._frame(lesson.tile), {}
        if asked.box is not None:
            given["boxes"] = torch.from_numpy(frame.to_input(asked.box.reshape(1, 2, 2)).reshape(1, 4))
        if asked.point is not None:
            given["points"] = torch.from_numpy(frame.to_input(asked.point.reshape(1, 1, 2)))
            given["labels"] = torch.ones(1, 1, dtype=torch.int64)
        logits, expected = self._sam.answers(self._seen(lesson.tile), multimask=multimask, **given)
        return logits[0], expected[0]

    def overlap(self, lesson: Lesson) -> float:
        """See `DecoderPupil`."""
        with torch.no_grad():
            logits, _ = self._answers(lesson, Asked(lesson.box, None), multimask=False)
        share = cell_shares(self._frame(lesson.tile), lesson.mask).to(logits.device)
        return float(mask_overlap(logits[:, : share.shape[0], : share.shape[1]], share)[0])

    def _frame(self, tile: MaskTile) -> Frame:
        net = self._sam.network
        return Frame.of(tile.truth.size, mask_size=net.mask_size, image_size=net.image_size, pads=net.pads)

    def _seen(self, tile: MaskTile) -> Embedding:
        """The window's features, made once and kept in a file."""
        stat = tile.image.stat()
        said = f"{self.origin} {tile.key} {tile.plan.window} {stat.st_size} {stat.st_mtime_ns}"
        path = self._kept / f"{hashlib.sha256(said.encode()).hexdigest()[:24]}.safetensors"
        if not path.is_file():
            net = self._sam.network
            pixels = network_input(net, self._pictures(tile), self._frame(tile))
            with atomic_path(path) as temporary:
                save_file(net.encode(pixels[None])[0].tensors(), temporary)
        return Embedding.of(load_file(path)).to(self._sam.network.device)

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """See `fit.Pupil`: the whole network, in the format of the weights it began with."""
        self._sam.write(folder / self.file)


class NanoPupil:
    """The decoder of `nano`, the shipped one or that of a file. What batch norm measured stays as it is."""

    lr, early, file, name = 2e-4, False, "nano.safetensors", "nano"

    def __init__(self, weights: str, pictures: Pictures, moved: float, device: str = "auto") -> None:
        whole, self.origin = read_network(Path(weights).expanduser() if weights else SHIPPED)
        self._place = choose_device(device)
        self._whole = whole.eval().requires_grad_(False).to(self._place)
        self.net: nn.Module = whole.decoder.requires_grad_(True)
        self._pictures, self._moved = pictures, moved
        self._views: dict[str, list[tuple[Seen, tuple[int, int]]]] = {}

    def loss(self, items: Sequence[Lesson], rng: np.random.Generator) -> Tensor:
        """See `fit.Pupil`."""
        self.net.eval()
        return torch.stack([self._loss(item, drawn_prompt(item, self._moved, rng)) for item in items]).mean()

    def _loss(self, lesson: Lesson, asked: Asked) -> Tensor:
        logits, expected, share = self._answers(lesson, asked)
        judged = (expected.sigmoid() - mask_overlap(logits, share)).square()
        return (mask_losses(logits, share) + judged).mean()

    def _answers(self, lesson: Lesson, asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (1, g, g) in the box's window, expected IoU (1,) as logits, and the true mask (g, g) there.

        A point alone is answered from a guessed box; here that is the true one, drawn as faint.
        """
        box = lesson.box if asked.box is None else asked.box
        views = self._seen(lesson.tile)
        sides = LONGEST * float(FACTOR) ** np.arange(len(views) - 1)
        level = int(np.searchsorted(sides, max(box[2] - box[0], box[3] - box[1], 1)))
        (seen, size), shrink = views[level], float(FACTOR**level)
        windows = around(box[None] / shrink)
        point = np.zeros((1, 1, 2)) if asked.point is None else asked.point.reshape(1, 1, 2) / shrink
        sure = np.array([_SURE_OF_GUESS if asked.box is None else 1.0])
        labels = torch.full((1, 1), -1 if asked.point is None else 1, device=self._place)
        rough = torch.zeros(1, _GRID, _GRID, device=self._place)
        shown = self._tensor(windows)
        prompts = prompt_channels(
            shown, _GRID, size, self._tensor(box[None] / shrink), self._tensor(sure), self._tensor(point), labels, rough
        )
        logits, expected = self._whole.decode(seen, shown[None], prompts)
        return logits, expected, self._tensor(_in_cells(lesson.mask, windows[0] * shrink))

    def overlap(self, lesson: Lesson) -> float:
        """See `DecoderPupil`."""
        with torch.no_grad():
            logits, _, share = self._answers(lesson, Asked(lesson.box, None))
        return float(mask_overlap(logits, share)[0])

    def _seen(self, tile: MaskTile) -> list[tuple[Seen, tuple[int, int]]]:
        """The window at every size, through the encoder, with its (h, w)."""
        if tile.key not in self._views:
            if len(self._views) >= _KEPT:
                self._views.pop(next(iter(self._views)))
            with torch.no_grad():
                self._views[tile.key] = [
                    (self._whole.encode(self._tensor(as_input(picture, valid))[None].permute(0, 3, 1, 2)), valid.shape)
                    for picture, valid in shrunk(self._pictures(tile))
                ]
        return self._views[tile.key]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self._place)

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """See `fit.Pupil`: the whole network, as `masks nano` reads it."""
        write_network({key: value.cpu() for key, value in self._whole.state_dict().items()}, folder / self.file)


def _in_cells(mask: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(g, g) float32: whether the middle of each cell of a window (4,) xyxy lies in the mask (H, W)."""
    steps = (np.arange(_GRID) + 0.5) / _GRID
    x, y = (np.floor(window[k] + (window[k + 2] - window[k]) * steps).astype(np.int64) for k in (0, 1))
    inside = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))
    return (mask[y.clip(0, mask.shape[0] - 1)[:, None], x.clip(0, mask.shape[1] - 1)] & inside).astype(np.float32)
