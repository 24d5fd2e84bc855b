"""The network's file: float16 safetensors, checked by its sha256 before it is used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from terralabel.core.files import atomic_path
from terralabel.errors import WeightsError
from terralabel.nets.checkpoints import compare_keys
from terralabel.nets.nano.network import NanoNet

__all__ = ["SHA256", "SHIPPED", "load_network", "write_network"]

#: The file in the package, and what it holds.
SHIPPED = Path(__file__).with_name("nano.safetensors")
SHA256 = "32ca0f4731a3850eeec7e7849743595b60804447f15042512e3636c734bf9e1b"


def write_network(state: dict[str, Tensor], path: Path) -> str:
    """Write a state dict in float16; returns the file's sha256."""
    stored = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in sorted(state.items())
        if not key.endswith("num_batches_tracked")
    }
    data = save(stored)
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def load_network(path: Path = SHIPPED, sha256: str | None = None) -> tuple[NanoNet, str]:
    """The network in evaluation mode with float32 weights, and its file's sha256.

    Raises `WeightsError` when the file is missing, is not the expected one (`sha256`; the shipped file is always checked),
    or holds another architecture.
    """
    if not path.exists():
        raise WeightsError(f"{path}: the network's file is missing; reinstall terralabel, or train one with `make train-nano`.")
    data = path.read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), sha256 or (SHA256 if path == SHIPPED else None)
    if expected and found != expected:
        raise WeightsError(
            f"{path}: sha256 is {found[:12]}, expected {expected[:12]}: the file is damaged; reinstall terralabel."
        )
    net = NanoNet()
    state = {key: value.float() if value.is_floating_point() else value for key, value in load(data).items()}
    wanted = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    compare_keys(state, wanted, f"{path} as the network of masks nano")
    net.load_state_dict(state, strict=False)
    return _folded(net.eval().requires_grad_(False)).to(memory_format=torch.channels_last), found  # type: ignore[call-overload]


def _folded(net: NanoNet) -> NanoNet:
    """The same function with batch norm folded into the convolutions before it."""
    for module in net.modules():
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d):
            module[0] = fuse_conv_bn_eval(module[0], module[1])  # type: ignore[type-var]
            module[1] = nn.Identity()
    return net
