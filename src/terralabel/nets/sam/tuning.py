"""A network of the family whose mask decoder learns; the image encoder and the prompt encoder are at rest.

What the decoder learns with is transformers' own module, which gradients go through; what it leaves is read by `loading` like any
other weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from terralabel.nets.backbones import choose_device
from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.loading import load, write_tuned
from terralabel.nets.sam.network import SamNetwork
from terralabel.nets.sam.prompts import embed

__all__ = ["TunableSam"]

#: Parts of the decoder that belong to the image's side: what they make is kept with the image's features.
_AT_REST = ("conv_s0.", "conv_s1.")


class TunableSam:
    """The network in `source` (as for `loading.load`).

    network   encodes images and says the frame of its input
    decoder   the module that learns
    sha256    of the weights it began with
    """

    def __init__(self, source: str | Path, device: str = "auto") -> None:
        loaded = load(source)
        self.source, self.checkpoint, self.sha256 = source, loaded.checkpoint, loaded.sha256
        self.network = SamNetwork(loaded.model, loaded.checkpoint.family, choose_device(device))
        self.decoder: nn.Module = loaded.model.mask_decoder
        for name, parameter in self.decoder.named_parameters():
            parameter.requires_grad_(not name.startswith(_AT_REST))
        self._prompts, self._kind = loaded.model.prompt_encoder, str(loaded.model.config.model_type)
        self._places = loaded.model.get_image_wide_positional_embeddings()

    def answers(
        self,
        e: Embedding,
        *,
        multimask: bool,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (b, k, m, m) and predicted IoU (b, k) of b prompts, with gradients; prompts as in `SamNetwork.decode`.

        While it learns, a single mask is always mask 0.
        """
        given = {"points": points, "labels": labels, "boxes": boxes}
        on_device = {kind: prompt if prompt is None else prompt.to(e.image.device) for kind, prompt in given.items()}
        tokens = embed(self._prompts, self._kind, **on_device).tokens
        more: dict[str, Any] = {}
        if e.high_res:
            more["high_resolution_features"] = [level[None] for level in e.high_res]
        if self.checkpoint.family == "sam_hq":
            more |= {"hq_token_only": False, "intermediate_embeddings": [features[None] for features in e.extra]}
        found = self.decoder(
            image_embeddings=e.image[None],
            image_positional_embeddings=self._places,
            sparse_prompt_embeddings=tokens[None],
            dense_prompt_embeddings=self._prompts.no_mask_embed.weight[:, :, None, None].expand(1, -1, *e.image.shape[1:]),
            multimask_output=multimask,
            **more,
        )
        return found[0][0], found[1][0]

    def write(self, path: Path) -> None:
        """The weights as they are now, in the format of the source; see `loading.write_tuned`."""
        learned = {name for name, parameter in self.decoder.named_parameters() if parameter.requires_grad}
        tensors = {f"mask_decoder.{k}": v for k, v in self.decoder.state_dict().items() if k in learned}
        write_tuned(self.source, self.checkpoint, tensors, path)
