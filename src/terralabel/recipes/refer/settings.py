"""The settings of `refer`: each described once, for Python, the command line and YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from terralabel.core.settings import coerce, setting
from terralabel.errors import SettingsError
from terralabel.masks.pointing import POINTS
from terralabel.recipes.settings import LabelSettings, stored

__all__ = ["ReferSettings"]

_IMAGERY, _FINDING, _MASKS, _MACHINE = "Imagery", "Finding", "Masks", "Machine"


@dataclass(frozen=True)
class ReferSettings:
    """Settings of `terralabel refer`."""

    locator: str = setting(
        "auto", "What finds boxes for words: boxes (those of --boxes), a locator by name, or auto.", group=_FINDING
    )
    threshold: float = setting(0.25, "Drop boxes with a lower score.", low=0.0, high=1.0, group=_FINDING)
    nms: float = setting(
        0.5, "Of a locator's boxes, drop those that overlap a better one of the same thing by more (IoU).", low=0.0, high=1.0,
        group=_FINDING,
    )  # fmt: skip
    relations: bool = setting(
        True, "Understand largest, east of and so on (docs/refer.md); off: the locator gets every word.", group=_FINDING
    )
    masks: str = setting("auto", "What the boxes prompt: tree, nano, a SAM by name or file, auto.", group=_MASKS)
    point: str = setting(
        "missed",
        "A point on the object, found by colours, prompts beside the box: where the box's mask misses it, always, or never.",
        choices=POINTS,
        group=_MASKS,
    )
    refine: bool = setting(True, "Redraw the boundaries of masks by colours, where a guard accepts it.", group=_MASKS)
    tile_size: int = setting(
        1024, "Side of the square windows that large images are read in, pixels.", low=32, high=16384, group=_IMAGERY
    )
    overlap: int = setting(256, "Overlap of neighbouring windows, pixels.", low=0, group=_IMAGERY)
    bands: tuple[int, ...] | None = setting(
        None, "Bands to use, 1-based, comma-separated, in this order (default: see docs/imagery.md).", group=_IMAGERY
    )
    sensor: str = setting("optical", "What took the images.", choices=("optical", "sar"), group=_IMAGERY)
    follow_vrt: bool = setting(False, "Open VRT files, which may refer to any other file on this machine.", group=_IMAGERY)
    precision: str = setting(
        "fp32", "Numbers that networks compute with; bf16 is faster, its masks differ a little.", choices=("fp32", "bf16"),
        group=_MACHINE,
    )  # fmt: skip
    device: str = setting("auto", "Where networks run: auto, cpu, cuda, cuda:1, mps.", results=False, group=_MACHINE)
    workers: int = setting(
        -1,
        "Worker processes; -1: one per core (networks: as many as memory holds), 0: everything in this process.",
        low=-1,
        results=False,
        group=_MACHINE,
    )
    threads: int = setting(
        1, "Threads of a network on the CPU, per worker; another number may change the last bits.", low=1, group=_MACHINE
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))
        if self.overlap * 2 > self.tile_size:
            raise SettingsError(
                f"overlap {self.overlap} is more than half of tile_size {self.tile_size}: make tiles larger or the overlap smaller."
            )

    @property
    def labelling(self) -> LabelSettings:
        """What of it `label` has, too: imagery, masks and machine."""
        known = {f.name for f in fields(LabelSettings)}
        return LabelSettings(**{name: value for name, value in asdict(self).items() if name in known})

    def stored(self) -> dict[str, object]:
        """What decides the result, as JSON-able values."""
        own = {name: getattr(self, name) for name in ("locator", "threshold", "nms", "relations", "point", "refine")}
        imagery = ("masks", "tile_size", "overlap", "bands", "sensor", "follow_vrt", "precision", "threads")
        return {**{k: v for k, v in stored(self.labelling).items() if k in imagery}, **own}
