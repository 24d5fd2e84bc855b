"""The mask decoder of every family: prompts on one image to mask logits and predicted IoU.

Exact up to rounding, with the work that prompts share done once per image (`two_way`, `upscaling`) and the predicted IoU known
before anything is upscaled. What the families do differently:

    SAM                   three masks, or mask 0 alone
    SAM-HQ                the same in descending order of predicted IoU, each plus one high-quality mask
    SAM 2, EdgeTAM,       finer features in the upscaling, IoU between 0 and 1; a single mask that is not stable
    SAM 3's tracker       gives way to the best of the three
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.hq import FineMask
from terralabel.nets.sam.two_way import ImageSide, TwoWay, Update
from terralabel.nets.sam.upscaling import SharedMaps, Upscaling, to_raster

__all__ = ["Answers", "MaskDecoder", "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """What all prompts on one image share: the image side, its upscaled part, and SAM-HQ's finer features (or None)."""

    side: ImageSide
    maps: SharedMaps
    hq_features: Tensor | None


@dataclass(frozen=True)
class Answers:
    """b prompts after the transformer, before any mask is drawn.

    iou      (b, 1 + k) float32 predicted IoU: of the single mask, then of the alternatives
    hyper    (b, 1 + k, c) float32 what a mask's upscaled features are multiplied by
    hq       (b, c) float32 the same of SAM-HQ's mask, or None
    updates  how the image side was changed
    """

    iou: Tensor
    hyper: Tensor
    hq: Tensor | None
    updates: tuple[Update, ...]

    def pick(self, rows: Tensor) -> Answers:
        """Some of the prompts."""
        hq = None if self.hq is None else self.hq[rows]
        return Answers(self.iou[rows], self.hyper[rows], hq, tuple(update.pick(rows) for update in self.updates))


class MaskDecoder:
    """The decoder of a transformers `SamModel`, `SamHQModel`, `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        decoder = model.mask_decoder
        self.decoder, self.dtype = decoder, dtype
        self.no_mask = model.prompt_encoder.no_mask_embed.weight[0]
        pe = model.get_image_wide_positional_embeddings()[0]
        self.side = pe.shape[-1]
        self.two_way = TwoWay(decoder.transformer, pe.flatten(1).T.contiguous(), dtype)
        self.upscaling = Upscaling(decoder, [layer.layer_norm4 for layer in self.two_way.layers], dtype)
        self.fine_mask = FineMask(decoder, dtype) if hasattr(decoder, "hq_token") else None
        self.own_tokens = _own_tokens(decoder)
        self.iou_token = 1 if hasattr(decoder, "obj_score_token") else 0

    def prepare(self, embedding: Embedding, dense: Tensor | None = None) -> Prepared:
        """The shared part of one image; `dense` (d, h, w) float32 is an embedded mask input, None where there is none."""
        image = embedding.image + (self.no_mask[:, None, None] if dense is None else dense)
        rows = image.flatten(1).T.contiguous()  # hw, d
        hq_features = None if self.fine_mask is None else self.fine_mask.shared(embedding)
        return Prepared(self.two_way.image_side(rows), self.upscaling.shared(rows, embedding.high_res), hq_features)

    def with_own_tokens(self, prompts: Tensor) -> Tensor:
        """(b, n, d): the decoder's own tokens before those of the prompts (b, t, d)."""
        return torch.cat([self.own_tokens.expand(len(prompts), -1, -1), prompts], 1)

    def begin(self, prepared: Prepared, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer 0 on the tokens' side of as many prompts as one likes; see `TwoWay.first_layer`."""
        return self.two_way.first_layer(prepared.side, tokens)

    def answer(self, prepared: Prepared, tokens: Tensor, begun: Sequence[Tensor]) -> Answers:
        """The transformer on b prompts, given their tokens (b, n, d) and what `begin` made of them."""
        queries, keys, values = begun
        image, first = self.two_way.first_update(prepared.side, keys, values)
        queries, image, later = self.two_way.later_layers(queries, tokens, image)
        own = slice(self.iou_token, self.own_tokens.shape[0])  # nothing is predicted from the prompts' tokens
        queries = self.two_way.last_read(queries[:, own], tokens[:, own], image)
        networks = self.decoder.output_hypernetworks_mlps
        hyper = torch.stack([network(queries[:, 1 + i]) for i, network in enumerate(networks)], 1)
        hq = None if self.fine_mask is None else self.decoder.hq_mask_mlp(queries[:, -1])
        return self._in_order(Answers(self.decoder.iou_prediction_head(queries[:, 0]), hyper, hq, (first, *later)))

    def logits(self, prepared: Prepared, answers: Answers, masks: slice = slice(None)) -> Tensor:
        """Low-resolution logits (b, j, m, m) float32 of a range of the 1 + k masks."""
        features = self.upscaling.features(prepared.maps, answers.updates)
        hyper = answers.hyper[:, masks].to(features.dtype)
        logits = to_raster(torch.bmm(hyper, features.transpose(1, 2)).to(answers.hyper.dtype), self.side)
        if self.fine_mask is None or answers.hq is None:
            return logits
        return logits + self.fine_mask.logits(features, answers.hq, prepared.hq_features, self.side)[:, None]

    def masks(self, prepared: Prepared, answers: Answers, *, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits (b, k or 1, m, m) and predicted IoU (b, k or 1) as the family answers a prompt."""
        if multimask:
            return self.logits(prepared, answers, slice(1, None)), answers.iou[:, 1:]
        if not getattr(self.decoder, "dynamic_multimask_via_stability", False):
            return self.logits(prepared, answers, slice(0, 1)), answers.iou[:, :1]
        return self._single_or_best(self.logits(prepared, answers), answers.iou)

    def _single_or_best(self, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Mask 0 where it is stable, elsewhere the alternative of the highest predicted IoU. (SAM 2, released code.)"""
        delta, thresh = self.decoder.dynamic_multimask_stability_delta, self.decoder.dynamic_multimask_stability_thresh
        inner = (logits[:, 0] > delta).sum((1, 2)).float()
        outer = (logits[:, 0] > -delta).sum((1, 2)).float()
        stable = torch.where(outer > 0, inner / outer, 1.0) >= thresh
        chosen = torch.where(stable, 0, 1 + iou[:, 1:].argmax(1))
        rows = torch.arange(len(iou), device=iou.device)
        return logits[rows, chosen][:, None], iou[rows, chosen][:, None]

    def _in_order(self, answers: Answers) -> Answers:
        """SAM-HQ's alternatives are in descending order of predicted IoU."""
        if self.fine_mask is None:
            return answers
        order = torch.argsort(answers.iou[:, 1:], dim=1, descending=True, stable=True) + 1
        order = torch.cat([torch.zeros_like(order[:, :1]), order], 1)
        hyper = answers.hyper.gather(1, order[..., None].expand_as(answers.hyper))
        return Answers(answers.iou.gather(1, order), hyper, answers.hq, answers.updates)


def _own_tokens(decoder: Any) -> Tensor:
    """(n, d): object score, IoU, masks, high-quality mask; whichever the family has, in its order."""
    names = ("obj_score_token", "iou_token", "mask_tokens", "hq_token")
    return torch.cat([getattr(decoder, name).weight for name in names if hasattr(decoder, name)])
