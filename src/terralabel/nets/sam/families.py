"""What a SAM checkpoint is, told from its tensors' names and shapes alone; torch is not needed for it.

The published sizes have names; any other, such as the tiny ones of tests, is "custom". What no shape tells (heads, blocks with
global attention, the image's side for SAM 2, EdgeTAM and SAM 3) is the published value for a published size. For a
custom one it is the rule written beside it; a transformers folder says it in its config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from terralabel.errors import SettingsError
from terralabel.nets.sam.keys import COPIED, dropped, to_official_key, to_transformers_key

__all__ = ["FAMILIES", "Checkpoint", "Shapes", "identify", "own_keys", "tiny", "why_not"]

Shapes = Mapping[str, Sequence[int]]
#: Family -> its name for people.
FAMILIES = {"sam": "SAM", "sam_hq": "SAM-HQ", "sam2": "SAM 2", "sam2.1": "SAM 2.1", "edgetam": "EdgeTAM", "sam3": "SAM 3"}
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
_SIDE, _CUSTOM_SIDE = 1024, 128
#: Wrappings that training scripts put around a model's own keys.
_WRAPPINGS = [outer + inner for outer in ("", "model.", "state_dict.") for inner in ("", "module.", "model.")]
#: (layout, key that only this family has, family); the first that fits counts.
_SIGNATURES = (
    ("official", "mask_decoder.hf_token.weight", "image_encoder.patch_embed.proj.weight", "sam_hq"),
    ("official", "mask_decoder.iou_token.weight", "image_encoder.patch_embed.proj.weight", "sam"),
    ("official", "sam_mask_decoder.iou_token.weight", "image_encoder.trunk.patch_embed.proj.weight", "sam2.1"),
    ("official", "sam_mask_decoder.iou_token.weight", "image_encoder.trunk.body.stages_0.blocks.0.*", "edgetam"),
    ("official", "tracker.sam_mask_decoder.iou_token.weight", "detector.backbone.vision_backbone.trunk.pos_embed", "sam3"),
    ("transformers", "mask_decoder.hq_token.weight", "vision_encoder.patch_embed.projection.weight", "sam_hq"),
    ("transformers", "mask_decoder.iou_token.weight", "vision_encoder.patch_embed.projection.weight", "sam"),
    ("transformers", "mask_decoder.iou_token.weight", "vision_encoder.backbone.patch_embed.projection.weight", "sam2.1"),
    ("transformers", "mask_decoder.iou_token.weight", "vision_encoder.backbone.timm_model.stages_0.blocks.0.*", "edgetam"),
    ("transformers", "mask_decoder.iou_token.weight", "vision_encoder.backbone.embeddings.position_embeddings", "sam3"),
)
_OCCLUSION = ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter")
_MEMORY = ("memory_encoder.", "memory_attention.")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is.

    family   a key of `FAMILIES`
    size     "vit_b", "hiera_tiny", "repvit_m1", ... or "custom"
    layout   whose names its tensors have: "official" or "transformers"
    config   the arguments of transformers' configuration: its three parts, JSON values only
    """

    family: str
    size: str
    layout: str
    config: Mapping[str, Mapping[str, Any]]

    @property
    def image_size(self) -> int:
        """Side of the square image that its encoder takes, in pixels."""
        return int(self.config["prompt_encoder_config"]["image_size"])

    def __str__(self) -> str:
        return f"{FAMILIES[self.family]} {self.size} ({self.layout} layout)"


def identify(shapes: Shapes) -> Checkpoint | None:
    """What the tensors of these names and shapes are; None when they are no checkpoint of the family, or too few to tell."""
    known = _known(shapes)
    try:
        return None if known is None else _described(shapes, *known)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def why_not(shapes: Shapes) -> str | None:
    """Why `identify` says None of what looks like the family: "SAM 2.1 (official layout) without KEY"; None for anything else."""
    known = _known(shapes)
    if known is None:
        return None
    family, layout, _ = known
    try:
        _described(shapes, *known)
    except KeyError as error:
        key = str(error.args[0])
        lost = (to_official_key(family, key) if layout == "official" else None) or key
        return f"{FAMILIES[family]} ({layout} layout) without {lost}"
    except (IndexError, ValueError, ZeroDivisionError):
        return f"{FAMILIES[family]} ({layout} layout) with shapes that do not fit together"
    return None


