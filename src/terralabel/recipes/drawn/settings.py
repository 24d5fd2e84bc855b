"""The settings of labels drawn in a GIS: each described once, for Python, the command line and YAML."""

from __future__ import annotations

from dataclasses import dataclass, fields

from terralabel.core.settings import coerce, setting
from terralabel.recipes.settings import LabelSettings

__all__ = ["DrawnSettings"]


@dataclass(frozen=True)
class DrawnSettings:
    """How a vector file is read as labels."""

    class_field: str = setting(
        "", "Attribute that holds the class; none: the first of class_name, class, label, category, type, name, class_id."
    )
    rest: str = setting("", "Class of the pixels that nobody drew, in images with anything drawn; none: no label.")
    shapes: str = setting(
        "polygons",
        "What polygons are: outlines of things, or boxes round them, which become masks.",
        choices=("polygons", "boxes"),
    )
    layer: str = setting("", "Layer of the file, where it has several.")
    masks: str = setting("auto", "What makes masks of points and boxes: auto, tree, nano, or a SAM (`models list`).")
    tile_size: int = setting(1024, "Side of the window that a point or box is looked at in, pixels.", low=64, high=16384)
    overlap: int = setting(256, "Overlap of such windows, pixels.", low=0)
    sensor: str = setting("optical", "What took the images.", choices=("optical", "sar"))
    bands: tuple[int, ...] | None = setting(None, "Bands to look at, 1-based, comma-separated.")
    device: str = setting("auto", "Where a network runs: auto, cpu, cuda, cuda:1, mps.", results=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))

    @property
    def labelling(self) -> LabelSettings:
        """The same as settings of `label`."""
        names = ("masks", "tile_size", "overlap", "sensor", "bands", "device")
        return LabelSettings(**{name: getattr(self, name) for name in names}, workers=0)
