"""Trunks of ELNet: whatever gives maps of strides 4, 8, 16 and 32, its weights, and its blocks, before which adapters go.

sam2.1_tiny, FILE, FOLDER   SAM 2's Hiera, official weights by name or file, through this package's own loader
timm:MODEL                  any encoder of timm with four stages; weights by `--weights`
nano                        the encoder of the network that ships with this package
mobilenet_v2                the same architecture with ImageNet weights, from a file or the cache
scratch                     a small one with random weights
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terralabel.errors import SettingsError, WeightsError
from terralabel.nets.backbones import IMAGENET_MEAN, IMAGENET_STD
from terralabel.nets.elnet.adapters import blocks_of

__all__ = ["Trunk", "best_trunk", "empty_trunk", "make_trunk"]

#: SAM 2 by name, the best first, where its weights are on the machine.
_SAM2 = ("sam2.1_large", "sam2.1_base_plus", "sam2.1_small", "sam2.1_tiny")


class Trunk(nn.Module):
    """A trunk with its maps' `channels`; sides must be `multiple`s; `stages` are its parts from the finest to the coarsest.

    name, origin   what it is, and where its weights are from
    bands          that it takes; a picture of one band goes into one of three as grey
    frozen         True where its weights are worth keeping as they are: False for random ones
    mean, std      of the input in [0, 1]
    """

    def __init__(self, name: str, net: nn.Module, channels: Sequence[int], **facts: Any) -> None:
        super().__init__()
        self.name, self.net, self.channels = name, net, tuple(channels)
        self.multiple: int = facts.get("multiple", 32)
        self.mean: tuple[float, ...] = tuple(facts.get("mean", IMAGENET_MEAN))
        self.std: tuple[float, ...] = tuple(facts.get("std", IMAGENET_STD))
        self.origin: str = facts.get("origin", "random weights")
        self.bands: int = facts.get("bands", 3)
        self.hiera: dict[str, Any] | None = None  # the configuration of a SAM 2's backbone

    @property
    def frozen(self) -> bool:
        """See the class."""
        return not self.origin.startswith("random weights")

    def blocks(self) -> list[nn.Module]:
        """What adapters are put before."""
        return blocks_of(self.net)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, bands, h, w) normalised -> four maps (b, c, h / s, w / s), s = 4, 8, 16, 32."""
        return list(self.net(x))


def best_trunk() -> str:
    """The largest SAM 2 whose weights are on the machine, else "nano"."""
    from terralabel.nets.weights import find

    return next((name for name in _SAM2 if find(name) is not None), "nano")


def make_trunk(name: str, bands: int = 3, weights: str = "auto") -> Trunk:
    """The trunk `name` (see the module; "auto" is `best_trunk`). `weights`, for timm and mobilenet_v2: as of `nets.segmentation`.

    Raises `SettingsError` for an unknown name or another number of bands than the trunk takes, `WeightsError` for weights that
    cannot be had or are of no SAM 2.
    """
    name = best_trunk() if name == "auto" else name
    if name == "scratch":
        return Trunk(name, Small(bands), Small.CHANNELS, bands=bands, mean=(0.5,) * bands, std=(0.25,) * bands)
    if name.startswith("timm:"):
        return _timm(name, bands, weights)
    if bands not in (1, 3):
        raise SettingsError(f"trunk {name} takes 1 or 3 bands, the images have {bands}: choose --bands, timm:MODEL or scratch.")
    if name in ("nano", "mobilenet_v2"):
        return _mobilenet(name, weights)
    return _hiera(name)


def empty_trunk(name: str, bands: int, hiera: Mapping[str, Any] | None = None) -> Trunk:
    """The same trunk with weights of no meaning, for those of a checkpoint; `hiera`: the configuration of a SAM 2's backbone."""
    if hiera is not None:
        return _hiera_of(name, dict(hiera))
    if name in ("nano", "mobilenet_v2"):
        from terralabel.nets.mobilenet import TAPS, MobileNetV2

        return _taps(name, MobileNetV2().features[: TAPS[-1] + 1], "random weights")
    return make_trunk(name, bands, "none")


# --------------------------------------------------------------------------------------------------------------- Hiera


