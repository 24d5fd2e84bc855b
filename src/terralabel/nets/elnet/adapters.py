"""Adapters: the little that learns around the blocks of a frozen trunk (SAM2-ELNet, section on the encoder; SAM2-UNet).

    block(x)   becomes   block(x + GELU(W_up GELU(W_down x)))

They are hung before the blocks as hooks, so that a trunk keeps its modules, its names and its weights as they were published.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from terralabel.errors import SettingsError

__all__ = ["BOTTLENECK", "Adapter", "attach", "blocks_of"]

#: Width between the two projections.
BOTTLENECK = 32
#: Names of the classes that libraries give to what is repeated in their encoders.
_BLOCKS = ("Block", "Bottleneck", "InvertedResidual", "DepthwiseSeparableConv", "EdgeResidual", "UniversalInvertedResidual")


class Adapter(nn.Module):
    """What is added to a block's input. `last` says where its channels are: in the last dimension, or in the second."""

    def __init__(self, channels: int, last: bool, bottleneck: int = BOTTLENECK) -> None:
        super().__init__()
        self.last = last
        self.down, self.up = nn.Linear(channels, bottleneck), nn.Linear(bottleneck, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x + GELU(W_up GELU(W_down x)), of the shape of x: (..., channels), or (b, channels, h, w)."""
        moved = x if self.last else x.movedim(1, -1)
        added = gelu(self.up(gelu(self.down(moved))))
        return x + (added if self.last else added.movedim(-1, 1))


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The repeated blocks of an encoder in the order of its modules, none inside another; told by the names of their classes."""
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        for child in module.children():
            if any(type(child).__name__.endswith(name) for name in _BLOCKS):
                found.append(child)
            else:
                walk(child)

    walk(net)
    return found


def attach(trunk: nn.Module, blocks: Iterable[nn.Module], probe: Tensor) -> nn.ModuleList:
    """An adapter before each of a trunk's blocks; returns them in the order in which the blocks are passed.

    `probe` is an input of the trunk: its way through tells each block's channels, and which blocks are passed at all. Raises
    `SettingsError` for a trunk without blocks.
    """
    seen: list[tuple[nn.Module, int, bool]] = []

    def note(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append((block, *_channels(block, inputs[0])))

    hooks = [block.register_forward_pre_hook(note) for block in blocks]
    training = trunk.training
    try:
        with torch.no_grad():
            trunk.eval()(probe)
    finally:
        trunk.train(training)
        for hook in hooks:
            hook.remove()
    if not seen:
        raise SettingsError(f"{type(trunk).__name__} has no blocks that adapters could stand before: let everything learn.")
    adapters = nn.ModuleList(Adapter(channels, last) for _, channels, last in seen)
    for (block, _, _), adapter in zip(seen, adapters, strict=True):
        block.register_forward_pre_hook(_Before(adapter))
    return adapters


class _Before:
    """Passes a block's first input through an adapter; holds it without becoming its owner."""

    def __init__(self, adapter: nn.Module) -> None:
        self.adapter = adapter

    def __call__(self, block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.adapter(inputs[0]), *inputs[1:])


def _channels(block: nn.Module, x: Tensor) -> tuple[int, bool]:
    """(channels, whether they are the last dimension) of what a block was given: its first weights tell."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and x.ndim == 4:
            return module.in_channels, False
        if isinstance(module, (nn.LayerNorm, nn.Linear)):
            return x.shape[-1], True
        if isinstance(module, nn.BatchNorm2d):
            return module.num_features, False
    raise SettingsError(f"{type(block).__name__}: neither convolutions nor linear layers: no adapter fits before it.")
