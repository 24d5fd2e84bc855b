"""What a SAM checkpoint is, told from its tensors' names and shapes alone; torch is not needed for it.

The published sizes have names; any other, such as the tiny ones of tests, is "custom".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from terralabel.errors import SettingsError
from terralabel.nets.sam.keys import dropped, to_official_key, to_transformers_key
from terralabel.nets.sam.sizes import CUSTOM_SIDE, Shapes, decoder_configs, pyramid, vision_config

__all__ = ["FAMILIES", "Checkpoint", "Shapes", "identify", "own_keys", "tiny", "why_not"]

#: Family -> its name for people.
FAMILIES = {"sam": "SAM", "sam_hq": "SAM-HQ", "sam2": "SAM 2", "sam2.1": "SAM 2.1", "edgetam": "EdgeTAM", "sam3": "SAM 3"}
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
    size, vision = vision_config(family, named)
    return _checkpoint(family, size, layout, vision, decoder_configs(named))


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
    "sam2": pyramid(_TINY_HIERA, [8, 16, 32, 64], 32, CUSTOM_SIDE),
    "sam2.1": pyramid(_TINY_HIERA, [8, 16, 32, 64], 32, CUSTOM_SIDE),
    "edgetam": pyramid(_TINY_REPVIT, [8, 16, 24, 32], 32, CUSTOM_SIDE),
    "sam3": _TINY_SAM3,
}
