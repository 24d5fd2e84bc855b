"""What an image encoder leaves of one image: all that the mask decoder needs to answer any number of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from terralabel.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Embedding"]


@dataclass(frozen=True)
class Embedding:
    """One encoded image. All tensors are on the network's device, without a batch dimension.

    image     (d, h, w) float32: the vision neck's coarsest used map, which the decoder's two-way transformer reads.
              SAM 2, EdgeTAM and SAM 3: their no-memory embedding is added already; no family: the no-mask embedding
              (that is a prompt's, and so the decoder's).
    high_res  (d / 8, 4 h, 4 w) and (d / 4, 2 h, 2 w) float32, finest first: SAM 2, EdgeTAM and SAM 3, with the
              decoder's `conv_s0` and `conv_s1` applied; () for SAM and SAM-HQ.
    extra     (h, w, c) float32 each: SAM-HQ's features after every block with global attention; () for others.
    """

    image: Tensor
    high_res: tuple[Tensor, ...] = ()
    extra: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise SettingsError(f"An image embedding is (d, h, w) without a batch dimension, got {tuple(self.image.shape)}.")

    def to(self, device: str) -> Embedding:
        """The same embedding on another device ("cpu", "cuda", "cuda:1")."""
        return Embedding(
            self.image.to(device),
            tuple(level.to(device) for level in self.high_res),
            tuple(features.to(device) for features in self.extra),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU by name, to be kept in a file."""
        parts = {"image": (self.image,), "high_res": self.high_res, "extra": self.extra}
        return {f"{name}.{i}": x.cpu().contiguous().clone() for name, xs in parts.items() for i, x in enumerate(xs)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Embedding:
        """The embedding that `tensors` were made of."""
        high_res, extra = (
            tuple(tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors)))
            for name in ("high_res", "extra")
        )
        return cls(tensors["image.0"], high_res, extra)
