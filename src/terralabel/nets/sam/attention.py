"""Self-attention with decomposed relative positions (MViTv2), as SAM's image encoder has it; and without a bias.

The released code builds the bias for all heads at once: 805 MB for the 64 x 64 grid of ViT-B. Here a few rows of queries
are done at a time, so that their scores stay in the cache: the bias is written where the product is then added.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend", "attend_rows", "dense_bias", "relative_positions", "unbiased"]

#: Scores held at once by `attend_rows`, in numbers: 4 MB in float32.
_SCORES = 1 << 20


def relative_positions(table: Tensor, size: int) -> Tensor:
    """The (size, size, d) embeddings of query i seen from key k, from a (2 n - 1, d) table of distances.

    A table of another length is resized linearly, as the released code does for images of other sizes.
    """
    length = 2 * size - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], size=length, mode="linear")[0].T
    steps = torch.arange(size, device=table.device)
    return table[steps[:, None] - steps[None, :] + size - 1]


def attend(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scratch: Tensor | None = None) -> Tensor:
    """softmax(q k^T + bias) v for n heads; all of one dtype, in which the scores are rounded too.

    q (n, h, w, d), scaled already; k, v (n, H * W, d); rel_h (n, h, w, H) and rel_w (n, h, w, W): the bias's two parts.
    `scratch`, n * h * w * H * W numbers, takes the scores. Returns (n, h * w, d).
    """
    n, h, w, d = q.shape
    shape = (n, h, w, rel_h.shape[-1], rel_w.shape[-1])
    scores = q.new_empty(shape) if scratch is None else scratch.view(shape)
    torch.add(rel_h[..., :, None], rel_w[..., None, :], out=scores)
    flat = scores.view(n, h * w, -1)
    flat.baddbmm_(q.reshape(n, h * w, d), k.transpose(1, 2))
    return torch.softmax(flat, -1, out=flat) @ v


def attend_rows(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The same for large grids: one head and a few rows of queries at a time. k, v (n, H, W, d); returns (n, h, w, d)."""
    n, h, w, d = q.shape
    out = torch.empty_like(q)
    keys, values = k.flatten(1, 2), v.flatten(1, 2)
    per_row = w * keys.shape[1]
    rows = min(h, max(1, _SCORES // per_row))
    scratch = q.new_empty(rows * per_row)
    for head in range(n):
        one = slice(head, head + 1)
        for y in range(0, h, rows):
            part = (one, slice(y, y + rows))
            few = scratch[: min(rows, h - y) * per_row]
            out[part] = attend(q[part], keys[one], values[one], rel_h[part], rel_w[part], few).view_as(out[part])
    return out


def dense_bias(rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """The whole (..., h * w, H * W) bias at once, for accelerators."""
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2).flatten(-3, -2)


def unbiased(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v: q (..., L, d), k and v (..., M, d) -> (..., L, d).

    In bfloat16 on CPU as plain products over parts of the scores: twice as fast there as torch's fused kernel.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    queries, keys, values = q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3)
    length, count = queries.shape[1], keys.shape[1]
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    rows = max(1, min(length, _SCORES // count))
    heads = max(1, _SCORES // (rows * count))
    for head in range(0, len(queries), heads):
        some = slice(head, head + heads)
        for start in range(0, length, rows):
            part = queries[some, start : start + rows]
            scores = torch.bmm(part * scale, keys[some].transpose(1, 2))
            out[some, start : start + rows] = torch.softmax(scores, -1, out=scores) @ values[some]
    return out.view(q.shape)
