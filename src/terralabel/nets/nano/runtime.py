"""Who computes the network of `masks nano`: onnxruntime where it is installed, else torch; torch on a GPU.

Both take and give numpy arrays and compute the same to about 1e-5. On the CPU both use one thread, so that the same input gives
the same bytes: cores are filled by the workers of `label`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from terralabel.errors import MissingExtraError
from terralabel.nets.nano.shipped import SHIPPED

__all__ = ["Asked", "Runtime", "load_runtime", "who_computes"]


@dataclass(frozen=True)
class Asked:
    """`n` prompts of one picture of `size` (h, w), in its pixels; arrays float32 but `labels`, int64.

    windows (n, 4) xyxy, where to look; boxes (n, 4) with `sure` (n,) 1 for a box that was given, less for one that was guessed,
    0 for none; points (n, p, 2) and labels (n, p) 1 object, 0 background, -1 none; rough (n, g, g) in [-1, 1] over the
    windows' g x g cells.
    """

    size: tuple[int, int]
    windows: np.ndarray
    boxes: np.ndarray
    sure: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    rough: np.ndarray


class Runtime(Protocol):
    """The network, loaded. What `encode` returns belongs to the runtime that made it."""

    #: Part of the backend's version: the last bits of two runtimes differ.
    kind: str
    #: sha256 of the weights' file.
    digest: str

    def encode(self, picture: np.ndarray) -> Any:
        """All that prompts need of a picture (h, w, 3) float32 in [-1, 1], h and w multiples of 64."""
        ...

    def describe(self, seen: Any) -> np.ndarray:
        """What kinds of objects are told apart by, (h / 8, w / 8, 128) float32 (`network.describe`)."""
        ...

    def guess(self, seen: Any, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 3, 4) float32 xyxy at points (n, 2) of the picture, small to large, and the IoU expected of them (n, 3)."""
        ...

    def decode(self, seen: Any, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, g, g) float32 over the windows and the IoU to expect (n,)."""
        ...


def who_computes(device: str = "auto") -> str:
    """The package that computes the network on `device`: "onnxruntime", "torch", or "" where none is installed."""
    wanted = ("onnxruntime", "torch") if device in ("auto", "cpu") else ("torch",)
    return next((name for name in wanted if find_spec(name) is not None), "")


def load_runtime(weights: Path = SHIPPED, device: str = "auto") -> Runtime:
    """The runtime for `device`: "auto" and "cpu" mean the CPU, all else is a device of torch.

    Raises `MissingExtraError` where the packages are missing, `WeightsError` for a file that is not this network's.
    """
    found, on_cpu = who_computes(device), device in ("auto", "cpu")
    if found == "onnxruntime":
        from terralabel.nets.nano.runtime_onnx import OnnxRuntime

        return OnnxRuntime(weights)
    if found == "torch":
        from terralabel.nets.nano.runtime_torch import TorchRuntime

        return TorchRuntime(weights, "cpu" if on_cpu else device)
    needed = "onnxruntime: pip install 'terralabel[nano]'" if on_cpu else "torch: pip install 'terralabel[torch]'"
    raise MissingExtraError(f"masks nano on {'the CPU' if on_cpu else device} needs {needed}.")
