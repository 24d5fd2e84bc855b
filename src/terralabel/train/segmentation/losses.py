"""Cross entropy over the labelled pixels of a batch, the main head's and the auxiliary head's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from terralabel.core.classes import IGNORE

__all__ = ["Objective", "PixelCrossEntropy", "confusion", "head_losses", "summed_cross_entropy"]


class Objective(Protocol):
    """What a training makes small: sums, so that a batch may be cut and spread over processes as one likes."""

    def weigh(self, labels: Any) -> float:
        """What the sum over a batch is divided by, as a sum over its parts; `labels` (b, h, w) uint8, an array."""
        ...

    def __call__(self, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(summed loss, logits (b, K, h, w) to count with) of what the network returns `with_auxiliary`; `labels` (b, h, w) int64."""
        ...


@dataclass(frozen=True)
class PixelCrossEntropy:
    """Cross entropy over the labelled pixels of the batch; the auxiliary head's counts `auxiliary` times."""

    auxiliary: float = 0.4

    def weigh(self, labels: Any) -> float:
        """Labelled pixels."""
        return float((labels != IGNORE).sum())

    def __call__(self, outputs: tuple[Tensor, Tensor | None], labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `head_losses`."""
        return head_losses(outputs, labels, self.auxiliary)


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the labelled pixels; a scalar float32, 0 where none is labelled.

    `logits` (B, K, H, W) of any float type, `labels` (B, H, W) int64 class indices, 255 where there is no label. A sum,
    and no mean: the caller divides by the labelled pixels of the whole batch, however it is cut and spread.
    """
    return cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")


def head_losses(outputs: tuple[Tensor, Tensor | None], labels: Tensor, auxiliary: float) -> tuple[Tensor, Tensor]:
    """(total loss as a sum over pixels, the main head's logits) of what a network returns with its auxiliary head.

    The auxiliary head, if there is one, counts `auxiliary` times; .4 in the study that ALPS follows.
    """
    main, extra = outputs
    total = summed_cross_entropy(main, labels)
    if extra is not None and auxiliary:
        total = total + auxiliary * summed_cross_entropy(extra, labels)
    return total, main


def confusion(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, K) int64 counts on the CPU, rows predicted, columns true, of the labelled pixels."""
    seen = labels != IGNORE
    pairs = logits.argmax(dim=1)[seen] * classes + labels[seen]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).cpu()