def _described(shapes: Shapes, family: str, layout: str, keys: Mapping[str, str]) -> Checkpoint:
    named = _named(family, layout, {key: tuple(shapes[full]) for key, full in keys.items()})
    size, vision = _VISION[family](named)
    return _checkpoint(family, size, layout, vision, _decoder(named))


def own_keys(shapes: Mapping[str, Any]) -> dict[str, str]:
    """The model's own key -> the key in the file, without wrappings ("model.") and in one spelling.

    Raises `SettingsError` when `identify` knows nothing of them.
    """
    known = _known(shapes)
    if known is None:
        raise SettingsError(
            "These tensors are no checkpoint of the SAM family; `terralabel models check FILE` says what they are."
        )
    return known[2]


def _known(shapes: Mapping[str, Any]) -> tuple[str, str, dict[str, str]] | None:
    """(family, layout, own key -> key in the file) by the first signature that fits."""
    for wrapping in _WRAPPINGS:
        keys = {_plain(key[len(wrapping) :]): key for key in shapes if key.startswith(wrapping)}
        for layout, decoder, encoder, family in _SIGNATURES:
            if decoder in keys and (encoder in keys or (encoder[-1] == "*" and _any(keys, encoder[:-1]))):
                return _version(family, keys), layout, keys
    return None


def _any(keys: Mapping[str, Any], start: str) -> bool:
    return any(key.startswith(start) for key in keys)


def _version(family: str, keys: Mapping[str, Any]) -> str:
    """SAM 2 and 2.1 differ in their memory only; what has none is called by the newer name."""
    if family == "sam2.1" and _any(keys, _MEMORY[0]) and not any(key in keys for key in _OCCLUSION):
        return "sam2"
    return family


def _plain(key: str) -> str:
    """A key of transformers' video model of SAM 3, which holds the tracker among others, as the tracker itself names it."""
    key = key.removeprefix("tracker_model.")
    if key.startswith("detector_model.vision_encoder.backbone."):
        return key.removeprefix("detector_model.")
    return "vision_encoder.neck." + key.removeprefix("tracker_neck.") if key.startswith("tracker_neck.") else key


def _named(family: str, layout: str, shapes: Shapes) -> dict[str, Sequence[int]]:
    """Shapes by transformers' names; what transformers has joined or split stays under its official name."""
    if layout == "transformers":
        return dict(shapes)
    kept = {key: shape for key, shape in shapes.items() if not dropped(family, layout, key)}
    return {to_transformers_key(family, key) or key: shape for key, shape in kept.items()}


def _count(shapes: Shapes, template: str) -> int:
    """How many of ``template.format(0)``, ``template.format(1)``, ... are there."""
    n = 0
    while template.format(n) in shapes:
        n += 1
    return n


def _decoder(shapes: Shapes) -> dict[str, dict[str, Any]]:
    """Prompt encoder and mask decoder; 8 heads are the published number, which no shape tells."""
    layers, head = "mask_decoder.transformer.layers.{}.", "mask_decoder.iou_prediction_head."
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    first = layers.format(0)
    mlp = next(shapes[first + name][0] for name in ("mlp.lin1.weight", "mlp.proj_in.weight") if first + name in shapes)
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
    side = _SIDE if size != "custom" else _CUSTOM_SIDE
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
    return size, _pyramid(backbone, channels, shapes["vision_encoder.neck.convs.0.weight"][0], side)


