"""How each network is trained: optimiser, learning rate over the iterations, what is not decayed. No torch in here.

Values are those of mmsegmentation's schedules as the pre-training study (arXiv 2406.10855) used them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from terralabel.errors import SettingsError

__all__ = ["CONVOLUTIONAL", "ELNET", "SEGFORMER", "SEGMENTER", "TRANSFORMER", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Iterations, optimiser, and a learning rate that warms up linearly and falls as a polynomial or a cosine.

    optimizer            "sgd" (with `momentum`) or "adamw" (betas .9, .999)
    lr, min_lr           base and final learning rate; groups with a multiplier start from lr x multiplier
    power                (1 - step / iterations) ** power between the two, or
    cosine               half a cosine wave between them (Loshchilov & Hutter 2017)
    warmup               steps from `warmup_ratio` x rate to the rate itself
    weight_decay         of every parameter, but of norms and position embeddings where `exempt` is true
    backbone_multiplier, head_multiplier   of the learning rate of that part (the auxiliary head goes with the head)
    """

    iterations: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    power: float
    min_lr: float
    momentum: float = 0.9
    warmup: int = 0
    warmup_ratio: float = 1e-6
    exempt: bool = False
    backbone_multiplier: float = 1.0
    head_multiplier: float = 1.0
    cosine: bool = False

    def shortened(self, iterations: int) -> Schedule:
        """The same schedule over fewer (or more) iterations; a warm-up shrinks in proportion, and never grows."""
        if iterations < 1:
            raise SettingsError(f"A schedule of {iterations} iterations: expected 1 or more.")
        share = min(iterations / self.iterations, 1.0)
        return replace(self, iterations=iterations, warmup=round(self.warmup * share))

    def rate(self, step: int, multiplier: float = 1.0) -> float:
        """Learning rate of step 0, 1, ... iterations - 1 for a group with this multiplier."""
        base, progress = self.lr * multiplier, min(step / self.iterations, 1.0)
        low = min(self.min_lr, base)  # a final rate above the base would let it grow
        left = (1 + math.cos(math.pi * progress)) / 2 if self.cosine else (1 - progress) ** self.power
        regular = (base - low) * left + low
        if step >= self.warmup:
            return regular
        return regular * (1 - (1 - step / self.warmup) * (1 - self.warmup_ratio))


#: ResNet and HRNet: SGD, 80,000 iterations.
CONVOLUTIONAL = Schedule(80_000, "sgd", lr=0.01, weight_decay=5e-4, power=0.9, min_lr=1e-4)
#: ViT and Swin under UPerNet: AdamW, 160,000 iterations.
TRANSFORMER = Schedule(160_000, "adamw", lr=6e-5, weight_decay=0.01, power=1.0, min_lr=0.0, warmup=1500, exempt=True)
#: SegFormer: the head learns ten times as fast.
SEGFORMER = replace(TRANSFORMER, head_multiplier=10.0)
#: Segmenter: SGD without decay.
SEGMENTER = Schedule(160_000, "sgd", lr=1e-3, weight_decay=0.0, power=0.9, min_lr=1e-4)
#: SAM2-ELNet (as SAM2-UNet's code): AdamW, cosine to 1e-7; its iterations are the data's: see `train.annotation`.
ELNET = Schedule(2000, "adamw", lr=1e-3, weight_decay=5e-4, power=1.0, min_lr=1e-7, cosine=True)
