"""Networks of segmentation-models-pytorch by name, ``smp:ARCHITECTURE:ENCODER``, as backbone and head of our contract."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from terralabel.errors import MissingExtraError, SettingsError
from terralabel.nets.segmentation.blocks import initialise
from terralabel.nets.segmentation.catalogue import IMAGENET_MEAN, IMAGENET_STD
from terralabel.nets.segmentation.fcn import AuxiliaryHead
from terralabel.nets.segmentation.network import Network, per_band
from terralabel.nets.segmentation.schedules import CONVOLUTIONAL

__all__ = ["smp_network"]

#: Its decoder takes more than the encoder's maps.
_OTHER_CONTRACT = ("dpt",)


class _Encoder(nn.Module):
    """Any encoder: maps of strides 1, 2, 4 ... as its decoders want them."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.net = encoder
        self.channels = tuple(encoder.out_channels)
        self.multiple = 32

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.net(x))


class _Head(nn.Module):
    """Its decoder, then its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.classifier = model.decoder, model.segmentation_head

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.decoder(list(maps)))


def _library() -> Any:
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise MissingExtraError("smp: networks need segmentation-models-pytorch: pip install 'terralabel[smp]'.") from error


def smp_network(rest: str, classes: int, bands: int, auxiliary: bool) -> tuple[Network, str]:
    """``unet:resnet18``; encoders of timm as ``unet:tu-convnext_tiny``. Random weights, and the hub's repository of others.

    Raises `SettingsError` for a name smp does not know, `MissingExtraError` where it is not installed.
    """
    library = _library()
    architecture, _, encoder = rest.partition(":")
    encoder = encoder or "resnet18"
    known = library.encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith("tu-"):
        near = difflib.get_close_matches(encoder, known, n=3) or known[:3]
        raise SettingsError(f"smp has no encoder {encoder!r}; near: {', '.join(near)}; those of timm are called tu-NAME.")
    if architecture in _OTHER_CONTRACT:
        raise SettingsError(f"smp:{architecture} is not supported: its decoder reads tokens beside maps; choose another one.")
    try:
        model = library.create_model(architecture, encoder, encoder_weights=None, in_channels=bands, classes=classes)
    except (KeyError, RuntimeError, ValueError) as error:
        said = str(error.args[0] if error.args else error).splitlines()[0][:300]
        raise SettingsError(f"smp:{rest}: {said}") from error
    backbone = _Encoder(model.encoder)
    extra = None
    if auxiliary and len(backbone.channels) > 2 and backbone.channels[-2]:
        extra = AuxiliaryHead(backbone.channels[-2], len(backbone.channels) - 2, 64, classes)
        initialise(extra)
    network = Network(
        f"smp:{architecture}:{encoder}",
        backbone,
        _Head(model),
        classes=classes,
        bands=bands,
        mean=per_band(IMAGENET_MEAN, bands),
        std=per_band(IMAGENET_STD, bands),
        schedule=CONVOLUTIONAL,
        auxiliary=extra,
    )
    return network, _hub(library, encoder)


def _hub(library: Any, encoder: str) -> str:
    """The repository with the encoder's ImageNet weights; "" where smp names none."""
    settings = library.encoders.encoders.get(encoder, {}).get("pretrained_settings") or {}
    return str(settings.get("imagenet", {}).get("repo_id", ""))
