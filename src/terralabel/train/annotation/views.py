"""ELNet over a scene of any size, with all that a judge of its labels wants to know: mirror images and coarser outputs.

Where a network of `nets.segmentation` gives one map a class, `Views` gives several layers of maps, blended alike:

    first       the probabilities, over the mirror images' mean if there are any
    sides       those of the two coarser outputs of the picture as it is
    turned      those of each mirror image, turned back
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from terralabel.nets.elnet.network import ELNet, as_classes
from terralabel.train.segmentation.inference import Mapper, as_input, autocast

__all__ = ["Layers", "Views"]

#: Axes that a picture is mirrored along: not at all, left to right, upside down, both.
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
_SIDES = 2


@dataclass(frozen=True)
class Layers:
    """What the channels of `Views` mean, for `classes` K: of two classes each layer is one map, that of the second."""

    classes: int
    flips: bool

    @property
    def maps(self) -> int:
        """Maps of a layer."""
        return 1 if self.classes == 2 else self.classes

    @property
    def count(self) -> int:
        """Channels in all."""
        return self.maps * (1 + _SIDES + (len(_MIRRORS) - 1 if self.flips else 0))

    def split(self, channels: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """(first, sides, turned) of channels (C, h, w) in [0, 1]: each (K, h, w) float32."""
        layers = [self._whole(channels[i : i + self.maps]) for i in range(0, len(channels), self.maps)]
        return layers[0], tuple(layers[1 : 1 + _SIDES]), tuple(layers[1 + _SIDES :])

    def _whole(self, maps: np.ndarray) -> np.ndarray:
        maps = maps.astype(np.float32, copy=False)
        return np.concatenate([1 - maps, maps]) if self.classes == 2 else maps


class Views(Mapper):
    """See the module; `flips`: with mirror images, four times the work."""

    network: ELNet

    def __init__(self, network: ELNet, device: torch.device, *, flips: bool, **how: int | str) -> None:
        super().__init__(network, device, **how)  # type: ignore[arg-type]
        self.layers = Layers(network.classes, flips)

    @property
    def channels(self) -> int:
        """See `Layers.count`."""
        return self.layers.count

    @torch.inference_mode()
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, h, w) float32 of (B, h, w, bands) uint8: the layers one after the other."""
        batch = as_input(self.network, pixels, self.device)
        views, sides = [], []
        for axes in _MIRRORS if self.layers.flips else _MIRRORS[:1]:
            with autocast(self.device, self.precision):
                outputs, _ = self.network.outputs(batch.flip(axes) if axes else batch)
            first = self._soft(outputs[0])
            views.append(first.flip(axes) if axes else first)
            sides += [] if axes else [self._soft(logits) for logits in outputs[1:]]
        mean = torch.stack(views).mean(0)
        return torch.cat([mean, *sides, *views[1:]], 1).cpu().numpy()

    def _soft(self, logits: Tensor) -> Tensor:
        """Probabilities (b, maps, h, w): of two classes the second one's."""
        soft = as_classes(logits.float()).softmax(1)
        return soft[:, 1:] if self.layers.classes == 2 else soft
