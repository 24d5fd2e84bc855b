"""Tiny CLIP and SigLIP with random weights, in the official formats."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

_TEXT = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53, "projection_dim": 16,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 16,
}  # fmt: skip


def clip_tokenizer(folder: Path) -> transformers.CLIPTokenizerFast:
    """Letters as tokens."""
    letters = [*"abcdefghijklmnopqrstuvwxyz."]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))


def save_clip(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    net = transformers.CLIPModel(transformers.CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=16))
    net.save_pretrained(folder, safe_serialization=True)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(pictures, clip_tokenizer(folder)).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    net = transformers.SiglipModel(transformers.SiglipConfig(text_config=_TEXT, vision_config=_VISION))
    net.save_pretrained(folder, safe_serialization=True)
    pictures = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    transformers.SiglipProcessor(pictures, clip_tokenizer(folder)).save_pretrained(folder)
    return folder
