"""Every extension point, on one page. A backend is any object with these attributes; no base class is needed.

How to write one and the checks that come with the package: `docs/write-a-backend.md`, `terralabel.testing`.
All backends carry two attributes: `name` (what the user types) and `version` (a string that changes whenever the
output for the same input may change: it is part of the digest under which results are stored).
Backends must be picklable (they are sent to worker processes) and deterministic on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledSet
from terralabel.core.masks import Masks
from terralabel.core.objects import Objects
from terralabel.core.quality import Signals
from terralabel.core.scene import Scene
from terralabel.core.tile import Tile

__all__ = [
    "Batches",
    "Candidates",
    "Clusterer",
    "DatasetReader",
    "Encoded",
    "Exporter",
    "FeatureExtractor",
    "Judge",
    "LabelRequest",
    "Locator",
    "MaskGenerator",
    "Prediction",
    "Promptable",
    "RunView",
    "TileRecord",
]


@dataclass(frozen=True)
class Encoded:
    """What a backend remembers of one tile after looking at it once.

    `state` belongs to the backend. `feature_map` is (h, w, d) float32 whose first `covers` = (rows, columns), in feature
    cells and possibly fractional, span the tile exactly (SAM pads right and below); None if the backend has no network.
    """

    tile: Tile
    state: Any
    feature_map: np.ndarray | None = None
    covers: tuple[float, float] | None = None


@dataclass(frozen=True)
class Prediction:
    """Masks for `b` prompts, `k` alternatives each, best first is not promised.

    `masks` holds b * k masks, prompt-major, with `predicted_iou` and `stability_score` set;
    `alternatives` is k.
    """

    masks: Masks
    alternatives: int


@runtime_checkable
class Promptable(Protocol):
    """Encode an image once; then masks for points, boxes and mask prompts, in batches (SAM's interface).

    Two methods more are optional and only save time: `candidates` (see `Candidates`), and `encode_batch(tiles)`, which
    returns the `encode` of each tile, in order, from one pass; on the CPU with the same bytes.
    """

    name: str
    version: str

    def encode(self, tile: Tile) -> Encoded:
        """Look at the tile once."""
        ...

    def predict(
        self,
        encoded: Encoded,
        *,
        points: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: Masks | None = None,
        multimask: bool = True,
    ) -> Prediction:
        """Masks for `b` prompts.

        points (b, p, 2) float32 xy and point_labels (b, p) int (1 object, 0 background, -1 padding),
        boxes (b, 4) float32 xyxy, masks: b rough masks to improve; all in tile pixels, any combination of them
        with equal b. `multimask` asks for nested alternatives (k >= 1), otherwise k = 1.
        """
        ...


class Candidates(Protocol):
    """`n` masks of a tile that passed predicted IoU and stability and have no pixels yet: what a fast promptable gives.

    A `Promptable` may have a method

        candidates(encoded, points, *, pred_iou_thresh, stability_score_thresh, stability_score_offset, points_per_batch)

    that prompts with each of `points` ((n, 2) float32 xy in tile pixels) alone, all alternatives asked for, and returns
    these. `masks.everything` then drops duplicates by their boxes and asks for the pixels of what is left. The result must be
    what `predict` and the thresholds give: strictly above `pred_iou_thresh`, at least `stability_score_thresh`, 0 lets all
    pass; prompts in order, each with its alternatives in order. Invalid pixels are the caller's business.
    """

    @property
    def predicted_iou(self) -> np.ndarray:
        """(n,) float32 as the network gives it, not clipped."""
        ...

    @property
    def stability_score(self) -> np.ndarray:
        """(n,) float32 in [0, 1], NaN where the mask is empty even at the lower cut-off."""
        ...

    @property
    def area(self) -> np.ndarray:
        """(n,) int64 pixels."""
        ...

    @property
    def bbox(self) -> np.ndarray:
        """(n, 4) int32 xywh, tight; zeros for an empty mask."""
        ...

    @property
    def point_coords(self) -> np.ndarray:
        """(n, 2) float32 xy: the prompt of each."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many masks were "prompted", and how many passed "predicted_iou" and then "stability_score"."""
        ...

    def __len__(self) -> int: ...

    def masks(self, index: np.ndarray) -> Masks:
        """The masks at `index` ((k,) integers), in that order, with `predicted_iou` clipped to [0, 1]."""
        ...


@runtime_checkable
class MaskGenerator(Protocol):
    """All masks of a tile, without prompts from a person."""

    name: str
    version: str

    def encode(self, tile: Tile) -> Encoded:
        """Look at the tile once; `generate` and pooled features share it."""
        ...

    def generate(self, encoded: Encoded) -> Masks:
        """Every mask worth having, in the tile's pixels; may overlap; no promise of order."""
        ...


@runtime_checkable
class Locator(Protocol):
    """Boxes of what a text says: the first stage of `refer`."""

    name: str
    version: str

    def locate(self, tile: Tile, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) float32 xyxy boxes in tile pixels and (n,) float32 scores in [0, 1], in any order.

        Boxes may reach past the tile; what of them lies outside the scene is cut off by the caller, who also joins boxes that
        seams of tiles cut and drops those that a better one covers.
        """
        ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """One vector per mask."""

    name: str
    version: str
    #: True when `extract` needs `Encoded.feature_map` of the mask generator.
    needs_encoded: bool

    def extract(self, tile: Tile, masks: Masks, encoded: Encoded | None = None) -> np.ndarray:
        """(n, d) float32, finite; row i belongs to mask i; d is the same for every tile of a run."""
        ...


#: A function that starts one pass over the data: yields (m, d) float32 batches, or pairs of one and the (m,) float32
#: weights of its vectors; always the same, in the same order.
Batches = Callable[[], Iterable["np.ndarray | tuple[np.ndarray, np.ndarray]"]]


@runtime_checkable
class Clusterer(Protocol):
    """Groups of vectors, fitted out of core."""

    name: str
    version: str

    def fit(self, batches: Batches, *, progress: Callable[[str], None] | None = None) -> Clusterer:
        """Fit on as many passes over `batches` as needed; nothing but a batch is held in memory. Returns itself."""
        ...

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cluster ids (n,) int32 and certainty (n,) float32 in [0, 1] (1: far nearer to its centre than to the next)."""
        ...

    def state(self) -> Mapping[str, np.ndarray]:
        """Arrays that `from_state` rebuilds the fitted clusterer from; always has `centres` (k, d) float32."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Says how good labels are without truth, from their signals (`labels.quality.signals`)."""

    name: str

    @property
    def version(self) -> str:
        """Changes whenever the scores for the same signals may change."""
        ...

    def predict(self, signals: Signals) -> np.ndarray:
        """(n,) float32 in [0, 1]: the IoU that is expected of each unit; NaN where nothing is known of it."""
        ...

    def gains(self, signals: Signals) -> Mapping[str, np.ndarray]:
        """Kind of signal -> (n,) float: how much better the label would look with that kind as of good labels; gives the reasons."""
        ...

    def to_json(self) -> str:
        """Everything it knows, as plain numbers; nothing that can be run."""
        ...


class TileRecord(Protocol):
    """What a run's ledger says of one tile; `status` is "ok", "empty", "nodata" or "failed", `reason` "" unless failed."""

    @property
    def key(self) -> str: ...
    @property
    def window(self) -> Window: ...
    @property
    def core(self) -> Window: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def masks(self) -> int: ...


class RunView(Protocol):
    """What an exporter sees of a finished run, read-only. Nothing of scene size is ever handed over.

    A run whose labels were judged has one attribute more, `verdicts` (`core.quality.Verdicts`, or None); one that a person may
    correct `corrections` (`export.corrections.Corrections`).
    """

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def classes(self) -> Classes: ...
    @property
    def scenes(self) -> tuple[Scene, ...]: ...

    @property
    def masks_name(self) -> str:
        """Name of the mask generator, for example "tree"."""
        ...

    def label_path(self, scene_key: str) -> Path:
        """The final label raster: tiled GeoTIFF on the source grid, class ids, uint8 or uint16, nodata 255."""
        ...

    def objects(self, scene_key: str) -> Iterator[Objects]:
        """The scene's objects in batches of some thousands, corrections applied, always in the same order."""
        ...

    def instances(self, scene_key: str) -> Iterator[tuple[Window, np.ndarray]]:
        """(window, (h, w) int64 id of the object each pixel shows, 0 for none), corrections applied; windows do not overlap."""
        ...

    def tiles(self, scene_key: str) -> Iterator[TileRecord]:
        """The scene's tiles in the order of processing."""
        ...

    def source_path(self, scene_key: str) -> Path:
        """The input image."""
        ...

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 of a window after the data set's radiometry, shrunk so that no side exceeds `max_size`."""
        ...


@runtime_checkable
class Exporter(Protocol):
    """Writes a run in a format other programs open."""

    name: str

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write into the folder `out` through temporary names; return the files written."""
        ...


@dataclass(frozen=True)
class LabelRequest:
    """What a person asked for when opening a labelled data set.

    `folder` the set; `classes` a class file in place of its own; `labels` where labels lie if not there; for labels of plain ids
    `ignore` are stored values that mean "no label", and `threshold` makes a grey mask the classes 0 and 1.
    """

    folder: Path
    classes: Path | None = None
    labels: Path | None = None
    ignore: tuple[int, ...] = ()
    threshold: int | None = None


@runtime_checkable
class DatasetReader(Protocol):
    """Finds the images and labels of a data set on disk; made without arguments."""

    name: str

    def recognises(self, folder: Path) -> bool:
        """Whether the folder has this layout; looks at names only, and never raises for a folder that can be listed."""
        ...

    def read(self, request: LabelRequest) -> LabelledSet:
        """The set. `InputError` says in one line what is missing, what to download from where, and into which layout."""
        ...
