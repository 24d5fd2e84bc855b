"""The two-way transformer of SAM's mask decoder, refactored so that a prompt never has an image side of its own in memory.

A prompt is n tokens (7 to 9), the image hw positions (4096) of width d (256). Released code projects all positions to keys,
values and queries for every prompt. The same numbers come cheaper:

- before layer 1 the image side is the same for every prompt: its projections are made once per image;
- after a layer it is a shared part, scaled by position, and a sum of rank heads x tokens (56) per layer (`image_side`): so are its
  keys, values and queries, whose shared parts are made once per image, too;
- positions' parts of scores are made once per network;
- weights lie as (heads x tokens, positions), so that both soft-maxes, over positions and over tokens, run along long rows.

What depends on the image is in `dtype` (float32 or bfloat16), tokens are float32 throughout. Source of the network: Segment
Anything, appendix A, "lightweight mask decoder".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terralabel.nets.sam.image_side import LayerNorms, Refined, SharedNorm, by_heads

__all__ = ["ImageSide", "Level", "TwoWay"]


@dataclass(frozen=True)
class Level:
    """What prompts on one image share of the image side after a layer: its norm, and projections of the shared part.

    keys     (heads, e, hw) of the next tokens-to-image attention
    values   (heads, hw, e) of the same
    queries  (heads, e, hw) of the next image-to-tokens attention; None after the last layer
    """

    norm: SharedNorm
    keys: Tensor
    values: Tensor
    queries: Tensor | None


@dataclass(frozen=True)
class ImageSide:
    """What every prompt on one image shares.

    keys     (heads, e, hw) of layer 0's tokens-to-image attention
    values   (heads, hw, e) of the same
    queries  (heads, e, hw) of layer 0's image-to-tokens attention
    levels   one per layer
    image    (hw, d) the shared part after the last layer, in the dtype of the embedding
    """

    keys: Tensor
    values: Tensor
    queries: Tensor
    levels: tuple[Level, ...]
    image: Tensor


class TwoWay:
    """A transformers `...TwoWayTransformer` with its weights folded; `image_pe` (hw, d) encodes the positions.

    `bias` (d,) is what is added to the image side after the last layer.
    """

    def __init__(self, transformer: Any, image_pe: Tensor, dtype: torch.dtype) -> None:
        self.layers, self.dtype, self.image_pe = list(transformer.layers), dtype, image_pe
        self.final_norm = transformer.layer_norm_final_attn
        first, later = self.layers[0], self.layers[1:]
        norms = [layer.layer_norm4 for layer in self.layers]
        self.first = _Cross(first.cross_attn_token_to_image), _Cross(first.cross_attn_image_to_token)
        self.reads = [
            _Read(layer.cross_attn_token_to_image, image_pe, norm.bias, dtype)
            for layer, norm in zip(later, norms, strict=False)
        ]
        self.writes = [
            _Write(layer.cross_attn_image_to_token, image_pe, norm.bias, dtype)
            for layer, norm in zip(later, norms, strict=False)
        ]
        self.final = _Read(transformer.final_attn_token_to_image, image_pe, norms[-1].bias, dtype)
        written = [self.first[1], *self.writes]
        self.norms = LayerNorms(norms, [(write.out_weight, write.out_proj.bias) for write in written], dtype)
        self.bias = norms[-1].bias

    def image_side(self, image: Tensor) -> ImageSide:
        """The shared part of (hw, d), the image embedding with its dense prompt added."""
        read, write = self.first
        located = image + self.image_pe
        keys = _split_heads(read.module.k_proj(located), read.heads).transpose(1, 2)
        values = _split_heads(read.module.v_proj(image), read.heads)
        queries = _split_heads(write.module.q_proj(located), write.heads).transpose(1, 2)
        norms, parts = self.norms.shared(image)
        asked = [*(write.queries_of(part) for write, part in zip(self.writes, parts, strict=False)), None]
        levels = tuple(
            Level(norm, read.keys_of(part), read.values_of(part), wanted)
            for norm, part, read, wanted in zip(norms, parts, [*self.reads, self.final], asked, strict=True)
        )
        keys, values, queries = (x.to(self.dtype).contiguous() for x in (keys, values, queries))
        return ImageSide(keys, values, queries, levels, parts[-1])

    def first_layer(self, side: ImageSide, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer 0 on the tokens' side: tokens (b, n, d) after it, and what the image side will read of them: keys, values.

        keys and values (b, heads, n, e). Needs no memory of the image's size per prompt, so many prompts go at once.
        """
        layer, (read, write) = self.layers[0], self.first
        queries = layer.layer_norm1(_self_attention(layer.self_attn, tokens, tokens))
        found = read.shared(queries + tokens, side.keys, side.values)
        queries = layer.layer_norm2(queries + found)
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        return queries, write.keys(queries + tokens), write.values(queries)

    def first_update(self, side: ImageSide, keys: Tensor, values: Tensor) -> Refined:
        """Layer 0 on the image's side."""
        weights = _softmax_over_tokens(by_heads(keys, side.queries), keys.shape[1])
        return self.norms.update(0, side.levels[0].norm, None, weights, values)

    def later_layers(self, side: ImageSide, queries: Tensor, tokens: Tensor, image: Refined) -> tuple[Tensor, Refined]:
        """The layers after the first on both sides: tokens (b, n, d) and image, in and out."""
        for i, (layer, read, write) in enumerate(zip(self.layers[1:], self.reads, self.writes, strict=True)):
            level = side.levels[i]
            located = queries + tokens
            queries = layer.layer_norm1(queries + _self_attention(layer.self_attn, located, queries))
            queries = layer.layer_norm2(queries + read(queries + tokens, level, image))
            queries = layer.layer_norm3(queries + layer.mlp(queries))
            weights = write.weights(queries + tokens, level, image)
            image = self.norms.update(i + 1, side.levels[i + 1].norm, image, weights, write.values(queries))
        return queries, image

    def last_read(self, side: ImageSide, queries: Tensor, tokens: Tensor, image: Refined) -> Tensor:
        """The final attention to the image and its norm, for those tokens that anything is predicted from."""
        return self.final_norm(queries + self.final(queries + tokens, side.levels[-1], image))


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

    def values(self, tokens: Tensor) -> Tensor:
        """(b, heads, n, e) of tokens (b, n, d)."""
        return _split_heads(self.module.v_proj(tokens), self.heads)

    def shared(self, located: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens (b, n, d) attend to one image's keys (heads, e, hw) and values (heads, hw, e)."""
        queries = self.queries(located)
        b, heads, n, _ = queries.shape
        rows = queries.transpose(0, 1).flatten(1, 2).to(keys.dtype)  # heads, b n, e
        by_head = zip(rows, keys, values, strict=True)  # one after the other: scores of all heads would leave the cache
        found = torch.stack([torch.softmax(row @ key, -1) @ value for row, key, value in by_head])
        return self.out_proj(found.to(located.dtype).view(heads, b, n, -1).permute(1, 2, 0, 3).flatten(2))


class _Read(_Cross):
    """Tokens attend to an image side of their own: softmax over positions of q . W (x + p), then A (W' x).

    `bias` (d,) is that of the image side, which is no part of its `Refined`.
    """

    def __init__(self, module: Any, image_pe: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype
        self.key_weight = module.k_proj.weight.unflatten(0, (self.heads, -1))  # heads, e, d
        self.value_weight = module.v_proj.weight.unflatten(0, (self.heads, -1)).transpose(1, 2).contiguous()
        self.value_bias = module.v_proj(bias)
        # what is added to all keys moves all scores of a token alike, which a softmax does not see: no bias here
        located = F.linear(image_pe, module.k_proj.weight)
        self.positions = _split_heads(located, self.heads).transpose(1, 2).to(dtype).contiguous()

    def keys_of(self, part: Tensor) -> Tensor:
        """(heads, e, hw) of the shared part (hw, d)."""
        return (self.key_weight @ part.T).to(self.dtype)

    def values_of(self, part: Tensor) -> Tensor:
        """(heads, hw, e) of the shared part (hw, d)."""
        return (part @ self.value_weight).to(self.dtype)

    def __call__(self, located: Tensor, level: Level, image: Refined) -> Tensor:
        scores = _scores(self.queries(located), level.keys, self.key_weight, self.positions, image)
        weights = torch.softmax(scores, -1)  # b, r, hw
        own = torch.bmm(weights, image.left.transpose(1, 2)).to(located.dtype) @ image.right  # b, r, d
        found = own.unflatten(1, (self.heads, -1)) @ self.value_weight  # b, heads, n, e
        shared = weights.mul_(image.scale).unflatten(1, (self.heads, -1)) @ level.values
        return self.out_proj((found + shared.to(found.dtype)).transpose(1, 2).flatten(2) + self.value_bias)


class _Write(_Cross):
    """An image side of the prompt's own attends to the tokens: softmax over tokens of W (x + p) . t."""

    def __init__(self, module: Any, image_pe: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype
        self.query_weight = module.q_proj.weight.unflatten(0, (self.heads, -1))
        self.positions = _split_heads(module.q_proj(image_pe + bias), self.heads).transpose(1, 2).to(dtype).contiguous()

    def queries_of(self, part: Tensor) -> Tensor:
        """(heads, e, hw) of the shared part (hw, d)."""
        return (self.query_weight @ part.T).to(self.dtype)

    def weights(self, located: Tensor, level: Level, image: Refined) -> Tensor:
        """(b, r, hw) attention of positions to tokens."""
        assert level.queries is not None
        scores = _scores(self.keys(located), level.queries, self.query_weight, self.positions, image)
        return _softmax_over_tokens(scores, self.heads)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)  # ..., heads, n, e


def _self_attention(module: Any, located: Tensor, values: Tensor) -> Tensor:
    heads = module.num_attention_heads
    q, k = _split_heads(module.q_proj(located), heads), _split_heads(module.k_proj(located), heads)
    found = F.scaled_dot_product_attention(q, k, _split_heads(module.v_proj(values), heads))
    out_proj = module.out_proj if hasattr(module, "out_proj") else module.o_proj
    return out_proj(found.transpose(1, 2).flatten(2))


def _scores(rows: Tensor, shared: Tensor, weight: Tensor, positions: Tensor, image: Refined) -> Tensor:
    """(b, r, hw): rows (b, heads, n, e) . W (x + p) for x = scale * K + left' right, shared = W K and positions = W p
    (heads, e, hw), W (heads, e, d)."""
    of_image, of_place = by_heads(rows, shared), by_heads(rows, positions)
    own = (rows @ weight).flatten(1, 2) @ image.right.transpose(1, 2)  # b, r, r of the image side
    return of_place.addcmul_(of_image, image.scale).baddbmm_(own.to(of_place.dtype), image.left)


def _softmax_over_tokens(scores: Tensor, heads: int) -> Tensor:
    return torch.softmax(scores.unflatten(1, (heads, -1)), 2).flatten(1, 2)
