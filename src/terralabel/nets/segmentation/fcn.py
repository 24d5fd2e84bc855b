"""Plain convolutional heads: HRNet's concatenation of all its maps, and the auxiliary head on one map.

Wang et al. 2020, arXiv 1908.07919; Zhao et al. 2017, arXiv 1612.01105 (the auxiliary loss).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terralabel.nets.segmentation.blocks import Classifier, conv_norm_relu, resized

__all__ = ["AuxiliaryHead", "ConcatenationHead"]


class ConcatenationHead(nn.Module):
    """All maps enlarged to the finest and put side by side; a 1 x 1 convolution; logits, without dropout."""

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.mix = conv_norm_relu(sum(channels), width)
        self.classifier = Classifier(width, classes, dropout=0.0)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> (b, classes, h, w) at the first one's size."""
        finest = maps[0].shape[-2:]
        return self.classifier(self.mix(torch.cat([resized(x, finest) for x in maps], 1)))


class AuxiliaryHead(nn.Module):
    """A 3 x 3 convolution on one level, for a second loss in training that reaches the middle of the backbone."""

    def __init__(self, inputs: int, level: int, width: int, classes: int) -> None:
        super().__init__()
        self.level = level
        self.mix = conv_norm_relu(inputs, width, 3)
        self.classifier = Classifier(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> (b, classes, h, w) at its level's size."""
        return self.classifier(self.mix(maps[self.level]))
