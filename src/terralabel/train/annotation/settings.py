"""The settings of `annotate fit`, `annotate apply` and `enhance`: each described once, for Python, the command line and YAML."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from terralabel.core.settings import coerce, like, setting
from terralabel.errors import SettingsError
from terralabel.train.segmentation.settings import PredictSettings, TrainSettings

__all__ = ["AnnotateSettings", "ApplySettings", "EnhanceSettings"]

_NETWORK, _QUALITY, _LABELS = "Network", "Quality", "Labels"
_SHARED = (
    "batch_size", "accumulate", "lr", "weight_decay", "warmup", "clip", "crop", "scale_min", "scale_max", "max_share", "turns",
    "photometric", "bands", "sensor", "precision", "seed", "save_every", "log_every", "device", "workers", "threads",
)  # fmt: skip


def _checked(settings: Any) -> None:
    """Every field cast to its type and held to its bounds."""
    for item in fields(settings):
        object.__setattr__(settings, item.name, coerce(type(settings), item.name, getattr(settings, item.name)))


@dataclass(frozen=True)
class AnnotateSettings:
    """Settings of `terralabel annotate fit`."""

    trunk: str = setting(
        "auto",
        "Trunk: auto (the best SAM 2 whose weights are here, else nano), a SAM 2 by name, file or folder, timm:MODEL, nano,"
        " mobilenet_v2, or scratch.",
        group=_NETWORK,
    )
    learns: str = setting(
        "auto",
        "What of the trunk learns; auto: adapters, but everything of a small one.",
        choices=("auto", "nothing", "adapters", "late", "everything"),
        group=_NETWORK,
    )
    weights: str = setting(
        "auto", "Weights of a trunk of timm or of mobilenet_v2: auto, imagenet (of the hub), none, or a file.", group=_NETWORK
    )
    edge: bool = setting(False, "Attend to edges, which are supervised by the labels' boundaries.", group=_NETWORK)
    zoom: float = setting(
        1.0, "Enlarge pictures by this factor before the network sees them.", low=0.25, high=4.0, group=_NETWORK
    )
    width: int = setting(64, "Channels in the decoder; fewer are faster.", low=8, high=256, group=_NETWORK)
    coarser: float = setting(1.0, "Weight of the two coarser outputs in the loss.", low=0.0, group=_NETWORK)
    background: int = setting(
        -1, "Class that is no object (-1: the first of two; of more classes none; -2: none).", low=-2, group=_LABELS
    )
    folds: int = setting(
        3,
        "Parts that the labelled images are cut into, each to be predicted by a network that has not seen it: what scores of"
        " quality are fitted on; 0: none.",
        low=0,
        high=20,
        group=_QUALITY,
    )
    steps: int = setting(0, "Batches in all; 0: 20 epochs, 300 at least.", low=0, group="Schedule")
    batch_size: int = like(TrainSettings, "batch_size", 12)
    accumulate: int = like(TrainSettings, "accumulate")
    lr: float = like(TrainSettings, "lr")
    weight_decay: float = like(TrainSettings, "weight_decay")
    warmup: int = like(TrainSettings, "warmup")
    clip: float = like(TrainSettings, "clip")
    crop: int = setting(
        0, "Side of the square crops, pixels; 0: 352, or the longest side of the images where that is less.", low=0, high=4096,
        group="Augmentation",
    )  # fmt: skip
    scale_min: float = like(TrainSettings, "scale_min", 0.75)
    scale_max: float = like(TrainSettings, "scale_max", 1.5)
    max_share: float = like(TrainSettings, "max_share", 0.98)
    turns: bool = like(TrainSettings, "turns")
    photometric: bool = like(TrainSettings, "photometric")
    bands: tuple[int, ...] | None = like(TrainSettings, "bands")
    sensor: str = like(TrainSettings, "sensor")
    precision: str = like(TrainSettings, "precision")
    seed: int = like(TrainSettings, "seed")
    save_every: int = like(TrainSettings, "save_every")
    log_every: int = like(TrainSettings, "log_every")
    device: str = like(TrainSettings, "device")
    workers: int = like(TrainSettings, "workers")
    threads: int = like(TrainSettings, "threads")

    def __post_init__(self) -> None:
        _checked(self)
        if self.folds == 1:
            raise SettingsError("folds: expected 2 or more, or 0 for none; got 1.")
        self.training(1)

    def training(self, steps: int) -> TrainSettings:
        """What the training loop takes; raises `SettingsError` where these contradict one another."""
        shared = {name: getattr(self, name) for name in _SHARED}
        return TrainSettings(network=f"elnet:{self.trunk}", steps=steps, auxiliary=self.coarser, **shared)


@dataclass(frozen=True)
class ApplySettings:
    """Settings of `terralabel annotate apply`."""

    tile_size: int = like(PredictSettings, "tile_size")
    overlap: int = like(PredictSettings, "overlap")
    flips: bool = setting(
        True, "Average over the image and its three mirror images: four times the work; their agreement tells quality."
    )
    specks: int = setting(16, "Take away objects and fill holes of fewer pixels; 0: none.", low=0, high=4096)
    cut: bool = setting(
        True,
        "Cut classes apart where labels of held-out images were best; off: the likeliest class, which draws thin things wide.",
    )
    promise: str = setting("", "Accept what keeps a promise of this kind: 'mean IoU >= .85'.", results=False, group=_QUALITY)
    review: str = setting("", "Leave this share of the labels, the worst, to a person: '20%'.", results=False, group=_QUALITY)
    precision: str = like(PredictSettings, "precision")
    follow_vrt: bool = like(PredictSettings, "follow_vrt")
    batch_size: int = like(PredictSettings, "batch_size")
    device: str = like(PredictSettings, "device")
    threads: int = like(PredictSettings, "threads")

    def __post_init__(self) -> None:
        _checked(self)
        PredictSettings(tile_size=self.tile_size, overlap=self.overlap)


_COARSE = "Coarse labels"


@dataclass(frozen=True)
class EnhanceSettings(AnnotateSettings):
    """Settings of `terralabel enhance`."""

    folds: int = setting(
        2, "Parts that the images are cut into; each is labelled by a network that learned from the others only.", low=2, high=20,
        group=_COARSE,
    )  # fmt: skip
    band: int = setting(
        4, "Pixels on either side of a coarse border that nothing is learned from; 0: borders are exact.", low=0, high=64,
        group=_COARSE,
    )  # fmt: skip
    shift: int = setting(
        8, "Look so many pixels around for where coarse labels fit the edges of their images; 0: they stay.", low=0, high=64,
        group=_COARSE,
    )  # fmt: skip
    redraw: str = setting(
        "auto",
        "What draws compact objects anew from their boxes, where edges of the images say that is better: auto (a SAM whose weights are here,"
        " else nano), nano, tree, a SAM by name, or none.",
        group=_COARSE,
    )
    trust: bool = setting(True, "Let coarse labels have a say beside the networks'; off: only networks have.", group=_COARSE)
    pictures: int = setting(12, "Pictures of before and after, of the labels that changed most.", low=0, results=False)
    tile_size: int = like(ApplySettings, "tile_size")
    overlap: int = like(ApplySettings, "overlap")
    flips: bool = like(ApplySettings, "flips")
    specks: int = like(ApplySettings, "specks")

    @property
    def looking(self) -> ApplySettings:
        """How networks look at images."""
        same = ("tile_size", "overlap", "flips", "specks", "precision", "device", "threads")
        return ApplySettings(**{name: getattr(self, name) for name in same})
