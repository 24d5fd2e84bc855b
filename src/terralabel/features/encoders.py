"""Features from any image encoder: the network sees the tile once, each mask gets the exact mean of its maps.

    timm:MODEL            weights from the hub, for example timm:resnet50.a1_in1k
    timm:MODEL@FILE       weights from a file (safetensors, or a torch file that runs nothing)
    hf:NAME or hf:FOLDER  transformers: DINOv2, DINOv3, ViT, Swin, ConvNeXt...
    mobilenet_v2:FILE     the small ImageNet encoder; without :FILE, from the cache

**Bands.** One band is repeated three times. Of three or more optical bands the first three are red, green, blue. Two
bands, and several bands of SAR, are refused: choose one or three with `bands`.
**Pixels** are scaled to [0, 1] and normalised with the network's own mean and deviation; invalid pixels become the mean.
**Size.** A network that takes any size sees the tile whole, mirrored at the right and bottom to a multiple of its
stride; one trained for a single size sees windows of that size side by side, and their maps are put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.features.pooled import pool, unit_length
from terralabel.nets import backbones
from terralabel.nets.backbones import Backbone

__all__ = ["Encoder", "feature_maps", "hf", "mobilenet_v2", "timm"]

_LOADERS = {"mobilenet_v2": backbones.load_mobilenet, "timm": backbones.load_timm, "hf": backbones.load_hf}
#: Windows sent through the network at once.
_WINDOWS_AT_ONCE = 8


@lru_cache(maxsize=2)
def _backbone(kind: str, argument: str, device: str) -> Backbone:
    """The loaded network; once per process, so an `Encoder` is small to pickle."""
    return _LOADERS[kind](argument, device)


@dataclass(frozen=True)
class Encoder:
    """A `FeatureExtractor` around a network: mean of each tap's map over the mask, each to length 1, side by side.

    `kind` is "timm", "hf" or "mobilenet_v2", `argument` what stands after the colon, `device` "auto", "cpu" or "cuda:N".
    On the CPU it runs on one thread, so the same bytes come from any number of workers.
    """

    kind: str
    argument: str = ""
    device: str = "auto"
    needs_encoded: bool = False
    scaling: str = "none"

    @property
    def name(self) -> str:
        """Kind and model, without the place of a file: results belong to the weights (`version`), wherever they lie."""
        model = self.argument.partition("@")[0]
        if self.kind == "mobilenet_v2":
            return self.kind
        return f"{self.kind}:{Path(model).name if Path(model).is_dir() else model}"

    @property
    def version(self) -> str:
        """Changes with the weights, whatever file they come from. Loads the network."""
        return f"1-{self._loaded.digest[:16]}"

    @property
    def _loaded(self) -> Backbone:
        return _backbone(self.kind, self.argument, self.device)

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32. Raises `SettingsError` for bands the network cannot take, `WeightsError` when it does not load."""
        if not len(masks):
            return np.zeros((0, 0), dtype=np.float32)  # the network need not look
        maps = feature_maps(self._loaded, tile)
        return np.concatenate([unit_length(pool(masks, values, covers)) for values, covers in maps], axis=1)


def mobilenet_v2(argument: str = "", *, device: str = "auto") -> Encoder:
    """ImageNet MobileNetV2 from a file of folded weights, or from the cache: strides 4 to 32, 472 numbers a mask."""
    return Encoder("mobilenet_v2", argument, device)


def timm(argument: str, *, device: str = "auto") -> Encoder:
    """An encoder of timm: MODEL or MODEL@FILE."""
    return Encoder("timm", argument, device)


def hf(argument: str, *, device: str = "auto") -> Encoder:
    """An encoder of transformers: a hub name or a folder."""
    return Encoder("hf", argument, device)


def feature_maps(net: Backbone, tile: Tile) -> list[tuple[np.ndarray, tuple[float, float]]]:
    """((h, w, d) float32, (rows, columns) of cells that span the tile) of each tap."""
    height, width = tile.size
    side_y, side_x = (net.window or -(-length // net.multiple) * net.multiple for length in tile.size)
    rows, columns = -(-height // side_y), -(-width // side_x)
    normalised = (tile.rgb("features appearance") / np.float32(255) - np.array(net.mean, dtype=np.float32)) / np.array(
        net.std, dtype=np.float32
    )
    normalised[~tile.valid] = 0
    padding = (0, rows * side_y - height), (0, columns * side_x - width), (0, 0)
    padded = np.pad(normalised.astype(np.float32), padding, mode="symmetric")
    windows = padded.reshape(rows, side_y, columns, side_x, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side_y, side_x)
    out = []
    for values in _run(net, windows):  # (rows * columns, d, h, w)
        _, d, h, w = values.shape
        whole = values.reshape(rows, columns, d, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, d)
        out.append((whole, (height / side_y * h, width / side_x * w)))
    return out


def _run(net: Backbone, windows: np.ndarray) -> list[np.ndarray]:
    """Each tap's maps of all windows, (n, d, h, w) float32."""
    import torch

    parts = []
    with torch.inference_mode(), _one_thread(net.device):
        for first in range(0, len(windows), _WINDOWS_AT_ONCE):
            batch = torch.from_numpy(np.ascontiguousarray(windows[first : first + _WINDOWS_AT_ONCE])).to(net.device)
            parts.append([values.float().cpu().numpy() for values in net.maps(batch)])
    return [np.concatenate(taps) for taps in zip(*parts, strict=True)]


@contextmanager
def _one_thread(device: str) -> Iterator[Any]:
    """Sums must not depend on how many threads share them."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
