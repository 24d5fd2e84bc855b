"""SAM's automatic mask generation on any `Promptable`: a grid of points, the gates, duplicates, crops.

Parameter names, defaults, order of steps and record keys are those of segment-anything's
``SamAutomaticMaskGenerator``, so results can be compared number by number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Any

import numpy as np

from terralabel import registry
from terralabel.contracts import Candidates, Encoded, Promptable
from terralabel.core import rle
from terralabel.core.grid import TilePlan, Window
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError
from terralabel.masks.gates import clean_small_regions, distinct_boxes, drop_duplicates, quality_gate, stability_gate

__all__ = ["STEPS", "Everything", "crop_boxes", "everything_on", "point_grid", "records"]

#: SAM: a box this near to a crop's edge (pixels) was probably cut by it.
NEAR_EDGE = 20
#: What `Everything.counts` counts: masks prompted for, then those left after each filter, in SAM's order.
STEPS = ("prompted", "predicted_iou", "stability_score", "crop_edge", "duplicate", "masks")
#: Masks larger than this share of the tile do not keep the adaptive grid from looking inside them.
LARGEST_COVER = 0.3
#: Mask IoU of one and the same mask. SAM's boxes of lines one pixel wide have no area, so its box test never drops them.
SAME = 0.999


def point_grid(points_per_side: int) -> np.ndarray:
    """A regular grid of points in [0, 1] x [0, 1], row by row, half a step from the edges; (n * n, 2) float64 xy."""
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def crop_boxes(size: tuple[int, int], crop_n_layers: int, overlap_ratio: float) -> list[tuple[int, Window]]:
    """(layer, window) of SAM's crops: the whole (H, W) image, then (2^i)^2 overlapping windows in layer i."""
    height, width = size
    boxes = [(0, Window(0, 0, width, height))]
    for layer in range(1, crop_n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / n))
        crop_w, crop_h = (ceil((overlap * (n - 1) + length) / n) for length in (width, height))
        for i in range(n):
            for j in range(n):
                x, y = (crop_w - overlap) * i, (crop_h - overlap) * j
                boxes.append((layer, Window(x, y, min(crop_w, width - x), min(crop_h, height - y))))
    return [(layer, box) for layer, box in boxes if box.area]


