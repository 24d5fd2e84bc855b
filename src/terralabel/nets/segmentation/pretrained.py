"""ImageNet weights for a backbone: from the hub by the catalogue's name, or from a file. Offline is normal.

Read by `checkpoints.read_state`, so nothing in a file is run. A file fits when it has every tensor of the backbone, under
the names of timm, of the backbone's authors, or of mmsegmentation's ResNet; classifiers in it are left aside. Position embeddings
of another image size are interpolated, the first convolution is spread over other numbers of bands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terralabel.errors import WeightsError
from terralabel.nets.checkpoints import compare_keys, read_state
from terralabel.nets.hub import hub_file
from terralabel.nets.segmentation.network import Network

__all__ = ["load_backbone", "load_encoder"]

_PREFIXES = ("", "module.", "model.", "backbone.", "encoder.", "net.", "backbone.net.")
#: mmsegmentation's ResNetV1c and V1d -> timm: the stem's convolutions and norms by their place.
_STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}


def load_backbone(network: Network, hub: str, weights: str | Path) -> str:
    """Put weights into a network's backbone; returns where they come from. See `load_encoder`."""
    net = getattr(network.backbone, "net", network.backbone)
    return load_encoder(net, hub, weights, f"the backbone of {network.name}")


def load_encoder(net: nn.Module, hub: str, weights: str | Path, what: str) -> str:
    """Put weights into an encoder; returns where they come from.

    `weights`: "imagenet" (the repository `hub`), "auto" (the same, or random weights where it is not to be had), or a file.
    `what` it is, in messages. Raises `WeightsError` where they cannot be had or do not fit.
    """
    if str(weights) not in ("imagenet", "auto"):
        path = Path(weights).expanduser()
        _load(net, path, what)
        return str(path)
    try:
        _load(net, _hub_path(what, hub), what)
    except WeightsError as error:
        if str(weights) == "imagenet":
            raise
        return f"random weights ({error})"
    return f"ImageNet, {hub}"


def _hub_path(what: str, hub: str) -> Path:
    if not hub:
        raise WeightsError(f"{what}: no ImageNet weights are known on the hub; give a file.")
    return hub_file(hub, "model.safetensors", "a file of the backbone's weights")


def _load(net: nn.Module, path: Path, what: str) -> None:
    wanted = net.state_dict()
    found = _named_as(net, {key: torch.as_tensor(value) for key, value in read_state(path).items()}, wanted)
    for key, value in wanted.items():
        if key in found:
            found[key] = _spread(found[key], value)
    # a counter that older files lack and that nothing but momentum-free norms reads
    found.update({key: value for key, value in wanted.items() if key.endswith("num_batches_tracked") and key not in found})
    compare_keys(found, wanted, f"{path} as {what}")
    net.load_state_dict({key: found[key] for key in wanted})


def _named_as(net: nn.Module, state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names of `wanted`: the prefix, then the translation, that makes most of them fit."""
    options = [{k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)} for prefix in _PREFIXES]
    best = max(options, key=lambda option: len(option.keys() & wanted.keys()))
    renamed = {re.sub(r"^stem\.(\d)\b", lambda m: _STEM.get(m[1], m[0]), key): value for key, value in best.items()}
    best = max((best, renamed), key=lambda option: len(option.keys() & wanted.keys()))
    translate: Any = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return best
    try:  # timm's own: names of the authors, position embeddings and window tables of other sizes
        translated = dict(translate(dict(best), net))
    except (KeyError, AttributeError, RuntimeError, IndexError, TypeError):  # a file of another architecture
        return best
    return max((translated, best), key=lambda option: _fitting(option, wanted))


def _fitting(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    return sum(key in state and state[key].shape == value.shape for key, value in wanted.items())


def _spread(kernel: Tensor, wanted: Tensor) -> Tensor:
    """The first convolution (o, 3, k, k) for other bands: its channels in turn, the sum over all as before."""
    fits = kernel.ndim == wanted.ndim == 4 and kernel.shape[0] == wanted.shape[0] and kernel.shape[2:] == wanted.shape[2:]
    bands = wanted.shape[1] if wanted.ndim == 4 else 0
    if not fits or kernel.shape[1] != 3 or bands == 3:
        return kernel
    if bands == 1:
        return kernel.sum(1, keepdim=True)
    turns = torch.arange(bands) % 3
    return kernel[:, turns] * (3 / bands)
