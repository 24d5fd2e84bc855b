"""Masks and features of a shard: what a worker does first.

Like every stage function: takes a job (small, picklable), writes its parts under the job's paths and returns a short
summary. It can be run again at any time: a part under its final name is done, and the same job gives the same bytes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core import rle
from terralabel.core.grid import TilePlan
from terralabel.core.masks import Masks
from terralabel.core.scene import Scene
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, InputError, MissingExtraError, SettingsError, SpaceError, WeightsError
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.tiles import read_tile
from terralabel.masks.gates import Passed, area_gate, minimum_size
from terralabel.recipes.backends import make_extractor, make_generator
from terralabel.recipes.mask_store import MaskStore, write_masks
from terralabel.recipes.plan import Shard
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.parts import write_part

__all__ = ["MeasureJob", "gate_reference", "measure_shard", "probe_tile"]

#: Side of the square that the filtering gate's proportion refers to in scenes larger than it: it must not depend on how
#: a scene is cut into tiles. SAM looks at 1024 x 1024.
GATE_SIDE = 1024


@dataclass(frozen=True)
class MeasureJob:
    """Masks and features of one shard."""

    run: Path
    settings: LabelSettings
    shard: Shard
    scenes: tuple[Scene, ...]
    masks: Path
    features: Path
    extractor_state: Path | None = None
    skip: tuple[tuple[str, str], ...] = ()  # (tile key, why): tiles that killed a worker


@dataclass
class _Row:
    """What the ledger says of one tile."""

    key: str
    status: str
    reason: str = ""
    masks: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def gate_reference(scene: Scene) -> int:
    """The H * W of ALPS's eq. 2: the image's, or a 1024 x 1024 part's where the image is larger."""
    return min(scene.width, GATE_SIDE) * min(scene.height, GATE_SIDE)


def measure_shard(job: MeasureJob) -> dict[str, Any]:
    """Masks, gates, features: one read and one encoder pass per tile for all of them."""
    shard = _Shard(job)
    clock = {"read": 0.0, "masks": 0.0, "features": 0.0}
    rows: list[_Row] = []
    masks: list[Masks] = []
    features: list[np.ndarray] = []
    with shard:
        for position, plan in enumerate(job.shard.tiles):
            row, found, vectors = shard.tile(position, plan, clock)
            rows.append(row)
            masks.append(found)
            features.append(vectors)
    if shard.done is None or any(row.status == "failed" for row in rows):  # a tile without features has no masks either
        write_masks(job.masks, masks, [vars(row) for row in rows])
    if not job.features.exists():
        width = max(f.shape[1] for f in features)
        stacked = np.concatenate([f if len(f) else np.zeros((0, width), np.float32) for f in features])
        write_part(job.features, {"feature": stacked}, {"counts": [len(f) for f in features]})
    pixels = sum(plan.core.area for plan in job.shard.tiles)
    return {
        "tiles": len(rows),
        "pixels": pixels,
        "masks": sum(row.masks for row in rows),
        "batch": shard.batch,
        "clock": clock,
        "failed": [vars(row) for row in rows if row.status == "failed"],
    }


