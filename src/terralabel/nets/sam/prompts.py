"""Prompts as the mask decoder takes them: tokens for points and boxes, a dense map for mask inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terralabel.errors import SettingsError

__all__ = ["Prompts", "embed", "point_tokens"]

#: SAM 2 and its kin are trained with a point of this label where a prompt has neither points nor boxes.
NO_POINT = -1
#: Families whose released code adds that point.
_NEEDS_A_POINT = ("sam2", "edgetam", "sam3_tracker")


@dataclass(frozen=True)
class Prompts:
    """b prompts. tokens (b, t, d) float32, t may be 0; dense (b, d, h, w) float32, or None where no mask is given."""

    tokens: Tensor
    dense: Tensor | None


def embed(
    encoder: Any,
    kind: str,
    *,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
    mask_inputs: Tensor | None = None,
) -> Prompts:
    """The prompts of one image through a transformers prompt encoder; `kind` is the `model_type` of its network.

    points (b, p, 2) with labels (b, p): 1 foreground, 0 background, -1 no point; boxes (b, 4) xyxy; both in pixels of the
    square input; mask_inputs (b, 1, m, m) logits.
    """
    b = _count(points=points, labels=labels, boxes=boxes, mask_inputs=mask_inputs)
    weight = encoder.no_mask_embed.weight
    if mask_inputs is not None:
        _check_masks(mask_inputs, 4 * int(encoder.image_embedding_size[0]))
    if points is None and boxes is None and kind in _NEEDS_A_POINT:
        points = weight.new_zeros(b, 1, 2)
        labels = torch.full((b, 1), NO_POINT, device=points.device)
    tokens, _ = encoder(
        input_points=None if points is None else points[None].to(weight.dtype),
        input_labels=None if labels is None else labels[None].long(),
        input_boxes=None if boxes is None else boxes[None].to(weight.dtype),
        input_masks=None,
    )
    tokens = weight.new_zeros(b, 0, weight.shape[1]) if tokens is None else tokens[0]
    return Prompts(tokens, None if mask_inputs is None else encoder.mask_embed(mask_inputs.to(weight.dtype)))


def point_tokens(encoder: Any, kind: str, points: Tensor) -> Tensor:
    """Tokens (n, t, d) float32 of (n, 2) foreground points, each a prompt of its own."""
    labels = torch.ones(len(points), 1, dtype=torch.int64, device=points.device)
    return embed(encoder, kind, points=points[:, None], labels=labels).tokens


def _count(**given: Tensor | None) -> int:
    """How many prompts there are; every kind that is given must tell the same."""
    counts = {kind: len(prompt) for kind, prompt in given.items() if prompt is not None}
    if not counts.keys() - {"labels"}:
        raise SettingsError("A prompt is points, boxes or mask inputs; got none of them.")
    if (given["points"] is None) != (given["labels"] is None):
        raise SettingsError("Points need labels, one per point: 1 foreground, 0 background, -1 no point.")
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        raise SettingsError(f"Every kind of prompt is given for the same number of prompts; got {told}.")
    if 0 in counts.values():
        raise SettingsError("There is no prompt to answer; got 0 of them.")
    return next(iter(counts.values()))


def _check_masks(mask_inputs: Tensor, side: int) -> None:
    if mask_inputs.shape[1:] != (1, side, side):
        raise SettingsError(f"Mask inputs are (b, 1, {side}, {side}) logits; got {tuple(mask_inputs.shape)}.")
