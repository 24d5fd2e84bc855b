"""Cross entropy over the labelled pixels of a batch, the main head's and the auxiliary head's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from terralabel.core.classes import IGNORE

__all__ = ["confusion", "head_losses", "summed_cross_entropy"]


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
