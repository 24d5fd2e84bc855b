"""The neck between a plain vision transformer and heads that want a pyramid: its layers at strides 4, 8, 16 and 32.

As in mmsegmentation, after the reassembling of Ranftl et al. 2021, arXiv 2103.13413.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

__all__ = ["MultiLevelNeck"]

_SCALES = (4.0, 2.0, 1.0, 0.5)


class MultiLevelNeck(nn.Module):
    """Four maps of one size -> four maps of x 4, x 2, x 1, x 1/2: a 1 x 1 convolution, the resizing, a 3 x 3 convolution."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = (width,) * len(_SCALES)
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in _SCALES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (b, c, h, w) -> four, fine to coarse."""
        found = []
        for x, scale, lateral, smooth in zip(maps, _SCALES, self.lateral, self.smooth, strict=True):
            y = lateral(x)
            if scale != 1:
                y = interpolate(y, scale_factor=scale, mode="bilinear", align_corners=False)
            found.append(smooth(y))
        return found
