"""Networks that place pictures and words in one space, so that the words nearest to a picture name it.

CLIP: Radford et al. 2021, arXiv 2103.00020. SigLIP: Zhai et al. 2023, arXiv 2303.15343. Any checkpoint of these two kinds in the format of
transformers, those trained on remote sensing among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.errors import WeightsError
from terralabel.nets.backbones import choose_device, package
from terralabel.nets.released import load_released, released_folder

__all__ = ["REPOSITORY", "WordEncoder", "load_words"]

#: Taken where no other is named.
REPOSITORY = "google/siglip-base-patch16-224"
_KINDS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")
#: What a repository has besides, by its age and its tokenizer.
_OPTIONAL = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "special_tokens_map.json",
)
#: Pictures, and words, that go through the network at once.
_BATCH = 16


@dataclass(frozen=True, eq=False)
class WordEncoder:
    """A loaded network; `sha256` is that of its weights."""

    kind: str
    net: Any
    processor: Any
    sha256: str
    device: str

    def pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d) float32, each of length 1, of pictures (h, w, 3) uint8 RGB of any sizes."""
        return self._places(
            pictures, lambda some: self.processor(images=list(some), return_tensors="pt"), self.net.get_image_features
        )

    def words(self, texts: Sequence[str]) -> np.ndarray:
        """(m, d) float32, each of length 1; what the network does not read of a long text is left out."""
        most = int(self.net.config.text_config.max_position_embeddings)
        padding = "max_length" if self.kind == "siglip" else "longest"  # as in its training
        return self._places(
            texts,
            lambda some: self.processor(
                text=list(some), return_tensors="pt", padding=padding, truncation=True, max_length=most
            ),
            self.net.get_text_features,
        )

    def likeness(self, pictures: np.ndarray, words: np.ndarray) -> np.ndarray:
        """(n, m) float32 logits of places of `pictures` and `words`: transformers' `logits_per_image`."""
        scale = float(self.net.logit_scale.detach().exp())
        bias = float(self.net.logit_bias.detach()) if self.kind == "siglip" else 0.0
        return np.asarray(pictures @ words.T * np.float32(scale) + np.float32(bias), dtype=np.float32)

    def _places(self, items: Sequence[Any], prepared: Any, features: Any) -> np.ndarray:
        torch = package("torch")
        found = []
        with torch.inference_mode():
            for start in range(0, len(items), _BATCH):
                told = features(**prepared(items[start : start + _BATCH]).to(self.device))
                places = getattr(told, "pooler_output", told)
                found.append((places / places.norm(dim=-1, keepdim=True)).float().cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def load_words(argument: str = "", device: str = "auto") -> WordEncoder:
    """A network from a folder, or a hub name that is on this machine or may be fetched; "" takes `REPOSITORY`.

    Raises `WeightsError`, with the way out, when its weights are not to be had, damaged, or of another kind.
    """
    transformers = package("transformers")
    folder = released_folder(argument or REPOSITORY, _FILES, "--text-encoder FOLDER", _OPTIONAL)
    kind = _kind(folder)
    net, processor, sha256 = load_released(
        getattr(transformers, _KINDS[kind]), transformers.AutoProcessor, folder, "text encoder"
    )
    place = choose_device(device)
    return WordEncoder(kind, net.to(place), processor, sha256, place)


def _kind(folder: Path) -> str:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{folder / 'config.json'}: damaged; expected what `save_pretrained` writes.") from error
    if kind not in _KINDS:
        raise WeightsError(f"{folder}: model_type is {kind!r}; a text encoder is expected to be {' or '.join(_KINDS)}.")
    return str(kind)
