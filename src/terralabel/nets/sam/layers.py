"""Parts that the encoders share: layer norm, the MLP, patches, all with weights of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.linear import Linear

__all__ = ["MLP", "Conv", "Norm", "Patches", "fold"]

#: Tokens through an MLP at once on CPU: what lies between its two products stays in the cache.
_TOKENS = 1024


class Norm:
    """Layer normalisation over the last dimension, in float32."""

    def __init__(self, layer: Any) -> None:
        self.weight, self.bias, self.eps = layer.weight.detach().clone(), layer.bias.detach().clone(), layer.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class MLP:
    """x + W2 gelu(W1 norm(x)), float32 in and out; on CPU x is changed in place."""

    def __init__(self, norm: Any, up: Any, down: Any, dtype: torch.dtype) -> None:
        self.norm, self.up, self.down = Norm(norm), Linear.of(up, dtype, gelu=True), Linear.of(down, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return x + self.down(self.up(self.norm(x)))
        for tokens in x.view(-1, x.shape[-1]).split(_TOKENS):
            tokens += self.down(self.up(self.norm(tokens)))
        return x


class Patches:
    """A convolution whose stride is its kernel's size, as one product: (B, c, S, S) -> (B, h, w, C) float32."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.size = layer.kernel_size[0]
        self.project = Linear(layer.weight.flatten(1), layer.bias, dtype)

    def __call__(self, pixels: Tensor) -> Tensor:
        b, channels, height, width = pixels.shape
        h, w = height // self.size, width // self.size
        patches = pixels.reshape(b, channels, h, self.size, w, self.size).permute(0, 2, 4, 1, 3, 5)
        return self.project(patches.reshape(b, h, w, -1)).float()


class Conv:
    """A convolution on (B, h, w, c), channels last: float32 in and out, the product in the layer's dtype.

    With `then`, a 1 x 1 convolution after it, folded into it.
    """

    def __init__(self, layer: Any, dtype: torch.dtype, *, then: Any = None) -> None:
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if then is not None:
            weight, bias = fold(then, layer)
        self.weight = weight.to(dtype, memory_format=torch.channels_last, copy=True)
        self.bias = None if bias is None else bias.to(dtype, copy=True)
        self.stride, self.padding = layer.stride, layer.padding

    def __call__(self, x: Tensor) -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2).to(self.weight.dtype), self.weight, self.bias, self.stride, self.padding)
        return y.permute(0, 2, 3, 1).float()


def fold(outer: Any, inner: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of outer(inner(x)), a 1 x 1 convolution after a convolution; computed in float64."""
    w_out, w_in = outer.weight.detach().flatten(1).double(), inner.weight.detach().double()
    bias = w_out @ inner.bias.detach().double() + outer.bias.detach().double()
    return (w_out @ w_in.flatten(1)).view(-1, *w_in.shape[1:]).float(), bias.float()
