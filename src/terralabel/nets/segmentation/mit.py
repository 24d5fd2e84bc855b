"""SegFormer's backbone, the Mix Transformer: overlapping patches, attention over fewer keys, a convolution for the place.

Xie et al. 2021, arXiv 2105.15203, section 3.1. Names of parameters are the authors', so that their ImageNet weights load.
Written here because the other implementation with stable names stands under a licence for research only, and transformers
renames its parameters between versions; it agrees with transformers number by number (a test).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

__all__ = ["MIT_SIZES", "MixTransformer", "MixTransformerSize"]

_HEADS, _REDUCTION, _EXPANSION, _EPS = (1, 2, 5, 8), (8, 4, 2, 1), 4, 1e-6


@dataclass(frozen=True)
class MixTransformerSize:
    """Blocks and channels of the four stages."""

    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]


_WIDE = (64, 128, 320, 512)
MIT_SIZES = {
    "mit_b0": MixTransformerSize((2, 2, 2, 2), (32, 64, 160, 256)),
    "mit_b1": MixTransformerSize((2, 2, 2, 2), _WIDE),
    "mit_b2": MixTransformerSize((3, 4, 6, 3), _WIDE),
    "mit_b3": MixTransformerSize((3, 4, 18, 3), _WIDE),
    "mit_b4": MixTransformerSize((3, 8, 27, 3), _WIDE),
    "mit_b5": MixTransformerSize((3, 6, 40, 3), _WIDE),
}


def _as_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (b, h * w, c) -> (b, c, h, w)."""
    return x.transpose(1, 2).unflatten(2, size)


class PatchEmbedding(nn.Module):
    """(b, c, h, w) -> tokens (b, h' * w', width) and (h', w'); patches overlap."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """See the class."""
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), (x.shape[-2], x.shape[-1])


class ReducedAttention(nn.Module):
    """Attention whose keys and values are a map `reduction` times smaller each way (section 3.1, equation 2)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduces = reduction > 1
        if self.reduces:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (b, h * w, c) -> the same."""
        seen = self.norm(self.sr(_as_map(x, size)).flatten(2).transpose(1, 2)) if self.reduces else x
        query = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(seen).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).flatten(2))


class DepthwiseConvolution(nn.Module):
    """3 x 3 within each channel of tokens: what tells a token where it stands."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens -> tokens."""
        return self.dwconv(_as_map(x, size)).flatten(2).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Linear, the depthwise convolution, GELU, linear (equation 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _EXPANSION * width)
        self.dwconv = DepthwiseConvolution(_EXPANSION * width)
        self.fc2 = nn.Linear(_EXPANSION * width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens -> tokens."""
        return self.fc2(gelu(self.dwconv(self.fc1(x), size)))


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, width: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = ReducedAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = MixFeedForward(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens -> tokens."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class MixTransformer(nn.Module):
    """(b, bands, h, w), sides multiples of 32 -> four maps of strides 4, 8, 16, 32."""

    def __init__(self, size: MixTransformerSize, bands: int = 3, drop_path: float = 0.1) -> None:
        super().__init__()
        self.channels, self.multiple = size.channels, 32
        rates = iter(_ramp(drop_path, sum(size.depths)))
        inputs = (bands, *size.channels)
        for i, (depth, width) in enumerate(zip(size.depths, size.channels, strict=True)):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            self.add_module(f"patch_embed{i + 1}", PatchEmbedding(inputs[i], width, kernel, stride))
            blocks = [Block(width, _HEADS[i], _REDUCTION[i], next(rates)) for _ in range(depth)]
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(width, eps=_EPS))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for i in range(1, 5):
            tokens, size = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"block{i}").children():
                tokens = block(tokens, size)
            x = _as_map(self.get_submodule(f"norm{i}")(tokens), size).contiguous()
            found.append(x)
        return found


def _ramp(last: float, count: int) -> Iterator[float]:
    """From 0 to `last` in equal steps: deeper blocks are dropped more often."""
    return (last * i / max(count - 1, 1) for i in range(count))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        assert module.bias is not None
        torch.nn.init.zeros_(module.bias)
