"""From points, boxes and rough masks to nodes of the trees.

Every prompt becomes a list of candidate nodes with an expected IoU each. The answer is not the best of them alone but what they
agree on: regions vote with the candidates that hold them, and the cut through the votes that promises the highest IoU wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from terralabel.masks.hierarchies import FEATURES
from terralabel.masks.proposals import Forest, members
from terralabel.masks.ranking import Ranking, load_ranking

__all__ = [
    "BOX_FEATURES",
    "Candidates",
    "Prompt",
    "answer",
    "box_candidates",
    "box_geometry",
    "mask_candidates",
    "point_candidates",
    "vote",
]

#: What the box ranking knows of a candidate besides its measurements as a node.
BOX_FEATURES = (*FEATURES, "score", "coverage", "leak", "gap_least", "gap_second", "gap_third", "gap_most", "log_box", "aspect")
#: A region whose share of a box is smaller than this is no evidence for anything.
LEAST_COVERAGE = 0.1
#: How much more a better candidate weighs: exp(SHARPNESS * difference of expected IoU).
SHARPNESS = 20.0


@lru_cache(maxsize=1)
def shipped_box_ranking() -> Ranking:
    """The ranking of nodes for a box that comes with the package."""
    return load_ranking("tree_box_ranking.npz", len(BOX_FEATURES))


@dataclass(frozen=True)
class Candidates:
    """Nodes that may be what a prompt means: indices into `Nodes` and the IoU expected of each, best first."""

    which: np.ndarray
    score: np.ndarray

    @classmethod
    def ranked(cls, which: np.ndarray, score: np.ndarray, most: int = 64) -> Candidates:
        """The best `most`, best first."""
        order = np.argsort(-score, kind="stable")[:most]
        return cls(which[order], score[order])


def box_geometry(forest: Forest, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes worth looking at for a box (xyxy pixels) and their `BOX_FEATURES`, (k, len(BOX_FEATURES)) float32."""
    nodes, labels = forest.nodes, forest.regions.labels
    left, top, right, bottom = box_pixels(box, labels.shape)
    crop = labels[top:bottom, left:right]
    inside = sum_over_nodes(forest, np.bincount(crop.ravel(), minlength=forest.regions.n))
    area = max(crop.size, 1)
    which = np.flatnonzero((inside >= LEAST_COVERAGE * area) & nodes.valid)
    inside, extent = inside[which], nodes.box[which]
    wide, high = right - left, bottom - top
    gaps = np.stack(
        [
            (extent[:, 0] - left) / wide,
            (right - 1 - extent[:, 2]) / wide,
            (extent[:, 1] - top) / high,
            (bottom - 1 - extent[:, 3]) / high,
        ],
        1,
    )
    geometry = np.column_stack(
        [
            forest.score[which],
            inside / area,
            1 - inside / nodes.area[which],
            np.sort(np.clip(gaps, -0.5, 1), 1),
            np.full(len(which), np.log(area)),
            np.full(len(which), abs(np.log(wide / high))),
        ]
    )
    return which, np.concatenate([nodes.features[which], geometry], 1).astype(np.float32)


