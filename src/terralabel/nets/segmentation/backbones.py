"""Backbones of timm behind one face: an image in, maps out from fine to coarse.

Every backbone is a module with `channels` of its maps and the `multiple` that sides must be of.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import is_model, is_model_pretrained, list_models, list_pretrained, model_entrypoint
from torch import Tensor, nn

from terralabel.errors import SettingsError

__all__ = ["HighResolution", "Plain", "Pyramid", "takes_any_size", "timm_backbone", "timm_family"]

#: Side in pixels that position embeddings and windows are laid out for; other sizes are interpolated or padded.
LAID_OUT_FOR = 512
#: What makes families of a fixed size take any.
_ANY_SIZE: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    "swin_transformer": {"img_size": LAID_OUT_FOR, "strict_img_size": False, "always_partition": True},
    "swin_transformer_v2": {"img_size": LAID_OUT_FOR, "strict_img_size": False, "always_partition": True},
}


def timm_family(name: str) -> str:
    """The module of timm that makes the model: "resnet", "swin_transformer"... `SettingsError` for a name it lacks."""
    if not is_model(name):
        near = list_models(f"*{name.partition('.')[0][:6]}*")[:3]
        hint = f" Near: {', '.join(near)}." if near else ""
        raise SettingsError(f"timm has no model {name!r}.{hint}")
    base, _, tag = name.partition(".")
    if tag and not is_model_pretrained(name):
        raise SettingsError(f"timm has no weights {tag!r} for {base}; known: {', '.join(_tags(base)) or 'none'}.")
    return model_entrypoint(name).__module__.rpartition(".")[2]


def _tags(base: str) -> list[str]:
    return [name.partition(".")[2] for name in list_pretrained(f"{base}.*")]


def _create(name: str, **settings: Any) -> Any:
    return timm.create_model(name, pretrained=False, num_classes=0, **settings)


def _unused_removed(net: Any, taps: Sequence[int], keep_norm: bool) -> None:
    """Without the classifier, and without the last norm where no map passes it: every weight that is left learns."""
    if hasattr(net, "prune_intermediate_layers"):
        net.prune_intermediate_layers(list(taps), prune_norm=not keep_norm, prune_head=True)


class MapNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (b, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Pyramid(nn.Module):
    """A network of several strides: its maps from stride 4 on.

    Networks without batch norm (Swin, ConvNeXt) leave their maps unnormalised; each gets a layer norm, as in Swin's own
    segmentation (Liu et al. 2021).
    """

    def __init__(self, net: Any, multiple: int = 32) -> None:
        super().__init__()
        info = list(net.feature_info)
        self.taps = [i for i, layer in enumerate(info) if layer["reduction"] >= 4]
        self.channels = tuple(info[i]["num_chs"] for i in self.taps)
        self.multiple = multiple
        _unused_removed(net, self.taps, keep_norm=False)
        self.net = net
        plain = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
        self.norms = nn.ModuleList(nn.Identity() if plain else MapNorm(count) for count in self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, bands, h, w) -> maps of strides 4, 8, 16, 32 (a dilated one: 4, 8, 8, 8)."""
        maps = self.net.forward_intermediates(x, indices=self.taps, intermediates_only=True, output_fmt="NCHW")
        return [norm(found) for norm, found in zip(self.norms, maps, strict=True)]


class Plain(nn.Module):
    """A vision transformer: four of its layers, evenly spaced, or the last one alone, behind its norm."""

    def __init__(self, net: Any, last: bool = False) -> None:
        super().__init__()
        depth = len(net.blocks)
        self.taps = [depth - 1] if last else [depth * (k + 1) // 4 - 1 for k in range(4)]
        self.normed = last
        self.channels = (net.embed_dim,) * len(self.taps)
        self.multiple = int(net.patch_embed.patch_size[0])
        _unused_removed(net, self.taps, keep_norm=last)
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, bands, h, w) -> maps, all of one patch a cell; class and register tokens are left out."""
        return list(
            self.net.forward_intermediates(x, indices=self.taps, norm=self.normed, intermediates_only=True, output_fmt="NCHW")
        )


class HighResolution(nn.Module):
    """HRNet: its four branches as they are, without the classifier's widening."""

    def __init__(self, name: str, bands: int) -> None:
        super().__init__()
        net: Any = timm.create_model(
            name, pretrained=False, in_chans=bands, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
        # timm tells the widened channels; the branches have those of the last stage
        self.channels = tuple(net.stage4_cfg["num_channels"])
        self.multiple = 32
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, bands, h, w) -> maps of strides 4, 8, 16, 32."""
        return list(self.net(x))


def timm_backbone(name: str, bands: int, *, stride: int = 32, drop_path: float | None = None, last: bool = False) -> Any:
    """The backbone of timm's model `name` with random weights.

    `stride` 8 or 16 dilates (ResNets and other convolutional networks); `last` takes a vision transformer's last layer
    alone. Raises `SettingsError` for a model that gives no maps or takes one size only.
    """
    family = timm_family(name)
    if family == "hrnet":
        return HighResolution(name, bands)
    settings: dict[str, Any] = {"in_chans": bands, **_ANY_SIZE.get(family, {})}
    if family == "vision_transformer" and "patch16" in name:
        settings["img_size"] = LAID_OUT_FOR
    if stride != 32:
        settings["output_stride"] = stride
    if drop_path is not None:
        settings["drop_path_rate"] = drop_path
    net = _create(name, **settings)
    if not hasattr(net, "forward_intermediates"):
        raise SettingsError(f"timm:{name} gives no intermediate maps; choose another model.")
    if len({layer["reduction"] for layer in net.feature_info}) == 1:
        if not hasattr(net, "blocks") or "norm" not in inspect.signature(net.forward_intermediates).parameters:
            raise SettingsError(f"timm:{name} has maps of one stride and is no vision transformer; choose another model.")
        return Plain(net, last)
    return Pyramid(net, multiple=stride)


def takes_any_size(backbone: Any, bands: int) -> bool:
    """Whether a backbone on the meta device takes sizes it was not made for."""
    side = 2 * backbone.multiple
    try:
        with torch.no_grad():
            backbone(torch.empty(1, bands, 5 * side, 4 * side, device="meta"))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True
