"""Tiny grounding models with random weights, in the official formats."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.nets.tiny_words import clip_tokenizer

_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "the", "a", "red", "blue", "house", "car", "river", "east", "of"]


def _bert_tokenizer(folder: Path) -> transformers.BertTokenizerFast:
    (folder / "vocab.txt").write_text("\n".join(_WORDS) + "\n")
    return transformers.BertTokenizerFast(
        vocab_file=str(folder / "vocab.txt"), vocab={word: k for k, word in enumerate(_WORDS)}
    )


def save_grounding_dino(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    text = transformers.BertConfig(
        vocab_size=len(_WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=swin,
        text_config=text,
        d_model=32,
        num_queries=8,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_text_len=32,
        num_feature_levels=3,
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder, safe_serialization=True)
    pictures = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    transformers.GroundingDinoProcessor(pictures, _bert_tokenizer(folder)).save_pretrained(folder)
    return folder


def save_owlv2(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    text = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 16, "bos_token_id": 54, "eos_token_id": 55}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
              "patch_size": 16}  # fmt: skip
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder, safe_serialization=True)
    pictures = transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    transformers.Owlv2Processor(pictures, clip_tokenizer(folder)).save_pretrained(folder)
    return folder


def save_sam3(folder: Path) -> Path:
    """SAM 3 by words: all of its parts, narrow and short."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    backbone = {"model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": 84, "patch_size": 14, "window_size": 3, "global_attn_indexes": [1],
                "pretrain_image_size": 42}  # fmt: skip
    text = {"model_type": "clip_text_model", "vocab_size": 60, "hidden_size": 16, "intermediate_size": 16, "projection_dim": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": 54,
            "eos_token_id": 55}  # fmt: skip
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[24, 24], [12, 12], [6, 6]],
        },
        text_config=text,
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config={**small, "num_queries": 8},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    transformers.Sam3Model(config).save_pretrained(folder, safe_serialization=True)
    pictures = transformers.Sam3ImageProcessor(size={"height": 84, "width": 84})
    transformers.Sam3Processor(pictures, clip_tokenizer(folder)).save_pretrained(folder)
    return folder


def save_sam3_video(folder: Path) -> Path:
    """The same as it is released: the detector within the video model."""
    save_sam3(folder)
    detector = json.loads((folder / "config.json").read_text())
    transformers.Sam3VideoConfig(detector_config=detector).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    save_file({f"detector_model.{key}": value for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder
