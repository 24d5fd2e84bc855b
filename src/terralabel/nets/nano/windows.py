"""Square grids of cells over windows of a tile: where the decoder looks, whatever the size of the object.

A window is (x0, y0, x1, y1) in pixels. Sampling is bilinear at the centres of `grid` x `grid` cells; what lies outside the
tile repeats its border. Many windows of one picture are sampled in one call, without a copy of the picture for each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

__all__ = ["around", "cell_centres", "mip_level", "mips", "sample", "sample_mips"]

#: A window is this much larger than its box, no side under `SMALLEST` pixels, no side more than `ASPECT` times the other.
MARGIN, SMALLEST, ASPECT = 1.5, 12.0, 2.0
#: Halvings of the picture that pixels are sampled from.
MIPS = 4


def around(boxes: Tensor) -> Tensor:
    """The windows (..., 4) of boxes (..., 4) xyxy: half as large again, about as wide as high."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1) * MARGIN
    longest = side.amax(-1, keepdim=True)
    side = torch.maximum(side, longest / ASPECT).clamp(min=SMALLEST)
    return torch.cat([centre - side / 2, centre + side / 2], -1)


def cell_centres(windows: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """x and y (..., grid) of the centres of the cells' columns and rows."""
    steps = (torch.arange(grid, dtype=windows.dtype, device=windows.device) + 0.5) / grid
    x = windows[..., 0:1] + (windows[..., 2:3] - windows[..., 0:1]) * steps
    y = windows[..., 1:2] + (windows[..., 3:4] - windows[..., 1:2]) * steps
    return x, y


def sample(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of maps (b, c, h, w) at columns x (b, n, g) and rows y (b, n, g), both in the maps' cells: (b * n, c, g, g)."""
    b, c, h, w = maps.shape
    n, g = x.shape[1:]
    column = (x.clamp(0.5, w - 0.5) * (2 / w) - 1)[:, :, None, :].expand(b, n, g, g)
    row = (y.clamp(0.5, h - 0.5) * (2 / h) - 1)[:, :, :, None].expand(b, n, g, g)
    places = torch.stack([column, row], -1).reshape(b, n * g, g, 2)
    found = grid_sample(maps, places, mode="bilinear", padding_mode="border", align_corners=False)
    return found.reshape(b, c, n, g, g).transpose(1, 2).reshape(b * n, c, g, g)


def mips(pixels: Tensor) -> Tensor:
    """The picture (b, c, h, w) and its halvings side by side in one (b, c, h, w + w / 2 + w / 4 + w / 8); h, w multiples of 8."""
    height, sizes = pixels.shape[2], [pixels]
    for _ in range(MIPS - 1):
        sizes.append(avg_pool2d(sizes[-1], 2))
    return torch.cat([pad(each, (0, 0, 0, height - each.shape[2])) for each in sizes], 3)


def mip_level(windows: Tensor, grid: int) -> Tensor:
    """Which halving (...,) suits the distance of a window's cells."""
    spacing = (windows[..., 2:] - windows[..., :2]).amax(-1) / grid
    return (spacing / 1.41).clamp(min=1).log2().ceil().clamp(max=MIPS - 1).long()


def sample_mips(atlas: Tensor, width: int, x: Tensor, y: Tensor, level: Tensor) -> Tensor:
    """Pixels of an atlas of pictures `width` wide at columns x and rows y (b, n, g) of the full picture: (b * n, c, g, g)."""
    height = atlas.shape[2]
    shrink = 2.0 ** -level[..., None].to(x.dtype)
    offset = torch.tensor([sum(width >> j for j in range(k)) for k in range(MIPS)], dtype=x.dtype, device=x.device)[level]
    column = (x * shrink).clamp(min=0.5).minimum(width * shrink - 0.5) + offset[..., None]
    row = (y * shrink).clamp(min=0.5).minimum(height * shrink - 0.5)
    return sample(atlas, column, row)
