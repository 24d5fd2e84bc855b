"""The structure loss of SAM2-ELNet (Wei et al. 2020, F3Net, for the binary form), with its weights acting.

    w     = 1 + 5 |avgpool31(y) - y|
    L_bce = sum(w BCE(p, y)) / sum(w)
    L_iou = 1 - (sum(w s y) + 1) / (sum(w (s + y)) - sum(w s y) + 1),   s = sigmoid(p)

for each image and each of the three outputs. Public code of the family passes `reduce="none"` to the cross entropy, which
averages silently, so that the weights cancel; here every pixel has its own. Pixels without label weigh nothing.

With K classes y is the indicator of a class and s its softmax: every class has weights of its own; the cross entropy of a pixel
takes those of its true class, L_iou is the mean over the classes that the image has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, max_pool2d, one_hot

from terralabel.core.classes import IGNORE

__all__ = ["border_weights", "boundary_band", "edge_loss", "indicators", "structure_loss", "supervised_loss"]

#: Side of the neighbourhood that a pixel is compared with, and how much more a pixel counts that is unlike it.
SIDE, MORE = 31, 5.0


def border_weights(y: Tensor, known: Tensor) -> Tensor:
    """w (b, c, h, w) of indicators y (b, c, h, w) in {0, 1}; 0 where `known` (b, 1, h, w) is. Beyond the image y is 0."""
    half = SIDE // 2  # a square is a column of rows: 62 additions a pixel, not 961
    near = avg_pool2d(avg_pool2d(y, (SIDE, 1), stride=1, padding=(half, 0)), (1, SIDE), stride=1, padding=(0, half))
    return (1 + MORE * (near - y).abs()) * known


def structure_loss(logits: Tensor, labels: Tensor, weighed: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(b,) float32: L_bce + L_iou of each image; 0 for one without a labelled pixel.

    logits (b, 1, h, w) for two classes, else (b, K, h, w); labels (b, h, w) int64 class indices, 255 where there is none.
    `weighed`: (y, w) where they are known already (`indicators`, `border_weights`).
    """
    logits = logits.float()
    y, w = weighed or _weighed(labels, logits.shape[1])
    if logits.shape[1] == 1:
        entropy, weight, s = binary_cross_entropy_with_logits(logits, y, reduction="none")[:, 0], w[:, 0], logits.sigmoid()
        present = torch.ones_like(y[:, :, 0, 0])
    else:
        entropy = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        weight, s = (w * y).sum(1), logits.softmax(1)
        present = y.flatten(2).amax(2)
    total = weight.sum((1, 2))
    l_bce = (weight * entropy).sum((1, 2)) / total.clamp(min=1e-6)
    both, either = (w * s * y).sum((2, 3)), (w * (s + y)).sum((2, 3))
    l_iou = ((1 - (both + 1) / (either - both + 1)) * present).sum(1) / present.sum(1).clamp(min=1)
    return torch.where(total > 0, l_bce + l_iou, torch.zeros_like(total))


def _weighed(labels: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    y = indicators(labels, outputs)
    return y, border_weights(y, (labels != IGNORE)[:, None].float())


def indicators(labels: Tensor, outputs: int) -> Tensor:
    """(b, outputs, h, w) float32; of one output, that of the second class."""
    if outputs == 1:
        return (labels == 1)[:, None].float()
    known = labels != IGNORE
    return one_hot(torch.where(known, labels, 0), outputs).permute(0, 3, 1, 2).float() * known[:, None]


def boundary_band(labels: Tensor) -> Tensor:
    """(b, 1, h, w) float32 in {0, 1}: pixels beside one of another class; what the edge attention learns (v1, form our own)."""
    known, classes = (labels != IGNORE)[:, None], labels[:, None].float()
    highest = max_pool2d(torch.where(known, classes, -1.0), 3, 1, 1)
    lowest = -max_pool2d(torch.where(known, -classes, -256.0), 3, 1, 1)
    return ((highest != lowest) & known).float()


def edge_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(b,) mean cross entropy of edge logits (b, 1, h, w) over the labelled pixels; rare edges weigh as much as the rest together."""
    known, y = (labels != IGNORE)[:, None].float(), boundary_band(labels)
    more = ((known * (1 - y)).sum((1, 2, 3)) / (known * y).sum((1, 2, 3)).clamp(min=1)).clamp(max=100)[:, None, None, None]
    weight = known * torch.where(y > 0, more, torch.ones_like(more))
    entropy = binary_cross_entropy_with_logits(logits.float(), y, reduction="none")
    return (weight * entropy).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6)


def supervised_loss(outputs: Sequence[Tensor], edge: Tensor | None, labels: Tensor, coarser: float = 1.0) -> Tensor:
    """The sum over the images of a batch: of the three outputs, the coarser two counting `coarser` times, and of the edges."""
    weighed = _weighed(labels, outputs[0].shape[1])
    total = structure_loss(outputs[0], labels, weighed).sum()
    for logits in outputs[1:] if coarser else ():
        total = total + coarser * structure_loss(logits, labels, weighed).sum()
    return total if edge is None else total + edge_loss(edge, labels).sum()
