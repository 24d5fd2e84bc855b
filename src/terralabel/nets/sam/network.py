"""A promptable network of the Segment Anything family as layer 2 sees it: pixels to embeddings, prompts to mask logits.

All families answer the same calls; what differs between them (input size, normalisation, padding or stretching, number of
levels) is read from attributes. Coordinates are pixels of the S x S input, x before y, as in the released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from terralabel.errors import SettingsError
from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.encoders import make_encoder

__all__ = ["Passing", "SamNetwork", "make_network"]

PRECISIONS = ("bf16", "fp32")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Passing:
    """Masks of a batch of point prompts whose predicted IoU passed the threshold.

    index   (j,) int64: prompt * k + alternative, ascending, where k masks answer each prompt
    iou     (j,) float32 predicted IoU
    logits  (j, m, m) float32 low-resolution mask logits
    """

    index: Tensor
    iou: Tensor
    logits: Tensor


class SamNetwork:
    """A loaded network on its device.

    family      "sam", "sam_hq", "sam2", "sam2.1", "edgetam" or "sam3"
    image_size  S, the side of the square input in pixels
    mask_size   m, the side of the mask logits
    pads        True: the long side is resized to S and the rest padded right and below; False: stretched to the square
    mean, std   (3,) float32 on the 0..1 scale
    alternatives  k, how many masks answer a prompt when several are asked for
    batch_used  how many prompts the last `decode_passing` decoded at once, after halving where memory ran out
    """

    def __init__(self, model: Any, family: str, device: str = "cpu", precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise SettingsError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}.")
        self.model = model.to(device).eval().requires_grad_(False)
        self.family, self.device, self.precision = family, device, precision
        self.image_size = int(model.prompt_encoder.input_image_size)
        self.mask_size = 4 * int(model.prompt_encoder.image_embedding_size[0])
        self.pads = family in ("sam", "sam_hq")
        self.mean = np.array(HALF if family == "sam3" else IMAGENET_MEAN, np.float32)
        self.std = np.array(HALF if family == "sam3" else IMAGENET_STD, np.float32)
        self.alternatives = int(model.config.mask_decoder_config.num_multimask_outputs)
        self.batch_used = 0
        self._encode = make_encoder(self.model, precision=precision)

    def encode(self, pixels: Tensor) -> list[Embedding]:
        """Embeddings of (B, 3, S, S) float32 pixels, normalised and padded."""
        return self._encode(pixels.to(self.device))

    def feature_map(self, e: Embedding) -> np.ndarray:
        """The image embedding as (h, w, d) float32."""
        return e.image.permute(1, 2, 0).float().cpu().contiguous().numpy()

    @torch.inference_mode()
    def decode(
        self,
        e: Embedding,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_inputs: Tensor | None = None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (b, k, m, m) float32 and predicted IoU (b, k) float32 of b prompts.

        points (b, p, 2) with labels (b, p): 1 foreground, 0 background, -1 no point; boxes (b, 4) xyxy; mask_inputs
        (b, 1, m, m) logits. Any combination; k is 1 or `alternatives`.
        """
        given = [prompt for prompt in (points, boxes, mask_inputs) if prompt is not None]
        if not given:
            raise SettingsError("A prompt is points, boxes or mask inputs; got none of them.")
        rows = [
            self._decode_one(
                e,
                points=None if points is None else points[i : i + 1, None].float(),
                labels=None if labels is None else labels[i : i + 1, None],
                boxes=None if boxes is None else boxes[i : i + 1, None].float(),
                masks=None if mask_inputs is None else mask_inputs[i : i + 1].float(),
                multimask=multimask,
            )
            for i in range(len(given[0]))
        ]
        return torch.cat([logits for logits, _ in rows]), torch.cat([iou for _, iou in rows])

    def _decode_one(self, e: Embedding, *, points: Any, labels: Any, boxes: Any, masks: Any, multimask: bool) -> Any:
        image: Any = e.image[None]
        if self.family in ("sam", "sam_hq"):
            extra = {"intermediate_embeddings": [features[None] for features in e.extra]} if e.extra else {}
        else:
            image, extra = [*(level[None] for level in e.high_res), image], {}
        out = self.model(
            image_embeddings=image,
            input_points=points,
            input_labels=labels,
            input_boxes=boxes,
            input_masks=masks,
            multimask_output=multimask,
            **extra,
        )
        return out.pred_masks[:, 0].float(), out.iou_scores[:, 0].float()

    @torch.inference_mode()
    def decode_passing(self, e: Embedding, points: Tensor, *, pred_iou_thresh: float, batch: int) -> Iterator[Passing]:
        """The masks of (n, 2) foreground points, each a prompt of its own, whose predicted IoU exceeds the threshold."""
        k = self.alternatives
        for start in range(0, len(points), batch):
            part = points[start : start + batch]
            labels = torch.ones(len(part), 1, dtype=torch.int64, device=part.device)
            logits, iou = self.decode(e, points=part[:, None], labels=labels, multimask=True)
            passes = iou > pred_iou_thresh
            yield Passing(start * k + passes.flatten().nonzero()[:, 0], iou[passes], logits[passes])


def make_network(loaded: Any, *, device: str = "cpu", precision: str = "fp32") -> SamNetwork:
    """The network of what `loading.load` returned, on a device ("cpu", "cuda") in a precision ("fp32", "bf16")."""
    return SamNetwork(loaded.model, loaded.checkpoint.family, device, precision)
