"""From points, boxes and rough masks to masks.

Every prompt becomes a list of candidate nodes with an expected IoU each. The answer to a box is not the best of them alone but what
they agree on: regions get the weight of the candidates that hold them, and a graph cut redraws that belief inside the box.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse

from terralabel.core.tile import Tile
from terralabel.masks.evidence import Candidates, box_candidates, box_pixels, hit_regions, mask_candidates, point_candidates
from terralabel.masks.proposals import Forest, members

__all__ = ["Prompt", "answer", "colours", "refine", "tight_box", "vote"]

#: How much more a better candidate weighs, exp(sharpness * difference of expected IoU): all candidates for one box tell of the same
#: object, and the graph cut settles what they leave open; those for a point may tell of its parts.
BOX_SHARPNESS, POINT_SHARPNESS = 6.0, 20.0
#: Longest side, in pixels, of the picture that the graph cut sees.
CUT_SIZE = 96


@dataclass(frozen=True)
class Prompt:
    """One prompt: points (p, 2) xy with labels (p,), a box xyxy, a rough (H, W) bool mask; any of them, in tile pixels."""

    points: tuple[np.ndarray, np.ndarray] | None = None
    box: np.ndarray | None = None
    mask: np.ndarray | None = None


def answer(forest: Forest | None, prompt: Prompt, tile: Tile, alternatives: int) -> list[tuple[np.ndarray, float]]:
    """`alternatives` masks (H, W) bool with the IoU expected of each, smallest first; where nothing is found, what the prompt covers."""
    candidates = None if forest is None else _candidates(forest, prompt)
    if forest is None or candidates is None or not len(candidates.which):
        return [(_literal(prompt, tile.valid), 0.0)] * alternatives
    window = _window(prompt, tile.valid)
    if prompt.points is not None:
        points, labels = prompt.points
        refused = np.setdiff1d(hit_regions(forest, points[labels == 0]), hit_regions(forest, points[labels == 1]))
        window = window & ~np.isin(forest.regions.labels, refused) if len(refused) else window
    best = _best(forest, prompt, candidates, tile, window)
    if not best[0].any():
        return [(_literal(prompt, tile.valid), 0.0)] * alternatives
    return _nested(forest, candidates, best, window, alternatives)


def _best(forest: Forest, prompt: Prompt, candidates: Candidates, tile: Tile, window: np.ndarray) -> tuple[np.ndarray, float]:
    """The mask that the candidates agree on, and the IoU expected of it."""
    shares, expected = vote(forest, candidates, POINT_SHARPNESS if prompt.box is None else BOX_SHARPNESS)
    if prompt.box is None and prompt.points is not None:
        shares = np.maximum(shares, _left_out(forest, shares, *prompt.points))
    asked = (
        np.zeros(0, dtype=np.int64) if prompt.points is None else hit_regions(forest, prompt.points[0][prompt.points[1] == 1])
    )
    shares[asked] = 1.0
    belief = shares[forest.regions.labels] * window
    drawn = belief > 0.5
    if not drawn.any():
        drawn = (members(forest, candidates.which[:1]).toarray()[0] > 0)[forest.regions.labels] & window
        belief = np.where(drawn, 0.6, belief)
    if not drawn.any():
        return drawn, 0.0
    cut = refine(tile, belief, tight_box(drawn) if prompt.box is None else prompt.box) & window
    if (
        np.bincount(forest.regions.labels[cut], minlength=len(shares))[asked] < forest.regions.area[asked] / 2
    ).any():  # the cut may not drop what was pointed at
        cut = drawn
    agreement = (cut & drawn).sum() / max((cut | drawn).sum(), 1)
    return cut, float(expected * np.sqrt(agreement))


def _left_out(forest: Forest, shares: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) belief in what holds the object points that the first answer left out, one point after the other."""
    more = np.zeros_like(shares)
    for i in np.flatnonzero(labels == 1):
        if max(shares[hit_regions(forest, points[i : i + 1])[0]], more[hit_regions(forest, points[i : i + 1])[0]]) <= 0.5:
            alone = np.where((labels == 1) & (np.arange(len(labels)) != i), -1, labels)
            candidates = point_candidates(forest, points, alone)
            if len(candidates.which):
                more = np.maximum(more, vote(forest, candidates, POINT_SHARPNESS)[0])
    return more


