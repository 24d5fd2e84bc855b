"""The network's file: safetensors, checked by its sha256 before it is used. Read without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from terralabel.core.files import atomic_path
from terralabel.errors import MissingExtraError, WeightsError
from terralabel.nets.checkpoints import compare_keys

if TYPE_CHECKING:
    from torch import Tensor, nn

    from terralabel.nets.nano.network import NanoNet

__all__ = ["SHA256", "SHIPPED", "load_network", "read_network", "read_weights", "write_network"]

#: The file in the package, and what it holds.
SHIPPED = Path(__file__).with_name("nano.safetensors")
SHA256 = "10062922f72b02b73e0d74b21aba57f858526d9e9e66c118b896188f692e5bbe"


def write_network(state: dict[str, Tensor], path: Path) -> str:
    """Write a state dict; returns the file's sha256. Float16, but for what batch norm measured: a variance may exceed its range."""
    from safetensors.torch import save

    stored = {
        key: (value.half() if value.is_floating_point() and "running_" not in key else value).contiguous()
        for key, value in sorted(state.items())
        if not key.endswith("num_batches_tracked")
    }
    data = save(stored)
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_weights(path: Path = SHIPPED, sha256: str | None = None) -> tuple[dict[str, np.ndarray], str]:
    """The file's arrays, float32, and its sha256.

    Raises `WeightsError` when the file is missing, is no safetensors, or is not the expected one (`sha256`; the shipped file is
    always checked), `MissingExtraError` without the package safetensors.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load
    except ImportError as error:
        raise MissingExtraError(f"masks nano needs the package {error.name!r}: pip install 'terralabel[nano]'.") from error
    if not path.exists():
        raise WeightsError(f"{path}: the network's file is missing; reinstall terralabel, or train one with `make train-nano`.")
    data = path.read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), sha256 or (SHA256 if path == SHIPPED else None)
    if expected and found != expected:
        raise WeightsError(
            f"{path}: sha256 is {found[:12]}, expected {expected[:12]}: the file is damaged; reinstall terralabel."
        )
    try:
        return {key: value.astype(np.float32) for key, value in load(data).items()}, found
    except SafetensorError as error:
        raise WeightsError(f"{path}: is no safetensors file ({error}); give one that `make train-nano` wrote.") from error


def load_network(path: Path = SHIPPED, sha256: str | None = None) -> tuple[NanoNet, str]:
    """The network of torch in evaluation mode, batch norm folded away, and its file's sha256; errors as in `read_weights`."""
    import torch

    net, found = read_network(path, sha256)
    return _folded(net.eval().requires_grad_(False)).to(memory_format=torch.channels_last), found  # type: ignore[call-overload]


def read_network(path: Path = SHIPPED, sha256: str | None = None) -> tuple[NanoNet, str]:
    """The network of torch as it was trained, with float32 weights, and its file's sha256; errors as in `read_weights`."""
    import torch

    from terralabel.nets.nano.network import NanoNet

    arrays, found = read_weights(path, sha256)
    net = NanoNet()
    wanted = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    compare_keys(arrays, wanted, f"{path} as the network of masks nano")
    net.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()}, strict=False)
    return net, found


def _folded(net: NanoNet) -> NanoNet:
    """The same function with batch norm folded into the convolutions before it."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in net.modules():
        if _normalised(module):
            module[0] = fuse_conv_bn_eval(module[0], module[1])  # type: ignore[index,operator]
            module[1] = nn.Identity()  # type: ignore[operator]
    return net


def _normalised(module: nn.Module) -> bool:
    """Whether it is a convolution, its batch norm and what follows."""
    from torch import nn

    return isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d)
