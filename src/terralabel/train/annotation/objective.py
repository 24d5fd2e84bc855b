"""What ELNet's training makes small: the structure loss of its three outputs, a mean over the images of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from terralabel.core.classes import IGNORE
from terralabel.train.annotation.loss import supervised_loss

__all__ = ["Structure"]


@dataclass(frozen=True)
class Structure:
    """See `loss`; the two coarser outputs count `coarser` times."""

    coarser: float = 1.0

    def weigh(self, labels: Any) -> float:
        """Images with a labelled pixel."""
        return float(np.any(labels != IGNORE, axis=(1, 2)).sum())

    def __call__(self, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `train.segmentation.losses.Objective`."""
        logits, (found, edge) = outputs
        return supervised_loss(found, edge, labels, self.coarser), logits
