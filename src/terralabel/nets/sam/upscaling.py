"""From the decoder's image side to mask logits: two transposed convolutions, and a product with each mask's own weights.

A transposed convolution with kernel 2 and stride 2 writes every input position to a 2 x 2 block of its own: it is a matrix
product, (positions, d) x (d, 4 c). Maps stay in this blocked order, channels last, until the logits are laid out at the end.

The first product is of the image side as `image_side.Refined` has it:  (scale * K + left' right) M  is  K M, made once per image and
scaled, plus  left' (right M), of rank heads x tokens a layer instead of d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.image_side import Refined
from terralabel.nets.sam.linear import Linear

__all__ = ["SharedMaps", "Upscaling", "raster_order", "to_blocks", "to_raster"]


@dataclass(frozen=True)
class SharedMaps:
    """What every prompt on one image shares.

    image   (hw, 4 c) the shared part of the image side, through the first transposed convolution
    fine    (1 or hw, 4 c) what is added after it: biases and, for SAM 2 and its kin, the finer features
    finest  (4 hw, 2 c) the finest features, added after the second one; None for the others
    """

    image: Tensor
    fine: Tensor
    finest: Tensor | None


class Upscaling:
    """The upscaling part of a transformers `...MaskDecoder`; `bias` (d,) is that of the image side, no part of its `Refined`."""

    def __init__(self, decoder: Any, bias: Tensor, dtype: torch.dtype) -> None:
        norm = decoder.upscale_layer_norm
        self.dtype, self.norm_eps = dtype, norm.eps
        self.norm_weight, self.norm_bias = norm.weight.to(dtype), norm.bias.to(dtype)
        self.first, second = _as_matrix(decoder.upscale_conv1), _as_matrix(decoder.upscale_conv2)
        self.second = Linear(second.T, decoder.upscale_conv2.bias.repeat(4), dtype)
        self.constant = bias @ self.first + decoder.upscale_conv1.bias.repeat(4)

    def shared(self, image: Tensor, high_res: Sequence[Tensor]) -> SharedMaps:
        """The shared part of (hw, d) `ImageSide.image`, and of the finer features."""
        fine, finest = self.constant[None], None
        if high_res:
            finest = to_blocks(high_res[0], 2).to(self.dtype)
            fine = to_blocks(high_res[1], 1) + fine
        return SharedMaps((image @ self.first).to(self.dtype), fine.to(self.dtype), finest)

    def features(self, shared: SharedMaps, image: Refined) -> Tensor:
        """(b, 16 hw, c / 2) upscaled features in blocked order, after the last activation."""
        maps = torch.addcmul(shared.fine, image.scale.transpose(1, 2), shared.image)  # b, hw, 4 c
        maps.baddbmm_(image.left.transpose(1, 2), (image.right @ self.first).to(self.dtype))
        maps = maps.view(len(maps), -1, self.norm_weight.shape[0])  # b, 4 hw, c
        maps = F.layer_norm(maps, self.norm_weight.shape, self.norm_weight, self.norm_bias, self.norm_eps)
        maps = self.second(torch.ops.aten.gelu_(maps))
        if shared.finest is not None:
            maps += shared.finest
        return torch.ops.aten.gelu_(maps).view(len(maps), -1, maps.shape[-1] // 4)


def to_blocks(maps: Tensor, levels: int) -> Tensor:
    """(c, h, w) to blocked order, (h w / 4, 4 c), as `levels` successive products would write it: rows of 2 x 2 blocks of blocks."""
    c, h, w = maps.shape
    side_h, side_w = h >> levels, w >> levels
    split = maps.reshape(c, side_h, *[2] * levels, side_w, *[2] * levels)
    order = [1, 2 + levels]
    for level in range(levels):
        order += [2 + level, 3 + levels + level]
    return split.permute(*order, 0).reshape(-1, 4 * c)


def raster_order(side: int) -> Tensor:
    """(16 side^2,) int64: where each pixel of a raster of side 4 `side` lies in blocked order of two levels.

    `blocked.gather(-1, order)` lays out maps several times faster than a permuted copy, which moves two values at a time.
    """
    order = torch.arange(16 * side * side).view(side, side, 2, 2, 2, 2)
    return order.permute(0, 2, 4, 1, 3, 5).reshape(-1)


def to_raster(maps: Tensor, order: Tensor) -> Tensor:
    """(..., m m) in blocked order to (..., m, m)."""
    side = math.isqrt(len(order))
    return maps.gather(-1, order.expand_as(maps)).unflatten(-1, (side, side))


def _as_matrix(conv: Any) -> Tensor:
    """(d, 4 c) of a transposed convolution with kernel and stride 2."""
    return conv.weight.permute(0, 2, 3, 1).flatten(1)
