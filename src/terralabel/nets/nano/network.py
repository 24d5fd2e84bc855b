"""The network: MobileNetV2's maps merged to one; a head that guesses boxes at a point; a decoder over windows.

    picture -> halved -> encode -> map of stride 8 in pixels of the picture
    point on the map -> `guess`: three boxes, small to large, and how well each will fit
    window of the map and of the pixels, and the prompt drawn in it -> `decode`: logits and the IoU to expect

A box prompt, a guessed box and the box of a rough mask all become a window of one fixed grid, so that the decoder sees
every object at about the same size (Mask R-CNN's idea, He et al. 2017, arXiv 1703.06870, with the prompt as channels).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, normalize

from terralabel.nets.mobilenet import TAPS, MobileNetV2
from terralabel.nets.nano.windows import cell_centres, mip_level, mips, sample, sample_mips

__all__ = ["SLOTS", "STRIDE", "NanoNet", "Seen", "describe", "prompt_channels"]

#: Pixels of a cell of the map.
STRIDE = 8
#: Boxes guessed at a point, and the half side in pixels that each begins to learn from.
SLOTS = 3
_HALF_SIDES = (10.0, 28.0, 80.0)
_WIDTH, _MASK_WIDTH, _PROMPTS = 64, 24, 5


@dataclass(frozen=True)
class Seen:
    """Pictures once encoded.

    deep (b, 64, h / 8, w / 8) to guess from, shallow (b, 24, h / 8, w / 8) for masks, atlas: the pixels and their halvings
    of a picture `width` pixels wide, taps: the encoder's maps of strides 8, 16, 32, 64 in pixels of the picture.
    """

    deep: Tensor
    shallow: Tensor
    atlas: Tensor
    width: int
    taps: list[Tensor]


def _convolved(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Pyramid(nn.Module):
    """Maps of strides 4, 8, 16, 32 added from the coarsest to the finest (Lin et al. 2017, arXiv 1612.03144)."""

    def __init__(self, inputs: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in inputs)
        self.smooth = nn.ModuleList(_convolved(width, width) for _ in inputs[1:])
        self.finest = nn.Sequential(_convolved(width, width, groups=width), _convolved(width, width, kernel=1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(b, width, h / 4, w / 4)."""
        x = self.lateral[-1](maps[-1])
        for k in range(len(maps) - 2, -1, -1):
            x = self.lateral[k](maps[k]) + interpolate(self.smooth[k](x), scale_factor=2.0, mode="nearest")
        return self.finest(x)


