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
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.hq import FineMask
from terralabel.nets.sam.image_side import Refined
from terralabel.nets.sam.two_way import ImageSide, TwoWay
from terralabel.nets.sam.upscaling import SharedMaps, Upscaling, raster_order, to_raster

__all__ = ["Answers", "MaskDecoder", "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """What all prompts on one image share: the image side, its upscaled part, and SAM-HQ's finer features (or None)."""

    side: ImageSide
    maps: SharedMaps
    hq_features: Tensor | None


@dataclass(frozen=True)
class Answers:
    """b prompts after the transformer, before any of their j masks is drawn.

    iou    (b, j) float32 predicted IoU
    hyper  (b, j, c) float32 what a mask's upscaled features are multiplied by; SAM-HQ: (b, j + 1, c), its own mask last
    image  the image side after the last layer
    """

    iou: Tensor
    hyper: Tensor
    image: Refined

    def pick(self, rows: Tensor) -> Answers:
        """Some of the prompts."""
        return Answers(self.iou[rows], self.hyper[rows], self.image.pick(rows))


class MaskDecoder:
    """The decoder of a transformers `SamModel`, `SamHQModel`, `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        decoder = model.mask_decoder
        self.decoder, self.dtype = decoder, dtype
        self.no_mask = model.prompt_encoder.no_mask_embed.weight[0]
        pe = model.get_image_wide_positional_embeddings()[0]
        self.order = raster_order(pe.shape[-1]).to(pe.device)
        self.two_way = TwoWay(decoder.transformer, pe.flatten(1).T.contiguous(), dtype)
        self.upscaling = Upscaling(decoder, self.two_way.bias, dtype)
        self.fine_mask = FineMask(decoder, dtype) if hasattr(decoder, "hq_token") else None
        self.own_tokens = _own_tokens(decoder)
        self.dynamic = bool(getattr(decoder, "dynamic_multimask_via_stability", False))
        alternatives = list(range(1, 1 + decoder.num_multimask_outputs))
        self.several = _Heads(decoder, alternatives)
        self.single = _Heads(decoder, [0, *alternatives] if self.dynamic else [0])

    def prepare(self, embedding: Embedding, dense: Tensor | None = None) -> Prepared:
        """The shared part of one image; `dense` (d, h, w) float32 is an embedded mask input, None where there is none."""
        image = embedding.image + (self.no_mask[:, None, None] if dense is None else dense)
        rows = image.flatten(1).T.contiguous()  # hw, d
        hq_features = None if self.fine_mask is None else self.fine_mask.shared(embedding)
        side = self.two_way.image_side(rows)
        return Prepared(side, self.upscaling.shared(side.image, embedding.high_res), hq_features)

    def with_own_tokens(self, prompts: Tensor) -> Tensor:
        """(b, n, d): the decoder's own tokens before those of the prompts (b, t, d)."""
        return torch.cat([self.own_tokens.expand(len(prompts), -1, -1), prompts], 1)

    def begin(self, prepared: Prepared, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer 0 on the tokens' side of as many prompts as one likes; see `TwoWay.first_layer`."""
        return self.two_way.first_layer(prepared.side, tokens)

    def answer(self, prepared: Prepared, tokens: Tensor, begun: Sequence[Tensor], *, multimask: bool) -> Answers:
        """The transformer on b prompts, given their tokens (b, n, d) and what `begin` made of them."""
        queries, keys, values = begun
        image = self.two_way.first_update(prepared.side, keys, values)
        queries, image = self.two_way.later_layers(prepared.side, queries, tokens, image)
        heads = self.several if multimask else self.single
        queries = self.two_way.last_read(prepared.side, queries[:, heads.tokens], tokens[:, heads.tokens], image)
        iou, hyper = heads(queries)
        if self.fine_mask is not None:
            iou, hyper = _in_descending_order(iou, hyper)
        return Answers(iou, hyper, image)

    def logits(self, prepared: Prepared, answers: Answers) -> Tensor:
        """Low-resolution logits (b, j, m, m) float32 of all masks that were answered."""
        hyper, own = answers.hyper, answers.iou.shape[1]
        features = self.upscaling.features(prepared.maps, answers.image)
        logits = torch.bmm(hyper[:, :own].to(self.dtype), features.transpose(1, 2)).to(hyper.dtype)
        logits = to_raster(logits, self.order)
        if self.fine_mask is None or prepared.hq_features is None:
            return logits
        return logits + self.fine_mask.logits(features, hyper[:, -1], prepared.hq_features, self.order)[:, None]

    def masks(self, prepared: Prepared, answers: Answers, *, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits (b, k or 1, m, m) and predicted IoU (b, k or 1) as the family answers a prompt."""
        logits = self.logits(prepared, answers)
        if multimask or not self.dynamic:
            return logits, answers.iou
        return self._single_or_best(logits, answers.iou)

    def _single_or_best(self, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Mask 0 where it is stable, elsewhere the alternative of the highest predicted IoU. (SAM 2, released code.)"""
        delta, thresh = self.decoder.dynamic_multimask_stability_delta, self.decoder.dynamic_multimask_stability_thresh
        inner = (logits[:, 0] > delta).sum((1, 2)).float()
        outer = (logits[:, 0] > -delta).sum((1, 2)).float()
        stable = torch.where(outer > 0, inner / outer, 1.0) >= thresh
        chosen = torch.where(stable, 0, 1 + iou[:, 1:].argmax(1))
        rows = torch.arange(len(iou), device=iou.device)
        return logits[rows, chosen][:, None], iou[rows, chosen][:, None]


class _Heads:
    """What is predicted from the decoder's own tokens: IoU, and the weights of some of its masks, all networks in one product.

    tokens  (1 + j,) int64: which of the decoder's tokens that takes; SAM-HQ: (2 + j,)
    """

    def __init__(self, decoder: Any, masks: list[int]) -> None:
        iou_token = 1 if hasattr(decoder, "obj_score_token") else 0
        networks = [decoder.output_hypernetworks_mlps[i] for i in masks]
        tokens = [iou_token, *(iou_token + 1 + i for i in masks)]
        if hasattr(decoder, "hq_token"):
            networks.append(decoder.hq_mask_mlp)
            tokens.append(iou_token + 1 + decoder.mask_tokens.weight.shape[0])
        self.tokens = torch.tensor(tokens, device=decoder.iou_token.weight.device)
        self.masks = torch.tensor(masks, device=self.tokens.device)
        self.iou_head = decoder.iou_prediction_head
        layers = zip(*([network.proj_in, *network.layers, network.proj_out] for network in networks), strict=True)
        self.layers = [
            (torch.stack([layer.weight.T for layer in parallel]), torch.stack([layer.bias[None] for layer in parallel]))
            for parallel in layers
        ]

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """IoU (b, j) and weights (b, j, c) of the tokens' final state (b, 1 + j, d)."""
        x = queries[:, 1:].transpose(0, 1)
        for i, (weight, bias) in enumerate(self.layers):
            x = torch.baddbmm(bias, F.relu(x) if i else x, weight)
        return self.iou_head(queries[:, 0])[:, self.masks], x.transpose(0, 1)


def _in_descending_order(iou: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
    """SAM-HQ's masks, best first; its high-quality one, in the last row of `hyper`, stays there."""
    order = torch.argsort(iou, dim=1, descending=True, stable=True)
    last = torch.full_like(order[:, :1], iou.shape[1])
    rows = torch.cat([order, last], 1)[..., None].expand_as(hyper)
    return iou.gather(1, order), hyper.gather(1, rows)


def _own_tokens(decoder: Any) -> Tensor:
    """(n, d): object score, IoU, masks, high-quality mask; whichever the family has, in its order."""
    names = ("obj_score_token", "iou_token", "mask_tokens", "hq_token")
    return torch.cat([getattr(decoder, name).weight for name in names if hasattr(decoder, name)])
