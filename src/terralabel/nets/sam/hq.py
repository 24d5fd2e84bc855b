"""SAM-HQ's high-quality mask: the upscaled features through two 3 x 3 convolutions, plus features of the image itself.

The second convolution is followed by a product with the mask's own weights; both are linear, so they become one convolution
to a single channel. Source: Segment Anything in High Quality (2023), section 3.2.

transformers 5.23 upscales the image embedding as it was before its transformer (and with its axes exchanged); this follows the
released SAM-HQ, which upscales what the transformer made of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.upscaling import to_blocks, to_raster

__all__ = ["FineMask"]


class FineMask:
    """The high-quality part of a transformers `SamHQMaskDecoder`."""

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self.decoder, self.dtype = decoder, dtype
        first = decoder.mask_conv1
        self.first_weight = first.weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.first_bias, self.norm = first.bias.to(dtype), decoder.mask_norm
        self.second_weight = decoder.mask_conv2.weight.flatten(1)  # c, 2 c 3 3
        self.second_bias = decoder.mask_conv2.bias

    def shared(self, embedding: Embedding) -> Tensor:
        """(c, m m) of one image: its embedding and the features of its first block with global attention, in blocked order."""
        d = self.decoder
        features = d.encoder_conv2(d.activation(d.encoder_norm(d.encoder_conv1(embedding.image[None]))))
        if embedding.extra:
            early = embedding.extra[0].permute(2, 0, 1)[None]
            features = features + d.compress_vit_conv2(d.activation(d.compress_vit_norm(d.compress_vit_conv1(early))))
        channels = features.shape[1]
        return to_blocks(features[0], 2).view(-1, channels).T.contiguous()

    def logits(self, upscaled: Tensor, hyper: Tensor, hq_features: Tensor, order: Tensor) -> Tensor:
        """(b, m, m) float32 of upscaled features (b, m m, c) in blocked order and each mask's own weights (b, c)."""
        m = math.isqrt(len(order))
        raster = upscaled[:, order].view(len(upscaled), m, m, -1).permute(0, 3, 1, 2)  # b, c, m, m, channels last
        maps = F.conv2d(raster, self.first_weight, self.first_bias, padding=1).permute(0, 2, 3, 1)
        weight, bias = self.norm.weight.to(self.dtype), self.norm.bias.to(self.dtype)
        maps = F.gelu(F.layer_norm(maps, maps.shape[-1:], weight, bias, self.norm.eps)).flatten(1, 2)  # b, m m, 2 c
        kernels = (hyper @ self.second_weight).view(len(hyper), -1, 9).flip(2)  # b, 2 c, 9
        taps = torch.bmm(kernels.transpose(1, 2).to(maps.dtype), maps.transpose(1, 2)).to(hyper.dtype)  # b, 9, m m
        drawn = F.fold(taps, (m, m), kernel_size=3, padding=1)[:, 0]
        shared = hyper @ hq_features + (hyper @ self.second_bias)[:, None]
        return drawn + to_raster(shared, order)
