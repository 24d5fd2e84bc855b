"""The configuration of a SAM from the shapes of its tensors, which have transformers' names here.

What no shape tells (heads, blocks with global attention, the image's side for SAM 2, EdgeTAM and SAM 3) is the published
value for a published size. For a custom one it is the rule written beside it; a transformers folder says it in its
config.json. A tensor that is needed and not there is a `KeyError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from terralabel.nets.sam.keys import COPIED

__all__ = ["CUSTOM_SIDE", "Shapes", "decoder_configs", "pyramid", "vision_config"]

Shapes = Mapping[str, Sequence[int]]
_VIT = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
#: (channels, blocks per stage) -> (name, heads of the first stage, windows, blocks with global attention).
_HIERA: dict[tuple[int, ...], tuple[str, int, list[int], list[int]]] = {
    (96, 1, 2, 7, 2): ("hiera_tiny", 1, [8, 4, 14, 7], [5, 7, 9]),
    (96, 1, 2, 11, 2): ("hiera_small", 1, [8, 4, 14, 7], [7, 10, 13]),
    (112, 2, 3, 16, 3): ("hiera_base_plus", 2, [8, 4, 14, 7], [12, 16, 20]),
    (144, 2, 6, 36, 4): ("hiera_large", 2, [8, 4, 16, 8], [23, 33, 43]),
}
_REPVIT_M1 = ([48, 96, 192, 384], [2, 2, 14, 2])
#: Side of the image of SAM 2 and EdgeTAM in pixels: published, custom.
_SIDE, CUSTOM_SIDE = 1024, 128


def vision_config(family: str, shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """(size, the arguments of the vision configuration) of a family's image encoder."""
    return _VISION[family](shapes)


def _count(shapes: Shapes, template: str) -> int:
    """How many of ``template.format(0)``, ``template.format(1)``, ... are there."""
    n = 0
    while template.format(n) in shapes:
        n += 1
    return n


def decoder_configs(shapes: Shapes) -> dict[str, dict[str, Any]]:
    """Prompt encoder and mask decoder; 8 heads are the published number, which no shape tells."""
    layers, head = "mask_decoder.transformer.layers.{}.", "mask_decoder.iou_prediction_head."
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    first = layers.format(0)
    mlp = shapes[first + ("mlp.lin1.weight" if first + "mlp.lin1.weight" in shapes else "mlp.proj_in.weight")][0]
    inner = shapes[first + "cross_attn_token_to_image.q_proj.weight"][0]
    prompt = {"hidden_size": hidden, "mask_input_channels": shapes["prompt_encoder.mask_embed.conv3.weight"][1]}
    decoder = {
        "hidden_size": hidden,
        "mlp_dim": mlp,
        "num_hidden_layers": _count(shapes, layers + "layer_norm1.weight"),
        "num_attention_heads": 8,
        "attention_downsample_rate": hidden // inner,
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_head_depth": _count(shapes, head + "layers.{}.weight") + 2,
        "iou_head_hidden_dim": shapes[head + "proj_in.weight"][0],
    }
    return {"prompt_encoder_config": prompt, "mask_decoder_config": decoder}


