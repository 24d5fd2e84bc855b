"""The neck that SAM 2 and EdgeTAM share: four stages of a backbone -> the three maps the mask decoder reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.errors import WeightsError
from terralabel.nets.sam.layers import Conv

__all__ = ["Pyramid"]


class Pyramid:
    """A vision encoder with `backbone` and `neck`, then the mask decoder's conv_s0 and conv_s1 and the no-memory embedding.

    Only the two coarsest stages meet (nearest-neighbour doubling and a sum); the finer two are 1 x 1 convolutions after
    1 x 1 convolutions, and folded.
    """

    def __init__(self, model: Any, stages: Callable[[Tensor], list[Tensor]], dtype: torch.dtype) -> None:
        neck = model.vision_encoder.neck
        coarsest, coarse, fine, finest = neck.convs
        if coarse.kernel_size != (1, 1) or set(neck.fpn_top_down_levels) != {2, 3}:
            raise WeightsError(
                f"A neck with kernels of {coarse.kernel_size} that joins levels {sorted(neck.fpn_top_down_levels)}: "
                "expected 1 x 1 kernels and levels [2, 3], as all released models have."
            )
        self.stages = stages
        self.coarsest, self.coarse = Conv(coarsest, dtype), Conv(coarse, dtype)
        self.fine = Conv(fine, dtype, then=model.mask_decoder.conv_s1)
        self.finest = Conv(finest, dtype, then=model.mask_decoder.conv_s0)
        self.no_memory = model.no_memory_embedding.detach().flatten().clone()

    def __call__(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(B, 3, S, S) -> image (B, d, h, w); (B, d / 8, 4 h, 4 w) and (B, d / 4, 2 h, 2 w); nothing extra."""
        finest, fine, coarse, coarsest = self.stages(pixels)
        above = F.interpolate(self.coarsest(coarsest).permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
        image = self.coarse(coarse).permute(0, 3, 1, 2) + above + self.no_memory[:, None, None]
        return image, (self.finest(finest).permute(0, 3, 1, 2), self.fine(fine).permute(0, 3, 1, 2)), ()
