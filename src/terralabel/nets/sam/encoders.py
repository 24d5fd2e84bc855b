"""Image encoders of the Segment Anything family: pixels in, one `Embedding` per image out.

`make_encoder` takes transformers' modules, in whichever family, and gives a function. What it computes is what the module's
own vision part computes, in the released order of operations up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from terralabel.errors import SettingsError
from terralabel.nets.sam.embedding import Embedding

__all__ = ["Encoder", "make_encoder"]

#: (B, 3, S, S) float32, normalised -> one embedding per image.
Encoder = Callable[[Tensor], list[Embedding]]
#: The same, still batched: image, high-resolution levels, extra features.
Maps = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


def make_encoder(model: Any, *, precision: str = "fp32", compile: bool = False) -> Encoder:
    """The image encoder of a `SamModel`, `SamHQModel`, `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`."""
    maps = _VISION.get(model.config.model_type)
    if maps is None:
        raise SettingsError(f"No image encoder for {type(model).__name__}; known model types: {', '.join(sorted(_VISION))}.")

    def encode(pixels: Tensor) -> list[Embedding]:
        with torch.inference_mode():
            return _split(maps(model, pixels))

    return encode


def _split(maps: Maps) -> list[Embedding]:
    image, high_res, extra = maps
    return [
        Embedding(image[i], tuple(level[i] for level in high_res), tuple(features[i] for features in extra))
        for i in range(len(image))
    ]


def _sam(model: Any, pixels: Tensor) -> Maps:
    output = model.vision_encoder(pixels)
    return output.last_hidden_state, (), tuple(getattr(output, "intermediate_embeddings", ()))


def _pyramid(model: Any, pixels: Tensor) -> Maps:
    finest, fine, image = model.vision_encoder(pixels).fpn_hidden_states[:3]
    image = image + model.no_memory_embedding.reshape(1, -1, 1, 1)
    return image, (model.mask_decoder.conv_s0(finest), model.mask_decoder.conv_s1(fine)), ()


_VISION: dict[str, Callable[[Any, Tensor], Maps]] = {
    "sam": _sam,
    "sam_hq": _sam,
    "sam2": _pyramid,
    "edgetam": _pyramid,
    "sam3_tracker": _pyramid,
}
