"""Pyramid pooling (PSPNet): the map, and its means over grids of 1, 2, 3 and 6 cells a side.

Zhao et al. 2017, arXiv 1612.01105.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terralabel.nets.segmentation.blocks import Classifier, conv_norm_relu, resized

__all__ = ["PSPHead", "PyramidPooling"]

_GRIDS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """(b, inputs, h, w) -> (b, width, h, w): pooled maps enlarged, beside the map itself, merged by a 3 x 3 convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(grid), conv_norm_relu(inputs, width, pooled=True)) for grid in _GRIDS
        )
        self.merge = conv_norm_relu(inputs + len(_GRIDS) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        size = x.shape[-2:]
        return self.merge(torch.cat([x, *(resized(pool(x), size) for pool in self.pools)], 1))


class PSPHead(nn.Module):
    """Logits from the last map alone."""

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(channels[-1], width)
        self.classifier = Classifier(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> (b, classes, h, w) at the last one's size."""
        return self.classifier(self.pyramid(maps[-1]))
