"""SAM's and SAM-HQ's image encoder: a ViT with windowed and a few global blocks (Li et al. 2022; Kirillov et al. 2023).

On CPU, blocks with windows run band by band (one row of windows through attention and MLP), global ones head by head: small
pieces that stay in the cache, no copy of the whole image in windows. Windows that reach over the edge are padded with
zeros by the released code *before* the product with the QKV weights; so their padded keys and values are the QKV bias, and
take part in the softmax. That is kept; the padded queries, whose results are thrown away, are not computed.

On other devices a block is a few large operations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.attention import attend, attend_rows, dense_bias, relative_positions
from terralabel.nets.sam.linear import Linear

__all__ = ["Block", "Norm", "ViT"]

#: Tokens through the MLP at once on CPU.
_TOKENS = 1024


class Norm:
    """Layer normalisation over the last dimension, in float32."""

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias, self.eps = layer.weight.detach().clone(), layer.bias.detach().clone(), layer.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Block:
    """One transformer block; `window` is 0 where attention is global."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.window, self.heads = layer.window_size, layer.attn.num_attention_heads
        self.norm1, self.norm2 = Norm(layer.layer_norm1), Norm(layer.layer_norm2)
        width = layer.attn.qkv.in_features
        # The scale of the scores goes into the query weights, and out again of what the raw queries are multiplied with.
        scale = layer.attn.scale
        factor = torch.ones(3 * width, device=layer.attn.qkv.weight.device)
        factor[:width] = scale
        bias = layer.attn.qkv.bias
        bias = factor * bias if bias is not None else torch.zeros_like(factor)
        self.qkv = Linear(factor[:, None] * layer.attn.qkv.weight, bias, dtype)
        self.pad = bias.detach().to(dtype).view(3, self.heads, 1, 1, -1)
        self.proj = Linear.of(layer.attn.proj, dtype)
        self.up, self.down = Linear.of(layer.mlp.lin1, dtype, gelu=True), Linear.of(layer.mlp.lin2, dtype)
        self.tables: tuple[Tensor, Tensor] | None = None
        if layer.attn.use_rel_pos:
            self.tables = (layer.attn.rel_pos_h.detach() / scale, layer.attn.rel_pos_w.detach() / scale)
        self._positions: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) float32 -> the same; on CPU it is changed in place."""
        if x.device.type != "cpu":
            x = x + self.proj(self._dense(self.qkv(self.norm1(x))))
            return x + self.down(self.up(self.norm2(x)))
        for image in x:
            for band in image.split(self.window or len(image)):
                qkv = self.qkv(self.norm1(band)).unflatten(-1, (3, self.heads, -1))
                band += self.proj(self._windows(qkv) if self.window else self._whole(qkv))
                for tokens in band.flatten(0, 1).split(_TOKENS):
                    tokens += self.down(self.up(self.norm2(tokens)))
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
                padded = self.pad.expand(3, n, size, size, d).contiguous()
                padded[:, :, :h, :w] = real
            q, (k, v) = padded[0, :, :h, :w], padded[1:].flatten(2, 3)
            out[:, columns] = attend(q, k, v, *self._relative(q, size, size)).view(n, h, w, d).permute(1, 2, 0, 3)
        return out.flatten(2)

    def _dense(self, qkv: Tensor) -> Tensor:
        """All windows, or the whole image, at once: (B, H, W, 3 C) -> (B, H, W, C)."""
        b, height, width, _ = qkv.shape
        size_h, size_w = (self.window, self.window) if self.window else (height, width)
        rows, columns = -(-height // size_h), -(-width // size_w)
        padded = self.pad.flatten().expand(b, rows * size_h, columns * size_w, -1).clone()
        padded[:, :height, :width] = qkv
        windows = padded.view(b, rows, size_h, columns, size_w, 3, self.heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = windows.reshape(3, b * rows * columns, self.heads, size_h, size_w, -1)
        bias = dense_bias(*self._relative(q, size_h, size_w)).to(q.dtype)
        out = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), attn_mask=bias, scale=1.0)
        out = out.view(b, rows, columns, self.heads, size_h, size_w, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(b, rows * size_h, columns * size_w, -1)[:, :height, :width]

    def _relative(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The bias's parts of queries (..., n, h, w, d) on the upper left of a grid of keys: (..., h, w, H), (..., h, w, W)."""
        h, w = q.shape[-3:-1]
        if self.tables is None:
            return q.new_zeros(*q.shape[:-1], height, dtype=torch.float32), q.new_zeros(
                *q.shape[:-1], width, dtype=torch.float32
            )
        if (height, width) not in self._positions:
            r_h, r_w = relative_positions(self.tables[0], height), relative_positions(self.tables[1], width)
            self._positions[height, width] = (r_h.transpose(1, 2).to(q.dtype), r_w.transpose(1, 2).to(q.dtype))
        r_h, r_w = self._positions[height, width]
        return (q @ r_h[:h]).float(), (q.transpose(-3, -2) @ r_w[:w]).transpose(-3, -2).float()


class ViT:
    """The vision encoder of a `SamModel` or `SamHQModel`, its weights copied in the given dtype."""

    def __init__(self, vision: Any, dtype: torch.dtype) -> None:
        patch = vision.patch_embed.projection
        self.patch = patch.kernel_size[0]
        self.project = Linear(patch.weight.flatten(1), patch.bias, dtype)
        self.positions = None if vision.pos_embed is None else vision.pos_embed.detach()[0].clone()
        self.blocks = [Block(layer, dtype) for layer in vision.layers]
        neck = vision.neck
        self.reduce = Linear(neck.conv1.weight.flatten(1), None, dtype)
        self.norm1, self.norm2 = Norm(neck.layer_norm1), Norm(neck.layer_norm2)
        self.smooth = neck.conv2.weight.detach().to(dtype, memory_format=torch.channels_last, copy=True)
        self.keeps_global = hasattr(vision.config, "vit_dim") or vision.config.model_type.startswith("sam_hq")

    def __call__(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(B, 3, S, S) -> image (B, d, h, w), no levels, the (B, h, w, C) features after each global block (SAM-HQ)."""
        b, channels, size, _ = pixels.shape
        grid = size // self.patch
        patches = pixels.view(b, channels, grid, self.patch, grid, self.patch).permute(0, 2, 4, 1, 3, 5)
        x = self.project(patches.reshape(b, grid, grid, -1)).float()
        if self.positions is not None:
            x += self.positions
        extra = []
        for block in self.blocks:
            x = block(x)
            if self.keeps_global and not block.window:
                extra.append(x.clone())
        return self._neck(x), (), tuple(extra)

    def _neck(self, x: Tensor) -> Tensor:
        x = self.norm1(self.reduce(x).float()).to(self.smooth.dtype)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.smooth, padding=self.smooth.shape[-1] // 2)
        return self.norm2(x.permute(0, 2, 3, 1).float()).permute(0, 3, 1, 2)
