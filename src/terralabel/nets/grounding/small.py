"""A small locator that is trained from nothing on a few triplets of picture, text and box: nobody's weights are needed.

The picture's features are those of the encoder of `masks nano`, which rests; the words' are learned. A transformer lets every place
of the picture and every word look at all others, and each place says how surely the thing is there, and its box. (One query a place,
as in deformable DETR's first stage, Zhu et al. 2020, arXiv 2010.04159; PSLG-SAM's LQVG has ten queries of the sentence.)
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terralabel.nets.grounding.eyes import FEATURES

__all__ = ["SIDE", "WORDS", "PhraseNet", "word_numbers"]

#: Pixels of a side that a picture is shrunk or grown to, its longer one; and of a cell.
SIDE, CELL = 384, 16
#: Most words of a text that are read, and how many numbers stand for words and for their parts.
WORDS, _BUCKETS = 48, 8192
_WIDTH, _HEADS, _LAYERS = 128, 4, 3


def word_numbers(texts: Sequence[str]) -> Tensor:
    """(b, WORDS, 4) int64: of each word its own number and those of its beginning, its end and its length; 0 where there is none.

    Hashes, not a vocabulary: every word of every script has a number, and related words share some.
    """
    out = torch.zeros((len(texts), WORDS, 4), dtype=torch.int64)
    for row, text in enumerate(texts):
        for place, word in enumerate(re.findall(r"\w+", text.casefold())[:WORDS]):
            parts = (word, f"{word[:4]}-", f"-{word[-4:]}", f"#{min(len(word), 12)}")
            out[row, place] = torch.tensor([_number(part) for part in parts])
    return out


def _number(part: str) -> int:
    return 1 + int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big") % (_BUCKETS - 1)


class PhraseNet(nn.Module):
    """Features (b, h, w, 160) and words (b, WORDS, 4) -> (b, h * w) logits and (b, h * w, 4) xyxy boxes in cells."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, _WIDTH))  # what is seen weighs as where it is
        self.words = nn.Embedding(_BUCKETS, _WIDTH, padding_idx=0)
        self.order = nn.Embedding(WORDS, _WIDTH)
        for table in (self.words, self.order):
            nn.init.normal_(table.weight, std=0.3)
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 4 * _WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.look = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(_WIDTH), enable_nested_tensor=False)
        self.sure = nn.Linear(_WIDTH, 1)
        self.box = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 4))
        nn.init.constant_(self.sure.bias, -math.log(99.0))  # rare things are rarely there (Lin et al. 2017, arXiv 1708.02002)

    def forward(self, features: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        batch, height, width, _ = features.shape
        places = self.seen(features).flatten(1, 2) + _waves(height, width).to(features)
        said = self.words(words).sum(2) + self.order.weight
        silent = words[..., 0] == 0
        silent[:, 0] = False  # attention over nothing is no number
        hidden = torch.cat([torch.zeros((batch, height * width), dtype=torch.bool, device=words.device), silent], 1)
        out = self.look(torch.cat([places, said], 1), src_key_padding_mask=hidden)[:, : height * width]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre = torch.stack([x, y], -1).reshape(1, -1, 2).to(features)
        reach = self.box(out).clamp(-6, 6).exp()  # cells to the left, top, right and bottom
        return self.sure(out)[..., 0], torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], -1)


def _waves(height: int, width: int) -> Tensor:
    """(h * w, _WIDTH) of where a place lies: sines and cosines of y and of x in shares of the longer side."""
    bands = torch.exp(torch.linspace(0, math.log(64.0), _WIDTH // 4))
    longest = max(height, width)
    y = ((torch.arange(height) + 0.5) / longest)[:, None] * bands * math.pi
    x = ((torch.arange(width) + 0.5) / longest)[:, None] * bands * math.pi
    rows = torch.cat([y.sin(), y.cos()], -1)[:, None].expand(-1, width, -1)
    columns = torch.cat([x.sin(), x.cos()], -1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).reshape(height * width, _WIDTH)