def _repvit_vision(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """RepViT-M1 of timm; custom are other channels and depths of it."""
    block = "vision_encoder.backbone.timm_model.stages_{}.blocks.{}.token_mixer.conv.c.weight"
    blocks = [_count(shapes, block.replace("{}", str(stage), 1)) for stage in range(4)]
    channels = [shapes[block.format(stage, 0)][0] for stage in range(4)]
    published = (channels, blocks) == _REPVIT_M1
    arguments: dict[str, Any] = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    arguments |= {} if published else {"embed_dim": channels, "depth": blocks}
    backbone = {"model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2, "model_args": arguments}
    side = _SIDE if published else _CUSTOM_SIDE
    vision = _pyramid(backbone, channels, shapes["vision_encoder.neck.convs.0.weight"][0], side)
    return ("repvit_m1" if published else "custom"), vision


def _pyramid(backbone: dict[str, Any], channels: list[int], hidden: int, side: int) -> dict[str, Any]:
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


def _checkpoint(family: str, size: str, layout: str, vision: dict[str, Any], decoder: dict[str, Any]) -> Checkpoint:
    backbone = vision.get("backbone_config", vision)
    side = backbone["image_size"] if "image_size" in backbone else 4 * vision["backbone_feature_sizes"][0][0]
    patch = backbone.get("patch_size", 16)
    prompt = decoder["prompt_encoder_config"] | {"image_size": side[0] if isinstance(side, list) else side, "patch_size": patch}
    config = {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder["mask_decoder_config"]}
    if family == "sam_hq":
        config["mask_decoder_config"] = config["mask_decoder_config"] | {"vit_dim": vision["hidden_size"]}
    return Checkpoint(family, size, layout, config)


def tiny(family: str) -> Checkpoint:
    """A member of the family small enough for tests: same structure, a few channels, images of 128 pixels (SAM 3: 168).

    `identify` finds the same configuration in its tensors.
    """
    if family not in FAMILIES:
        raise SettingsError(f"Unknown family {family!r}; known: {', '.join(FAMILIES)}.")
    decoder = {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "attention_downsample_rate": 2,
    }
    decoder |= {"num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 32}
    parts = {"prompt_encoder_config": {"hidden_size": 32, "mask_input_channels": 16}, "mask_decoder_config": decoder}
    return _checkpoint(family, "custom", "official", _TINY[family], parts)


_TINY_SAM: dict[str, Any] = {
    "hidden_size": 32,
    "mlp_dim": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 128,
    "patch_size": 16,
    "window_size": 3,
    "global_attn_indexes": [1, 3],
    "output_channels": 32,
    "num_pos_feats": 16,
}
_TINY_HIERA: dict[str, Any] = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "num_attention_heads": 1,
    "image_size": [128, 128],
    "window_positional_embedding_background_size": [7, 7],
    "blocks_per_stage": [1, 2, 3, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [8, 4, 8, 4],
    "global_attention_blocks": [5],
    "mlp_ratio": 4.0,
}
_TINY_REPVIT: dict[str, Any] = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 2,  # unused; without it transformers fails to build the configuration
    "model_args": {
        "in_chans": 3,
        "features_only": True,
        "out_indices": [0, 1, 2, 3],
        "embed_dim": [8, 16, 24, 32],
        "depth": [1, 1, 2, 1],
    },
}
_TINY_SAM3: dict[str, Any] = {
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 1,
        "image_size": 168,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1, 3, 5, 7],
        "pretrain_image_size": 56,
    },
    "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[48, 48], [24, 24], [12, 12]],
}
_TINY: dict[str, dict[str, Any]] = {
    "sam": _TINY_SAM,
    "sam_hq": _TINY_SAM,
    "sam2": _pyramid(_TINY_HIERA, [8, 16, 32, 64], 32, _CUSTOM_SIDE),
    "sam2.1": _pyramid(_TINY_HIERA, [8, 16, 32, 64], 32, _CUSTOM_SIDE),
    "edgetam": _pyramid(_TINY_REPVIT, [8, 16, 24, 32], 32, _CUSTOM_SIDE),
    "sam3": _TINY_SAM3,
}
