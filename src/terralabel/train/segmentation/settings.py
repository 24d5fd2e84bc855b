"""The settings of `pretrain`, `finetune` and `predict`: each described once, for Python, the command line and YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from terralabel.core.settings import coerce, setting
from terralabel.errors import SettingsError

__all__ = ["PredictSettings", "TrainSettings", "stored"]

_NETWORK, _SCHEDULE, _VIEWS, _IMAGERY, _MACHINE = "Network", "Schedule", "Augmentation", "Imagery", "Machine"


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `terralabel pretrain` and `terralabel finetune`.

    Where a sentence says "the network's own", the value is that of the network's row in the study that ALPS follows.
    """

    network: str = setting(
        "auto", "Network by name (`networks list`); auto: the one of --from, else upernet-r18.", group=_NETWORK
    )
    weights: str = setting(
        "none",
        "Weights that the backbone starts from, where --from gives none: none, imagenet (of the hub), auto (of the hub, where"
        " they can be had), or a file.",
        group=_NETWORK,
    )
    auxiliary: float = setting(
        0.4, "Weight of the auxiliary head's loss, for networks that have one; 0: no such head.", low=0.0, group=_NETWORK
    )
    classifier: str = setting(
        "random",
        "How the classifier begins where it is not loaded: random, or fitted to the labelled images before the first step.",
        choices=("random", "fitted"),
        group=_NETWORK,
    )
    steps: int = setting(0, "Batches in all; 0: the network's own (80,000 or 160,000).", low=0, group=_SCHEDULE)
    batch_size: int = setting(8, "Crops in a batch, over all processes together.", low=1, group=_SCHEDULE)
    accumulate: int = setting(
        1, "Cut each batch into so many parts, one after the other: less memory, the same loss.", low=1, group=_SCHEDULE
    )
    optimizer: str = setting("auto", "Optimizer; auto: the network's own.", choices=("auto", "adamw", "sgd"), group=_SCHEDULE)
    lr: float = setting(0.0, "Learning rate at its highest; 0: the network's own.", low=0.0, group=_SCHEDULE)
    backbone_lr: float = setting(
        1.0, "Learning rate of the backbone, as a multiple of the others'.", low=0.0, high=100.0, group=_SCHEDULE
    )
    weight_decay: float = setting(-1.0, "Weight decay; -1: the network's own.", low=-1.0, group=_SCHEDULE)
    warmup: int = setting(
        -1, "Steps of rising learning rate; -1: the network's own, a tenth of the steps at most.", low=-1, group=_SCHEDULE
    )
    clip: float = setting(0.0, "Scale gradients down to this norm where theirs is larger; 0: never.", low=0.0, group=_SCHEDULE)
    validate_every: int = setting(
        0, "Steps between two measurements on the val split, where there is one; 0: a tenth of all.", low=0, group=_SCHEDULE
    )
    crop: int = setting(
        0, "Side of the square crops, pixels; 0: 512, or the longest side of the images where that is less.", low=0, high=4096,
        group=_VIEWS,
    )  # fmt: skip
    scale_min: float = setting(0.5, "Least factor of random resizing.", low=0.05, high=20.0, group=_VIEWS)
    scale_max: float = setting(2.0, "Largest factor of random resizing.", low=0.05, high=20.0, group=_VIEWS)
    max_share: float = setting(
        0.75, "Draw a crop again, up to ten times, while one class has more of its labelled pixels.", low=0.0, high=1.0,
        group=_VIEWS,
    )  # fmt: skip
    turns: bool = setting(True, "Flip and turn crops by quarters.", group=_VIEWS)
    photometric: bool = setting(True, "Vary brightness and contrast, and the colours of RGB.", group=_VIEWS)
    bands: tuple[int, ...] | None = setting(
        None, "Bands to use of a folder of images, 1-based, comma-separated; a run has chosen its own.", group=_IMAGERY
    )
    sensor: str = setting("optical", "What took the images of a folder.", choices=("optical", "sar"), group=_IMAGERY)
    precision: str = setting(
        "fp32",
        "Numbers to compute with: bf16 and fp16 are faster on a GPU.",
        choices=("fp32", "bf16", "fp16"),
        group=_MACHINE,
    )
    seed: int = setting(0, "Seed of the start, the crops and everything else random.", low=0, group=_MACHINE)
    save_every: int = setting(
        0, "Steps between two checkpoints; 0: a tenth of all, 1,000 at most.", low=0, results=False, group=_MACHINE
    )
    log_every: int = setting(10, "Steps between two lines of log.csv.", low=1, results=False, group=_MACHINE)
    device: str = setting("auto", "Where the network runs: auto, cpu, cuda, cuda:1, mps.", results=False, group=_MACHINE)
    workers: int = setting(
        -1, "Threads that read and vary crops; -1: 8 with a GPU, 0 on a CPU; 0: none.", low=-1, results=False, group=_MACHINE
    )
    threads: int = setting(
        0, "Threads of the network on a CPU; 0: one a core. Other numbers change the last bits.", low=0, results=False,
        group=_MACHINE,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))
        if self.scale_min > self.scale_max:
            raise SettingsError(f"scale_min {self.scale_min:g} is more than scale_max {self.scale_max:g}: swap them.")
        if 0 < self.crop < 32:
            raise SettingsError(f"crop {self.crop}: expected 32 pixels or more, or 0.")
        if self.accumulate > self.batch_size or self.batch_size % self.accumulate:
            raise SettingsError(
                f"accumulate {self.accumulate}: expected a divisor of batch_size {self.batch_size}, so that all parts are equal."
            )
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise SettingsError(f"bands: expected 1-based band numbers such as 4,3,2; got {self.bands}.")


@dataclass(frozen=True)
class PredictSettings:
    """Settings of `terralabel predict`."""

    tile_size: int = setting(0, "Side of the windows, pixels; 0: that of the crops in training.", low=0, high=16384)
    overlap: int = setting(-1, "Overlap of neighbouring windows, pixels, over which they are blended; -1: a quarter.", low=-1)
    probabilities: bool = setting(False, "Write a raster of probabilities, too, one band a class, 255 for certainty.")
    precision: str = setting(
        "fp32", "Numbers to compute with: bf16 and fp16 are faster on a GPU.", choices=("fp32", "bf16", "fp16")
    )
    follow_vrt: bool = setting(False, "Open VRT files, which may refer to any other file on this machine.")
    batch_size: int = setting(0, "Windows at once; 0: 8 on a GPU, 1 on a CPU.", low=0, results=False)
    device: str = setting("auto", "Where the network runs: auto, cpu, cuda, cuda:1, mps.", results=False)
    threads: int = setting(
        0, "Threads of the network on a CPU; 0: one a core. Other numbers change the last bits.", low=0, results=False
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))
        if 0 < self.tile_size < 32:
            raise SettingsError(f"tile_size {self.tile_size}: expected 32 pixels or more, or 0.")
        if self.tile_size and self.overlap * 2 > self.tile_size:
            raise SettingsError(
                f"overlap {self.overlap} is more than half of tile_size {self.tile_size}: make windows larger or the overlap smaller."
            )


#: Settings that came later: left out where they have their default, so that trainings and cells made before keep their digests.
_LATER = ("backbone_lr", "classifier")


def stored(settings: Any) -> dict[str, Any]:
    """The settings (a dataclass of them) that decide what comes out, as JSON-able values."""
    later = {f.name for f in fields(settings) if f.name in _LATER and getattr(settings, f.name) == f.default}
    keep = {f.name for f in fields(settings) if f.metadata.get("results", True)} - later
    values = {name: value for name, value in asdict(settings).items() if name in keep}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
