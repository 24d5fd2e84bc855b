"""Masks without weights to download and without a GPU: regions, trees over them, and a choice among their nodes.

The `tree` backend is both a `MaskGenerator` and a `Promptable`: everything that runs on SAM runs on it.

    regions of a gradient -> three trees over their neighbours -> every node measured and scored
        -> generate: the best nodes, near-duplicates dropped, over a base partition that leaves no hole
        -> predict:  the node, or the union of nodes, that suits points, a box or a rough mask
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terralabel.contracts import Encoded, Prediction
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError
from terralabel.masks.hierarchies import FEATURES, build_trees, describe
from terralabel.masks.prompts import Prompt, answer
from terralabel.masks.proposals import Forest, base_partition, members, peaks, sets_to_masks, suppress
from terralabel.masks.ranking import node_scores
from terralabel.masks.regions import find_regions

__all__ = ["TreeMasks"]

#: Proposals up to this many times the base size take the place of the base partition.
COVER = 32
_AGREEMENT = [FEATURES.index(f"agreement_{i}") for i in (1, 2, 3)]


@dataclass(frozen=True)
class TreeMasks:
    """The weight-free mask backend.

    min_size         masks smaller than this many pixels are not proposed (those that fill holes may be smaller, at invalid pixels)
    score_thresh     masks whose expected IoU with an object is lower are not proposed
    nms_thresh       of two masks whose IoU is higher only the better one is kept
    base_size        where nothing is proposed, masks of at least this many pixels see to it that every valid pixel has one
    """

    min_size: int = 48
    score_thresh: float = 0.2
    nms_thresh: float = 0.7
    base_size: int = 256

    name = "tree"
    version = "1"

    def __post_init__(self) -> None:
        if self.min_size < 1 or self.base_size < 1:
            raise SettingsError(
                f"tree: min_size and base_size are pixels, 1 or more; got {self.min_size} and {self.base_size}."
            )
        if not (0 <= self.score_thresh <= 1 and 0 < self.nms_thresh <= 1):
            raise SettingsError(
                f"tree: score_thresh and nms_thresh lie in [0, 1]; got {self.score_thresh} and {self.nms_thresh}."
            )

    def encode(self, tile: Tile) -> Encoded:
        """Regions, trees and scored nodes of the tile."""
        if not tile.valid.any():
            return Encoded(tile, None)
        regions = find_regions(tile)
        trees = build_trees(regions)
        nodes = describe(regions, trees)
        score = np.where(nodes.valid, node_scores(nodes.features), np.float32(0))
        return Encoded(tile, Forest(regions, trees, nodes, score))

    def generate(self, encoded: Encoded) -> Masks:
        """The best nodes and the base partition, best first; every valid pixel lies in a mask, no invalid one does."""
        forest = _forest(encoded)
        if forest is None:
            return Masks.empty(encoded.tile.size)
        proposed = self._proposals(forest)
        which = np.concatenate([proposed, _fillers(forest, proposed, self.base_size)])
        which = which[np.argsort(-forest.score[which], kind="stable")]
        sets = members(forest, which)
        return sets_to_masks(forest.regions, sets, forest.nodes.box[which], forest.score[which], _stability(forest, which))

    def _proposals(self, forest: Forest) -> np.ndarray:
        """Indices of the nodes worth proposing: over the threshold, best of their like in their own tree and across trees."""
        nodes = forest.nodes
        worth = nodes.valid & (nodes.area >= self.min_size) & (forest.score >= self.score_thresh)
        peak = np.flatnonzero(peaks(forest, worth, max(self.nms_thresh, 0.8)))
        return peak[suppress(members(forest, peak), forest.regions.area, forest.score[peak], self.nms_thresh)]

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
        """Masks for `b` prompts; frames and shapes as in `contracts.Promptable`. Three nested alternatives with `multimask`."""
        given = [len(v) for v in (points, boxes, masks) if v is not None]
        if not given or len(set(given)) != 1:
            raise ContractError(f"tree.predict: give points, boxes or masks, as many of each; got {given or 'none'}.")
        if points is not None and (point_labels is None or point_labels.shape != points.shape[:2]):
            raise ContractError("tree.predict: point_labels must be (b, p) for points (b, p, 2).")
        alternatives = 3 if multimask else 1
        forest = _forest(encoded)
        codes: list[np.ndarray] = []
        scores: list[float] = []
        for i in range(given[0]):
            prompt = Prompt(
                None if points is None or point_labels is None else (points[i], point_labels[i]),
                None if boxes is None else boxes[i],
                None if masks is None else masks.array(i),
            )
            for mask, score in answer(forest, prompt, encoded.tile, alternatives):
                codes.append(rle.encode(mask))
                scores.append(score)
        expected = np.clip(np.asarray(scores, dtype=np.float32), 0, 1)
        return Prediction(
            Masks.from_codes(codes, encoded.tile.size, predicted_iou=expected, stability_score=expected), alternatives
        )


def _forest(encoded: Encoded) -> Forest | None:
    if encoded.state is not None and not isinstance(encoded.state, Forest):
        raise ContractError(f"tree: expected an Encoded made by tree.encode, got the state {type(encoded.state).__name__}.")
    return encoded.state


def _fillers(forest: Forest, proposed: np.ndarray, base_size: int) -> np.ndarray:
    """Indices of the nodes of the base partition where the proposals leave a valid pixel without a mask.

    Only proposals of at most `COVER` times the base size count, so that what is far away has no say.
    """
    small = proposed[forest.nodes.area[proposed] <= COVER * base_size]
    bare = np.ones(forest.regions.n)
    bare[members(forest, small).indices] = 0
    base = np.setdiff1d(base_partition(forest, base_size), proposed)
    return base[members(forest, base) @ bare > 0]


def _stability(forest: Forest, which: np.ndarray) -> np.ndarray:
    """How well the other trees know the same node: mean IoU with the smallest of their nodes that holds it."""
    return forest.nodes.features[which][:, _AGREEMENT].mean(1)
