"""DeepLabv3+: atrous spatial pyramid pooling with separable convolutions, and the detail of the finest map.

Chen et al. 2018, arXiv 1802.02611; dilations for output stride 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terralabel.nets.segmentation.blocks import Classifier, conv_norm_relu, resized, separable

__all__ = ["ASPPHead"]

_DILATIONS = (12, 24, 36)


class ASPPHead(nn.Module):
    """Logits at the size of the finest map; `low_width` channels of that one are kept."""

    def __init__(self, channels: Sequence[int], width: int, classes: int, low_width: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(channels[-1], width, pooled=True))
        self.point = conv_norm_relu(channels[-1], width)
        self.atrous = nn.ModuleList(separable(channels[-1], width, dilation) for dilation in _DILATIONS)
        self.merge = conv_norm_relu((2 + len(_DILATIONS)) * width, width, 3)
        self.low = conv_norm_relu(channels[0], low_width)
        self.refine = nn.Sequential(separable(width + low_width, width), separable(width, width))
        self.classifier = Classifier(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> (b, classes, h, w) at the first one's size."""
        x, low = maps[-1], self.low(maps[0])
        whole = resized(self.image(x), x.shape[-2:])
        merged = self.merge(torch.cat([whole, self.point(x), *(atrous(x) for atrous in self.atrous)], 1))
        return self.classifier(self.refine(torch.cat([resized(merged, low.shape[-2:]), low], 1)))
