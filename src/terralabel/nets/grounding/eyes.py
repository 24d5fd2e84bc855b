"""What the small locator sees a picture with: the encoder of `masks nano`, at rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from terralabel.nets.nano.shipped import read_network

__all__ = ["FEATURES", "Eyes", "load_eyes"]

#: Blocks of MobileNetV2 whose output is used, both of stride 16, and their channels together.
_USED, FEATURES = (10, 13), 160


class Eyes(nn.Module):
    """Picture (1, h, w, 3) in [-1, 1], h and w multiples of 16 -> (1, h / 16, w / 16, 160): both maps, of length 1 at every cell."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, picture: Tensor) -> Tensor:
        """See the class."""
        x, maps = picture.permute(0, 3, 1, 2), []
        for i, block in enumerate(self.blocks.children()):
            x = block(x)
            if i in _USED:
                maps.append(normalize(x, dim=1))
        return torch.cat(maps, 1).permute(0, 2, 3, 1)


def load_eyes() -> tuple[Eyes, str]:
    """The encoder that ships, in evaluation mode, and the sha256 of its file."""
    net, sha256 = read_network()
    return Eyes(net.encoder[: _USED[-1] + 1].eval().requires_grad_(False)), sha256
