"""The small locator as a folder, and as a `contracts.Locator`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from terralabel.core.files import atomic_path, write_text
from terralabel.core.tile import Tile
from terralabel.errors import WeightsError
from terralabel.nets.backbones import choose_device, package
from terralabel.nets.checkpoints import check, compare_keys, read_state

if TYPE_CHECKING:
    from torch import Tensor

    from terralabel.nets.grounding.small import PhraseNet

__all__ = ["SMALL", "SmallLocator", "looked_at", "read_small", "write_small"]

#: The file that says what the folder holds, and the weights beside it.
SMALL, _WEIGHTS = "locator.json", "locator.safetensors"
_VERSION = 1
#: A text finds at most so many boxes in a picture.
_MOST = 100


def write_small(net: PhraseNet, folder: Path, eyes: str, note: dict[str, Any]) -> None:
    """Weights, then `locator.json`, which names their sha256 and that of the eyes, and carries `note`: each whole or not there."""
    from safetensors.torch import save_file

    with atomic_path(folder / _WEIGHTS) as temporary:
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, str(temporary))
    made = {"version": _VERSION, "sha256": check(folder / _WEIGHTS).sha256, "eyes": eyes, **note}
    write_text(folder / SMALL, json.dumps(made, indent=1) + "\n")


def read_small(folder: Path, eyes: str) -> tuple[PhraseNet, str]:
    """(the network, the sha256 of its weights).

    `WeightsError` for a folder that is damaged, of another version, or that learned with other eyes than those of sha256 `eyes`.
    """
    from terralabel.nets.grounding.small import PhraseNet

    try:
        made = json.loads((folder / SMALL).read_text(encoding="utf-8"))
        version, sha256, seen_with = made["version"], str(made["sha256"]), made["eyes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{folder / SMALL}: missing or damaged; run `terralabel refer fit` again.") from error
    if version != _VERSION:
        raise WeightsError(f"{folder}: a locator of version {version}; this terralabel reads {_VERSION}: fit it again.")
    if seen_with != eyes:
        raise WeightsError(f"{folder}: fitted with the encoder of another terralabel: fit it again.")
    report = check(folder / _WEIGHTS, sha256)
    net, state = PhraseNet(), read_state(folder / _WEIGHTS, report)
    compare_keys(state, net.state_dict(), f"{folder / _WEIGHTS} as a small locator")
    torch = package("torch")
    net.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    return net.eval(), sha256


def looked_at(picture: np.ndarray, eyes: Any) -> tuple[Tensor, float]:
    """((1, h, w, c) features of a picture (H, W, 3) uint8, pixels of the picture to a cell)."""
    from terralabel.nets.grounding.small import CELL, SIDE

    torch = package("torch")
    height, width = picture.shape[:2]
    factor = SIDE / max(height, width)
    size = max(CELL, round(width * factor)), max(CELL, round(height * factor))
    shown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    below, right = -size[1] % CELL, -size[0] % CELL
    shown = np.pad(shown, ((0, below), (0, right), (0, 0)), mode="edge")
    with torch.inference_mode():
        features = eyes(torch.from_numpy(shown.astype(np.float32) / 127.5 - 1)[None])
    return features.clone(), CELL / factor


@dataclass(frozen=True)
class SmallLocator:
    """A locator that `refer fit` trained; loaded when it is first asked."""

    argument: str
    device: str = "auto"

    @property
    def name(self) -> str:
        """The name it goes by in `--locator`."""
        return f"fitted:{self.argument}"

    @property
    def version(self) -> str:
        """Changes with the weights. Loads the network."""
        return f"small-{_VERSION}-{self._loaded[1][:16]}"

    @cached_property
    def _loaded(self) -> tuple[PhraseNet, str, Any]:
        from terralabel.nets.grounding.eyes import load_eyes

        eyes, seen_with = load_eyes()
        net, sha256 = read_small(Path(self.argument).expanduser(), seen_with)
        return net.to(choose_device(self.device)), sha256, eyes

    def on(self, device: str) -> SmallLocator:
        """The same on a device."""
        return replace(self, device=device)

    def locate(self, tile: Tile, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `contracts.Locator`: the hundred surest."""
        from terralabel.nets.grounding.small import word_numbers

        torch = package("torch")
        net, _, eyes = self._loaded
        place = next(net.parameters()).device
        picture = tile.rgb("give an image with three bands (--bands 1,2,3)")
        features, cell = looked_at(picture, eyes)
        with torch.inference_mode():
            logits, boxes = net(features.to(place), word_numbers([text]).to(place))
        best = torch.argsort(logits[0], descending=True, stable=True)[:_MOST]
        height, width = picture.shape[:2]
        xyxy = (boxes[0, best] * cell).cpu().numpy().clip(0, [width, height, width, height])
        keep = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        return xyxy[keep].astype(np.float32), logits[0, best].sigmoid().cpu().numpy()[keep].astype(np.float32)
