"""The settings of `quality fit` and `quality score`: each described once, for Python, the command line and YAML."""

from __future__ import annotations

from dataclasses import dataclass, fields

from terralabel.core.settings import coerce, setting
from terralabel.labels.quality.units import REJECT, UNITS

__all__ = ["QualitySettings"]


@dataclass(frozen=True)
class QualitySettings:
    """Settings of `terralabel quality`."""

    units: str = setting(
        "class", "What gets a score: every class in every picture, or every object (connected part).", choices=UNITS
    )
    tile_size: int = setting(512, "Side of the pictures that large images are cut into, pixels.", low=32, high=4096)
    background: int | None = setting(
        None, "Class that is no object (default: the run's, or the class named background).", low=0, high=254
    )
    pixels: bool = setting(True, "Ask a classifier of pixels, fitted on the other pictures, whether labels look alike.")
    reject: float = setting(REJECT, "Labels whose expected IoU is lower are rejected.", low=0.0, high=1.0)
    seed: int = setting(0, "Seed of everything random.", low=0)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))
