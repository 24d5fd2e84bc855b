"""SAM 2's image encoder: Hiera (Ryali et al. 2023; Bolya et al. 2023 for the positions) with a feature pyramid's neck.

As released, blocks attend within windows (padded keys take part, see `windows.cut`), three see the whole map, and the first
block of a stage pools its queries. On CPU blocks with windows run band by band, one row of windows through the whole block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.attention import unbiased
from terralabel.nets.sam.layers import MLP, Conv, Norm
from terralabel.nets.sam.linear import Linear
from terralabel.nets.sam.windows import cut, join

__all__ = ["Hiera"]


class Block:
    """One multi-scale block: `window` is 0 where attention is global, `stride` is 1 where queries are not pooled."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.attn
        self.window, self.heads = layer.window_size, attention.num_attention_heads
        self.stride = layer.query_stride[0] if layer.query_stride else 1
        self.scale = attention.scale
        self.norm = Norm(layer.layer_norm1)
        self.qkv, self.proj = Linear.of(attention.qkv, dtype), Linear.of(attention.proj, dtype)
        self.pad = attention.qkv.bias.detach().to(dtype, copy=True)
        self.shortcut = Linear.of(layer.proj, dtype) if layer.dim != layer.dim_out else None
        self.mlp = MLP(layer.layer_norm2, layer.mlp.proj_in, layer.mlp.proj_out, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, c) float32 -> (B, H', W', c'), H' = H / stride. x is changed in place; on CPU B is 1."""
        if x.device.type != "cpu" or not self.window:
            return self._part(x)
        parts = [self._part(band) for band in x.split(self.window, dim=1)]
        return x if self.shortcut is None else torch.cat(parts, dim=1)

    def _part(self, x: Tensor) -> Tensor:
        """Whole rows of windows, or the whole map; where nothing is pooled or widened, in place."""
        normed = self.norm(x)
        skip = x if self.shortcut is None else _pool(self.shortcut(normed).float(), self.stride)
        q, k, v = self._windows(self.qkv(normed))
        if self.stride > 1:
            q = _pool(q.flatten(0, 1), self.stride).unflatten(0, q.shape[:2])
        out = unbiased(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), self.scale).unflatten(2, q.shape[2:4])
        skip += self.proj(join(out, *skip.shape[1:3]) if self.window else out.permute(0, 2, 3, 1, 4).flatten(3))
        return self.mlp(skip)

    def _windows(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3 C) -> (3, B * windows, heads, size, size, d)."""
        if self.window:
            return cut(qkv, self.window, self.heads, self.pad)
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5).contiguous()


def _pool(x: Tensor, stride: int) -> Tensor:
    """The maximum of each stride x stride square of a (B, H, W, c) map."""
    if stride == 1:
        return x
    return F.max_pool2d(x.permute(0, 3, 1, 2), stride, stride).permute(0, 2, 3, 1).contiguous()


class Hiera:
    """The backbone of a `Sam2Model`'s vision encoder, its weights copied in the given dtype."""

    def __init__(self, backbone: Any, dtype: torch.dtype) -> None:
        self.patches = Conv(backbone.patch_embed.projection, dtype)
        self.background = backbone.pos_embed.detach().clone()
        self.tile = backbone.pos_embed_window.detach().clone()
        self.blocks = [Block(layer, dtype) for layer in backbone.blocks]
        self.ends = set(backbone.stage_ends)
        self._positions: dict[tuple[int, int], Tensor] = {}

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> the stages' (B, h, w, c) float32 maps, finest first."""
        x = self.patches(pixels.permute(0, 2, 3, 1))
        x = (x + self._position(x.shape[1], x.shape[2])).contiguous()
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.ends:
                stages.append(x.clone())  # the next block may work in place
        return stages

    def _position(self, height: int, width: int) -> Tensor:
        """The resized background plus the tiled window embedding: (1, height, width, c)."""
        if (height, width) not in self._positions:
            size = self.tile.shape[-1]
            background = F.interpolate(self.background, size=(height, width), mode="bicubic")
            position = background + self.tile.tile(1, 1, height // size, width // size)
            self._positions[height, width] = position.permute(0, 2, 3, 1).contiguous()
        return self._positions[height, width]
