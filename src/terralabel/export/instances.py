"""Which object every pixel shows, as a raster of object ids on the source grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rasterio.io import DatasetWriter

from terralabel.contracts import RunView
from terralabel.export.rasters import write_grid

__all__ = ["Instances"]

#: No object.
_NONE = 0


@dataclass(frozen=True)
class Instances:
    """A folder of rasters `SCENE_instances.tif`: uint32 object ids, those of the other formats, 0 where there is no object.

    A pixel shows the smallest object over it, or what a person corrected. On the source grid, in tiles of 512, DEFLATE,
    with overviews, nodata 0; written tile by tile.
    """

    name: str = "instances"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write one raster for each scene."""

        def dress(target: DatasetWriter) -> None:
            target.update_tags(TERRALABEL_RUN=run.id)
            target.set_band_description(1, "object id")

        written = []
        for scene in run.scenes:
            final = out / f"{scene.key}_instances.tif"
            write_grid(final, scene, run.instances(scene.key), dtype="uint32", nothing=_NONE, dress=dress)
            written.append(final)
        return written