class Decoder(nn.Module):
    """A small U-Net over a window's grid: (n, c, g, g) -> logits (n, g, g) and expected IoU (n,) as logits."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.stem = _convolved(inputs, 32)
        self.down_2 = nn.Sequential(_convolved(32, 48, stride=2), _convolved(48, 48))
        self.down_4 = nn.Sequential(_convolved(48, 64, stride=2), _convolved(64, 64))
        self.down_8 = nn.Sequential(_convolved(64, 96, stride=2), _convolved(96, 96))
        self.to_quarter, self.at_quarter = nn.Conv2d(96, 64, 1), _convolved(64, 64)
        self.to_half, self.at_half = nn.Conv2d(64, 48, 1), _convolved(48, 48)
        self.to_full, self.at_full = nn.Conv2d(48, 32, 1), _convolved(32, 32)
        self.logit = nn.Conv2d(32, 1, 1)
        self.iou = nn.Sequential(nn.Linear(96 + 48 + 48 + 4, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        full = self.stem(x)
        half = self.down_2(full)
        quarter = self.down_4(half)
        deep = self.down_8(quarter)
        up = self.at_quarter(quarter + interpolate(self.to_quarter(deep), scale_factor=2.0, mode="nearest"))
        up_half = self.at_half(half + interpolate(self.to_half(up), scale_factor=2.0, mode="nearest"))
        last = self.at_full(full + interpolate(self.to_full(up_half), scale_factor=2.0, mode="nearest"))
        logits = self.logit(last)[:, 0]
        return logits, self.iou(self._evidence(deep, up_half, logits))[:, 0]

    @staticmethod
    def _evidence(deep: Tensor, half: Tensor, logits: Tensor) -> Tensor:
        """What the expected IoU is judged by: the whole window, inside and around the mask, and how sure the logits are."""
        share = logits.detach().sigmoid()
        coarse = interpolate(share[:, None], size=half.shape[-2:], mode="bilinear", align_corners=False)
        half = half.detach()
        inside = (half * coarse).sum((2, 3)) / (coarse.sum((2, 3)) + 1)
        outside = (half * (1 - coarse)).sum((2, 3)) / ((1 - coarse).sum((2, 3)) + 1)
        area = share.mean((1, 2))
        doubt = (share * (1 - share)).mean((1, 2))
        soft = (share * share).mean((1, 2)) / (area + 1e-3)
        stable = (share > 0.7).float().mean((1, 2)) / ((share > 0.3).float().mean((1, 2)) + 1e-3)
        return torch.cat([deep.detach().mean((2, 3)), inside, outside, torch.stack([area, doubt * 4, soft, stable], 1)], 1)


class NanoNet(nn.Module):
    """Input (b, 3, h, w) in [-1, 1], h and w multiples of 64. See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MobileNetV2().features[: TAPS[-1] + 1]
        self.pyramid = Pyramid((24, 32, 96, 320), _WIDTH)
        self.shallow = nn.Conv2d(_WIDTH, _MASK_WIDTH, 1)
        self.point = nn.Sequential(
            nn.Linear(_WIDTH, 128), nn.ReLU(inplace=True), nn.Linear(128, 128), nn.ReLU(inplace=True), nn.Linear(128, SLOTS * 5)
        )
        self.decoder = Decoder(_MASK_WIDTH + 3 + _PROMPTS)

    def taps(self, pixels: Tensor) -> list[Tensor]:
        """The encoder's maps (b, 24 | 32 | 96 | 320, h / s, w / s), s = 4, 8, 16, 32."""
        found, x = [], pixels
        for i, block in enumerate(self.encoder):
            x = block(x)
            if i in TAPS:
                found.append(x)
        return found

    def encode(self, pixels: Tensor) -> Seen:
        """All that prompts need of the pictures."""
        taps = self.taps(avg_pool2d(pixels, 2))
        deep = self.pyramid(taps)
        return Seen(deep, self.shallow(deep), mips(pixels), pixels.shape[-1], taps)

    def guess(self, features: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (..., 3, 4) xyxy and the logit of their IoU (..., 3) from the map's vectors (..., 64) at points xy (..., 2)."""
        raw = self.point(features).unflatten(-1, (SLOTS, 5))
        reach = raw[..., :4].clamp(-4, 4).exp() * torch.tensor(_HALF_SIDES, dtype=raw.dtype, device=raw.device)[:, None]
        boxes = torch.cat([xy[..., None, :] - reach[..., :2], xy[..., None, :] + reach[..., 2:]], -1)
        return boxes, raw[..., 4]

    def features_at(self, seen: Seen, xy: Tensor) -> Tensor:
        """The map's vectors (b, n, 64) at points xy (b, n, 2) of the pictures."""
        b, n = xy.shape[:2]
        found = sample(seen.deep, xy[..., 0:1] / STRIDE, xy[..., 1:2] / STRIDE)
        return found.reshape(b, n, -1)

    def decode(self, seen: Seen, windows: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b * n, g, g) and expected IoU as logits (b * n,) for windows (b, n, 4) and prompts (b * n, 5, g, g)."""
        grid = prompts.shape[-1]
        x, y = cell_centres(windows, grid)
        features = sample(seen.shallow, x / STRIDE, y / STRIDE)
        pixels = sample_mips(seen.atlas, seen.width, x, y, mip_level(windows, grid))
        return self.answer(features, pixels, prompts)

    def answer(self, features: Tensor, pixels: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """As `decode`, from what its windows show: the map (n, 24, g, g) and the pixels (n, 3, g, g)."""
        spread, mean = torch.std_mean(pixels, dim=(1, 2, 3), keepdim=True)
        return self.decoder(torch.cat([features, (pixels - mean) / (spread + 0.02), prompts], 1))


def describe(seen: Seen) -> Tensor:
    """What kinds of objects are told apart by, (b, 128, h / 8, w / 8): the encoder's second and third map, each of length 1 at every
    cell. The first holds little but colour, the merged one is about outlines."""
    size = seen.deep.shape[-2:]
    maps = [normalize(tap, dim=1) for tap in seen.taps[1:3]]
    return torch.cat([interpolate(found, size=size, mode="bilinear", align_corners=False) for found in maps], 1)


def prompt_channels(
    windows: Tensor,
    grid: int,
    size: tuple[int, int],
    boxes: Tensor,
    sure: Tensor,
    points: Tensor,
    labels: Tensor,
    rough: Tensor,
) -> Tensor:
    """What the decoder is told, (n, 5, g, g): the box, object points, background points, the rough mask, what is picture.

    windows (n, 4); size (h, w) of the picture; boxes (n, 4) with `sure` (n,) 1 for a box that was given, less for one that
    was guessed, 0 for none; points (n, p, 2) and labels (n, p) 1 object, 0 background, -1 none; rough (n, g, g) in [-1, 1].
    """
    x, y = cell_centres(windows, grid)
    across = ((x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])).to(x.dtype)
    down = ((y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])).to(x.dtype)
    box = down[:, :, None] * across[:, None, :] * sure[:, None, None]
    cell = (windows[:, 2:] - windows[:, :2]) / grid
    dx = (x[:, None, :] - points[:, :, 0:1]) / cell[:, None, 0:1]
    dy = (y[:, None, :] - points[:, :, 1:2]) / cell[:, None, 1:2]
    bump = torch.exp(-dy.square() / 4)[:, :, :, None] * torch.exp(-dx.square() / 4)[:, :, None, :]  # (n, p, g, g)
    marks = [(bump * (labels == kind).to(x.dtype)[:, :, None, None]).amax(1) for kind in (1, 0)]
    inside = ((y > 0) & (y < size[0]))[:, :, None] & ((x > 0) & (x < size[1]))[:, None, :]
    return torch.stack([box, *marks, rough, inside.to(x.dtype)], 1)