def tight_box(mask: np.ndarray) -> np.ndarray:
    """(4,) xyxy around the pixels of a mask, which has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)


def vote(forest: Forest, candidates: Candidates, sharpness: float) -> tuple[np.ndarray, float]:
    """(n,) float64 belief in [0, 1] that a region belongs to the object, the weight of the candidates that hold it; and their mean score.

    Candidates weigh exp(sharpness * expected IoU).
    """
    weight = np.exp(sharpness * (candidates.score - candidates.score[0]))
    weight /= weight.sum()
    return np.asarray(weight @ members(forest, candidates.which)), float(weight @ candidates.score)


def refine(tile: Tile, belief: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(H, W) bool: the belief of pixels (H, W) inside a box (xyxy) redrawn by a graph cut (OpenCV's grabCut).

    The cut learns colours inside and outside; it runs on a small copy of the box and its surroundings, may not leave the box nor
    give up what is all but certain, and is not followed where it loses half of what was believed.
    """
    left, top, right, bottom = box_pixels(box, belief.shape)
    inside = np.zeros(belief.shape, dtype=bool)
    inside[top:bottom, left:right] = True
    drawn = inside & (belief > 0.5)
    wide, high = max(8, (right - left) // 2), max(8, (bottom - top) // 2)
    frame = (slice(max(top - high, 0), bottom + high), slice(max(left - wide, 0), right + wide))
    crop = colours(tile.pixels[frame], tile.sensor)
    shrink = min(1.0, CUT_SIZE / max(crop.shape[:2]))
    size = (max(2, round(crop.shape[1] * shrink)), max(2, round(crop.shape[0] * shrink)))
    small_belief = cv2.resize(belief[frame].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small_inside = cv2.resize(inside[frame].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    trimap = np.where(small_inside, np.where(small_belief > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD).astype(np.uint8)
    trimap[small_inside & (small_belief > 0.95)] = cv2.GC_FGD
    wanted = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if min(wanted.sum(), wanted.size - wanted.sum()) < 8:  # too few pixels to learn colours from
        return drawn
    cv2.setRNGSeed(0)
    small = np.ascontiguousarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA))
    unused = (0, 0, 1, 1)  # the rectangle plays no part where a mask is given
    cv2.grabCut(small, trimap, unused, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    cut = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    found = np.zeros_like(inside)
    found[frame] = (cv2.resize(cut, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5) & inside[frame]
    return found if found.sum() > drawn.sum() / 2 else drawn


def colours(pixels: np.ndarray, sensor: str) -> np.ndarray:
    """(H, W, 3) uint8 for the graph cut: three bands as they are, otherwise the means of three groups of neighbouring bands."""
    bands = pixels.shape[2]
    groups = [pixels[..., [0]], pixels[..., [-1]], pixels[..., [0]]] if bands < 3 else np.array_split(pixels, 3, axis=2)
    planes = [np.ascontiguousarray(group.mean(2).astype(np.uint8)) for group in groups]
    return np.dstack([cv2.medianBlur(plane, 5) for plane in planes] if sensor == "sar" else planes)


def _candidates(forest: Forest, prompt: Prompt) -> Candidates:
    """Nodes for all parts of a prompt together: those that points allow, ranked by the box or the mask where there is one."""
    parts = []
    if prompt.box is not None:
        parts.append(box_candidates(forest, prompt.box))
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
    if count == 1:
        return [best]
    labels, n = forest.regions.labels, forest.regions.n
    usable = np.bincount(labels[window], minlength=n).astype(np.float64)
    sets = members(forest, candidates.which)
    size = np.append(sets @ usable, best[0].sum())
    shared = np.zeros((len(size), len(size)))
    shared[:-1, :-1] = (sets @ sparse.diags(usable) @ sets.T).toarray()
    shared[-1, :-1] = shared[:-1, -1] = sets @ np.bincount(labels[best[0]], minlength=n)
    picked = [len(size) - 1]
    for i in np.flatnonzero(size[:-1] > 0):
        small, large = np.minimum(size[i], size[picked]), np.maximum(size[i], size[picked])
        # Nested with all so far, and clearly smaller or larger than each.
        if len(picked) < count and ((shared[i, picked] >= 0.97 * small) & (shared[i, picked] < 0.7 * large)).all():
            picked.append(int(i))
    found = [best] + [((sets[i].toarray()[0] > 0)[labels] & window, float(candidates.score[i])) for i in picked[1:]]
    found += [best] * (count - len(found))
    return sorted(found, key=lambda pair: int(pair[0].sum()))
