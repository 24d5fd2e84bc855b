"""EdgeTAM's backbone: RepViT (Wang et al. 2023), its parallel branches and batch norms folded into single convolutions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

__all__ = ["RepViT"]


class RepViT:
    """timm's module (a list of features), copied, folded exactly, channels last; in bf16 all of it is bfloat16."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        from timm.utils.model import reparameterize_model

        folded = reparameterize_model(copy.deepcopy(network).eval(), inplace=True)
        self.network = folded.to(dtype).to(memory_format=torch.channels_last)
        self.dtype = dtype

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> the four stages' (B, h, w, c) float32 maps, finest first."""
        pixels = pixels.to(self.dtype, memory_format=torch.channels_last)
        return [stage.permute(0, 2, 3, 1).float() for stage in self.network(pixels)]