def box_pixels(box: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """First column and row, and those past the last, of the pixels in a box: at least one, inside the tile."""
    left, top = int(np.clip(np.floor(box[0] + 0.5), 0, shape[1] - 1)), int(np.clip(np.floor(box[1] + 0.5), 0, shape[0] - 1))
    right, bottom = (
        int(np.clip(np.floor(box[2] + 0.5), left + 1, shape[1])),
        int(np.clip(np.floor(box[3] + 0.5), top + 1, shape[0])),
    )
    return left, top, right, bottom


def sum_over_nodes(forest: Forest, values: np.ndarray) -> np.ndarray:
    """Sum over the regions of every node of `values` (n,), (m,) float64."""
    sums = []
    for tree in forest.trees:
        running = np.concatenate([[0.0], np.cumsum(values[tree.order])])
        sums.append(running[tree.first + tree.count] - running[tree.first])
    return np.concatenate(sums)


def box_candidates(forest: Forest, box: np.ndarray, ranking: Ranking) -> Candidates:
    """Nodes for one box (xyxy)."""
    which, features = box_geometry(forest, box)
    return Candidates.ranked(which, ranking.score(features))


def point_candidates(forest: Forest, points: np.ndarray, labels: np.ndarray) -> Candidates:
    """Nodes that hold the object points (label 1) and none of the background points (label 0); points (p, 2) xy.

    Nodes that hold only some of the object points count by their share.
    """
    regions = forest.regions
    column = np.clip(np.floor(points[:, 0]).astype(int), 0, regions.labels.shape[1] - 1)
    row = np.clip(np.floor(points[:, 1]).astype(int), 0, regions.labels.shape[0] - 1)
    hit = regions.labels[row, column]
    wanted = np.bincount(hit[labels == 1], minlength=regions.n)
    unwanted = np.bincount(hit[labels == 0], minlength=regions.n)
    share = sum_over_nodes(forest, wanted) / max(wanted.sum(), 1)
    allowed = (sum_over_nodes(forest, unwanted) == 0) & (share > 0) & forest.nodes.valid
    which = np.flatnonzero(allowed)
    return Candidates.ranked(which, forest.score[which] * share[which])


def mask_candidates(forest: Forest, mask: np.ndarray) -> Candidates:
    """Nodes like a rough mask (H, W) bool, by IoU with it."""
    inside = sum_over_nodes(forest, np.bincount(forest.regions.labels[mask], minlength=forest.regions.n))
    overlap = inside / np.maximum(forest.nodes.area + mask.sum() - inside, 1)
    which = np.flatnonzero((overlap > 0.2) & forest.nodes.valid)
    return Candidates.ranked(which, 0.8 * overlap[which] + 0.2 * forest.score[which])


def vote(forest: Forest, candidates: Candidates, area: np.ndarray, *, sharpness: float) -> tuple[np.ndarray, float]:
    """The set of regions, (n,) bool, that the candidates promise the highest IoU for, and that IoU.

    `area` (n,) counts the pixels of each region that may be used. Candidates weigh exp(sharpness * expected IoU).
    """
    sets = members(forest, candidates.which)
    weight = np.exp(sharpness * (candidates.score - candidates.score.max()))
    weight /= weight.sum()
    belief = np.asarray(weight @ sets)
    use = np.flatnonzero((belief > 0) & (area > 0))
    order = use[np.argsort(-belief[use], kind="stable")]
    gained = np.cumsum(belief[order] * area[order])
    expected = gained / (np.cumsum(area[order]) + gained[-1] - gained)
    ends = np.append(np.flatnonzero(np.diff(belief[order])), len(order) - 1)
    best = ends[np.argmax(expected[ends])]
    chosen = np.zeros(forest.regions.n, dtype=bool)
    chosen[order[: best + 1]] = True
    return chosen, float(weight @ candidates.score)


@dataclass(frozen=True)
class Prompt:
    """One prompt: points (p, 2) xy with labels (p,), a box xyxy, a rough (H, W) bool mask; any of them, in tile pixels."""

    points: tuple[np.ndarray, np.ndarray] | None = None
    box: np.ndarray | None = None
    mask: np.ndarray | None = None


def answer(forest: Forest | None, prompt: Prompt, valid: np.ndarray, alternatives: int) -> list[tuple[np.ndarray, float]]:
    """`alternatives` masks (H, W) bool with the IoU expected of each, smallest first; where nothing is found, what the prompt covers."""
    fallback = _literal(prompt, valid)
    if forest is None:
        return [(fallback, 0.0)] * alternatives
    candidates = _candidates(forest, prompt)
    if not len(candidates.which):
        return [(fallback, 0.0)] * alternatives
    window = _window(prompt, valid)
    area = np.bincount(forest.regions.labels[window], minlength=forest.regions.n).astype(np.float64)
    if prompt.box is None and prompt.mask is None:
        chosen, score = members(forest, candidates.which[:1]).toarray()[0] > 0, float(candidates.score[0])
    else:
        chosen, score = vote(forest, candidates, area, sharpness=SHARPNESS)
    found = [(chosen[forest.regions.labels] & window, score)]
    if alternatives > 1:
        found = _nested(forest, candidates, found[0], window, alternatives)
    return found


def _candidates(forest: Forest, prompt: Prompt) -> Candidates:
    """Nodes for all parts of a prompt together: those that points allow, ranked by the box or the mask where there is one."""
    parts = []
    if prompt.box is not None:
        parts.append(box_candidates(forest, prompt.box, shipped_box_ranking()))
    if prompt.mask is not None:
        parts.append(mask_candidates(forest, prompt.mask))
    if prompt.points is not None and (prompt.points[1] >= 0).any():
        allowed = point_candidates(forest, *prompt.points)
        if not parts:
            return allowed
        parts = [
            Candidates(part.which[keep], part.score[keep]) for part in parts for keep in [np.isin(part.which, allowed.which)]
        ]
    if not parts:
        return Candidates(np.zeros(0, dtype=np.int64), np.zeros(0))
    which, place = np.unique(np.concatenate([part.which for part in parts]), return_inverse=True)
    score = np.bincount(place, np.concatenate([part.score for part in parts])) / np.bincount(place)
    return Candidates.ranked(which, score)


def _window(prompt: Prompt, valid: np.ndarray) -> np.ndarray:
    """Pixels that the answer may use: valid, and inside the box if there is one."""
    if prompt.box is None:
        return valid
    left, top, right, bottom = box_pixels(prompt.box, valid.shape)
    inside = np.zeros_like(valid)
    inside[top:bottom, left:right] = valid[top:bottom, left:right]
    return inside


def _literal(prompt: Prompt, valid: np.ndarray) -> np.ndarray:
    """The prompt itself as a mask: its rough mask, its box, or the pixels of its object points."""
    if prompt.mask is not None:
        return prompt.mask & valid
    if prompt.box is not None:
        return _window(prompt, valid)
    mask = np.zeros_like(valid)
    if prompt.points is not None:
        points = np.floor(prompt.points[0][prompt.points[1] == 1]).astype(int)
        mask[np.clip(points[:, 1], 0, valid.shape[0] - 1), np.clip(points[:, 0], 0, valid.shape[1] - 1)] = True
    return mask & valid


def _nested(
    forest: Forest, candidates: Candidates, best: tuple[np.ndarray, float], window: np.ndarray, count: int
) -> list[tuple[np.ndarray, float]]:
    """The best mask with smaller ones inside it and larger ones around it, `count` in all, smallest first."""
    found = [best]
    for i in range(len(candidates.which)):
        if len(found) == count:
            break
        held = members(forest, candidates.which[i : i + 1]).toarray()[0] > 0
        mask = held[forest.regions.labels] & window
        size = mask.sum()
        shared = [(mask & other).sum() for other, _ in found]
        # Nested with all so far, and clearly smaller or larger than each.
        if size and all(
            s >= 0.97 * min(size, other.sum()) and s < 0.7 * max(size, other.sum())
            for s, (other, _) in zip(shared, found, strict=True)
        ):
            found.append((mask, float(candidates.score[i])))
    found += [best] * (count - len(found))
    return sorted(found, key=lambda pair: int(pair[0].sum()))
