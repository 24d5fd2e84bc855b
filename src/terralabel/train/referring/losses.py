"""The losses of a locator: focal 2, L1 5, generalised IoU 2 (as in PSLG-SAM's first stage, after DETR, arXiv 2005.12872).

Of all boxes that a network proposes those that cost least against the true one are taught to be it, the others to be silent.

Those of a mask decoder: focal 20, Dice 1, and the squared error of the IoU that it expects (SAM, arXiv 2304.02643, appendix A).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["WEIGHTS", "focal", "generalised_iou", "locator_loss", "mask_losses", "mask_overlap", "matched"]

#: Of focal loss, L1 and generalised IoU.
WEIGHTS = (2.0, 5.0, 2.0)
#: Focal loss (Lin et al. 2017, arXiv 1708.02002): weight of what is there, and how little the easy counts.
_ALPHA, _GAMMA = 0.25, 2.0
#: Weight of the focal loss of masks beside Dice.
_FOCAL = 20.0


def focal(logits: Tensor, there: Tensor) -> Tensor:
    """Focal loss of each logit; `there` is 1 where the thing is, else 0."""
    p = logits.sigmoid()
    right = p * there + (1 - p) * (1 - there)
    weight = _ALPHA * there + (1 - _ALPHA) * (1 - there)
    return weight * (1 - right) ** _GAMMA * binary_cross_entropy_with_logits(logits, there, reduction="none")


def generalised_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """Of xyxy boxes in pairs (..., 4): IoU less the share of the hull that neither fills (Rezatofighi et al. 2019, 1902.09630)."""
    low, high = torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (boxes, truth)]
    union = areas[0] + areas[1] - common
    hull = (torch.maximum(boxes[..., 2:], truth[..., 2:]) - torch.minimum(boxes[..., :2], truth[..., :2])).prod(-1)
    return common / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def matched(logits: Tensor, boxes: Tensor, truth: Tensor, count: int) -> Tensor:
    """(b, count) indices of the proposals that cost least against the one true box (b, 4), in the losses' own weights.

    logits (b, q), boxes (b, q, 4) and truth are xyxy in shares of the picture. With one true box the assignment of DETR is the least.
    """
    with torch.no_grad():
        wanted = truth[:, None].expand_as(boxes)
        surer = focal(logits, torch.ones_like(logits)) - focal(logits, torch.zeros_like(logits))
        cost = WEIGHTS[0] * surer + WEIGHTS[1] * (boxes - wanted).abs().sum(-1) - WEIGHTS[2] * generalised_iou(boxes, wanted)
        return torch.topk(cost, min(count, cost.shape[1]), dim=1, largest=False, sorted=True).indices


def locator_loss(logits: Tensor, boxes: Tensor, truth: Tensor, count: int = 1) -> Tensor:
    """The loss of a batch: each picture has one true box (b, 4); `count` proposals a picture are taught to be it."""
    chosen = matched(logits, boxes, truth, count)
    there = torch.zeros_like(logits).scatter(1, chosen, 1.0)
    near = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    wanted = truth[:, None].expand_as(near)
    sure = focal(logits, there).sum() / chosen.numel()
    return (
        WEIGHTS[0] * sure
        + WEIGHTS[1] * (near - wanted).abs().sum(-1).mean()
        + WEIGHTS[2] * (1 - generalised_iou(near, wanted)).mean()
    )


def mask_losses(logits: Tensor, share: Tensor) -> Tensor:
    """(k,) 20 x focal + Dice of k masks (k, h, w) logits against one true mask (h, w), the share of each cell in [0, 1]."""
    said = logits.sigmoid()
    dice = 1 - (2 * (said * share).sum((1, 2)) + 1) / (said.sum((1, 2)) + share.sum() + 1)
    return _FOCAL * focal(logits, share.expand_as(logits)).mean((1, 2)) + dice


def mask_overlap(logits: Tensor, share: Tensor) -> Tensor:
    """(k,) IoU of k masks (k, h, w) logits with one true mask (h, w) of shares, on their cells."""
    said, true = logits.detach() > 0, share > 0.5
    return (said & true).sum((1, 2)) / (said | true).sum((1, 2)).clamp(min=1)
