"""One network: backbone, neck, head, and the auxiliary head that only training sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from terralabel.errors import ContractError
from terralabel.nets.segmentation.blocks import resized
from terralabel.nets.segmentation.schedules import Schedule

__all__ = ["Network", "per_band"]

#: Below this the coarsest map is a single cell, which batch norm cannot train on; smaller images are padded to it.
_SMALLEST = 64


class Network(nn.Module):
    """A segmentation network for images of any size.

    backbone    image -> maps, fine to coarse; where ImageNet weights go
    neck        maps -> maps (vision transformers under UPerNet); part of the head when weights are moved
    head        maps -> logits
    auxiliary   maps -> logits, or None; its loss counts `auxiliary_weight`
    mean, std   of the input in [0, 1], one number a band: see `normalise`
    schedule    how it is trained (`schedules.Schedule`)
    origin      where the weights come from: "random weights", or the repository or file of the backbone's
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        head: nn.Module,
        *,
        classes: int,
        bands: int,
        mean: Sequence[float],
        std: Sequence[float],
        schedule: Schedule,
        neck: nn.Module | None = None,
        auxiliary: nn.Module | None = None,
        auxiliary_weight: float = 0.4,
    ) -> None:
        super().__init__()
        self.name, self.classes, self.bands = name, classes, bands
        self.mean, self.std = tuple(mean), tuple(std)
        self.schedule, self.auxiliary_weight = schedule, auxiliary_weight
        self.origin = "random weights"
        self.backbone, self.head = backbone, head
        self.neck = neck if neck is not None else nn.Identity()
        self.auxiliary = auxiliary
        self.multiple = int(backbone.multiple)  # type: ignore[arg-type]

    def forward(self, x: Tensor, with_auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        """(b, bands, h, w) normalised, any h and w -> logits (b, classes, h, w).

        With `with_auxiliary` the auxiliary head's logits, of the same shape, come second (None where there is no such head).
        Raises `ContractError` for another number of bands.
        """
        if x.ndim != 4 or x.shape[1] != self.bands:
            raise ContractError(f"{self.name}: got an input of shape {tuple(x.shape)}, expected (batch, {self.bands}, h, w).")
        size = (x.shape[-2], x.shape[-1])
        padded = self._padded(x)
        maps = self.neck(self.backbone(padded))
        whole = (padded.shape[-2], padded.shape[-1])
        logits = resized(self.head(maps), whole)[..., : size[0], : size[1]]
        if not with_auxiliary:
            return logits
        extra = None if self.auxiliary is None else resized(self.auxiliary(maps), whole)[..., : size[0], : size[1]]
        return logits, extra

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (b, bands, h, w), uint8 or floats in [0, 1] -> what `forward` takes, float32."""
        scaled = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
        return (scaled - mean) / torch.tensor(self.std, device=pixels.device)[:, None, None]

    def _padded(self, x: Tensor) -> Tensor:
        """To a multiple of the stride at the right and bottom, by the last column and row; cut off again from the logits."""
        height, width = (max(-(-side // self.multiple) * self.multiple, self._smallest()) for side in x.shape[-2:])
        down, right = height - x.shape[-2], width - x.shape[-1]
        return pad(x, (0, right, 0, down), mode="replicate") if down or right else x

    def _smallest(self) -> int:
        return -(-_SMALLEST // self.multiple) * self.multiple


def per_band(values: Sequence[float], bands: int) -> tuple[float, ...]:
    """Of red, green and blue as they are; any other number of bands gets their mean for each."""
    return tuple(values) if bands == len(values) else (sum(values) / len(values),) * bands
