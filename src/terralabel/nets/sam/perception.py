"""SAM 3's image encoder: the Perception Encoder's ViT (rotary positions, windows of 24) with a neck of three scales.

Rotary positions turn pairs of neighbouring channels. Here the rows of the query and key weights are sorted once, so that
the pairs lie in two halves and turning is two products of whole halves; scores do not see the order of channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from terralabel.nets.sam.attention import unbiased
from terralabel.nets.sam.layers import MLP, Conv, Norm, Patches
from terralabel.nets.sam.linear import Linear
from terralabel.nets.sam.windows import cut, join

__all__ = ["PerceptionEncoder"]


class Block:
    """One transformer block; `window` is 0 where attention is global."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.attention
        self.window, self.heads, self.scale = layer.window_size, attention.num_attention_heads, attention.scaling
        halves = _halves(attention.hidden_size, attention.head_dim)
        self.norm = Norm(layer.layer_norm1)
        parts = [(attention.q_proj, halves), (attention.k_proj, halves), (attention.v_proj, slice(None))]
        bias = torch.cat([part.bias.detach()[order] for part, order in parts])
        self.qkv = Linear(torch.cat([part.weight.detach()[order] for part, order in parts]), bias, dtype)
        self.pad = bias.to(dtype)
        self.proj = Linear.of(attention.o_proj, dtype)
        self.mlp = MLP(layer.layer_norm2, layer.mlp.fc1, layer.mlp.fc2, dtype)
        # Tables of (1, tokens, d) with every angle twice, side by side: the halves need it once.
        self.cosine, self.sine = (turn[..., ::2].to(dtype) for turn in layer.rotary_emb(self.pad, layer.position_ids))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) float32 -> the same, in place; on CPU B is 1."""
        if x.device.type != "cpu" or not self.window:
            return self._part(x)
        for band in x.split(self.window, dim=1):
            self._part(band)
        return x

    def _part(self, x: Tensor) -> Tensor:
        """Whole rows of windows, or the whole map."""
        qkv = self.qkv(self.norm(x))
        if self.window:
            q, k, v = cut(qkv, self.window, self.heads, self.pad).flatten(3, 4)
        else:
            q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = unbiased(self._turn(q), self._turn(k), v, self.scale)
        if self.window:
            x += self.proj(join(out.unflatten(2, (self.window, self.window)), *x.shape[1:3]))
        else:
            x += self.proj(out.transpose(1, 2).flatten(2)).view_as(x)
        return self.mlp(x)

    def _turn(self, x: Tensor) -> Tensor:
        """Rotary positions of (..., tokens, d), the pairs' first members in the first half of d."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cosine - second * self.sine, second * self.cosine + first * self.sine), dim=-1)


def _halves(width: int, head: int) -> Tensor:
    """The order of `width` channels that puts every head's even ones before its odd ones."""
    channels = torch.arange(width).view(-1, head // 2, 2)
    return channels.transpose(1, 2).flatten()


class Doubling:
    """A 2 x 2 transposed convolution of stride 2 as one product, with a GELU or a 1 x 1 convolution after it."""

    def __init__(self, layer: Any, dtype: torch.dtype, *, then: Any = None, gelu: bool = False) -> None:
        weight, bias = layer.weight.detach().permute(2, 3, 1, 0), layer.bias.detach()  # (2, 2, out, in)
        if then is not None:
            outer = then.weight.detach().flatten(1)
            weight, bias = outer @ weight, outer @ bias + then.bias.detach()
        self.product = Linear(weight.reshape(-1, weight.shape[-1]), bias.repeat(4), dtype, gelu=gelu)

    def __call__(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        return self.product(x).view(b, h, w, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


class PerceptionEncoder:
    """The vision encoder of a `Sam3TrackerModel`, then the mask decoder's conv_s0 and conv_s1 and the no-memory embedding.

    Of the neck's scales 4, 2, 1 and 1/2 the last is not made: the tracker drops it. The no-memory embedding goes to scale
    1, as in the released code (transformers 5.23 adds it to the dropped one). conv_s0 and conv_s1 are folded into the
    3 x 3 convolutions before them.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        backbone, neck = model.vision_encoder.backbone, model.vision_encoder.neck
        self.patches = Patches(backbone.embeddings.patch_embeddings.projection, dtype)
        table = backbone.embeddings.position_embeddings.detach()
        side = round(table.shape[1] ** 0.5)
        self.table = table.clone().view(side, side, -1)
        self.norm = Norm(backbone.layer_norm)
        self.blocks = [Block(layer, dtype) for layer in backbone.layers]
        finest, fine, image = neck.fpn_layers[:3]
        self.finest = [
            Doubling(finest.scale_layers[0], dtype, gelu=True),
            Doubling(finest.scale_layers[2], dtype, then=finest.proj1),
            Conv(finest.proj2, dtype, then=model.mask_decoder.conv_s0),
        ]
        self.fine = [
            Doubling(fine.scale_layers[0], dtype, then=fine.proj1),
            Conv(fine.proj2, dtype, then=model.mask_decoder.conv_s1),
        ]
        self.image = [Conv(image.proj1, dtype), Conv(image.proj2, dtype)]
        self.no_memory = model.no_memory_embedding.detach().flatten().clone()

    def __call__(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(B, 3, S, S) -> image (B, d, h, w); (B, d / 8, 4 h, 4 w) and (B, d / 4, 2 h, 2 w); nothing extra."""
        x = self.patches(pixels)
        side, (height, width) = len(self.table), x.shape[1:3]
        x = x + self.table.tile(-(-height // side), -(-width // side), 1)[:height, :width]
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        finest, fine, image = (_through(layers, x).permute(0, 3, 1, 2) for layers in (self.finest, self.fine, self.image))
        return image + self.no_memory[:, None, None], (finest, fine), ()


def _through(layers: list[Any], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x
