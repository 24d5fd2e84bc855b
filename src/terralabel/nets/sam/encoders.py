"""Image encoders of the Segment Anything family: pixels in, one `Embedding` per image out.

`make_encoder` takes transformers' modules, of whichever family, and gives a function. What it computes is what the module's
own vision part computes, up to rounding: `tests/nets/test_sam_encoders.py` compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from terralabel.errors import SettingsError
from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.vit import ViT

__all__ = ["PRECISIONS", "Encoder", "make_encoder"]

#: (B, 3, S, S) float32, normalised -> one embedding per image.
Encoder = Callable[[Tensor], list[Embedding]]
#: The same, still batched: image, high-resolution levels, extra features.
Maps = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_encoder(model: Any, *, precision: str = "fp32", compile: bool = False) -> Encoder:
    """The image encoder of a `SamModel`, `SamHQModel`, `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`.

    It runs on the device where the model's weights lie and sets no number of threads. Its weights are copies: afterwards
    `model.vision_encoder` may be dropped. On CPU images of a batch go through one by one, so that an image's bytes
    do not depend on its company.

    precision  "fp32", or "bf16": products in bfloat16; residuals, norms, scores and the results stay float32
    compile    through `torch.compile`, for CUDA devices: minutes at the first call, for one shape of input

    Raises `SettingsError` for other models, precisions and devices.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}.")
    make = _MAKERS.get(model.config.model_type)
    if make is None:
        raise SettingsError(f"No image encoder for {type(model).__name__}; known model types: {', '.join(_MAKERS)}.")
    device = next(model.vision_encoder.parameters()).device
    if compile and device.type != "cuda":
        raise SettingsError(f"compile=True is for CUDA devices, the model is on {device}: leave it out.")
    with torch.inference_mode():
        maps = make(model, PRECISIONS[precision])
    if compile:
        maps = torch.compile(maps, dynamic=False)

    def encode(pixels: Tensor) -> list[Embedding]:
        pixels = pixels.to(device)
        with torch.inference_mode():
            return [
                embedding
                for group in pixels.split(1 if device.type == "cpu" else len(pixels))
                for embedding in _split(maps(group))
            ]

    return encode


def _split(maps: Maps) -> list[Embedding]:
    image, high_res, extra = maps
    return [
        Embedding(image[i], tuple(level[i] for level in high_res), tuple(features[i] for features in extra))
        for i in range(len(image))
    ]


def _vit(model: Any, dtype: torch.dtype) -> Callable[[Tensor], Maps]:
    return ViT(model.vision_encoder, dtype)


def _pyramid(model: Any, dtype: torch.dtype) -> Callable[[Tensor], Maps]:
    def maps(pixels: Tensor) -> Maps:
        finest, fine, image = model.vision_encoder(pixels).fpn_hidden_states[:3]
        image = image + model.no_memory_embedding.reshape(1, -1, 1, 1)
        return image, (model.mask_decoder.conv_s0(finest), model.mask_decoder.conv_s1(fine)), ()

    return maps


_MAKERS: dict[str, Callable[[Any, torch.dtype], Callable[[Tensor], Maps]]] = {
    "sam": _vit,
    "sam_hq": _vit,
    "sam2": _pyramid,
    "edgetam": _pyramid,
    "sam3_tracker": _pyramid,
}
