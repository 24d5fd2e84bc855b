"""What a network of the SAM family is given: the tile's pixels and prompts, exactly as the official predictors prepare them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.masks.lowres import Frame

if TYPE_CHECKING:
    from torch import Tensor

    from terralabel.nets.sam.network import SamNetwork

__all__ = ["cell_shares", "network_input", "prompt_tensors"]

#: Logit of a pixel that surely belongs to a rough mask given as a prompt; less where it covers a logit's area in part.
ROUGH_LOGIT = 10.0


def network_input(net: SamNetwork, tile: Tile, frame: Frame) -> Tensor:
    """(3, S, S) float32: resized, normalised and padded as the official predictors do."""
    return _padded(net, tile, frame) if net.pads else _stretched(net, tile)


def _padded(net: SamNetwork, tile: Tile, frame: Frame) -> Tensor:
    """SAM, SAM-HQ: 8-bit resizing by Pillow, normalised on the scale of 0 .. 255, then zeros right and below."""
    import torch
    from PIL import Image

    height, width = frame.input_size
    resized = np.asarray(
        Image.fromarray(np.ascontiguousarray(tile.rgb("masks tree"))).resize((width, height), Image.Resampling.BILINEAR)
    )
    # the released code has these numbers on the scale of 0 .. 255, with three decimals
    mean, std = (np.round(np.asarray(values, dtype=np.float64) * 255, 3).astype(np.float32) for values in (net.mean, net.std))
    out = np.zeros((3, net.image_size, net.image_size), dtype=np.float32)
    out[:, :height, :width] = ((resized - mean) / std).transpose(2, 0, 1)
    return torch.from_numpy(out)


def _stretched(net: SamNetwork, tile: Tile) -> Tensor:
    """SAM 2 and later: to [0, 1], then resized with anti-aliasing, then normalised."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(tile.rgb("masks tree").transpose(2, 0, 1).copy()).float().div(255)
    if tuple(tile.size) != (net.image_size, net.image_size):
        side = (net.image_size, net.image_size)
        pixels = interpolate(pixels[None], side, mode="bilinear", align_corners=False, antialias=True)[0]
    mean, std = (torch.as_tensor(np.asarray(values, dtype=np.float32))[:, None, None] for values in (net.mean, net.std))
    return (pixels - mean) / std


def prompt_tensors(
    frame: Frame,
    points: np.ndarray | None,
    point_labels: np.ndarray | None,
    boxes: np.ndarray | None,
    masks: Masks | None,
) -> dict[str, Tensor]:
    """Prompts as tensors in the frame of the network's input."""
    import torch

    given = {len(prompt) for prompt in (points, boxes, masks) if prompt is not None}
    if len(given) != 1:
        raise ContractError(f"sam.predict: give points, boxes or masks, as many of each; got {sorted(given) or 'none'}.")
    out: dict[str, Tensor] = {}
    if points is not None:
        if point_labels is None or point_labels.shape != points.shape[:2]:
            raise ContractError("sam.predict: point_labels must be (b, p) for points (b, p, 2).")
        out["points"] = torch.from_numpy(frame.to_input(points))
        out["labels"] = torch.from_numpy(np.asarray(point_labels, dtype=np.int64))
    if boxes is not None:
        out["boxes"] = torch.from_numpy(frame.to_input(np.asarray(boxes).reshape(-1, 2, 2)).reshape(-1, 4))
    if masks is not None:
        out["mask_inputs"] = torch.stack([_rough_logits(frame, mask) for mask in masks])[:, None]
    return out


def cell_shares(frame: Frame, mask: np.ndarray) -> Tensor:
    """(h, w) float32: the share of each cell of the logits that an (H, W) bool mask covers, the padding left out."""
    import torch
    from torch.nn.functional import interpolate

    cells = frame.mask_size / frame.image_size
    height, width = (max(round(length * cells), 1) for length in frame.input_size)
    return interpolate(torch.from_numpy(mask).float()[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]


def _rough_logits(frame: Frame, mask: np.ndarray) -> Tensor:
    """(m, m) logits of a rough (H, W) bool mask: its share of each cell, from -`ROUGH_LOGIT` to `ROUGH_LOGIT`."""
    import torch

    share = cell_shares(frame, mask)
    logits = torch.full((frame.mask_size, frame.mask_size), -ROUGH_LOGIT)
    logits[: share.shape[0], : share.shape[1]] = (2 * share - 1) * ROUGH_LOGIT
    return logits
