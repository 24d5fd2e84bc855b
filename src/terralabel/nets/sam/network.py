"""A promptable network of the Segment Anything family as layer 2 sees it: pixels to embeddings, prompts to mask logits.

All families answer the same calls; what differs between them (input size, normalisation, padding or stretching, number of
levels) is read from attributes. Coordinates are pixels of the S x S input, x before y, as in the released code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from terralabel.errors import SettingsError
from terralabel.nets.sam.decoder import Answers, MaskDecoder, Prepared
from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.encoders import make_encoder
from terralabel.nets.sam.prompts import embed, point_tokens

__all__ = ["Passing", "SamNetwork", "make_network"]

PRECISIONS = ("bf16", "fp32")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
#: Prompts at once on a CPU: what they share is read once for all of them, and what is their own stays in the cache and in
#: memory that the allocator keeps (8 MB a tensor at most).
CPU_CHUNK = 4
#: Prompts at once that are upscaled on a CPU, for the same reason.
CPU_DRAWN = {"fp32": 1, "bf16": 2}
#: Prompts that go through layer 0's tokens at once on a CPU, which have no image side.
CPU_GROUP = 16
#: Prompts at once on a GPU where the caller does not say.
GPU_CHUNK = 64


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
    images_at_once  how many images go through the encoder at once at most: 1 on a CPU; on a GPU halved where memory ran out
    """

    def __init__(self, model: Any, family: str, device: str = "cpu", precision: str = "fp32", compile: bool = False) -> None:
        if precision not in PRECISIONS:
            raise SettingsError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}.")
        model = model.to(device).eval().requires_grad_(False)
        self.family, self.device, self.precision = family, device, precision
        self.image_size = int(model.prompt_encoder.input_image_size)
        self.mask_size = 4 * int(model.prompt_encoder.image_embedding_size[0])
        self.pads = family in ("sam", "sam_hq")
        self.mean = np.array(HALF if family == "sam3" else IMAGENET_MEAN, np.float32)
        self.std = np.array(HALF if family == "sam3" else IMAGENET_STD, np.float32)
        self.alternatives = int(model.config.mask_decoder_config.num_multimask_outputs)
        self.batch_used = 0
        # the model itself is let go: the encoder keeps copies of its weights, which need not lie in memory twice
        self._prompt_encoder, self._kind = model.prompt_encoder, str(model.config.model_type)
        self._encode = make_encoder(model, precision=precision, compile=compile)
        on_cpu = torch.device(device).type == "cpu"
        self.images_at_once = 1 if on_cpu else sys.maxsize
        self._chunk: int = CPU_CHUNK if on_cpu else GPU_CHUNK
        self._drawn_at_once: int = CPU_DRAWN[precision] if on_cpu else sys.maxsize
        self._group: int | None = CPU_GROUP if on_cpu else None
        self._most = sys.maxsize
        with torch.inference_mode():
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            self.decoder = MaskDecoder(model, dtype)
        self._last: tuple[Embedding, Prepared] | None = None

    def encode(self, pixels: Tensor) -> list[Embedding]:
        """Embeddings of (B, 3, S, S) float32 pixels, normalised and padded."""
        found: list[Embedding] = []
        while len(found) < len(pixels):
            group = pixels[len(found) :][: self.images_at_once]
            try:
                found += self._encode(group.to(self.device))
            except RuntimeError as error:
                self.images_at_once = self._half(len(group), error, "image")
        return found

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
        (b, 1, m, m) logits. Any combination; k is `alternatives` where `multimask`, else 1.
        """
        given = {"points": points, "labels": labels, "boxes": boxes, "mask_inputs": mask_inputs}
        on_device = {kind: prompt if prompt is None else prompt.to(self.device) for kind, prompt in given.items()}
        prompts = embed(self._prompt_encoder, self._kind, **on_device)
        tokens = self.decoder.with_own_tokens(prompts.tokens)
        answers: list[tuple[Tensor, Tensor]] = []
        start = 0
        while start < len(tokens):
            rows = slice(start, start + (min(self._chunk, self._drawn_at_once) if prompts.dense is None else 1))
            try:
                prepared = self._prepare(e) if prompts.dense is None else self.decoder.prepare(e, prompts.dense[start])
                begun = self.decoder.begin(prepared, tokens[rows])
                answer = self.decoder.answer(prepared, tokens[rows], begun, multimask=multimask)
                answers.append(self.decoder.masks(prepared, answer, multimask=multimask))
            except RuntimeError as error:
                self._halve(len(tokens[rows]), error)
                continue
            start = rows.stop
        logits, iou = zip(*answers, strict=True)
        return torch.cat(logits), torch.cat(iou)

    @torch.inference_mode()
    def decode_passing(self, e: Embedding, points: Tensor, *, pred_iou_thresh: float, batch: int) -> Iterator[Passing]:
        """The masks of (n, 2) foreground points, each a prompt of its own, whose predicted IoU exceeds the threshold.

        `batch` prompts go at once on a GPU; a CPU computes in small chunks that stay in its cache, each on one thread, and only
        returns about `batch` at once, so that the result depends on neither `batch` nor the number of threads. Where memory
        runs out the batch is halved.
        """
        prepared, points = self._prepare(e), points.to(self.device)
        start = 0
        with _threads(1 if self._group is None else torch.get_num_threads()) as each:
            while start < len(points):
                size = min(batch, self._most)
                if self._group is not None:
                    size = -(-size // self._group) * self._group
                try:
                    passing = self._passing(prepared, points[start : start + size], start, pred_iou_thresh, each)
                except RuntimeError as error:
                    self._halve(size, error)
                    continue
                self.batch_used = size
                yield passing
                start += size

    def _passing(self, prepared: Prepared, points: Tensor, first: int, thresh: float, each: Callable[..., Any]) -> Passing:
        """By groups that share nothing but the image; on a GPU all at once. `each` maps a function over them."""
        group = self._group or len(points)

        def of_group(start: int) -> list[tuple[Tensor, Tensor, Tensor]]:
            found = self._of_group(prepared, points[start : start + group], thresh)
            return [(index + (first + start) * self.alternatives, iou, logits) for index, iou, logits in found]

        found = [part for parts in each(of_group, range(0, len(points), group)) for part in parts]
        index, iou, logits = (torch.cat(column) for column in zip(*found, strict=True))
        return Passing(index, iou, logits)

    @torch.inference_mode()
    def _of_group(self, prepared: Prepared, points: Tensor, thresh: float) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Index, IoU and logits of what passes: tokens go through layer 0 together, what has the image's size by chunks."""
        tokens = self.decoder.with_own_tokens(point_tokens(self._prompt_encoder, self._kind, points))
        begun = self.decoder.begin(prepared, tokens)
        chunk, found = self._chunk if self._group else len(tokens), []
        for row in range(0, len(tokens), chunk):
            part = slice(row, row + chunk)
            answers = self.decoder.answer(prepared, tokens[part], [x[part] for x in begun], multimask=True)
            index, iou, logits = self._drawn(prepared, answers, thresh)
            found.append((index + row * self.alternatives, iou, logits))
        return found

    def _drawn(self, prepared: Prepared, answers: Answers, thresh: float) -> tuple[Tensor, Tensor, Tensor]:
        """Index within these prompts, IoU and logits of what passes; prompts of which nothing passes are not upscaled."""
        passes = answers.iou > thresh
        rows = passes.any(1).nonzero()[:, 0]
        index, iou = passes.flatten().nonzero()[:, 0], answers.iou[passes]
        if not len(rows):
            return index, iou, iou.new_empty(0, self.mask_size, self.mask_size)
        parts = rows.split(self._drawn_at_once)
        return index, iou, torch.cat([self._logits(prepared, answers, part)[passes[part]] for part in parts])

    def _logits(self, prepared: Prepared, answers: Answers, rows: Tensor) -> Tensor:
        return self.decoder.logits(prepared, answers if len(rows) == len(answers.iou) else answers.pick(rows))

    def _prepare(self, e: Embedding) -> Prepared:
        """The shared part of an embedding; that of the last one is kept."""
        if self._last is None or self._last[0] is not e:
            self._last = None
            self._last = e, self.decoder.prepare(e)
        return self._last[1]

    def _half(self, size: int, error: RuntimeError, what: str) -> int:
        """Half of `size` where memory ran out; raises the error if it is another, or `size` was 1."""
        if not _is_out_of_memory(error):
            raise error
        if size == 1:
            raise torch.OutOfMemoryError(f"Out of memory with a single {what} at once on {self.device}.") from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return size // 2

    def _halve(self, size: int, error: RuntimeError) -> None:
        """From now on at most half of `size` prompts at once."""
        self._most = self._half(size, error, "prompt")
        self._chunk = min(self._chunk, self._most)
        self._drawn_at_once = min(self._drawn_at_once, self._most)
        self._group = None if self._group is None else min(self._group, self._most)


def make_network(loaded: Any, *, device: str = "cpu", precision: str = "fp32", compile: bool = False) -> SamNetwork:
    """The network of what `loading.load` returned, on a device ("cpu", "cuda") in a precision ("fp32", "bf16").

    `compile`: the encoder through `torch.compile`, on CUDA devices; see `make_encoder`.
    """
    return SamNetwork(loaded.model, loaded.checkpoint.family, device, precision, compile)


@contextmanager
def _threads(count: int) -> Iterator[Callable[..., Any]]:
    """`map`, over `count` threads that each have one of torch's own; in order."""
    if count <= 1:
        yield map
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(count, "decode", torch.set_num_threads, (1,)) as pool:
        try:
            yield pool.map
        finally:
            torch.set_num_threads(before)  # what torch tells threads that begin later


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