class _Shard:
    """The tiles of a job, one after the other, with the last raster kept open."""

    def __init__(self, job: MeasureJob) -> None:
        self.job = job
        self.scenes = {scene.key: scene for scene in job.scenes}
        self.skip = dict(job.skip)
        self.generator = make_generator(job.settings)
        self.extractor = _extractor(job.settings, job.extractor_state)
        self.radiometry = _radiometry((job.run / "radiometry.json").read_text(encoding="utf-8"))
        self.done = MaskStore([job.masks]).shard(0) if job.masks.exists() else None
        self.width = 0  # of the features, once known
        self.raster: Any = None
        self.open_scene = ""

    @property
    def batch(self) -> int:
        """Prompts that the network decoded at once when memory was shortest; 0 where nothing tells."""
        return int(getattr(getattr(self.generator, "promptable", None), "batch_used", 0))

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *_: object) -> None:
        if self.raster is not None:
            self.raster.close()

    def tile(self, position: int, plan: TilePlan, clock: dict[str, float]) -> tuple[_Row, Masks, np.ndarray]:
        """One tile; whatever goes wrong in it becomes its row, and never touches the others."""
        nothing = Masks.empty((plan.window.height, plan.window.width)), np.zeros((0, 0), np.float32)
        if plan.key in self.skip:
            return _Row(plan.key, "failed", self.skip[plan.key]), *nothing
        try:
            return self._measure(position, plan, clock)
        except InputError as error:
            return _Row(plan.key, "failed", f"{error.status}: {error}"), *nothing
        except (SpaceError, SettingsError, MissingExtraError, WeightsError):
            raise
        except SystemExit as error:
            return _Row(plan.key, "failed", f"SystemExit: a backend tried to leave with {error.code!r}"), *nothing
        except MemoryError:
            return _Row(plan.key, "failed", "out-of-memory: choose a smaller --tile-size or fewer --workers"), *nothing
        except Exception as error:
            return _Row(plan.key, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"), *nothing

    def _measure(self, position: int, plan: TilePlan, clock: dict[str, float]) -> tuple[_Row, Masks, np.ndarray]:
        began = time.process_time()
        tile = self._read(plan)
        clock["read"] += time.process_time() - began
        if not tile.valid.any():
            return _Row(plan.key, "nodata"), Masks.empty(tile.size), np.zeros((0, 0), np.float32)
        began = time.process_time()
        encoded: Encoded | None = None
        if self.done is None or self.extractor.needs_encoded:
            encoded = self.generator.encode(tile)
        if self.done is None:
            assert encoded is not None
            found = self.generator.generate(encoded)
            _check_masks(found, tile.size, self.generator.name)
            passed = _gated(found, tile, self.job.settings, self.scenes[plan.scene])
        else:
            passed = Passed(self.done[position])
        clock["masks"] += time.process_time() - began
        began = time.process_time()
        vectors = self.extractor.extract(tile, passed.masks, encoded)
        _check_features(vectors, len(passed.masks), self.width, self.extractor.name)
        self.width = vectors.shape[1] if len(vectors) else self.width
        clock["features"] += time.process_time() - began
        status = "ok" if len(passed.masks) else "empty"
        return _Row(plan.key, status, "", len(passed.masks), dict(passed.dropped)), passed.masks, vectors

    def _read(self, plan: TilePlan) -> Tile:
        if self.open_scene != plan.scene:
            if self.raster is not None:
                self.raster.close()
            self.raster, self.open_scene = None, ""
            self.raster = self.radiometry.open(self.scenes[plan.scene].source, follow_vrt=self.job.settings.follow_vrt)
            self.open_scene = plan.scene
        return read_tile(self.raster, plan, self.radiometry)


@lru_cache(maxsize=2)
def _radiometry(text: str) -> Radiometry:
    return Radiometry.from_json(text)


@lru_cache(maxsize=2)
def _extractor(settings: LabelSettings, state: Path | None) -> Any:
    extractor = make_extractor(settings)
    if state is None:
        return extractor
    with np.load(state, allow_pickle=False) as arrays:
        return type(extractor).from_state({name: arrays[name] for name in arrays.files})


def _gated(masks: Masks, tile: Tile, settings: LabelSettings, scene: Scene) -> Passed:
    """ALPS's filtering gate and the minimum size; pixels without data belong to no mask, whatever a backend says."""
    masks = _within(masks, tile.valid)
    passed = area_gate(masks, largest=settings.tau, reference=gate_reference(scene))
    return passed.then(minimum_size, smallest=settings.min_size)


def _within(masks: Masks, valid: np.ndarray) -> Masks:
    if valid.all() or not len(masks):
        return masks
    outside = masks.sums((~valid)[:, :, None])[:, 0] > 0
    if not outside.any():
        return masks
    codes = [
        rle.encode_boxed(masks.crop(i) & valid[_box(masks.bbox[i])], int(masks.bbox[i, 0]), int(masks.bbox[i, 1]), masks.size)
        if outside[i]
        else masks.code(i)
        for i in range(len(masks))
    ]
    return Masks.from_codes(
        codes,
        masks.size,
        predicted_iou=masks.predicted_iou,
        stability_score=masks.stability_score,
        point_coords=masks.point_coords,
        crop_box=masks.crop_box,
    )


def _box(bbox: np.ndarray) -> tuple[slice, slice]:
    x, y, w, h = (int(v) for v in bbox)
    return slice(y, y + h), slice(x, x + w)


def _check_masks(masks: Any, size: tuple[int, int], name: str) -> None:
    if not isinstance(masks, Masks):
        raise ContractError(f"masks {name!r}: expected Masks, got {type(masks).__name__}.")
    if tuple(masks.size) != size:
        raise ContractError(f"masks {name!r}: expected masks of {size[0]} x {size[1]}, got {masks.size[0]} x {masks.size[1]}.")
    rle.validate(masks.runs, masks.offsets, size)


def _check_features(vectors: np.ndarray, count: int, width: int, name: str) -> None:
    """`width` is that of the shard's features so far, 0 before any."""
    if vectors.ndim != 2 or len(vectors) != count or vectors.dtype != np.float32:
        raise ContractError(f"features {name!r}: expected ({count}, d) float32, got {vectors.shape} {vectors.dtype}.")
    if count and width and vectors.shape[1] != width:
        raise ContractError(f"features {name!r}: expected (n, {width}) as for other tiles, got {vectors.shape}.")
    if not np.isfinite(vectors).all():
        raise ContractError(f"features {name!r}: expected finite values, got NaN or infinity.")


def probe_tile(job: MeasureJob) -> bool:
    """Do a job of one tile and write nothing; True when the tile gives something: whether it fails or kills is the answer."""
    clock = {"read": 0.0, "masks": 0.0, "features": 0.0}
    (plan,) = job.shard.tiles
    with _Shard(job) as shard:
        shard.done = None  # the tile alone is not the shard whose part may be there
        row, _, _ = shard.tile(0, plan, clock)
    return row.status != "failed"
