"""Masks and features of a shard: what a worker does first.

Like every stage function: takes a job (small, picklable), writes its parts under the job's paths and returns a short
summary. It can be run again at any time: a part under its final name is done, and the same job gives the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
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
from terralabel.recipes.networks import tiles_at_once
from terralabel.recipes.plan import Shard
from terralabel.recipes.reading_ahead import read_ahead
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
    made_by: str = ""  # name and version of the mask generator that the parts' names tell of; "" asks for none


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
    rows: list[_Row] = []
    masks: list[Masks] = []
    features: list[np.ndarray] = []
    for row, found, vectors in shard.measured():
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
        "used": shard.used,
        "clock": shard.clock,
        "failed": [vars(row) for row in rows if row.status == "failed"],
    }


class _Reader:
    """Tiles of a job's scenes, with the last raster kept open; for one thread."""

    def __init__(self, job: MeasureJob) -> None:
        self.scenes = {scene.key: scene for scene in job.scenes}
        self.follow_vrt = job.settings.follow_vrt
        self.radiometry = _radiometry((job.run / "radiometry.json").read_text(encoding="utf-8"))
        self.raster: Any = None
        self.open_scene = ""
        self.seconds = 0.0  # of the processor

    def read(self, plan: TilePlan) -> Tile:
        """The tile of a plan."""
        began = time.thread_time()
        try:
            if self.open_scene != plan.scene:
                self.close()
                self.raster = self.radiometry.open(self.scenes[plan.scene].source, follow_vrt=self.follow_vrt)
                self.open_scene = plan.scene
            return read_tile(self.raster, plan, self.radiometry)
        finally:
            self.seconds += time.thread_time() - began

    def close(self) -> None:
        """Close the raster."""
        if self.raster is not None:
            self.raster.close()
        self.raster, self.open_scene = None, ""


