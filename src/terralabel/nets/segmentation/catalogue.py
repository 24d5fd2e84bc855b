"""The networks by name: which backbone, which head, how wide, how trained. No torch in here.

The full sizes are mmsegmentation's configurations. In the small sizes the heads are narrower than there (UPerNet 128, not
512), so that a laptop trains them; the widths of PSPNet and DeepLabv3+ are those of mmsegmentation's own r18 configurations.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from terralabel.errors import SettingsError
from terralabel.nets.segmentation.schedules import CONVOLUTIONAL, SEGFORMER, SEGMENTER, TRANSFORMER, Schedule

__all__ = ["DESIGNS", "Auxiliary", "Design", "find", "names"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALVES = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Auxiliary:
    """A small FCN head on one of the maps, for training only: its loss counts `weight`."""

    level: int
    width: int = 256
    weight: float = 0.4


@dataclass(frozen=True)
class Design:
    """One network.

    backbone           "resnet", "hrnet" and "vit" take timm's model of that name, "swin" too, "mit" is SegFormer's
    width              channels inside the head
    stride             output stride of a ResNet: 32, or 8 by dilation
    source             who published it, for `networks list`
    hub                repository with ImageNet weights of the backbone
    mean, std          of the input in [0, 1], red green blue
    """

    name: str
    backbone: str
    head: str
    width: int
    schedule: Schedule
    source: str
    hub: str = ""
    auxiliary: Auxiliary | None = None
    stride: int = 32
    low_width: int = 48
    drop_path: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    small: bool = False


_FROM = {
    "upernet": "Xiao 2018, arXiv 1807.10221",
    "pspnet": "Zhao 2017, arXiv 1612.01105",
    "hrnet": "Wang 2020, arXiv 1908.07919",
    "deeplab": "Chen 2018, arXiv 1802.02611",
    "swin": "Liu 2021, arXiv 2103.14030",
    "segmenter": "Strudel 2021, arXiv 2105.05633",
    "segformer": "Xie 2021, arXiv 2105.15203",
}
_R50, _R18 = "timm/resnet50c.gluon_in1k", "timm/resnet18d.ra2_in1k"
_FULL = (
    Design("upernet-r50", "resnet50c", "upernet", 512, CONVOLUTIONAL, _FROM["upernet"], _R50, Auxiliary(2)),
    Design("pspnet-r50", "resnet50c", "pspnet", 512, CONVOLUTIONAL, _FROM["pspnet"], _R50, Auxiliary(2), stride=8),
    Design("fcn-hrnet-w48", "hrnet_w48", "fcn", 720, CONVOLUTIONAL, _FROM["hrnet"], "timm/hrnet_w48.ms_in1k"),
    Design("deeplabv3plus-r50", "resnet50c", "aspp", 512, CONVOLUTIONAL, _FROM["deeplab"], _R50, Auxiliary(2), stride=8),
    Design(
        "upernet-vit-b",
        "vit_base_patch16_224",
        "multilevel-upernet",
        512,
        TRANSFORMER,
        _FROM["upernet"],
        "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
        Auxiliary(3),
    ),
    Design(
        "upernet-swin-b",
        "swin_base_patch4_window7_224",
        "upernet",
        512,
        TRANSFORMER,
        _FROM["swin"],
        "timm/swin_base_patch4_window7_224.ms_in1k",
        Auxiliary(2),
        drop_path=0.3,
    ),
    Design(
        "segmenter-vit-b",
        "vit_base_patch16_384",
        "mask-transformer",
        768,
        SEGMENTER,
        _FROM["segmenter"],
        "timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
        drop_path=0.1,
        mean=_HALVES,
        std=_HALVES,
    ),
    Design(
        "segformer-mit-b5", "mit_b5", "all-mlp", 256, SEGFORMER, _FROM["segformer"], "smp-hub/mit_b5.imagenet", drop_path=0.1
    ),
)
_SMALL = (
    Design("upernet-r18", "resnet18d", "upernet", 128, CONVOLUTIONAL, _FROM["upernet"], _R18, Auxiliary(2, 64), small=True),
    Design("pspnet-r18", "resnet18d", "pspnet", 128, CONVOLUTIONAL, _FROM["pspnet"], _R18, Auxiliary(2, 64), 8, small=True),
    Design("fcn-hrnet-w18", "hrnet_w18", "fcn", 270, CONVOLUTIONAL, _FROM["hrnet"], "timm/hrnet_w18.ms_aug_in1k", small=True),
    Design(
        "deeplabv3plus-r18",
        "resnet18d",
        "aspp",
        128,
        CONVOLUTIONAL,
        _FROM["deeplab"],
        _R18,
        Auxiliary(2, 64),
        stride=8,
        low_width=12,
        small=True,
    ),
    Design(
        "upernet-vit-ti",
        "vit_tiny_patch16_224",
        "multilevel-upernet",
        128,
        TRANSFORMER,
        _FROM["upernet"],
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        Auxiliary(3, 64),
        small=True,
    ),
    Design(
        "upernet-swin-t",
        "swin_tiny_patch4_window7_224",
        "upernet",
        128,
        TRANSFORMER,
        _FROM["swin"],
        "timm/swin_tiny_patch4_window7_224.ms_in1k",
        Auxiliary(2, 64),
        drop_path=0.3,
        small=True,
    ),
    Design(
        "segmenter-vit-ti",
        "vit_tiny_patch16_384",
        "mask-transformer",
        192,
        SEGMENTER,
        _FROM["segmenter"],
        "timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k",
        drop_path=0.1,
        mean=_HALVES,
        std=_HALVES,
        small=True,
    ),
    Design(
        "segformer-mit-b0",
        "mit_b0",
        "all-mlp",
        256,
        SEGFORMER,
        _FROM["segformer"],
        "smp-hub/mit_b0.imagenet",
        drop_path=0.1,
        small=True,
    ),
)
#: name -> design, the eight of the study first.
DESIGNS: dict[str, Design] = {design.name: design for design in (*_FULL, *_SMALL)}


def names() -> list[str]:
    """The networks of the catalogue: the eight of the study, then their small sizes."""
    return list(DESIGNS)


def find(name: str) -> Design:
    """The design of a name, whatever its case; ``DeepLabv3+-r50`` too. Raises `SettingsError` with the nearest names."""
    plain = name.strip().lower().replace("+", "plus").replace("_", "-")
    if plain in DESIGNS:
        return DESIGNS[plain]
    near = difflib.get_close_matches(plain, DESIGNS, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise SettingsError(
        f"Unknown network {name!r}; known: {', '.join(DESIGNS)}, smp:ARCHITECTURE:ENCODER, timm:MODEL or timm:MODEL:HEAD.{hint}"
    )
