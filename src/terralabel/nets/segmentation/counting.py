"""Parameters and FLOPs of a network, counted on the meta device: nothing is allocated, nothing computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from terralabel.errors import SettingsError
from terralabel.nets.segmentation.building import build
from terralabel.nets.segmentation.catalogue import DESIGNS
from terralabel.nets.segmentation.network import Network

__all__ = ["Cost", "cost", "count", "networks_table"]


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    parameters   trainable numbers, the auxiliary head's included
    auxiliary    those of the auxiliary head, which prediction does not need
    flops        multiply-adds of one forward pass without the auxiliary head: convolutions and matrix products, attention's
                 included. One multiplication with its addition counts once, as in the literature and in fvcore.
    """

    parameters: int
    auxiliary: int
    flops: int


_HEADINGS = ("name", "parameters", "FLOPs", "input", "trained by", "source")


def networks_table(names: Sequence[str], classes: int = 16, bands: int = 3, side: int = 512) -> Iterator[str]:
    """The lines that `terralabel networks list` prints, each network's as soon as it is counted."""
    width = max(len(name) for name in (*names, _HEADINGS[0]))
    for i, asked in enumerate(names):
        row = _row(asked, classes, bands, side)
        if i == 0:  # not before the first name is known to be good
            yield _line(_HEADINGS, width)
        yield _line(row, width)
    yield f"parameters in millions, the auxiliary head's included; FLOPs in 10^9 multiply-adds at {side} px; {classes} classes"


def _line(row: tuple[str, ...], width: int) -> str:
    name, parameters, flops, shape, training, source = row
    return f"{name:{width}}  {parameters:>10}  {flops:>7}  {shape:13}  {training:17}  {source}".rstrip()


def _row(name: str, classes: int, bands: int, side: int) -> tuple[str, ...]:
    with torch.device("meta"):
        network = build(name, classes, bands)
    found, schedule = count(network, (side, side)), network.schedule
    return (
        network.name,
        f"{found.parameters / 1e6:.2f}",
        f"{found.flops / 1e9:.1f}",
        f"{bands} x any, /{network.multiple}",
        f"{schedule.optimizer} {schedule.lr:g}, {schedule.iterations // 1000}k",
        DESIGNS[network.name].source if network.name in DESIGNS else network.name.partition(":")[0],
    )


def cost(name: str, classes: int = 16, bands: int = 3, size: tuple[int, int] = (512, 512)) -> Cost:
    """Parameters and FLOPs of a network by name, for one image of `size` (height, width)."""
    if min(size) < 1:
        raise SettingsError(f"Got an image of {size[0]} x {size[1]} pixels; expected 1 or more each way.")
    with torch.device("meta"):
        network = build(name, classes, bands)
    return count(network, size)


def count(network: Network, size: tuple[int, int] = (512, 512)) -> Cost:
    """The same of a network that lies on the meta device."""
    counter, training = FlopCounterMode(display=False), network.training
    image = torch.empty(1, network.bands, *size, device="meta")
    with torch.no_grad(), counter:
        network.eval()(image)
    network.train(training)
    numbers = sum(p.numel() for p in network.parameters())
    extra = sum(p.numel() for p in network.auxiliary.parameters()) if network.auxiliary is not None else 0
    return Cost(numbers, extra, int(counter.get_total_flops()) // 2)
