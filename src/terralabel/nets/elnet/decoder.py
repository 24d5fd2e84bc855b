"""From a trunk's four maps to three logit maps: receptive-field blocks, upward steps with skips, optional edge attention.

As in SAM2-UNet, on which SAM2-ELNet (arXiv 2503.12404) builds; the edge attention is of its first version, in a form of our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

__all__ = ["WIDTH", "Decoder", "EdgeAttention", "ReceptiveField", "Up", "resize"]

#: Channels of every map in the decoder, unless told otherwise.
WIDTH = 64


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """(b, c, h, w) at another size, bilinear."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _convolved(inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, and batch norm; no ReLU."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (sides[0] // 2), dilation * (sides[1] // 2))
    convolution = nn.Conv2d(inputs, outputs, sides, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class ReceptiveField(nn.Module):
    """RFB: (b, inputs, h, w) -> (b, outputs, h, w). ReLU(conv3x3(all branches side by side) + conv1x1(x))."""

    def __init__(self, inputs: int, outputs: int = WIDTH) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_convolved(inputs, outputs)])
        for k in (3, 5, 7):
            self.branches.append(
                nn.Sequential(
                    _convolved(inputs, outputs),
                    _convolved(outputs, outputs, (1, k)),
                    _convolved(outputs, outputs, (k, 1)),
                    _convolved(outputs, outputs, 3, dilation=k),
                )
            )
        self.joined, self.straight = _convolved(4 * outputs, outputs, 3), _convolved(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return relu(self.joined(torch.cat([branch(x) for branch in self.branches], 1)) + self.straight(x))


class Up(nn.Module):
    """One step up: the coarse map twice as large beside the skip, then twice 3x3 convolution, batch norm, ReLU."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(_convolved(2 * width, width, 3), nn.ReLU(inplace=True)), *(_convolved(width, width, 3), nn.ReLU(inplace=True))
        )

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(b, width, h, w) and (b, width, 2 h, 2 w) -> (b, width, 2 h, 2 w)."""
        return self.convolutions(torch.cat([skip, resize(coarse, skip.shape[-2:])], 1))


class EdgeAttention(nn.Module):
    """u (1 + a) with a = sigmoid(conv1x1(conv3x3(u))): what lies on an edge weighs more."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__()
        self.features = nn.Sequential(_convolved(channels, channels // 2, 3), nn.ReLU(inplace=True))
        self.logit = nn.Conv2d(channels // 2, 1, 1)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(u (1 + a), logits of a (b, 1, h, w))."""
        logits = self.logit(self.features(u))
        return u * (1 + logits.sigmoid()), logits


class Decoder(nn.Module):
    """Maps of strides 4, 8, 16, 32 -> logits at strides 4, 8, 16, the finest first, and those of the finest edges, if asked for."""

    def __init__(self, channels: Sequence[int], outputs: int, edge: bool = False, width: int = WIDTH) -> None:
        super().__init__()
        self.fields = nn.ModuleList(ReceptiveField(count, width) for count in channels)
        self.ups = nn.ModuleList(Up(width) for _ in channels[1:])
        self.edges = nn.ModuleList(EdgeAttention(width) for _ in channels[1:]) if edge else None
        self.heads = nn.ModuleList(nn.Conv2d(width, outputs, 1) for _ in channels[1:])

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """See the class."""
        found = [field(x) for field, x in zip(self.fields, maps, strict=True)]
        u, logits, edge = found[-1], [], None
        for step, skip in enumerate(reversed(found[:-1])):
            u = self.ups[step](u, skip)
            if self.edges is not None:
                u, edge = self.edges[step](u)
            logits.append(self.heads[step](u))
        return logits[::-1], edge
