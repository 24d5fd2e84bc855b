"""SegFormer's head: every map brought to one width, enlarged to the finest, mixed per pixel.

Xie et al. 2021, arXiv 2105.15203, section 3.2, as mmsegmentation has it: 256 channels in all sizes (the authors' own B5 has
768), norm and ReLU after each of the linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terralabel.nets.segmentation.blocks import Classifier, conv_norm_relu, resized

__all__ = ["AllMlpHead"]


class AllMlpHead(nn.Module):
    """Logits at the size of the finest map."""

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(conv_norm_relu(count, width) for count in channels)
        self.mix = conv_norm_relu(len(channels) * width, width)
        self.classifier = Classifier(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> (b, classes, h, w) at the first one's size."""
        finest = maps[0].shape[-2:]
        levels = [resized(linear(x), finest) for linear, x in zip(self.linear, maps, strict=True)]
        return self.classifier(self.mix(torch.cat(levels, 1)))