class Hiera(nn.Module):
    """SAM 2's Hiera as transformers builds it, with maps of its four stages; gradients pass through it."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.patch_embed, self.blocks = backbone.patch_embed, backbone.blocks
        self.pos_embed, self.pos_embed_window = backbone.pos_embed, backbone.pos_embed_window
        self.ends = tuple(int(end) for end in backbone.stage_ends)
        self.channels = tuple(int(self.blocks[end].dim_out) for end in self.ends)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w), sides multiples of 32 -> maps of strides 4, 8, 16, 32."""
        x = self.patch_embed(x)  # (b, h / 4, w / 4, c)
        x = x + self._position(x.shape[1], x.shape[2])
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.ends:
                maps.append(x.permute(0, 3, 1, 2))
        return maps

    def _position(self, height: int, width: int) -> Tensor:
        side = self.pos_embed_window.shape[-1]
        background = nn.functional.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        tiled = self.pos_embed_window.tile(1, 1, -(-height // side), -(-width // side))[..., :height, :width]
        return (background + tiled).permute(0, 2, 3, 1)


def _hiera(name: str) -> Trunk:
    from terralabel.nets.sam.loading import load
    from terralabel.nets.weights import CATALOGUE

    known = {model.name for model in CATALOGUE}
    if name not in known and not Path(name).expanduser().exists() and name.count("/") != 1:
        raise SettingsError(
            f"trunk {name!r}: expected auto, nano, mobilenet_v2, scratch, timm:MODEL, a SAM 2 of `terralabel models list`, or its file."
        )
    loaded = load(name)
    if loaded.checkpoint.family not in ("sam2", "sam2.1"):
        raise WeightsError(f"trunk {name}: this is a {loaded.checkpoint}; expected SAM 2 or 2.1, whose trunk is a Hiera.")
    backbone = loaded.model.vision_encoder.backbone
    return _of_backbone(Path(name).name, backbone, f"{Path(name).name} (sha256 {loaded.sha256[:12]})")


def _of_backbone(name: str, backbone: Any, origin: str) -> Trunk:
    net = Hiera(backbone)
    trunk = Trunk(name, net, net.channels, origin=origin)
    trunk.hiera = backbone.config.to_dict()
    return trunk


def _hiera_of(name: str, config: dict[str, Any]) -> Trunk:
    """A Hiera of this configuration with random weights."""
    from transformers import Sam2HieraDetConfig
    from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

    return _of_backbone(name, Sam2HieraDetModel(Sam2HieraDetConfig(**config)), "random weights")


# ------------------------------------------------------------------------------------------------------ convolutional


class Taps(nn.Module):
    """MobileNetV2's blocks, of which four are looked at; see `nets.mobilenet`."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) in [-1, 1], sides multiples of 32 -> maps of 24, 32, 96 and 320 channels."""
        from terralabel.nets.mobilenet import TAPS

        maps = []
        for i, block in enumerate(self.features):
            x = block(x)
            if i in TAPS:
                maps.append(x)
        return maps


def _mobilenet(name: str, weights: str) -> Trunk:
    from terralabel.nets.mobilenet import TAPS, load_mobilenet_v2
    from terralabel.nets.weights import find

    if name == "nano":
        from terralabel.nets.nano.shipped import load_network

        net, sha256 = load_network()
        features, origin = net.encoder, f"nano (sha256 {sha256[:12]})"
    else:
        path = find("mobilenet_v2") if weights in ("auto", "imagenet", "none") else Path(weights).expanduser()
        if path is None:
            raise WeightsError(
                "trunk mobilenet_v2: no weights in the cache: `terralabel models pull mobilenet_v2 --file PATH`, or --weights FILE."
            )
        features, origin = load_mobilenet_v2(path).features[: TAPS[-1] + 1], f"mobilenet_v2 ({path.name})"
    return _taps(name, features, origin)


def _taps(name: str, features: Any, origin: str) -> Trunk:
    half = (0.5, 0.5, 0.5)
    return Trunk(name, Taps(features), (24, 32, 96, 320), mean=half, std=half, origin=origin)


def _timm(name: str, bands: int, weights: str) -> Trunk:
    import timm

    from terralabel.nets.segmentation.backbones import Plain, timm_backbone
    from terralabel.nets.segmentation.network import per_band
    from terralabel.nets.segmentation.pretrained import load_encoder

    model = name.partition(":")[2]
    net = timm_backbone(model, bands)
    if isinstance(net, Plain) or len(net.channels) != 4:
        raise SettingsError(f"trunk {name} gives {len(net.channels)} maps of other strides; expected four, of 4, 8, 16 and 32.")
    facts = timm.get_pretrained_cfg(model)
    mean, std = (tuple(facts.mean), tuple(facts.std)) if facts else (IMAGENET_MEAN, IMAGENET_STD)
    origin = "random weights"
    if weights != "none":
        origin = load_encoder(net.net, str(facts.hf_hub_id or "") if facts else "", weights, name)
    norm = {"mean": per_band(mean, bands), "std": per_band(std, bands)}
    return Trunk(name, net, net.channels, multiple=net.multiple, bands=bands, origin=origin, **norm)


class SmallBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) -> (b, outputs, h / stride, w / stride)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Small(nn.Module):
    """A residual network of ten convolutions, for images that no pretrained encoder knows."""

    CHANNELS = (32, 64, 96, 128)

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(bands, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(SmallBlock(a, b, 2) for a, b in zip((24, *self.CHANNELS), self.CHANNELS, strict=False))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, bands, h, w) -> maps of strides 4, 8, 16, 32."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
