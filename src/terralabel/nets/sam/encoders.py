"""Image encoders of the Segment Anything family: pixels in, one `Embedding` per image out.

`make_encoder` takes transformers' modules, of whichever family, and gives a function. What it computes is what the module's
own vision part computes, up to rounding: `tests/nets/test_sam_encoders.py` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from terralabel.errors import SettingsError
from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.hiera import Hiera
from terralabel.nets.sam.perception import PerceptionEncoder
from terralabel.nets.sam.pyramid import Pyramid
from terralabel.nets.sam.repvit import RepViT
from terralabel.nets.sam.vit import ViT

__all__ = ["PRECISIONS", "Encoder", "make_encoder"]

#: (B, 3, S, S) float32, normalised -> one embedding per image.
Encoder = Callable[[Tensor], list[Embedding]]
#: What it leaves of a batch: image, high-resolution levels, extra features, as in `Embedding`.
Batch = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]
Maps = Callable[[Tensor], Batch]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_encoder(model: Any, *, precision: str = "fp32", compile: bool = False) -> Encoder:
    """The image encoder of a `SamModel`, `SamHQModel`, `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`.

    It runs on the device where the model's weights lie and sets no number of threads. Its weights are copies: afterwards
    `model.vision_encoder` may be dropped. On CPU images of a batch go through one by one, so that an image's bytes
    do not depend on its company.

    precision  "fp32", or "bf16": products in bfloat16; residuals, norms and the results stay float32
    compile    through `torch.compile` with CUDA graphs, for CUDA devices: minutes at the first call; images go through one by
               one, so that there is one shape. Never run on a GPU so far

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
        maps = _compiled(maps, mode="reduce-overhead")

    def encode(pixels: Tensor) -> list[Embedding]:
        pixels = pixels.to(device)
        groups = pixels.split(1 if compile or device.type == "cpu" else max(1, len(pixels)))
        with torch.inference_mode():
            return [embedding for group in groups for embedding in _split(maps(group))]

    return encode


def _compiled(maps: Any, **how: Any) -> Maps:
    """`maps` through `torch.compile`, once, at the first call; `how` are its settings."""
    fast: Maps | None = None

    def run(pixels: Tensor) -> Batch:
        nonlocal fast
        if fast is None:
            maps(pixels)  # makes the tables that are kept: made inside a CUDA graph, the next run would write over them
            for weight in _tensors(maps):
                torch._dynamo.mark_static_address(weight)  # or the graph would copy it at every call
            fast = torch.compile(maps.__call__, dynamic=False, fullgraph=True, **how)
        torch.compiler.cudagraph_mark_step_begin()
        image, high_res, extra = fast(pixels)
        return (
            image.clone(),
            tuple(x.clone() for x in high_res),
            tuple(x.clone() for x in extra),
        )  # the graph's memory is used again

    return run


def _tensors(thing: Any) -> Iterator[Tensor]:
    """Every tensor that an encoder keeps, through its attributes; a module's own are known to torch as they are."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(part)
    elif type(thing).__module__.startswith(__package__):
        yield from _tensors(vars(thing))


def _split(batch: Batch) -> list[Embedding]:
    image, high_res, extra = batch
    return [
        Embedding(image[i], tuple(level[i] for level in high_res), tuple(features[i] for features in extra))
        for i in range(len(image))
    ]


def _sam(model: Any, dtype: torch.dtype) -> Maps:
    return ViT(model.vision_encoder, dtype, keep_global=False)


def _sam_hq(model: Any, dtype: torch.dtype) -> Maps:
    return ViT(model.vision_encoder, dtype, keep_global=True)


def _sam2(model: Any, dtype: torch.dtype) -> Maps:
    return Pyramid(model, Hiera(model.vision_encoder.backbone, dtype), dtype)


def _edgetam(model: Any, dtype: torch.dtype) -> Maps:
    return Pyramid(model, RepViT(model.vision_encoder.backbone.timm_model, dtype), dtype)


def _sam3(model: Any, dtype: torch.dtype) -> Maps:
    return PerceptionEncoder(model, dtype)


_MAKERS: dict[str, Callable[[Any, torch.dtype], Maps]] = {
    "sam": _sam,
    "sam_hq": _sam_hq,
    "sam2": _sam2,
    "edgetam": _edgetam,
    "sam3_tracker": _sam3,
}
