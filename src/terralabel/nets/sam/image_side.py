"""The image side of the two-way transformer, layer after layer, without ever being written down.

A layer adds  A' V  (what positions read of the prompt's tokens, of rank heads x tokens) to the image side and normalises it. So
the image side of a prompt after any number of layers is

    scale * K  +  left' right  +  bias

where K (hw, d) is the same for all prompts on an image, scale is a number per position, and left and right have a few dozen rows
per layer. What is read of it, W x, is  scale * (K W)  +  left' (right W):  the first product is made once per image, the second
one is small. The norm needs the length of  C(x), x less its mean over channels:

    |C(x)|^2  =  scale^2 |C(K)|^2  +  2 scale (right C(K)') . left  +  left' (C(right) C(right)') left

and  right C(K)'  is  v (O C(K)')  for the values v of a layer's heads and its output projection O: made once per image again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LayerNorms", "Refined", "SharedNorm", "by_heads"]


@dataclass(frozen=True)
class SharedNorm:
    """What prompts on one image share of one layer's norm.

    square   (hw,) |C(K)|^2
    crossed  for each layer up to this one, (heads, e, hw):  2 O C(K)'
    fixed    for each layer but the first, (1, hw): the same of its constant row
    """

    square: Tensor
    crossed: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]


@dataclass(frozen=True)
class Refined:
    """The image side of b prompts after a layer, less its bias, which is the network's: scale * K + left' right.

    scale   (b, 1, hw)
    left    (b, r, hw)
    right   (b, r, d), in the dtype of the tokens
    values  of each layer so far, (b, heads, n, e): what positions read of the tokens, before the output projection
    """

    scale: Tensor
    left: Tensor
    right: Tensor
    values: tuple[Tensor, ...]

    def pick(self, rows: Tensor) -> Refined:
        """Some of the prompts."""
        return Refined(self.scale[rows], self.left[rows], self.right[rows], tuple(v[rows] for v in self.values))


class LayerNorms:
    """The norms of a transformer's image side; `outputs` are the output projections (heads, e, d) of what each layer adds and
    their biases (d,)."""

    def __init__(self, norms: Sequence[Any], outputs: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
        self.dtype, self.eps = dtype, [norm.eps for norm in norms]
        self.weights, self.biases = [norm.weight for norm in norms], [norm.bias for norm in norms]
        self.first_bias = outputs[0][1]
        self.outputs: list[list[Tensor]] = []  # [layer][earlier layer]: its projection as this layer's norm sees it, centred
        self.constants: list[list[Tensor]] = []  # [layer][earlier layer, from the second on]: (d,) the same of what is constant
        for i, (projection, bias) in enumerate(outputs):
            seen = [_centred(x * self.weights[i - 1]) for x in self.outputs[-1]] if i else []
            fixed = [_centred(x * self.weights[i - 1]) for x in self.constants[-1]] if i else []
            self.outputs.append([*seen, _centred(projection)])
            self.constants.append([*fixed, _centred(self.biases[i - 1] + bias)] if i else [])

    def shared(self, image: Tensor) -> tuple[list[SharedNorm], list[Tensor]]:
        """Of (hw, d), the image side before the first layer: what each norm shares, and K (hw, d) after each norm."""
        found, parts = [], []
        part = _centred(image + self.first_bias)
        for i, weight in enumerate(self.weights):
            crossed = tuple((2 * output @ part.T).to(self.dtype) for output in self.outputs[i])  # heads, e, hw
            fixed = tuple((2 * part @ constant)[None].to(self.dtype) for constant in self.constants[i])
            found.append(SharedNorm(part.square().sum(1), crossed, fixed))
            parts.append(part * weight)
            part = _centred(parts[-1])
        return found, parts

    def update(self, layer: int, shared: SharedNorm, before: Refined | None, weights: Tensor, values: Tensor) -> Refined:
        """The image side after `layer`, which adds `weights` (b, heads n, hw) times the projected `values` (b, heads, n, e).

        `weights` is written over.
        """
        right = (values @ self.outputs[layer][-1]).flatten(1, 2)  # b, r, d
        left = weights
        seen: tuple[Tensor, ...] = (values,)
        if before is not None:
            one, constant = left.new_ones(1, 1, 1), self.constants[layer][-1]
            left = torch.cat([before.left, one.expand(len(left), 1, left.shape[2]), left], 1)
            right = torch.cat([_centred(before.right), constant.expand(len(left), 1, -1), right], 1)
            seen = (*before.values, values)
        products = _crossed(shared, seen)  # b, r, hw
        square = shared.square
        if before is not None:
            products.mul_(before.scale)
            square = square * before.scale[:, 0].to(square.dtype).square()
        products.baddbmm_((right @ right.transpose(1, 2)).to(self.dtype), left)
        square = square + products.mul_(left).sum(1, dtype=square.dtype)
        rstd = (square.clamp_(min=0) / right.shape[2] + self.eps[layer]).rsqrt()[:, None].to(self.dtype)  # b, 1, hw
        scale = rstd if before is None else before.scale * rstd
        return Refined(scale, left.mul_(rstd), right * self.weights[layer], seen)


def by_heads(rows: Tensor, columns: Tensor) -> Tensor:
    """(b, heads, n, e) against (heads, e, hw), the same for all b -> (b, heads n, hw)."""
    b, heads, n, _ = rows.shape
    found = rows.transpose(0, 1).flatten(1, 2).to(columns.dtype) @ columns  # heads, b n, hw
    return found.view(heads, b, n, -1).transpose(0, 1).reshape(b, heads * n, -1)


def _crossed(shared: SharedNorm, values: Sequence[Tensor]) -> Tensor:
    """(b, r, hw): twice the products of every row of `right` with the shared part, in the order of the rows."""
    parts = [by_heads(values[0], shared.crossed[0])]
    for row, of_layer, table in zip(shared.fixed, values[1:], shared.crossed[1:], strict=True):
        parts += [row.expand(len(of_layer), 1, -1), by_heads(of_layer, table)]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)
