"""The two-way transformer of SAM's mask decoder, refactored so that nothing with the image's width is multiplied by a square matrix.

A prompt is n tokens (7 to 9), the image hw positions (4096) of width d (256). Released code projects all positions to keys,
values and queries for every prompt. The same numbers come cheaper:

- before layer 1 the image side is the same for every prompt: its projections are made once per image;
- scores  q . W (k + p)  =  (W' q) . k  +  q . (W p): tokens go to the image's width instead of the image to the heads', and the
  positions' part is made once per network;
- sums of values  A (W k)  =  (A k) W', and projected outputs  (A v) W  =  A (v W): products of rank heads x tokens (56);
- weights lie as (heads x tokens, positions), so that both soft-maxes, over positions and over tokens, run along long rows.

The image side after layer l is  layer_norm(before + A_l' V_l); A_l, V_l and the norm's scale are handed on as `Update`s, from
which the upscaling continues without its own product of width d x d.

The image side is in `dtype` (float32 or bfloat16), tokens are float32 throughout. Source of the network: Segment Anything,
appendix A, "lightweight mask decoder".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ImageSide", "TwoWay", "Update"]


@dataclass(frozen=True)
class ImageSide:
    """What every prompt on one image shares.

    image    (hw, d) the embedding with the dense prompt added
    keys     (heads, e, hw) of layer 0's tokens-to-image attention
    values   (heads, hw, e) of the same
    queries  (heads, e, hw) of layer 0's image-to-tokens attention
    """

    image: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


@dataclass(frozen=True)
class Update:
    """What one layer did to the image side of b prompts: layer_norm(before + weights' values).

    weights  (b, r, hw) attention of positions to tokens, r = heads x tokens
    values   (b, r, d) float32 the tokens' values, through the output projection; its bias included
    rstd     (b, hw, 1) one over the standard deviation that the norm divided by
    """

    weights: Tensor
    values: Tensor
    rstd: Tensor

    def pick(self, rows: Tensor) -> Update:
        """The update of some of the prompts."""
        return Update(self.weights[rows], self.values[rows], self.rstd[rows])


class TwoWay:
    """A transformers `...TwoWayTransformer` with its weights folded; `image_pe` (hw, d) encodes the positions."""

    def __init__(self, transformer: Any, image_pe: Tensor, dtype: torch.dtype) -> None:
        self.layers, self.dtype, self.image_pe = list(transformer.layers), dtype, image_pe
        self.final_norm = transformer.layer_norm_final_attn
        first = self.layers[0]
        self.first = _Cross(first.cross_attn_token_to_image), _Cross(first.cross_attn_image_to_token)
        self.reads = [_Read(layer.cross_attn_token_to_image, image_pe, dtype) for layer in self.layers[1:]]
        self.writes = [_Write(layer.cross_attn_image_to_token, image_pe, dtype) for layer in self.layers[1:]]
        self.final = _Read(transformer.final_attn_token_to_image, image_pe, dtype)

    def image_side(self, image: Tensor) -> ImageSide:
        """The shared part of (hw, d) float32, the image embedding with its dense prompt added."""
        read, write = self.first
        located = image + self.image_pe
        keys = _split_heads(read.module.k_proj(located), read.heads).transpose(1, 2)
        values = _split_heads(read.module.v_proj(image), read.heads)
        queries = _split_heads(write.module.q_proj(located), write.heads).transpose(1, 2)
        return ImageSide(*(x.to(self.dtype).contiguous() for x in (image, keys, values, queries)))

    def first_layer(self, side: ImageSide, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer 0 on the tokens' side: tokens (b, n, d) after it, and what the image side will read of them: keys, values.

        keys (b, heads, n, e) and values (b, r, d). Needs no memory of the image's size per prompt, so many prompts go at once.
        """
        layer, (read, write) = self.layers[0], self.first
        queries = layer.layer_norm1(_self_attention(layer.self_attn, tokens, tokens))
        found = read.shared(queries + tokens, side.keys, side.values)
        queries = layer.layer_norm2(queries + found)
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        return queries, write.keys(queries + tokens), write.projected_values(queries)

    def first_update(self, side: ImageSide, keys: Tensor, values: Tensor) -> tuple[Tensor, Update]:
        """Layer 0 on the image's side: (b, hw, d), one per prompt from here on, and how it came about."""
        weights = _softmax_over_tokens(_shared_scores(keys, side.queries), keys.shape[1])
        before = side.image.expand(len(keys), -1, -1)
        image = torch.baddbmm(before, weights.transpose(1, 2), values.to(self.dtype))
        return self._norm(self.layers[0].layer_norm4, image, weights, values)

    def later_layers(self, queries: Tensor, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor, list[Update]]:
        """The layers after the first on both sides: tokens (b, n, d) and image (b, hw, d), in and out; `image` is written over."""
        updates = []
        for layer, read, write in zip(self.layers[1:], self.reads, self.writes, strict=True):
            located = queries + tokens
            queries = layer.layer_norm1(queries + _self_attention(layer.self_attn, located, queries))
            queries = layer.layer_norm2(queries + read(queries + tokens, image))
            queries = layer.layer_norm3(queries + layer.mlp(queries))
            weights = write.weights(queries + tokens, image)
            values = write.projected_values(queries)
            image.baddbmm_(weights.transpose(1, 2), values.to(self.dtype))
            image, update = self._norm(layer.layer_norm4, image, weights, values)
            updates.append(update)
        return queries, image, updates

    def last_read(self, queries: Tensor, tokens: Tensor, image: Tensor) -> Tensor:
        """The final attention to the image and its norm, for those tokens that anything is predicted from."""
        return self.final_norm(queries + self.final(queries + tokens, image))

    def _norm(self, norm: Any, image: Tensor, weights: Tensor, values: Tensor) -> tuple[Tensor, Update]:
        weight, bias = norm.weight.to(self.dtype), norm.bias.to(self.dtype)
        image, _, rstd = torch.native_layer_norm(image, norm.normalized_shape, weight, bias, norm.eps)
        return image, Update(weights, values, rstd.to(self.dtype))


class _Cross:
    """One attention between tokens and image; weights per head, (heads, e, d)."""

    def __init__(self, module: Any) -> None:
        self.module, self.heads = module, module.num_attention_heads
        self.out_proj = module.out_proj if hasattr(module, "out_proj") else module.o_proj
        self.out_weight = self.out_proj.weight.T.unflatten(0, (self.heads, -1)).contiguous()
        self.scaling = module.scaling

    def queries(self, located: Tensor) -> Tensor:
        """(b, heads, n, e) of tokens (b, n, d), scaled."""
        return _split_heads(self.module.q_proj(located) * self.scaling, self.heads)

    def keys(self, located: Tensor) -> Tensor:
        """(b, heads, n, e) of tokens (b, n, d), scaled as the queries would be."""
        return _split_heads(self.module.k_proj(located) * self.scaling, self.heads)

    def projected_values(self, tokens: Tensor) -> Tensor:
        """(b, r, d): values of tokens through the output projection. Weights of a head sum to 1, so each carries its share of the bias."""
        values = _split_heads(self.module.v_proj(tokens), self.heads)
        return (values @ self.out_weight + self.out_proj.bias / self.heads).flatten(1, 2)

    def shared(self, located: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens (b, n, d) attend to one image's keys (heads, e, hw) and values (heads, hw, e)."""
        queries = self.queries(located)
        b, heads, n, _ = queries.shape
        rows = queries.transpose(0, 1).flatten(1, 2).to(keys.dtype)  # heads, b n, e
        by_head = zip(rows, keys, values, strict=True)  # one after the other: scores of all heads would leave the cache
        found = torch.stack([torch.softmax(row @ key, -1) @ value for row, key, value in by_head])
        return self.out_proj(found.to(located.dtype).view(heads, b, n, -1).permute(1, 2, 0, 3).flatten(2))


class _Read(_Cross):
    """Tokens attend to an image side of their own: softmax over positions of q . W (k + p), then A (W' k)."""

    def __init__(self, module: Any, image_pe: Tensor, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.key_weight = module.k_proj.weight.unflatten(0, (self.heads, -1))  # heads, e, d
        self.value_weight = module.v_proj.weight.unflatten(0, (self.heads, -1)).transpose(1, 2).contiguous()
        # the keys' bias moves all scores of a token alike, which a softmax does not see
        located = F.linear(image_pe, module.k_proj.weight)
        self.positions = _split_heads(located, self.heads).transpose(1, 2).to(dtype).contiguous()

    def __call__(self, located: Tensor, image: Tensor) -> Tensor:
        queries = self.queries(located)
        scores = _scores(queries, self.key_weight, self.positions, image)
        found = torch.bmm(torch.softmax(scores, -1), image).to(located.dtype)  # b, r, d
        found = found.unflatten(1, (self.heads, -1)) @ self.value_weight  # b, heads, n, e
        return self.out_proj(found.transpose(1, 2).flatten(2) + self.module.v_proj.bias)


class _Write(_Cross):
    """An image side of the prompt's own attends to the tokens: softmax over tokens of W (k + p) . t."""

    def __init__(self, module: Any, image_pe: Tensor, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.query_weight = module.q_proj.weight.unflatten(0, (self.heads, -1))
        self.positions = _split_heads(module.q_proj(image_pe), self.heads).transpose(1, 2).to(dtype).contiguous()

    def weights(self, located: Tensor, image: Tensor) -> Tensor:
        """(b, r, hw) attention of positions to tokens."""
        scores = _scores(self.keys(located), self.query_weight, self.positions, image)
        return _softmax_over_tokens(scores, self.heads)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)  # ..., heads, n, e


def _self_attention(module: Any, located: Tensor, values: Tensor) -> Tensor:
    heads = module.num_attention_heads
    q, k = _split_heads(module.q_proj(located), heads), _split_heads(module.k_proj(located), heads)
    found = F.scaled_dot_product_attention(q, k, _split_heads(module.v_proj(values), heads))
    out_proj = module.out_proj if hasattr(module, "out_proj") else module.o_proj
    return out_proj(found.transpose(1, 2).flatten(2))


def _shared_scores(rows: Tensor, columns: Tensor) -> Tensor:
    """(b, heads, n, e) against (heads, e, hw), the same for all b -> (b, r, hw)."""
    b, heads, n, _ = rows.shape
    scores = rows.transpose(0, 1).flatten(1, 2).to(columns.dtype) @ columns  # heads, b n, hw
    return scores.view(heads, b, n, -1).transpose(0, 1).reshape(b, heads * n, -1)


def _scores(rows: Tensor, weight: Tensor, positions: Tensor, image: Tensor) -> Tensor:
    """rows . W (image + p) for rows (b, heads, n, e), W (heads, e, d), image (b, hw, d), positions = W p (heads, e, hw)."""
    widened = (rows @ weight).flatten(1, 2).to(image.dtype)  # b, r, d
    return _shared_scores(rows, positions).baddbmm_(widened, image.transpose(1, 2))


def _softmax_over_tokens(scores: Tensor, heads: int) -> Tensor:
    return torch.softmax(scores.unflatten(1, (heads, -1)), 2).flatten(1, 2)
