"""UPerNet's head: pyramid pooling on the coarsest map, a feature pyramid down to the finest, all levels merged.

Xiao et al. 2018, arXiv 1807.10221.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terralabel.nets.segmentation.blocks import Classifier, conv_norm_relu, resized
from terralabel.nets.segmentation.pyramid_pooling import PyramidPooling

__all__ = ["UPerHead"]


class UPerHead(nn.Module):
    """Logits at the size of the finest map."""

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(channels[-1], width)
        self.lateral = nn.ModuleList(conv_norm_relu(count, width) for count in channels[:-1])
        self.smooth = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in channels[:-1])
        self.merge = conv_norm_relu(len(channels) * width, width, 3)
        self.classifier = Classifier(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> (b, classes, h, w) at the first one's size."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps[:-1], strict=True)] + [self.pyramid(maps[-1])]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + resized(levels[i + 1], levels[i].shape[-2:])
        smoothed = [smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)] + [levels[-1]]
        finest = smoothed[0].shape[-2:]
        return self.classifier(self.merge(torch.cat([resized(x, finest) for x in smoothed], 1)))
