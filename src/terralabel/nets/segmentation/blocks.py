"""What the heads are made of: convolution, norm and ReLU; separable convolutions; a norm that stands single values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import batch_norm, interpolate

__all__ = ["Classifier", "PooledNorm", "conv_norm_relu", "initialise", "resized", "separable"]


class PooledNorm(nn.BatchNorm2d):
    """Batch norm for maps pooled to one value per channel.

    A batch of one image has a single value there and no variance, which torch refuses; the running statistics are used then.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same."""
        if self.training and x.numel() == x.shape[1]:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, groups: int = 1, pooled: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the size stays."""
    padding = dilation * (kernel // 2)
    norm = PooledNorm if pooled else nn.BatchNorm2d
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
            norm=norm(outputs),
            act=nn.ReLU(inplace=True),
        )
    )


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """3 x 3 within each channel, then 1 x 1 across them, each with norm and ReLU."""
    within = conv_norm_relu(inputs, inputs, 3, dilation, groups=inputs)
    return nn.Sequential(OrderedDict(depthwise=within, pointwise=conv_norm_relu(inputs, outputs)))


class Classifier(nn.Sequential):
    """Dropout of whole channels, then one logit per class and cell."""

    def __init__(self, inputs: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__(OrderedDict(drop=nn.Dropout2d(dropout), logits=nn.Conv2d(inputs, classes, 1)))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(b, c, h, w) bilinearly to another `size` (height, width); corners are not aligned."""
    height, width = size
    if tuple(x.shape[-2:]) == (height, width):
        return x
    return interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


def initialise(head: nn.Module) -> None:
    """Weights of a head at random: He for what a ReLU follows, a small deviation for the logits, norms at one."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in head.modules():
        if isinstance(module, Classifier):
            nn.init.normal_(module.get_parameter("logits.weight"), std=0.01)
