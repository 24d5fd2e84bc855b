"""SAM's and SAM-HQ's image encoder: a ViT with windowed and a few global blocks (Li et al. 2022; Kirillov et al. 2023).

On CPU, blocks with windows run band by band (one row of windows through attention and MLP), global ones head by head: small
pieces that stay in the cache, no copy of the whole image in windows. Padded keys of the windows at the edge take part, as
in the released code (see `windows.cut`); padded queries, whose results are thrown away, are not computed. On other devices
a block is a few large operations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.attention import attend, attend_rows, dense_bias, relative_positions
from terralabel.nets.sam.layers import MLP, Conv, Norm, Patches
from terralabel.nets.sam.linear import Linear
from terralabel.nets.sam.windows import cut, join

__all__ = ["ViT"]


class Block:
    """One transformer block; `window` is 0 where attention is global."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.attn
        self.window, self.heads = layer.window_size, attention.num_attention_heads
        self.norm = Norm(layer.layer_norm1)
        # The scale of the scores goes into the query weights, and out again of what the raw queries are multiplied with.
        width = attention.qkv.in_features
        factor = torch.ones(3 * width, device=attention.qkv.weight.device)
        factor[:width] = attention.scale
        bias = factor * attention.qkv.bias if attention.qkv.bias is not None else torch.zeros_like(factor)
        self.qkv = Linear(factor[:, None] * attention.qkv.weight, bias, dtype)
        self.pad = bias.to(dtype)
        self.proj = Linear.of(attention.proj, dtype)
        self.mlp = MLP(layer.layer_norm2, layer.mlp.lin1, layer.mlp.lin2, dtype)
        self.tables: tuple[Tensor, Tensor] | None = None
        if attention.use_rel_pos:
            self.tables = (attention.rel_pos_h.detach() / attention.scale, attention.rel_pos_w.detach() / attention.scale)
        self._positions: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) float32 -> the same; on CPU it is changed in place."""
        if x.device.type != "cpu":
            return self.mlp(x + self.proj(self._dense(self.qkv(self.norm(x)))))
        for image in x:
            for band in image.split(self.window or len(image)):
                qkv = self.qkv(self.norm(band)).unflatten(-1, (3, self.heads, -1))
                band += self.proj(self._windows(qkv) if self.window else self._whole(qkv))
                self.mlp(band)
        return x

    def _whole(self, qkv: Tensor) -> Tensor:
        """Global attention: (H, W, 3, n, d) -> (H, W, C)."""
        q, k, v = qkv.permute(2, 3, 0, 1, 4).contiguous()
        return attend_rows(q, k, v, *self._relative(q, *q.shape[1:3])).permute(1, 2, 0, 3).flatten(2)

    def _windows(self, qkv: Tensor) -> Tensor:
        """One row of windows: (h, W, 3, n, d), h at most the window -> (h, W, C)."""
        size, (_, _, _, n, d) = self.window, qkv.shape
        out = qkv.new_empty(*qkv.shape[:2], n, d)
        for start in range(0, qkv.shape[1], size):
            columns = slice(start, start + size)
            real = qkv[:, columns].permute(2, 3, 0, 1, 4)
            h, w = real.shape[2:4]
            padded = real.contiguous()
            if h < size or w < size:
                padded = self.pad.view(3, n, 1, 1, d).expand(3, n, size, size, d).contiguous()
                padded[:, :, :h, :w] = real
            q, (k, v) = padded[0, :, :h, :w], padded[1:].flatten(2, 3)
            out[:, columns] = attend(q, k, v, *self._relative(q, size, size)).view(n, h, w, d).permute(1, 2, 0, 3)
        return out.flatten(2)

    def _dense(self, qkv: Tensor) -> Tensor:
        """All windows, or the whole image, at once: (B, H, W, 3 C) -> (B, H, W, C)."""
        b, height, width, _ = qkv.shape
        if self.window:
            q, k, v = cut(qkv, self.window, self.heads, self.pad)
        else:
            q, k, v = qkv.view(b, height, width, 3, self.heads, -1).permute(3, 0, 4, 1, 2, 5)
        bias = dense_bias(*self._relative(q, *q.shape[2:4]))
        out = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), attn_mask=bias, scale=1.0)
        out = out.unflatten(2, q.shape[2:4])
        return join(out, height, width) if self.window else out.permute(0, 2, 3, 1, 4).flatten(3)

    def _relative(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The bias's parts of queries (..., n, h, w, d) on the upper left of a grid of keys: (..., h, w, H), (..., h, w, W)."""
        h, w = q.shape[-3:-1]
        if self.tables is None:
            return q.new_zeros(*q.shape[:-1], height), q.new_zeros(*q.shape[:-1], width)
        if (height, width) not in self._positions:
            rows, columns = relative_positions(self.tables[0], height), relative_positions(self.tables[1], width)
            self._positions[height, width] = (rows.transpose(1, 2).to(q.dtype), columns.transpose(1, 2).to(q.dtype))
        rows, columns = self._positions[height, width]
        return q @ rows[:h], (q.transpose(-3, -2) @ columns[:w]).transpose(-3, -2)


class ViT:
    """The vision encoder of a `SamModel` or `SamHQModel`, its weights copied in the given dtype."""

    def __init__(self, vision: Any, dtype: torch.dtype, *, keep_global: bool) -> None:
        self.patches = Patches(vision.patch_embed.projection, dtype)
        self.positions = None if vision.pos_embed is None else vision.pos_embed.detach()[0].clone()
        self.blocks = [Block(layer, dtype) for layer in vision.layers]
        neck = vision.neck
        self.reduce, self.smooth = Conv(neck.conv1, dtype), Conv(neck.conv2, dtype)
        self.norm1, self.norm2 = Norm(neck.layer_norm1), Norm(neck.layer_norm2)
        self.keep_global = keep_global

    def __call__(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(B, 3, S, S) -> image (B, d, h, w), no levels, and the (B, h, w, C) after each global block where they are kept."""
        x = self.patches(pixels)
        if self.positions is not None:
            x += self.positions
        extra = []
        for block in self.blocks:
            x = block(x)
            if self.keep_global and not block.window:
                extra.append(x.clone())
        image = self.norm2(self.smooth(self.norm1(self.reduce(x))))
        return image.permute(0, 3, 1, 2), (), tuple(extra)
