"""MobileNetV2's encoder with batch norm folded into the convolutions (Sandler et al. 2018, arXiv 1801.04381).

Key names are torchvision's, so its architecture can be read beside this one; the folded weights have a bias in every
convolution. Stride-2 convolutions are padded right and below only, as in TensorFlow's "SAME" for even sizes, where the
weights come from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from terralabel.errors import WeightsError
from terralabel.nets.checkpoints import compare_keys, read_state

__all__ = ["TAPS", "MobileNetV2", "load_mobilenet_v2"]

#: Blocks whose output is used: the last of each size, strides 4, 8, 16, 32.
TAPS = (3, 6, 13, 17)
#: (expansion, channels, blocks, stride of the first) of each stage: the paper's table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Convolution(nn.Conv2d):
    """3 x 3 "SAME" convolution for even sizes, or 1 x 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c', h / stride, w / stride)."""
        return super().forward(pad(x, (0, 1, 0, 1)) if self.stride[0] == 2 else x)


def activated(*arguments: int) -> nn.Sequential:
    """A convolution and ReLU6."""
    return nn.Sequential(Convolution(*arguments), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widen, filter each channel, project back; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        widen = [activated(inputs, wide)] if expansion > 1 else []
        self.conv = nn.Sequential(*widen, activated(wide, wide, 3, stride, wide), Convolution(wide, outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c', h / stride, w / stride)."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """The encoder. Input (b, 3, h, w) RGB in [-1, 1], h and w multiples of 32; output one map per tap."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [activated(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, count, stride in STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride if i == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*blocks, activated(inputs, 1280))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (b, 24 | 32 | 96 | 320, h / s, w / s) for strides s = 4, 8, 16, 32."""
        maps = []
        for i, block in enumerate(self.features[: TAPS[-1] + 1]):  # type: ignore[arg-type]
            x = block(x)
            if i in TAPS:
                maps.append(x)
        return maps


def load_mobilenet_v2(path: Path) -> MobileNetV2:
    """The encoder with weights from a checked file (npz, safetensors or torch) of folded weights, in evaluation mode.

    Raises `WeightsError` naming the first differing keys when the file holds another architecture.
    """
    net = MobileNetV2()
    state = {key: torch.as_tensor(value).float() for key, value in read_state(path).items()}
    compare_keys(state, net.state_dict(), f"{path} as MobileNetV2")
    net.load_state_dict({key: state[key] for key in net.state_dict()})
    if not all(torch.isfinite(value).all() for value in net.state_dict().values()):
        raise WeightsError(f"{path}: weights are not finite; the file is damaged.")
    return net.eval()