def _sam_vision(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """A ViT with relative positions: the size of its tables tells window, heads and which blocks are global."""
    block = "vision_encoder.layers.{}."
    _, grid, _, width = shapes["vision_encoder.pos_embed"]
    depth = _count(shapes, block + "attn.qkv.weight")
    patch = shapes["vision_encoder.patch_embed.projection.weight"][2]
    spans = [(shapes[block.format(i) + "attn.rel_pos_h"][0] + 1) // 2 for i in range(depth)]
    windows = [span for span in spans if span != grid]
    vision = {
        "hidden_size": width,
        "mlp_dim": shapes[block.format(0) + "mlp.lin1.weight"][0],
        "num_hidden_layers": depth,
        "num_attention_heads": width // shapes[block.format(0) + "attn.rel_pos_h"][1],
        "image_size": grid * patch,
        "patch_size": patch,
        "window_size": windows[0] if windows else 14,
        "global_attn_indexes": [i for i, span in enumerate(spans) if span == grid],
        "output_channels": shapes["vision_encoder.neck.conv1.weight"][0],
        "num_pos_feats": shapes[COPIED[0]][1],
    }
    return _VIT.get((width, depth), "custom"), vision


def _hiera_vision(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """Hiera. Custom: one head in the first stage, windows alternating, the last block of the third stage global."""
    trunk = "vision_encoder.backbone."
    widths = [
        shapes[f"{trunk}blocks.{i}.attn.proj.weight"][0] for i in range(_count(shapes, trunk + "blocks.{}.attn.proj.weight"))
    ]
    channels = sorted(set(widths))
    blocks = [widths.count(width) for width in channels]
    window = shapes[trunk + "pos_embed_window"][2]
    custom = ("custom", 1, [window, window // 2, window, window // 2], [sum(blocks[:3]) - 1])
    size, heads, windows, global_blocks = _HIERA.get((channels[0], *blocks), custom)
    side = _SIDE if size != "custom" else CUSTOM_SIDE
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": channels[0],
        "num_attention_heads": heads,
        "image_size": [side, side],
        "window_positional_embedding_background_size": list(shapes[trunk + "pos_embed"][2:]),
        "blocks_per_stage": blocks,
        "embed_dim_per_stage": channels,
        "num_attention_heads_per_stage": [heads * 2**k for k in range(len(channels))],
        "window_size_per_stage": windows,
        "global_attention_blocks": global_blocks,
        "mlp_ratio": shapes[trunk + "blocks.0.mlp.proj_in.weight"][0] / channels[0],
    }
    return size, pyramid(backbone, channels, shapes["vision_encoder.neck.convs.0.weight"][0], side)


def _repvit_vision(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """RepViT-M1 of timm; custom are other channels and depths of it."""
    block = "vision_encoder.backbone.timm_model.stages_{}.blocks.{}.token_mixer.conv.c.weight"
    blocks = [_count(shapes, block.replace("{}", str(stage), 1)) for stage in range(4)]
    channels = [shapes[block.format(stage, 0)][0] for stage in range(4)]
    published = (channels, blocks) == _REPVIT_M1
    arguments: dict[str, Any] = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    arguments |= {} if published else {"embed_dim": channels, "depth": blocks}
    backbone = {"model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2, "model_args": arguments}
    side = _SIDE if published else CUSTOM_SIDE
    vision = pyramid(backbone, channels, shapes["vision_encoder.neck.convs.0.weight"][0], side)
    return ("repvit_m1" if published else "custom"), vision


def pyramid(backbone: dict[str, Any], channels: list[int], hidden: int, side: int) -> dict[str, Any]:
    """The feature pyramid over a backbone of strides 4, 8, 16, 32."""
    return {
        "backbone_config": backbone,
        "backbone_channel_list": channels[::-1],
        "backbone_feature_sizes": [[side // stride, side // stride] for stride in (4, 8, 16)],
        "fpn_hidden_size": hidden,
    }


def _sam3_vision(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """The plain ViT of SAM 3: windows of the size it was pretrained at, images three times as wide, heads of 64 channels, the
    last block of each quarter global. The published size follows the same rule."""
    trunk = "vision_encoder.backbone."
    _, tokens, width = shapes[trunk + "embeddings.position_embeddings"]
    grid = int(tokens**0.5)  # one token more is the class token, which is not used
    depth = _count(shapes, trunk + "layers.{}.mlp.fc1.weight")
    patch = shapes[trunk + "embeddings.patch_embeddings.projection.weight"][2]
    side = 3 * grid * patch
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": width,
        "intermediate_size": shapes[trunk + "layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": depth,
        "num_attention_heads": max(1, width // 64),
        "image_size": side,
        "patch_size": patch,
        "window_size": grid,
        "global_attn_indexes": sorted({max(0, depth * k // 4 - 1) for k in (1, 2, 3, 4)}),
        "pretrain_image_size": grid * patch,
    }
    vision = {
        "backbone_config": backbone,
        "fpn_hidden_size": shapes["vision_encoder.neck.fpn_layers.0.proj1.weight"][0],
        "backbone_feature_sizes": [[3 * grid * scale, 3 * grid * scale] for scale in (4, 2, 1)],
    }
    return ("vit_l" if (width, depth) == (1024, 32) else "custom"), vision


_VISION = {
    "sam": _sam_vision,
    "sam_hq": _sam_vision,
    "sam2": _hiera_vision,
    "sam2.1": _hiera_vision,
    "edgetam": _repvit_vision,
    "sam3": _sam3_vision,
}
