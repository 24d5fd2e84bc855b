"""Specks taken away and holes filled, in class maps of one or many classes."""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = ["tidied"]


def tidied(labels: np.ndarray, least: int, background: int | None = None) -> np.ndarray:
    """(H, W) uint8 in which every connected part of fewer than `least` pixels has become what lies nearest to it.

    Parts of objects have 8 neighbours, those of the class `background`, in which holes are, 4. 255 is no class: it is neither
    taken away nor spread. A map of small parts only stays as it is. The same parts go whatever the order.
    """
    small = np.zeros(labels.shape, dtype=bool)
    for class_id in np.unique(labels).tolist() if least > 1 else ():
        if class_id != IGNORE:
            small |= _small(labels == class_id, least, 4 if class_id == background else 8)
    rest = ~small & (labels != IGNORE)
    if not small.any() or not rest.any():
        return labels
    # each pixel's nearest one among those that stay; pixels of distance 0 are numbered one by one
    _, nearest = cv2.distanceTransformWithLabels((~rest).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value = np.zeros(int(nearest.max()) + 1, dtype=labels.dtype)
    value[nearest[rest]] = labels[rest]
    out = labels.copy()
    out[small] = value[nearest[small]]
    return out


def _small(mask: np.ndarray, least: int, connectivity: int) -> np.ndarray:
    """(H, W) bool: the parts of a mask with fewer pixels than `least`."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    few = statistics[:, cv2.CC_STAT_AREA] < least
    few[0] = False
    return few[parts]
