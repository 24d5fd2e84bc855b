"""Masks on disk: one part per shard, and a reader that keeps a few shards in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.masks import Masks
from terralabel.runs.parts import Ragged, read_part, write_part

__all__ = ["MaskStore", "write_masks"]

_COLUMNS = ("bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box")


def write_masks(path: Path, masks: Sequence[Masks], rows: Sequence[dict[str, Any]]) -> None:
    """The masks of a shard's tiles as one part; `rows` is what the ledger says of each tile."""
    lengths = np.concatenate([np.diff(m.offsets) for m in masks])
    columns: dict[str, np.ndarray | Ragged] = {
        "tile": np.repeat(np.arange(len(masks), dtype=np.int32), [len(m) for m in masks]),
        "runs": Ragged(np.concatenate([m.runs for m in masks]), np.concatenate([[0], np.cumsum(lengths)])),
    }
    for name in _COLUMNS:
        columns[name] = np.concatenate([getattr(m, name) for m in masks])
    write_part(path, columns, {"tiles": list(rows), "sizes": [list(m.size) for m in masks]})


def _read_masks(path: Path) -> list[Masks]:
    part = read_part(path)
    columns, sizes = part.columns, part.notes["sizes"]
    runs = columns["runs"]
    assert isinstance(runs, Ragged)
    bounds = np.searchsorted(np.asarray(columns["tile"]), np.arange(len(sizes) + 1))
    out = []
    for tile, (height, width) in enumerate(sizes):
        low, high = int(bounds[tile]), int(bounds[tile + 1])
        offsets = runs.offsets[low : high + 1]
        rest = [np.asarray(columns[name])[low:high] for name in _COLUMNS]
        out.append(Masks((height, width), runs.values[offsets[0] : offsets[-1]], offsets - offsets[0], *rest))
    return out


class MaskStore:
    """Masks of tiles out of parts, a few shards in memory at a time (those last asked for)."""

    def __init__(self, paths: Sequence[Path], keep: int = 10) -> None:
        self.paths = list(paths)
        self.keep = keep
        self._held: OrderedDict[int, list[Masks]] = OrderedDict()

    def shard(self, index: int) -> list[Masks]:
        """The masks of each tile of shard `index`, in the order of its tiles."""
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        masks = _read_masks(self.paths[index])
        self._held[index] = masks
        while len(self._held) > self.keep:
            self._held.popitem(last=False)
        return masks
