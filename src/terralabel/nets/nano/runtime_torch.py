"""`masks nano` by torch, on the CPU with one thread or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from terralabel.errors import SettingsError
from terralabel.nets.nano.network import Seen, describe, prompt_channels
from terralabel.nets.nano.runtime import Asked
from terralabel.nets.nano.shipped import load_network

__all__ = ["TorchRuntime"]


class TorchRuntime:
    """See `runtime.Runtime`. Raises `SettingsError` for a device that is not there."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        net, self.digest = load_network(weights)
        try:
            self._net, self._device = net.to(device), torch.device(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"device {device!r}: torch cannot use it ({reason}); give --device cpu.") from error
        self.kind = "torch" if device == "cpu" else f"torch-{self._device.type}"

    def encode(self, picture: np.ndarray) -> Seen:
        """See `Runtime`."""
        with _inference():
            return self._net.encode(self._tensor(picture)[None].permute(0, 3, 1, 2))  # channels last in memory

    def describe(self, seen: Seen) -> np.ndarray:
        """See `Runtime`."""
        with _inference():
            return describe(seen)[0].permute(1, 2, 0).contiguous().cpu().numpy()

    def guess(self, seen: Seen, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Runtime`."""
        with _inference():
            place = self._tensor(xy)[None]
            boxes, fits = self._net.guess(self._net.features_at(seen, place), place)
            return boxes[0].cpu().numpy(), fits[0].sigmoid().cpu().numpy()

    def decode(self, seen: Seen, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        """See `Runtime`."""
        with _inference():
            windows = self._tensor(asked.windows)
            prompts = prompt_channels(
                windows, asked.rough.shape[-1], asked.size, self._tensor(asked.boxes), self._tensor(asked.sure),
                self._tensor(asked.points), torch.from_numpy(asked.labels).to(self._device), self._tensor(asked.rough),
            )  # fmt: skip
            logits, expected = self._net.decode(seen, windows[None], prompts)
            return logits.cpu().numpy(), expected.sigmoid().cpu().numpy()

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self._device)


@contextmanager
def _inference() -> Iterator[None]:
    """Without gradients and with one thread: the last bits depend on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
