"""A feature map cut into square windows for attention, and put together again."""

from __future__ import annotations

from torch import Tensor

__all__ = ["cut", "join"]


def cut(qkv: Tensor, size: int, heads: int, pad: Tensor) -> Tensor:
    """(B, H, W, 3 C) -> (3, B * windows, heads, size, size, d), contiguous.

    What windows at the lower and right edge lack is filled with `pad`, (3 C,): the released code pads zeros *before* the
    product with the QKV weights, so padded tokens are its bias, and they take part in the softmax as keys.
    """
    b, height, width, channels = qkv.shape
    rows, columns = -(-height // size), -(-width // size)
    if (rows * size, columns * size) != (height, width):
        padded = pad.expand(b, rows * size, columns * size, channels).clone()
        padded[:, :height, :width] = qkv
        qkv = padded
    windows = qkv.reshape(b, rows, size, columns, size, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    return windows.reshape(3, b * rows * columns, heads, size, size, -1)


def join(windows: Tensor, height: int, width: int) -> Tensor:
    """(B * windows, heads, size, size, d) -> (B, height, width, heads * d), without what was padded."""
    count, heads, size, _, d = windows.shape
    rows, columns = -(-height // size), -(-width // size)
    b = count // (rows * columns)
    grid = windows.view(b, rows, columns, heads, size, size, d).permute(0, 1, 4, 2, 5, 3, 6)
    return grid.reshape(b, rows * size, columns * size, heads * d)[:, :height, :width]
