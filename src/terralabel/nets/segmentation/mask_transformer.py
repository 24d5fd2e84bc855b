"""Segmenter's head: one token per class reads the patches, and each class's mask is its token against every patch.

Strudel et al. 2021, arXiv 2105.05633, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["MaskTransformerHead"]

_LAYERS, _DROP_PATH, _HEAD_WIDTH = 2, 0.1, 64


class MaskTransformerHead(nn.Module):
    """Two transformer layers over patches and class tokens, then their scalar products, normalised over the classes."""

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.project = nn.Linear(channels[-1], width)
        self.class_tokens = nn.Parameter(torch.zeros(1, classes, width))
        rates = [_DROP_PATH * i / (_LAYERS - 1) for i in range(_LAYERS)]
        self.layers = nn.ModuleList(Block(width, width // _HEAD_WIDTH, qkv_bias=True, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, width, bias=False)
        self.tokens = nn.Linear(width, width, bias=False)
        self.class_norm = nn.LayerNorm(classes)
        nn.init.trunc_normal_(self.class_tokens, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The last map (b, c, h, w) -> (b, classes, h, w)."""
        b, _, h, w = maps[-1].shape
        x = self.project(maps[-1].flatten(2).transpose(1, 2))  # (b, h * w, width)
        x = torch.cat([x, self.class_tokens.expand(b, -1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        patches = normalize(self.patches(x[:, : h * w]), dim=-1)
        tokens = normalize(self.tokens(x[:, h * w :]), dim=-1)
        masks = self.class_norm(patches @ tokens.transpose(1, 2))  # (b, h * w, classes)
        return masks.transpose(1, 2).reshape(b, self.classes, h, w)
