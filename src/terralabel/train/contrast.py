"""Contrast for the features of `masks nano`: one mask seen twice is alike, as are masks of one known kind; others are not.

The map that pictures are described by (`nets.nano.network.describe`) is averaged over masks and compared itself, without a head
between, since it is what clusters are made of. The loss is that of supervised contrast (Khosla et al. 2020, arXiv 2004.11362) with
the pairs that nothing is known of weighing less.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, normalize

from terralabel.nets.nano.network import STRIDE, NanoNet, Seen, describe
from terralabel.train.pictures import GENERATED

__all__ = ["contrast", "pair_weights", "second_view", "supervised_contrast"]

#: Sides of the second view as shares of the first.
_SIDES = (0.5, 0.75, 1.0)
#: Divides likenesses; how much masks of unknown kinds repel each other; the share of the smaller one that masks of a picture may have in
#: common and yet repel.
_TEMPERATURE, _UNKNOWN, _OVERLAP = 0.1, 0.3, 0.1
#: Of the attraction, what is to the mask's own other view where masks of its kind are there, too.
_OWN = 0.5


def contrast(net: NanoNet, seen: Seen, t: dict[str, Tensor], seed: int) -> Tensor:
    """The loss of a batch's masks, pooled from `seen` and from a second view of its pictures."""
    masks, pictures, kinds = _masks(t)
    pixels, turned = second_view(t["pixels"], masks, seed)
    again = replace(seen, deep=avg_pool2d(pixels, STRIDE), taps=net.taps(avg_pool2d(pixels, 2)))
    vectors = [_pooled(describe(seen), masks, pictures), _pooled(describe(again), turned, pictures)]
    return supervised_contrast(torch.cat(vectors), *pair_weights(masks, pictures, kinds))


def _masks(t: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct instances of a batch's prompts: (m, s, s) float32, the picture (m,) and the kind (m,) of each."""
    b, n = t["layer"].shape
    which = torch.arange(b)[:, None].expand(b, n)
    keys = torch.unique(torch.stack([which, t["layer"].long(), t["number"].long(), t["what"].long()], -1).flatten(0, 1), dim=0)
    masks = (t["ids"][keys[:, 0], keys[:, 1]] == keys[:, 2, None, None]).float()
    return masks, keys[:, 0], keys[:, 3]


def second_view(pixels: Tensor, masks: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures (b, 3, s, s) in [-1, 1] and masks (m, s, s) at another size, turned, mirrored; the pictures in other colours, with noise.

    The side is a multiple of 64, all pictures are turned alike; where a picture is grey, it stays so.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(3, generator=generator)
    share = _SIDES[int(draws[0] * len(_SIDES))]
    side = max(round(share * pixels.shape[-1] / 64), 1) * 64
    there = (pixels != 0).any(1, keepdim=True).float()
    small = adaptive_avg_pool2d(torch.cat([pixels, there], 1), side)
    shrunk = adaptive_avg_pool2d(masks[:, None], side)[:, 0]
    turns, mirrored = int(draws[1] * 4), bool(draws[2] < 0.5)
    small, shrunk = (torch.rot90(x, turns, (-2, -1)) for x in (small, shrunk))
    if mirrored:
        small, shrunk = small.flip(-1), shrunk.flip(-1)
    return _recoloured(small[:, :3], generator) * (small[:, 3:] > 0.5), shrunk


def _recoloured(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with another contrast, tint and light, a fifth of them grey, with noise."""
    b = len(pixels)
    draws = torch.rand(b, 4, 1, 1, generator=generator)
    grey = (pixels.std(1, keepdim=True).mean((2, 3), keepdim=True) < 1e-3).float()
    gain, light = 0.7 + 0.6 * draws[:, :1], 0.3 * (draws[:, 1:2] - 0.5)
    tint = 0.08 * torch.randn(b, 3, 1, 1, generator=generator) * (1 - grey)
    noise = 0.06 * draws[:, 2:3] * torch.randn(pixels.shape, generator=generator)
    pixels = torch.where(draws[:, 3:] < 0.2, pixels.mean(1, keepdim=True).expand_as(pixels), pixels)
    noise = torch.where(grey > 0, noise[:, :1].expand_as(noise), noise)
    return (pixels * gain + light + tint + noise).clamp(-1, 1)


def _pooled(maps: Tensor, masks: Tensor, pictures: Tensor) -> Tensor:
    """Means of maps (b, c, h, w) over masks (m, s, s) of `pictures` (m,): (m, c), each of length 1."""
    share = adaptive_avg_pool2d(masks[:, None], (maps.shape[-2], maps.shape[-1]))[:, 0].flatten(1)
    found = torch.stack([share[k] @ maps[int(p)].flatten(1).T for k, p in enumerate(pictures)])
    return normalize(found, dim=1)


def pair_weights(masks: Tensor, pictures: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """(2m, 2m) how much each view of m masks is drawn to each (rows sum to 1), and how much it is repelled.

    kinds (m,) are 0 where unknown. Masks of one kind, one of them generated and the other real, are left alone, as are
    masks of one picture that overlap, as one may be a part of the other.
    """
    known = (kinds > 0)[:, None] & (kinds > 0)[None]
    same = known & (kinds[:, None] == kinds[None])
    likewise = known & (kinds[:, None] % GENERATED == kinds[None] % GENERATED)
    flat = masks.flatten(1)
    area = flat.sum(1).clamp(min=1)
    apart = (flat @ flat.T <= _OVERLAP * torch.minimum(area[:, None], area[None])) | (pictures[:, None] != pictures[None])
    repelled = torch.where(known, 1.0, _UNKNOWN) * (~likewise & apart)
    other = ~torch.eye(len(masks), dtype=torch.bool)
    alike = (same & apart & other).repeat(2, 2).float()
    own = (~other).float()
    own = torch.cat([torch.cat([0 * own, own], 1), torch.cat([own, 0 * own], 1)])
    count = alike.sum(1, keepdim=True)
    drawn = torch.where(count > 0, _OWN * own + (1 - _OWN) * alike / count.clamp(min=1), own)
    return drawn, (repelled * other).repeat(2, 2)


def supervised_contrast(vectors: Tensor, drawn: Tensor, repelled: Tensor) -> Tensor:
    """The mean over rows i of vectors (k, c) of length 1 of -sum_j drawn_ij log(e_ij / (e_ij + sum_n repelled_in e_in))."""
    likeness = vectors @ vectors.T / _TEMPERATURE
    others = torch.logsumexp(likeness + repelled.clamp(min=1e-12).log(), 1, keepdim=True)
    return (drawn * (torch.logaddexp(likeness, others) - likeness)).sum(1).mean()