@dataclass
class Everything:
    """A `MaskGenerator` that prompts a `Promptable` with a grid of points and keeps what is good and new.

    points_per_side        points along one side of the tile (and of each crop)
    points_per_batch       points handed to the promptable at once
    pred_iou_thresh        keep masks whose predicted IoU is above this
    stability_score_thresh keep masks whose stability score is at least this
    stability_score_offset shift of the cutoff in the stability score; must be the one the promptable measures with
    box_nms_thresh         box IoU above which two masks of one crop are duplicates
    crop_n_layers          further layers of crops, 2^i per side in layer i
    crop_nms_thresh        box IoU above which masks of different crops are duplicates (the smaller crop wins)
    crop_overlap_ratio     overlap of crops in the first layer, as a fraction of the tile's short side
    crop_n_points_downscale_factor   points per side in layer i are divided by this to the power i
    min_mask_region_area   fill holes and remove islands smaller than this many pixels
    grid                   "full", or "adaptive": half as many points a side, then the full grid's points that no mask covers;
                           faster, and not the same masks

    `counts` tells of the last tile how many masks were left after each of `STEPS`. A promptable with `candidates`
    (`contracts.Candidates`) is asked for the pixels of distinct masks only. Points on invalid pixels are not asked, and invalid pixels never belong to a mask. Raises `SettingsError` for values
    out of range and `ContractError` when the promptable's answer does not fit the prompts.
    """

    promptable: Promptable
    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    grid: str = "full"
    counts: dict[str, int] = field(init=False, default_factory=dict, compare=False, repr=False)
    name: str = field(init=False, default="")
    version: str = field(init=False, default="")

    def __post_init__(self) -> None:
        for setting in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor"):
            if getattr(self, setting) < 1:
                raise SettingsError(f"{setting} is {getattr(self, setting)}; give 1 or more.")
        for setting in ("crop_n_layers", "min_mask_region_area"):
            if getattr(self, setting) < 0:
                raise SettingsError(f"{setting} is {getattr(self, setting)}; give 0 or more.")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise SettingsError(f"crop_overlap_ratio is {self.crop_overlap_ratio}; give 0 or more, and less than 1.")
        if self.grid not in ("full", "adaptive"):
            raise SettingsError(f"grid is {self.grid!r}; give 'full' or 'adaptive'.")
        measured = getattr(self.promptable, "stability_score_offset", self.stability_score_offset)
        if measured != self.stability_score_offset and not hasattr(self.promptable, "candidates"):
            raise SettingsError(
                f"stability_score_offset is {self.stability_score_offset}, but {self.promptable.name} measures stability with "
                f"{measured}: make it with the same offset."
            )
        self.name = f"everything:{self.promptable.name}"
        apart = ("promptable", "grid", "points_per_batch")
        settings = [getattr(self, f.name) for f in fields(self) if f.init and f.name not in apart]
        self.version = f"1-{self.promptable.version}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"
        if self.grid != "full":
            self.version += f"-{self.grid}"

    def encode(self, tile: Tile) -> Encoded:
        """The promptable's view of the tile; a tile without a valid pixel is not looked at."""
        return self.promptable.encode(tile) if tile.valid.any() else Encoded(tile, None)

    def encode_batch(self, tiles: Sequence[Tile]) -> list[Encoded]:
        """As `encode`, for several tiles: in one pass where the promptable has `encode_batch`, else one after the other."""
        together = getattr(self.promptable, "encode_batch", None)
        shown = [tile for tile in tiles if tile.valid.any()]
        if together is None or not shown:
            return [self.encode(tile) for tile in tiles]
        seen = iter(together(shown))
        return [next(seen) if tile.valid.any() else Encoded(tile, None) for tile in tiles]

    def generate(self, encoded: Encoded) -> Masks:
        """All good masks, best predicted IoU first (with crops: smallest crop first); how many fell where is in `counts`."""
        tile = encoded.tile
        self.counts = dict.fromkeys(STEPS, 0)
        crops = crop_boxes(tile.size, self.crop_n_layers, self.crop_overlap_ratio)
        masks = Masks.join([self._crop_masks(encoded, layer, box) for layer, box in crops], tile.size)
        if len(crops) > 1:
            area = masks.crop_box[:, 2].astype(np.float64) * masks.crop_box[:, 3]
            masks = drop_duplicates(masks, box_iou=self.crop_nms_thresh, mask_iou=SAME, scores=1 / area).masks
        nms_thresh = max(self.box_nms_thresh, self.crop_nms_thresh)
        cleaned = clean_small_regions(masks, smallest=self.min_mask_region_area, box_iou=nms_thresh).masks
        final = cleaned.within(tile.valid) if self.min_mask_region_area else cleaned
        self.counts["masks"] = len(final)
        return final

    def _crop_masks(self, encoded: Encoded, layer: int, box: Window) -> Masks:
        """The distinct good masks of one crop, in the tile's frame."""
        tile = encoded.tile
        whole = (box.height, box.width) == tile.size
        crop = tile if whole else _cropped(tile, box)
        per_side = max(self.points_per_side // self.crop_n_points_downscale_factor**layer, 1)
        points = _valid_points(crop, per_side)
        if not len(points):
            return Masks.empty(tile.size)
        seen = encoded if whole else self.promptable.encode(crop)
        if self.grid == "full":
            distinct = self._distinct_masks(seen, points, box, tile.size)
        else:
            distinct = self._adaptive_masks(seen, points, per_side, box, tile.size)
        return distinct if whole else _uncropped(distinct, box, tile.size)

    def _adaptive_masks(self, seen: Encoded, points: np.ndarray, per_side: int, box: Window, size: tuple[int, int]) -> Masks:
        """The masks of a grid half as fine, then of those points of the full grid that none of them covers."""
        coarse = self._distinct_masks(seen, _valid_points(seen.tile, -(-per_side // 2)), box, size)
        pixels = seen.tile.size[0] * seen.tile.size[1]
        covered = coarse.select(coarse.area <= LARGEST_COVER * pixels).covered()
        column, row = points.astype(np.int64).T
        rest = points[~covered[row, column]]
        found = Masks.join([coarse, self._distinct_masks(seen, rest, box, size)], seen.tile.size)
        return drop_duplicates(found, box_iou=self.box_nms_thresh, mask_iou=SAME).masks

    def _distinct_masks(self, seen: Encoded, points: np.ndarray, box: Window, size: tuple[int, int]) -> Masks:
        """The good masks of these points of one crop, duplicates dropped, in the crop's frame, best first."""
        if not len(points):
            return Masks.empty(seen.tile.size)
        found = self._candidates(seen, points)
        index = np.flatnonzero((found.area > 0) & ~_cut(found.bbox, box, size))
        index = index[np.argsort(-found.predicted_iou[index], kind="stable")]
        self.counts["crop_edge"] += len(index)
        index = index[distinct_boxes(found.bbox[index], self.box_nms_thresh)]
        order = -np.arange(len(index), dtype=np.float32)
        distinct = drop_duplicates(found.masks(index), box_iou=None, mask_iou=SAME, scores=order).masks
        self.counts["duplicate"] += len(distinct)
        return distinct

    def _candidates(self, seen: Encoded, points: np.ndarray) -> Candidates:
        """What passes predicted IoU and stability, without invalid pixels; the promptable's own way where it has one."""
        ask = getattr(self.promptable, "candidates", None)
        if ask is None:
            batches = (points[i : i + self.points_per_batch] for i in range(0, len(points), self.points_per_batch))
            good = [self._batch_masks(seen, batch) for batch in batches]
            return _Listed(Masks.join(good, seen.tile.size).within(seen.tile.valid))
        settings = ("pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "points_per_batch")
        found = ask(seen, points, **{name: getattr(self, name) for name in settings})
        for step, count in found.counts.items():
            self.counts[step] += count
        if seen.tile.valid.all():
            return found
        return _Listed(found.masks(np.arange(len(found))).within(seen.tile.valid), found.predicted_iou)

    def _batch_masks(self, seen: Encoded, points: np.ndarray) -> Masks:
        """The good masks for one batch of points, in the frame of `seen`."""
        labels = np.ones((len(points), 1), dtype=np.int32)
        answer = self.promptable.predict(seen, points=points[:, None, :], point_labels=labels, multimask=True)
        if len(answer.masks) != len(points) * answer.alternatives or answer.masks.size != seen.tile.size:
            raise ContractError(
                f"{self.promptable.name}: expected {len(points)} x {answer.alternatives} masks of {seen.tile.size}, "
                f"got {len(answer.masks)} of {answer.masks.size}."
            )
        masks = replace(answer.masks, point_coords=np.repeat(points, answer.alternatives, axis=0))
        likely = quality_gate(masks, lowest=self.pred_iou_thresh).masks
        stable = stability_gate(likely, lowest=self.stability_score_thresh).masks
        for step, passed in (("prompted", masks), ("predicted_iou", likely), ("stability_score", stable)):
            self.counts[step] += len(passed)
        return stable


class _Listed:
    """Masks that have their pixels already, as `contracts.Candidates`; `predicted_iou` where theirs is clipped."""

    def __init__(self, masks: Masks, predicted_iou: np.ndarray | None = None) -> None:
        self._masks = masks
        self.predicted_iou = masks.predicted_iou if predicted_iou is None else predicted_iou
        self.stability_score, self.area, self.bbox = masks.stability_score, masks.area, masks.bbox
        self.point_coords = masks.point_coords
        self.counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._masks)

    def masks(self, index: np.ndarray) -> Masks:
        return self._masks.select(index)


def everything_on(argument: str = "tree", **settings: Any) -> Everything:
    """What ``everything:NAME`` stands for: `Everything` on the built-in or installed promptable of that name."""
    promptable = registry.create("masks", argument)
    if not isinstance(promptable, Promptable):
        raise SettingsError(f"everything:{argument}: {argument!r} takes no points; name a promptable, such as everything:tree.")
    return Everything(promptable, **settings)


def _cropped(tile: Tile, box: Window) -> Tile:
    """The part of a tile inside `box` (pixels of the tile), as a tile of its own."""
    rows, columns = box.slices()
    plan, window = tile.plan, tile.plan.window
    place = Window(window.x + box.x, window.y + box.y, box.width, box.height)
    key = f"{plan.key}+{box.x}+{box.y}+{box.width}x{box.height}"
    part = TilePlan(key, plan.scene, plan.row, plan.column, place, plan.core.intersect(place))
    return Tile(
        part,
        np.ascontiguousarray(tile.pixels[rows, columns]),
        np.ascontiguousarray(tile.valid[rows, columns]),
        tile.georeference.shifted(box.x, box.y),
        tile.sensor,
    )


def _valid_points(crop: Tile, per_side: int) -> np.ndarray:
    """A grid's points on valid pixels, (p, 2) float32 xy in pixels of the crop."""
    height, width = crop.size
    points = point_grid(per_side) * (width, height)
    column, row = points.astype(np.int64).T
    return points[crop.valid[row, column]].astype(np.float32)


def _cut(bbox: np.ndarray, box: Window, size: tuple[int, int]) -> np.ndarray:
    """(n,) bool: boxes that come near an edge of the crop that is not an edge of the image."""
    first = bbox[:, :2] + (box.x, box.y)
    corners = np.concatenate([first, first + bbox[:, 2:] - 1], axis=1)  # SAM's boxes end on the last pixel
    near_crop = np.abs(corners - (box.x, box.y, box.right, box.bottom)) <= NEAR_EDGE
    near_image = np.abs(corners - (0, 0, size[1], size[0])) <= NEAR_EDGE
    return np.any(near_crop & ~near_image, axis=1)


def _uncropped(masks: Masks, box: Window, size: tuple[int, int]) -> Masks:
    """Masks of a crop, in the frame of the whole tile."""
    x, y = masks.bbox[:, 0] + box.x, masks.bbox[:, 1] + box.y
    codes = [rle.encode_boxed(masks.crop(i), int(x[i]), int(y[i]), size) for i in range(len(masks))]
    return Masks.from_codes(
        codes,
        size,
        predicted_iou=masks.predicted_iou,
        stability_score=masks.stability_score,
        point_coords=masks.point_coords + np.array([box.x, box.y], dtype=np.float32),
        crop_box=np.tile(np.array([box.x, box.y, box.width, box.height], dtype=np.int32), (len(masks), 1)),
    )


def records(masks: Masks) -> list[dict[str, Any]]:
    """SAM's list of records, ready for JSON: one dict per mask with SAM's keys.

    ``segmentation`` is COCO's compressed run length ({"size": [H, W], "counts": str}), as with SAM's
    ``output_mode="coco_rle"``; ``bbox`` and ``crop_box`` are [x, y, width, height] in pixels. The box is COCO's, so one
    pixel wider and higher than SAM's, whose boxes end on the last pixel.
    """
    return [
        {
            "segmentation": {"size": list(masks.size), "counts": counts},
            "area": int(masks.area[i]),
            "bbox": [float(v) for v in masks.bbox[i]],
            "predicted_iou": float(masks.predicted_iou[i]),
            "point_coords": [[float(v) for v in masks.point_coords[i]]],
            "stability_score": float(masks.stability_score[i]),
            "crop_box": [float(v) for v in masks.crop_box[i]],
        }
        for i, counts in enumerate(_coco_counts(masks))
    ]


def _coco_counts(masks: Masks) -> Iterator[str]:
    """COCO's text form of each mask's run lengths.

    From the fourth on, a run is written as the difference from the run two before it; each number in groups of five
    bits, low first, bit six meaning "more follows", plus 48 to be printable (pycocotools' ``rleToString``).
    """
    for i in range(len(masks)):
        value = masks.code(i).astype(np.int64)
        value[3:] -= masks.code(i).astype(np.int64)[1:-2]
        more = np.ones(len(value), dtype=bool)
        characters = np.zeros((len(value), 7), dtype=np.uint8)
        for group in range(7):
            five, value = value & 31, value >> 5
            going = np.where(five & 16, value != -1, value != 0)
            characters[:, group] = np.where(more, five + 32 * going + 48, 0)
            more = more & going
        yield characters[characters > 0].tobytes().decode("ascii")
