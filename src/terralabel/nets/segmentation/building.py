"""A network by name: one of the catalogue, any of segmentation-models-pytorch, any backbone of timm under a head of ours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from terralabel.errors import SettingsError
from terralabel.nets.segmentation.all_mlp import AllMlpHead
from terralabel.nets.segmentation.aspp import ASPPHead
from terralabel.nets.segmentation.backbones import Plain, takes_any_size, timm_backbone
from terralabel.nets.segmentation.blocks import initialise
from terralabel.nets.segmentation.catalogue import Auxiliary, Design, find
from terralabel.nets.segmentation.fcn import AuxiliaryHead, ConcatenationHead
from terralabel.nets.segmentation.mask_transformer import MaskTransformerHead
from terralabel.nets.segmentation.mit import MIT_SIZES, MixTransformer
from terralabel.nets.segmentation.multilevel import MultiLevelNeck
from terralabel.nets.segmentation.network import Network, per_band
from terralabel.nets.segmentation.pretrained import load_backbone
from terralabel.nets.segmentation.pyramid_pooling import PSPHead
from terralabel.nets.segmentation.schedules import CONVOLUTIONAL, TRANSFORMER
from terralabel.nets.segmentation.upernet import UPerHead

__all__ = ["HEADS", "assemble", "build"]

#: Heads that go on the maps of any backbone: ``timm:MODEL:HEAD``.
HEADS = ("upernet", "pspnet", "fcn", "aspp", "all-mlp", "mask-transformer")
_HEAD_CLASSES: dict[str, Any] = {
    "upernet": UPerHead,
    "multilevel-upernet": UPerHead,
    "pspnet": PSPHead,
    "fcn": ConcatenationHead,
    "all-mlp": AllMlpHead,
    "mask-transformer": MaskTransformerHead,
}
#: Width of a head that is put on a backbone by name.
_WIDTH = 256


def build(
    name: str,
    classes: int,
    bands: int = 3,
    auxiliary: bool = True,
    *,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> Network:
    """The network `name` for so many classes and bands, on the current default device (`torch.device("meta")` costs nothing).

    name       of `catalogue.names()`; ``smp:unet:resnet18``; ``timm:convnext_tiny`` (UPerNet) or ``timm:convnext_tiny:fcn``
    auxiliary  with the auxiliary head where the network has one
    weights    of the backbone: None for random ones, "imagenet" for those of the hub, "auto" for those of the hub or
               else random ones (`Network.origin` says which), or a file
    seed       of the random weights; None goes on from torch's own generator

    Raises `SettingsError` for an unknown name or an impossible number, `WeightsError` for weights that cannot be had or do
    not fit, `MissingExtraError` where segmentation-models-pytorch is wanted and not installed.
    """
    if classes < 1 or bands < 1:
        raise SettingsError(f"{name}: got {classes} classes and {bands} bands; expected 1 or more of each.")
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        network, hub = _by_name(name, classes, bands, auxiliary)
    if weights is not None:
        network.origin = load_backbone(network, hub, weights)
    return network


def _by_name(name: str, classes: int, bands: int, auxiliary: bool) -> tuple[Network, str]:
    """The network with random weights, and the hub's repository of its backbone ("" where none is known)."""
    kind, _, rest = name.partition(":")
    if kind == "smp" and rest:
        from terralabel.nets.segmentation.smp import smp_network

        return smp_network(rest, classes, bands, auxiliary)
    design = _timm_design(rest, bands) if kind == "timm" and rest else find(name)
    return assemble(design, classes, bands, auxiliary), design.hub


def assemble(design: Design, classes: int, bands: int = 3, auxiliary: bool = True) -> Network:
    """The network of a design, with random weights."""
    backbone = _backbone(design, bands)
    neck = MultiLevelNeck(backbone.channels, backbone.channels[-1]) if design.head.startswith("multilevel") else None
    channels: Sequence[int] = neck.channels if neck is not None else backbone.channels
    head = _head(design, channels, classes)
    extra = None
    if auxiliary and design.auxiliary is not None:
        level = design.auxiliary.level
        extra = AuxiliaryHead(channels[level], level, design.auxiliary.width, classes)
    for part in (head, extra):
        if part is not None and not isinstance(part, MaskTransformerHead):
            initialise(part)
    return Network(
        design.name,
        backbone,
        head,
        classes=classes,
        bands=bands,
        mean=per_band(design.mean, bands),
        std=per_band(design.std, bands),
        schedule=design.schedule,
        neck=neck,
        auxiliary=extra,
        auxiliary_weight=design.auxiliary.weight if design.auxiliary else 0.0,
    )


def _backbone(design: Design, bands: int) -> Any:
    if design.backbone in MIT_SIZES:
        return MixTransformer(MIT_SIZES[design.backbone], bands, design.drop_path)
    last = design.head == "mask-transformer"
    drop_path = design.drop_path or None
    return timm_backbone(design.backbone, bands, stride=design.stride, drop_path=drop_path, last=last)


def _head(design: Design, channels: Sequence[int], classes: int) -> nn.Module:
    if design.head == "aspp":
        return ASPPHead(channels, design.width, classes, design.low_width)
    return _HEAD_CLASSES[design.head](channels, design.width, classes)


@lru_cache(maxsize=64)  # probing a model takes longer than building it
def _timm_design(rest: str, bands: int) -> Design:
    """The design of ``MODEL`` or ``MODEL:HEAD``."""
    model, _, head = rest.partition(":")
    head = head or "upernet"
    if head not in HEADS:
        raise SettingsError(f"timm:{rest}: unknown head {head!r}; expected one of {', '.join(HEADS)}.")
    with torch.device("meta"):
        probe = timm_backbone(model, bands, last=head == "mask-transformer")
    if not takes_any_size(probe, bands):
        raise SettingsError(f"timm:{model} takes images of one size only; choose a convolutional network, a ViT or a Swin.")
    return _fitted(Design(f"timm:{rest}", model, head, _WIDTH, CONVOLUTIONAL, "timm"), probe)


def _fitted(design: Design, probe: Any) -> Design:
    """With the neck a plain transformer needs, the auxiliary head of its last map but one, and its normalisation."""
    import timm

    facts = timm.get_pretrained_cfg(design.backbone)
    hub = str(facts.hf_hub_id or "") if facts else ""
    plain = isinstance(probe, Plain)
    if design.head == "mask-transformer" and not plain:
        raise SettingsError(f"{design.name}: the mask transformer wants a vision transformer; choose another head.")
    norms = any(isinstance(module, nn.BatchNorm2d) for module in probe.modules())
    head = f"multilevel-{design.head}" if plain and design.head == "upernet" else design.head
    return replace(
        design,
        head=head,
        hub=hub,
        width=probe.channels[-1] if head == "mask-transformer" else design.width,
        schedule=CONVOLUTIONAL if norms else TRANSFORMER,
        auxiliary=None if head == "mask-transformer" else Auxiliary(3 if plain else len(probe.channels) - 2, 128),
        mean=tuple(facts.mean) if facts else design.mean,
        std=tuple(facts.std) if facts else design.std,
    )