class _Shard:
    """The tiles of a job, one after the other; the next one is read meanwhile."""

    def __init__(self, job: MeasureJob) -> None:
        self.job = job
        self.scenes = {scene.key: scene for scene in job.scenes}
        self.generator = make_generator(job.settings)
        _check_maker(f"{self.generator.name} {self.generator.version}", job.made_by)
        self.extractor = _extractor(job.settings, job.extractor_state)
        self.reader = _Reader(job)
        self.done = MaskStore([job.masks]).shard(0) if job.masks.exists() else None
        self.at_once = tiles_at_once(job.settings)
        self.width = 0  # of the features, once known
        self._clock = {"masks": 0.0, "features": 0.0}

    @property
    def used(self) -> dict[str, int]:
        """What memory held at once: prompts decoded, tiles encoded; nothing where no network tells."""
        told = {"points_per_batch": "batch_used", "tiles_per_batch": "tiles_at_once"}
        network = getattr(self.generator, "promptable", None)
        used = {setting: int(getattr(network, name, 0)) for setting, name in told.items()}
        used["tiles_per_batch"] = min(used["tiles_per_batch"], self.at_once)
        return {setting: count for setting, count in used.items() if count}

    @property
    def needs_encoded(self) -> bool:
        """Whether anyone asks for what the encoder leaves of a tile."""
        return self.done is None or bool(self.extractor.needs_encoded)

    @property
    def clock(self) -> dict[str, float]:
        """Seconds of the processor: read, masks, features."""
        return {"read": self.reader.seconds, **self._clock}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.process_time() - self.reader.seconds
        yield
        self._clock[stage] += time.process_time() - self.reader.seconds - began

    def measured(self) -> Iterator[tuple[_Row, Masks, np.ndarray]]:
        """Row, masks and features of every tile; whatever goes wrong in one becomes its row, and never touches the others."""
        skip = dict(self.job.skip)
        wanted = [plan for plan in self.job.shard.tiles if plan.key not in skip]
        with closing(read_ahead(self.reader.read, wanted, ahead=self.at_once, close=self.reader.close)) as reads:
            looks = self._looked_at(reads)
            for position, plan in enumerate(self.job.shard.tiles):
                if plan.key in skip:
                    yield _failed(plan, skip[plan.key])
                else:
                    yield self._tile(position, plan, *next(looks))

    def _looked_at(self, reads: Iterator[Future[Tile]]) -> Iterator[tuple[Future[Tile], Encoded | None]]:
        """Every tile with what the encoder left of it, where it has gone through with others; None: it has not yet."""
        while batch := list(islice(reads, self.at_once)):
            together = self._encode_together(batch) if len(batch) > 1 and self.needs_encoded else {}
            for read in batch:
                yield read, together.pop(read, None)

    def _encode_together(self, reads: list[Future[Tile]]) -> dict[Future[Tile], Encoded]:
        """One pass for a batch. Where it fails there is nothing: each is encoded alone then, and the guilty one fails alone."""
        good = [read for read in reads if read.exception() is None and read.result().valid.any()]
        encode_batch = getattr(self.generator, "encode_batch", None)
        if encode_batch is None or len(good) < 2:
            return {}
        with self._timed("masks"):
            try:
                return dict(zip(good, encode_batch([read.result() for read in good]), strict=True))
            except (Exception, SystemExit):
                return {}

    def _tile(
        self, position: int, plan: TilePlan, read: Future[Tile], encoded: Encoded | None
    ) -> tuple[_Row, Masks, np.ndarray]:
        try:
            return self._measure(position, plan, read.result(), encoded)
        except InputError as error:
            return _failed(plan, f"{error.status}: {error}")
        except (SpaceError, SettingsError, MissingExtraError, WeightsError):
            raise
        except SystemExit as error:
            return _failed(plan, f"SystemExit: a backend tried to leave with {error.code!r}")
        except MemoryError:
            return _failed(plan, "out-of-memory: choose a smaller --tile-size or fewer --workers")
        except Exception as error:
            return _failed(plan, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")

    def _measure(self, position: int, plan: TilePlan, tile: Tile, encoded: Encoded | None) -> tuple[_Row, Masks, np.ndarray]:
        if not tile.valid.any():
            return _Row(plan.key, "nodata"), Masks.empty(tile.size), np.zeros((0, 0), np.float32)
        with self._timed("masks"):
            if encoded is None and self.needs_encoded:
                encoded = self.generator.encode(tile)
            passed = self._masks(tile, encoded, plan) if self.done is None else Passed(self.done[position])
        with self._timed("features"):
            vectors = self.extractor.extract(tile, passed.masks, encoded)
            _check_features(vectors, len(passed.masks), self.width, self.extractor.name)
            self.width = vectors.shape[1] if len(vectors) else self.width
        status = "ok" if len(passed.masks) else "empty"
        return _Row(plan.key, status, "", len(passed.masks), dict(passed.dropped)), passed.masks, vectors

    def _masks(self, tile: Tile, encoded: Encoded | None, plan: TilePlan) -> Passed:
        assert encoded is not None
        found = self.generator.generate(encoded)
        _check_masks(found, tile.size, self.generator.name)
        return _gated(found, tile, self.job.settings, self.scenes[plan.scene])


def _failed(plan: TilePlan, reason: str) -> tuple[_Row, Masks, np.ndarray]:
    nothing = Masks.empty((plan.window.height, plan.window.width)), np.zeros((0, 0), np.float32)
    return _Row(plan.key, "failed", reason), *nothing


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
    passed = area_gate(masks.within(tile.valid), largest=settings.tau, reference=gate_reference(scene))
    return passed.then(minimum_size, smallest=settings.min_size)


def _check_maker(name: str, expected: str) -> None:
    """Nothing made by one network may be filed under the name of another."""
    if expected and name != expected:
        raise WeightsError(
            f"masks: this run is made by {expected}, a worker has {name}: were the weights replaced? Run the same command again."
        )


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
    shard = _Shard(job)
    shard.done = None  # the tile alone is not the shard whose part may be there
    ((row, _, _),) = shard.measured()
    return row.status != "failed"
