"""`masks nano`: our own small network, shipped with the package, behind the same contracts as SAM. It is not SAM.

    encode   -> the tile, and the tile four times (and sixteen times) smaller, each through the network's encoder once
    predict  -> every prompt becomes a box: given, of the rough mask, or guessed at the point; then a mask in the box's window
    generate -> guesses at every cell of the maps, the distinct ones decoded; the good and distinct masks, and those of `tree`

An object is looked at in the smallest picture that shows it well, so objects of 16 pixels and of 1600 are one task. What is no
object that a box can hold, a street or a shore, is left to the hierarchy of regions: its masks join the network's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.contracts import Encoded, Prediction
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError
from terralabel.masks.gates import distinct_boxes, drop_duplicates
from terralabel.masks.nano_guesses import guess_at, guess_everywhere, three_of, with_points
from terralabel.masks.nano_three import best_three
from terralabel.masks.nano_views import Asked, Views, as_input, decode, shrunk
from terralabel.masks.pasting import paste, stability
from terralabel.masks.tree import TreeMasks
from terralabel.nets.nano.runtime import Runtime, load_runtime
from terralabel.nets.nano.shipped import SHIPPED

__all__ = ["Nano", "make_nano"]

#: Sides of the decoder's grids: of prompts, and of everything.
_GRID, _COARSE_GRID = 48, 24
#: Pixels of a cell of the network's map.
_STRIDE = 8
#: A guessed box is drawn fainter than a given one, as in training.
_SURE_OF_GUESS = 0.5


@dataclass(frozen=True)
class Nano:
    """A `Promptable` and a `MaskGenerator`.

    guess_thresh     boxes whose expected IoU is lower are not looked at in `generate`
    guess_nms_thresh of two guessed boxes whose IoU is higher only the better one is looked at
    pred_iou_thresh  masks whose predicted IoU is lower are not proposed
    nms_thresh       of two masks whose IoU is higher only the better one is proposed
    max_guesses      at most so many guessed boxes of a tile are looked at; of a large tile, `guesses_per_area` for every
                     65,536 pixels, if that is more
    fill             propose also the masks of `tree` that are like none of the network's: then every valid pixel lies in one;
                     and at points, answer with the three most promising of both
    min_size         masks smaller than this many pixels are not proposed
    stability_score_offset  shift of the cut-off in the stability score
    weights          another network's file, of the same architecture; None for the shipped one
    device           "auto" and "cpu": the CPU, by onnxruntime where it is installed, else by torch; "cuda", "cuda:1", "mps": by torch

    Raises `MissingExtraError` when neither onnxruntime nor torch is installed, `WeightsError` for weights of another network.
    """

    guess_thresh: float = 0.1
    guess_nms_thresh: float = 0.45
    pred_iou_thresh: float = 0.2
    nms_thresh: float = 0.85
    max_guesses: int = 300
    guesses_per_area: int = 64
    fill: bool = True
    min_size: int = 16
    stability_score_offset: float = 1.0
    weights: str | None = None
    device: str = "auto"

    name = "nano"
    makes_features = True
    best_features = "fused"

    def __post_init__(self) -> None:
        for setting in ("guess_thresh", "guess_nms_thresh", "pred_iou_thresh", "nms_thresh"):
            if not 0 <= getattr(self, setting) <= 1:
                raise SettingsError(f"nano: {setting} is {getattr(self, setting)}; give a number from 0 to 1.")
        for setting in ("max_guesses", "guesses_per_area", "min_size"):
            if getattr(self, setting) < 1:
                raise SettingsError(f"nano: {setting} is {getattr(self, setting)}; give 1 or more.")

    @property
    def version(self) -> str:
        """Changes with the code, the weights, who computes the network, and the settings."""
        settings = [getattr(self, field.name) for field in fields(self) if field.name not in ("weights", "device")]
        numbers = "-".join(f"{value:g}" for value in settings)
        net = _loaded(self.weights, self.device)
        return f"3-{net.digest[:12]}-{net.kind}-{numbers}"

    def encode(self, tile: Tile) -> Encoded:
        """The tile's maps at every size; nothing for a tile without a valid pixel."""
        if not tile.valid.any():
            return Encoded(tile, None)

        net = _loaded(self.weights, self.device)
        pictures = shrunk(tile)
        seen = tuple(net.encode(as_input(picture, valid)) for picture, valid in pictures)
        covers = tile.size[0] / _STRIDE, tile.size[1] / _STRIDE
        return Encoded(tile, Views(seen, tuple(valid.shape for _, valid in pictures), tile), net.describe(seen[0]), covers)

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
        """Masks for `b` prompts, as in `contracts.Promptable`: three for points alone with `multimask`, otherwise one."""
        count = _checked(points, point_labels, boxes, masks)
        state, size = _state(encoded), encoded.tile.size
        only_points = boxes is None and masks is None
        alternatives = 3 if only_points and multimask else 1
        if state is None:
            empty = [np.array([size[0] * size[1]], dtype=np.uint32)] * (count * alternatives)
            nothing = np.zeros(len(empty), dtype=np.float32)
            return Prediction(Masks.from_codes(empty, size, predicted_iou=nothing, stability_score=nothing), alternatives)
        net = _loaded(self.weights, self.device)
        asked = self._asked(net, state, size, points, point_labels, boxes, masks)
        found = self._masks(net, state, asked, encoded.tile, _GRID)
        if only_points:  # the box of the mask is better than the guess: look again
            found = self._masks(net, state, replace(asked, boxes=_tight(found, asked.boxes)), encoded.tile, _GRID)
            found = replace(found, predicted_iou=_promise(found.predicted_iou, asked.fits))
            if self.fill:
                theirs = TreeMasks().predict(state.hierarchy, points=points, point_labels=point_labels).masks
                found = best_three(_together(found, theirs), count)
            prompt = np.repeat(np.arange(count), 3)
            small_to_large = np.lexsort((found.area, prompt))
            best = found.predicted_iou.reshape(count, 3).argmax(1) + 3 * np.arange(count)
            found = found.select(small_to_large if multimask else best)
        return Prediction(found, alternatives)

    def _masks(self, net: Runtime, state: Views, asked: Asked, tile: Tile, grid: int) -> Masks:
        """One decoded mask for each row of `asked`."""
        return self._cut_out(*decode(net, state, asked, grid), tile)

    def _cut_out(self, logits: np.ndarray, windows: np.ndarray, expected: np.ndarray, tile: Tile) -> Masks:
        """Masks of the tile of what was decoded."""
        return Masks.from_codes(
            paste(logits, windows, tile.valid),
            tile.size,
            predicted_iou=expected,
            stability_score=stability(logits, self.stability_score_offset),
        )

    def _asked(
        self, net: Runtime, state: Views, size: tuple[int, int], points: Any, labels: Any, boxes: Any, masks: Any
    ) -> Asked:
        """What the prompts come down to; three rows a prompt where only points are given."""
        count = len(next(v for v in (points, boxes, masks) if v is not None))
        marks = np.zeros((count, 1, 2), np.float32) if points is None else np.asarray(points, np.float32)
        kinds = np.full((count, 1), -1) if points is None else np.asarray(labels)
        rough = np.full(count, -1) if masks is None else np.arange(count)
        if boxes is not None:
            given = np.asarray(boxes, np.float32)
            given = np.concatenate([np.minimum(given[:, :2], given[:, 2:]), np.maximum(given[:, :2], given[:, 2:])], 1)
            return Asked(given, np.ones(count, np.float32), marks, kinds, rough, masks)
        if masks is not None:
            around = with_points(_tight(masks, np.zeros((count, 4), np.float32)), marks, kinds)
            return Asked(around, np.zeros(count, np.float32), marks, kinds, rough, masks)
        anchors = marks[np.arange(count), np.argmax(kinds == 1, axis=1)]
        guessed, fits = three_of(*guess_at(net, state, anchors))
        every = np.repeat(np.arange(count), 3)
        wide = with_points(guessed.reshape(-1, 4), marks[every], kinds[every])
        sure = np.full(len(every), _SURE_OF_GUESS, np.float32)
        return Asked(wide, sure, marks[every], kinds[every], rough[every], None, fits.ravel())

    def generate(self, encoded: Encoded) -> Masks:
        """Every good mask, best predicted IoU first."""
        state, size = _state(encoded), encoded.tile.size
        if state is None:
            return Masks.empty(size)
        net = _loaded(self.weights, self.device)
        boxes, points = self._distinct_guesses(*guess_everywhere(net, state, encoded.tile, self.guess_thresh), size)
        ones = np.ones((len(boxes), 1), np.int64)
        sure = np.full(len(boxes), _SURE_OF_GUESS, np.float32)
        asked = Asked(boxes, sure, points[:, None], ones, -ones[:, 0], None)
        decoded = decode(net, state, asked, _COARSE_GRID)
        good = np.flatnonzero(decoded[2] >= self.pred_iou_thresh)
        logits, windows, expected = (values[good] for values in decoded)
        found = replace(self._cut_out(logits, windows, expected, encoded.tile), point_coords=points[good])
        found = found.select(found.area >= self.min_size)
        if self.fill:
            found = _together(found, TreeMasks().generate(state.hierarchy))
        return drop_duplicates(found, box_iou=None, mask_iou=self.nms_thresh).masks

    def _distinct_guesses(
        self, boxes: np.ndarray, fits: np.ndarray, points: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The boxes (n, 4) worth decoding, best first, and the points (n, 2) that they were guessed at."""
        most = max(self.max_guesses, self.guesses_per_area * size[0] * size[1] // 65536)
        order = np.argsort(-fits, kind="stable")[: 8 * most]
        whole = np.clip(boxes[order], 0, [size[1], size[0]] * 2)
        xywh = np.concatenate([whole[:, :2], whole[:, 2:] - whole[:, :2]], 1)
        chosen = order[distinct_boxes(xywh, self.guess_nms_thresh, most)]
        return boxes[chosen], points[chosen]


def make_nano(argument: str = "", **settings: Any) -> Nano:
    """``nano``, or ``nano:FILE`` with the weights of another training (`refer fit-decoder`, `make train-nano`); `settings` are fields."""
    return Nano(weights=str(Path(argument).expanduser()) if argument else None, **settings)


@lru_cache(maxsize=2)
def _loaded(weights: str | None, device: str) -> Runtime:
    return load_runtime(SHIPPED if weights is None else Path(weights), device)


def _promise(expected: np.ndarray, fits: np.ndarray | None) -> np.ndarray:
    """The IoU to expect at a point: of the mask in its box, and (by its root) of the box, which may be another thing's."""
    return expected if fits is None else (expected * np.sqrt(np.clip(fits, 0, 1))).astype(np.float32)


def _together(one: Masks, other: Masks) -> Masks:
    """All masks of both."""
    joined = {
        column: np.concatenate([getattr(one, column), getattr(other, column)])
        for column in ("predicted_iou", "stability_score", "point_coords")
    }
    return Masks.from_codes([masks.code(i) for masks in (one, other) for i in range(len(masks))], one.size, **joined)


def _tight(masks: Masks, otherwise: np.ndarray) -> np.ndarray:
    """The boxes (n, 4) float32 xyxy of masks; `otherwise` for empty ones."""
    box = masks.bbox.astype(np.float32)
    return np.where(masks.area[:, None] > 0, np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1), otherwise)


def _state(encoded: Encoded) -> Views | None:
    if encoded.state is not None and not isinstance(encoded.state, Views):
        raise ContractError(f"nano: expected an Encoded made by nano.encode, got the state {type(encoded.state).__name__}.")
    return encoded.state


def _checked(points: Any, labels: Any, boxes: Any, masks: Any) -> int:
    given = [len(v) for v in (points, boxes, masks) if v is not None]
    if not given or len(set(given)) != 1:
        raise ContractError(f"nano.predict: give points, boxes or masks, as many of each; got {given or 'none'}.")
    if points is not None and (labels is None or labels.shape != points.shape[:2]):
        raise ContractError("nano.predict: point_labels must be (b, p) for points (b, p, 2).")
    return given[0]
