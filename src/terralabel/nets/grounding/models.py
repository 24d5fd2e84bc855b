"""Grounding DINO, OWL-ViT, OWLv2 and SAM 3 from official weights, under one face: pictures and texts in, boxes and logits out.

Grounding DINO: Liu et al. 2023, arXiv 2303.05499. OWL-ViT: Minderer et al. 2022, arXiv 2205.06230; OWLv2: 2023, arXiv 2306.09683.
SAM 3's concept prompts: Carion et al. 2025, arXiv 2511.16719.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.errors import SettingsError, WeightsError
from terralabel.nets.backbones import choose_device, package
from terralabel.nets.released import load_released, released_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FAMILIES", "Family", "Grounding", "load_grounding", "model_type"]

_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")
#: What a repository has besides, by its age and its tokenizer.
_OPTIONAL = (
    "preprocessor_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "processor_config.json",
)


@dataclass(frozen=True)
class Family:
    """One kind of model: its `model_type`s, its class in transformers, and the repository taken where no other is named."""

    name: str
    types: tuple[str, ...]
    factory: str
    repository: str


#: Name of a locator -> its family.
FAMILIES = {
    "grounding-dino": Family(
        "grounding-dino",
        ("grounding-dino", "mm-grounding-dino"),
        "AutoModelForZeroShotObjectDetection",
        "IDEA-Research/grounding-dino-tiny",
    ),
    "owlv2": Family("owlv2", ("owlv2", "owlvit"), "AutoModelForZeroShotObjectDetection", "google/owlv2-base-patch16-ensemble"),
    "sam3": Family(
        "sam3", ("sam3", "sam3_video"), "Sam3Model", "facebook/sam3"
    ),  # as released: the detector in the video model
}


@dataclass(frozen=True, eq=False)
class Grounding:
    """A loaded model. `sha256` is that of its weights, `reads` the most tokens of a text."""

    family: str
    kind: str
    net: Any
    processor: Any
    sha256: str
    device: str
    reads: int

    def inputs(self, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> Mapping[str, Any]:
        """What the network takes, for pictures (h, w, 3) uint8 RGB of one size and a text for each.

        `SettingsError` for a text that is longer than the network reads: the rest would be dropped without a word.
        """
        said = [_sentence(text) if self.family == "grounding-dino" else text.strip() for text in texts]
        for text in said:
            count = len(self.processor.tokenizer(text)["input_ids"])
            if count > self.reads:
                raise SettingsError(
                    f"The text {text[:40]!r}... has {count} tokens; {self.family} reads {self.reads} at most: shorten it."
                )
        given: Any = [[text] for text in said] if self.family == "owlv2" else said
        # OWL's texts are padded to the full length, as they were in its training; SAM 3's processor does so by itself
        padding = {"grounding-dino": {"padding": "longest"}, "owlv2": {"padding": "max_length"}}.get(self.family, {})
        return self.processor(images=list(pictures), text=given, return_tensors="pt", **padding).to(self.device)

    def forward(self, inputs: Mapping[str, Any], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """((b, q) logits, (b, q, 4) xyxy boxes in shares of the pictures' width and height); `size` is (height, width) of the pictures."""
        import torch

        out = self.net(**inputs)
        if self.family == "sam3":
            score = out.pred_logits.sigmoid() * (out.presence_logits.sigmoid() if out.presence_logits is not None else 1)
            return torch.logit(score.clamp(1e-7, 1 - 1e-7)), out.pred_boxes
        centre, extent = out.pred_boxes[..., :2], out.pred_boxes[..., 2:]
        boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)
        if self.kind == "owlv2":  # shares of the square that the picture was filled up to, right and below
            boxes = boxes * (max(size) / boxes.new_tensor([size[1], size[0], size[1], size[0]]))
        return out.logits.amax(dim=-1), boxes

    def find(self, picture: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) float32 xyxy pixels and (n,) float32 scores of everything the network proposes in a picture (h, w, 3) uint8."""
        torch = package("torch")
        height, width = picture.shape[:2]
        with torch.inference_mode():
            logits, boxes = self.forward(self.inputs([picture], [text]), (height, width))
        scale = np.array([width, height, width, height], dtype=np.float32)
        return boxes[0].float().cpu().numpy() * scale, logits[0].sigmoid().float().cpu().numpy()


def load_grounding(family: str, argument: str = "", device: str = "auto") -> Grounding:
    """A model of a family from a folder or a hub name; without either, the family's own repository.

    Raises `WeightsError` when the weights are not to be had, damaged, or of another kind.
    """
    transformers = package("transformers")
    known = FAMILIES[family]
    folder = released_folder(argument or known.repository, _FILES, f"--locator {family}:FOLDER", _OPTIONAL)
    kind = model_type(folder)
    if kind not in known.types:
        raise WeightsError(f"{folder}: model_type is {kind!r}; {family} expects {' or '.join(known.types)}.")
    net, processor, sha256 = load_released(getattr(transformers, known.factory), transformers.AutoProcessor, folder, known.name)
    place = choose_device(device)
    return Grounding(family, kind, net.to(place), processor, sha256, place, _reads(net.config, family))


def model_type(folder: Path) -> str:
    import json

    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{folder / 'config.json'}: damaged; expected what `save_pretrained` writes.") from error


def _reads(config: Any, family: str) -> int:
    return int(config.max_text_len if family == "grounding-dino" else config.text_config.max_position_embeddings)


def _sentence(text: str) -> str:
    """As Grounding DINO was trained: lower case, one full stop at the end, none inside (it would end the phrase)."""
    return " ".join(text.lower().replace(".", " ").split()) + "."
