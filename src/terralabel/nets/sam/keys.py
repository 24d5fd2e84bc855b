"""Names of the family's tensors: as the authors' files have them, and as transformers has them.

One table of rules for each family, read in both directions. In a rule "#" stands for a number, "@" for one name and "*" for
all that follows. Sources: the model classes of facebookresearch/{segment-anything, sam2, sam3, EdgeTAM} and SysCV/sam-hq.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

__all__ = ["COPIED", "JOINED", "RULES", "dropped", "fill", "pattern", "to_official_key", "to_transformers_key"]

Rule = tuple[str, str]
#: The position encoding's matrix, which transformers keeps twice: (the one that has a rule, its copy).
COPIED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


def _same(*keys: str) -> list[Rule]:
    return [(key, key) for key in keys]


def _under(official: str, transformers: str, rules: Iterable[Rule]) -> list[Rule]:
    return [(official + ours, transformers + theirs) for ours, theirs in rules]


def _mlp(official: str, transformers: str) -> list[Rule]:
    """A perceptron of three layers: transformers names the first and the last."""
    names = (("layers.0.*", "proj_in.*"), ("layers.1.*", "layers.0.*"), ("layers.2.*", "proj_out.*"))
    return _under(f"{official}.", f"{transformers}.", names)


_PROMPT_ENCODER: list[Rule] = [
    ("mask_downscaling.0.*", "mask_embed.conv1.*"),
    ("mask_downscaling.1.*", "mask_embed.layer_norm1.*"),
    ("mask_downscaling.3.*", "mask_embed.conv2.*"),
    ("mask_downscaling.4.*", "mask_embed.layer_norm2.*"),
    ("mask_downscaling.6.*", "mask_embed.conv3.*"),
    *_same("no_mask_embed.weight", "not_a_point_embed.weight"),
]
_DECODER: list[Rule] = [
    ("transformer.norm_final_attn.*", "transformer.layer_norm_final_attn.*"),
    ("transformer.layers.#.norm#.*", "transformer.layers.#.layer_norm#.*"),
    ("output_upscaling.0.*", "upscale_conv1.*"),
    ("output_upscaling.1.*", "upscale_layer_norm.*"),
    ("output_upscaling.3.*", "upscale_conv2.*"),
    *_mlp("output_hypernetworks_mlps.#", "output_hypernetworks_mlps.#"),
    *_mlp("iou_prediction_head", "iou_prediction_head"),
    *_same("iou_token.weight", "mask_tokens.weight"),
]
_SAM: list[Rule] = [
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", COPIED[0]),
    ("image_encoder.patch_embed.proj.*", "vision_encoder.patch_embed.projection.*"),
    ("image_encoder.blocks.#.norm#.*", "vision_encoder.layers.#.layer_norm#.*"),
    ("image_encoder.blocks.#.*", "vision_encoder.layers.#.*"),
    ("image_encoder.neck.0.*", "vision_encoder.neck.conv1.*"),
    ("image_encoder.neck.1.*", "vision_encoder.neck.layer_norm1.*"),
    ("image_encoder.neck.2.*", "vision_encoder.neck.conv2.*"),
    ("image_encoder.neck.3.*", "vision_encoder.neck.layer_norm2.*"),
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    *_under("prompt_encoder.", "prompt_encoder.", _PROMPT_ENCODER),
    ("prompt_encoder.point_embeddings.#.weight", "prompt_encoder.point_embed.#.weight"),
    *_under("mask_decoder.", "mask_decoder.", _DECODER),
    *_same("mask_decoder.transformer.*"),
]
_HQ: list[Rule] = [
    ("hf_token.weight", "hq_token.weight"),
    *_mlp("hf_mlp", "hq_mask_mlp"),
    ("compress_vit_feat.0.*", "compress_vit_conv1.*"),
    ("compress_vit_feat.1.*", "compress_vit_norm.*"),
    ("compress_vit_feat.3.*", "compress_vit_conv2.*"),
    ("embedding_encoder.0.*", "encoder_conv1.*"),
    ("embedding_encoder.1.*", "encoder_norm.*"),
    ("embedding_encoder.3.*", "encoder_conv2.*"),
    ("embedding_maskfeature.0.*", "mask_conv1.*"),
    ("embedding_maskfeature.1.*", "mask_norm.*"),
    ("embedding_maskfeature.3.*", "mask_conv2.*"),
]


def _tracker(prefix: str, mlp: tuple[str, str]) -> list[Rule]:
    """Prompt encoder and mask decoder of SAM 2 and what came after it; `mlp` are the layers in its transformer."""
    decoder = [
        *_DECODER,
        ("transformer.layers.#.@.out_proj.*", "transformer.layers.#.@.o_proj.*"),
        ("transformer.final_attn_token_to_image.out_proj.*", "transformer.final_attn_token_to_image.o_proj.*"),
        (f"transformer.layers.#.mlp.{mlp[0]}.*", "transformer.layers.#.mlp.proj_in.*"),
        (f"transformer.layers.#.mlp.{mlp[1]}.*", "transformer.layers.#.mlp.proj_out.*"),
        *_mlp("pred_obj_score_head", "pred_obj_score_head"),
        *_same("obj_score_token.weight", "conv_s0.*", "conv_s1.*", "transformer.*"),
    ]
    return [
        (f"{prefix}no_mem_embed", "no_memory_embedding"),
        (f"{prefix}sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", COPIED[0]),
        *_under(f"{prefix}sam_prompt_encoder.", "prompt_encoder.", _PROMPT_ENCODER),
        *_under(f"{prefix}sam_mask_decoder.", "mask_decoder.", decoder),
    ]


_SAM2: list[Rule] = [
    *_under(
        "image_encoder.trunk.",
        "vision_encoder.backbone.",
        [
            ("patch_embed.proj.*", "patch_embed.projection.*"),
            ("blocks.#.norm#.*", "blocks.#.layer_norm#.*"),
            ("blocks.#.mlp.layers.0.*", "blocks.#.mlp.proj_in.*"),
            ("blocks.#.mlp.layers.1.*", "blocks.#.mlp.proj_out.*"),
            *_same("pos_embed", "pos_embed_window", "blocks.#.*"),
        ],
    ),
    ("image_encoder.neck.convs.#.conv.*", "vision_encoder.neck.convs.#.*"),
    *_tracker("", ("layers.0", "layers.1")),
]
_EDGETAM: list[Rule] = [
    ("image_encoder.trunk.body.*", "vision_encoder.backbone.timm_model.*"),
    ("image_encoder.neck.convs.#.conv.*", "vision_encoder.neck.convs.#.*"),
    *_tracker("", ("layers.0", "layers.1")),
]
_SAM3: list[Rule] = [
    *_under(
        "detector.backbone.vision_backbone.trunk.",
        "vision_encoder.backbone.",
        [
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
            ("ln_pre.*", "layer_norm.*"),
            ("blocks.#.norm#.*", "layers.#.layer_norm#.*"),
            ("blocks.#.attn.proj.*", "layers.#.attention.o_proj.*"),
            ("blocks.#.mlp.*", "layers.#.mlp.*"),
        ],
    ),
    *_under(
        "detector.backbone.vision_backbone.sam2_convs.",
        "vision_encoder.neck.fpn_layers.",
        [
            ("0.dconv_2x2_0.*", "0.scale_layers.0.*"),
            ("0.dconv_2x2_1.*", "0.scale_layers.2.*"),
            ("1.dconv_2x2.*", "1.scale_layers.0.*"),
            ("#.conv_1x1.*", "#.proj1.*"),
            ("#.conv_3x3.*", "#.proj2.*"),
        ],
    ),
    *_tracker("tracker.", ("lin1", "lin2")),
]
RULES: dict[str, list[Rule]] = {
    "sam": _SAM,
    "sam_hq": [*_under("mask_decoder.", "mask_decoder.", _HQ), *_SAM],
    "sam2": _SAM2,
    "sam2.1": _SAM2,
    "edgetam": _EDGETAM,
    "sam3": _SAM3,
}
#: Tensors that are one in one naming and several, along the first axis, in the other: (official, transformers).
_POINTS = [f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4)]
_TRACKER_JOINED = [(_POINTS, ["prompt_encoder.point_embed.weight"])]
JOINED: dict[str, list[tuple[list[str], list[str]]]] = {
    "sam": [],
    "sam_hq": [],
    "sam2": _TRACKER_JOINED,
    "sam2.1": _TRACKER_JOINED,
    "edgetam": _TRACKER_JOINED,
    "sam3": [
        ([f"tracker.{key}" for key in _POINTS], ["prompt_encoder.point_embed.weight"]),
        *(
            (
                [f"detector.backbone.vision_backbone.trunk.blocks.#.attn.qkv.{kind}"],
                [f"vision_encoder.backbone.layers.#.attention.{part}_proj.{kind}" for part in "qkv"],
            )
            for kind in ("weight", "bias")
        ),
    ],
}
_MEMORY = (
    r"mask_downsample\..*|maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial"
    r"|obj_ptr_proj\..*|obj_ptr_tpos_proj\..*"
)
_OFFICIAL_MEMORY = rf"memory_attention\..*|memory_encoder\..*|spatial_perceiver\..*|{_MEMORY}"
#: What images do not need: the memory of earlier frames, the detector of words, tables that are computed again.
_DROPPED = {
    "sam": r"pixel_mean|pixel_std",
    "sam_hq": r"pixel_mean|pixel_std",
    "sam2": _OFFICIAL_MEMORY,
    "sam2.1": _OFFICIAL_MEMORY,
    "edgetam": _OFFICIAL_MEMORY,
    "sam3": rf"tracker\.(backbone\..*|transformer\..*|maskmem_backbone\..*|{_MEMORY})|.*\.freqs_cis"
    r"|detector\.(?!backbone\.vision_backbone\.(trunk|sam2_convs)\.).*|detector\.backbone\.vision_backbone\.trunk\.ln_post\..*",
}
_DROPPED_TRANSFORMERS = (
    r"memory_.*|mask_downsample\..*|object_pointer_proj\..*|temporal_positional_encoding_projection_layer\..*"
    r"|no_memory_positional_encoding|no_object_pointer|occlusion_spatial_embedding_parameter|spatial_perceiver\..*"
    r"|detector_model\..*|.*\.rotary_emb\..*"
)


def dropped(family: str, layout: str, key: str) -> bool:
    """Whether a key belongs to a part of the checkpoint that labelling images does not need."""
    return re.fullmatch(_DROPPED[family] if layout == "official" else _DROPPED_TRANSFORMERS, key) is not None


def to_transformers_key(family: str, key: str) -> str | None:
    """transformers' name of an official key; None where no rule of one tensor to one tensor fits."""
    return next((name for rename in _renamers(family, 0) if (name := rename(key)) is not None), None)


def to_official_key(family: str, key: str) -> str | None:
    """The official name of transformers' key; None where no rule of one tensor to one tensor fits."""
    return next((name for rename in _renamers(family, 1) if (name := rename(key)) is not None), None)


def pattern(template: str) -> re.Pattern[str]:
    """A rule's template as a regular expression with one group for each of "#", "@" and "*"."""
    parts = {"#": r"(\d+)", "@": r"([a-z_]+)", "*": r"(.+)"}
    return re.compile("".join(parts.get(c, re.escape(c)) for c in template))


def fill(template: str, found: Iterable[str]) -> str:
    """A template with what the other side's groups have matched."""
    waiting = iter(found)
    return re.sub(r"[#@*]", lambda _: next(waiting), template)


@cache
def _renamers(family: str, source: int) -> list[Callable[[str], str | None]]:
    return [_renamer(pattern(rule[source]), rule[1 - source]) for rule in RULES[family]]


def _renamer(source: re.Pattern[str], target: str) -> Callable[[str], str | None]:
    def rename(key: str) -> str | None:
        match = source.fullmatch(key)
        return fill(target, match.groups()) if match else None

    return rename
