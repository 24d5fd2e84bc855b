"""The settings of `refer fit` and `refer fit-decoder`: each described once, for Python, the command line and YAML."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from terralabel.core.settings import coerce, like, setting
from terralabel.errors import SettingsError

__all__ = ["DecoderSettings", "FitSettings", "stored"]


@dataclass(frozen=True)
class FitSettings:
    """Settings of `terralabel refer fit`."""

    steps: int = setting(600, "Batches in all.", low=1)
    batch_size: int = setting(8, "Triplets in a batch.", low=1)
    lr: float = setting(0.0, "Learning rate at its highest; 0: 0.001 for the small locator, 0.00001 for others.", low=0.0)
    seed: int = setting(0, "Seed of the start and of the batches.", low=0)
    save_every: int = setting(100, "Steps between two checkpoints.", low=1, results=False)
    device: str = setting("auto", "Where the network runs: auto, cpu, cuda, cuda:1, mps.", results=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))


@dataclass(frozen=True)
class DecoderSettings:
    """Settings of `terralabel refer fit-decoder`."""

    share: float = setting(0.1, "Learn from this share of the masks, drawn by the seed.", low=0.0, high=1.0)
    steps: int = setting(300, "Batches in all.", low=1)
    batch_size: int = setting(8, "Masks in a batch.", low=1)
    lr: float = setting(0.0, "Learning rate at its highest; 0: 0.0001 for the SAM family, 0.0002 for nano.", low=0.0)
    moved: float = setting(0.2, "Sides of the prompting boxes move by up to this share of their length.", low=0.0, high=0.5)
    tile_size: int = setting(1024, "Side of the square windows that images are seen in, pixels.", low=32, high=16384)
    bands: tuple[int, ...] | None = setting(None, "Bands to use, 1-based, comma-separated, in this order.")
    sensor: str = setting("optical", "What took the images.", choices=("optical", "sar"))
    seed: int = setting(0, "Seed of the share, the batches and the prompts.", low=0)
    save_every: int = like(FitSettings, "save_every")
    device: str = like(FitSettings, "device")

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))
        if not self.share:
            raise SettingsError("share is 0: give the share of the masks to learn from, more than 0 and at most 1.")


def stored(settings: FitSettings | DecoderSettings) -> dict[str, Any]:
    """The settings that decide what comes out."""
    return {f.name: getattr(settings, f.name) for f in fields(settings) if f.metadata.get("results", True)}
