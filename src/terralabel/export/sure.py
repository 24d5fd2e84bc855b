"""Label rasters of what is sure: labels to learn from, the doubtful ones left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from terralabel.contracts import RunView
from terralabel.core.classes import IGNORE
from terralabel.core.files import write_text
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.quality import EMPTY, Verdicts
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.export.corrections import Corrections, apply_to_raster
from terralabel.export.features import read_labels
from terralabel.export.rasters import write_label_raster
from terralabel.export.verdicts import unit_mask, verdicts_of

__all__ = ["Sure"]

_SIDE = 2048


@dataclass(frozen=True)
class Sure:
    """A folder of label rasters `SCENE.tif` and `classes.json`: as `geotiff`, but 255 where a label was not accepted.

    Accepted is what a gate or a person accepted; a person's corrections are. What was sent to review, or rejected, says nothing, and
    so does a picture without labels that nobody accepted. `annotate fit --labels` learns from such a folder.
    """

    name: str = "sure"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write one raster for each scene; `RunError` for a run whose labels nobody has judged."""
        verdicts = verdicts_of(run)
        if verdicts is None:
            raise RunError(
                f"{run.path}: nobody has judged these labels, so nothing is sure: run `terralabel quality score` first."
            )
        rows: dict[str, list[int]] = {}
        for row, (key, decision) in enumerate(zip(verdicts.scene, verdicts.decision, strict=True)):
            if decision != "accept":
                rows.setdefault(key, []).append(row)
        written = []
        for scene in run.scenes:
            final = out / f"{scene.key}.tif"
            doubtful = verdicts.take(np.array(rows.get(scene.key, []), dtype=np.int64))
            mine = getattr(run, "corrections", Corrections()).of(scene.key)
            written += write_label_raster(final, scene, run.classes, _blocks(run.label_path(scene.key), scene, doubtful, mine))
        write_text(out / "classes.json", run.classes.to_json())
        return [*written, out / "classes.json"]


def _blocks(path: Path, scene: Scene, doubtful: Verdicts, mine: Corrections) -> Iterator[tuple[Window, np.ndarray]]:
    """The labels block by block, 255 where a doubtful unit lies; what a person drew or said stands on top."""
    for plan in plan_tiles(scene.key, scene.width, scene.height, _SIDE, 0):
        block = read_labels(path, plan.core).copy()
        for row in range(len(doubtful)):
            box = Window(*doubtful.units.box[row].tolist())
            common = box.intersect(plan.core)
            if common.area:
                mask = _mask(path, doubtful, row, box, common)
                block[common.relative_to(plan.core).slices()][mask] = IGNORE
        yield plan.core, apply_to_raster(block, plan.core, mine)


def _mask(path: Path, doubtful: Verdicts, row: int, box: Window, common: Window) -> np.ndarray:
    """(h, w) bool of a unit within `common`, a part of its box."""
    class_id, component = int(doubtful.units.class_id[row]), int(doubtful.units.component[row])
    if class_id == EMPTY:
        return np.ones((common.height, common.width), dtype=bool)
    if not component:
        return read_labels(path, common) == class_id
    return unit_mask(read_labels(path, box), class_id, component)[common.relative_to(box).slices()]
