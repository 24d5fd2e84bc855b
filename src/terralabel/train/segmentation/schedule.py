"""The network's own schedule with what the settings change."""

from __future__ import annotations

from dataclasses import replace

from terralabel.nets.segmentation.schedules import CONVOLUTIONAL, TRANSFORMER, Schedule
from terralabel.train.segmentation.settings import TrainSettings

__all__ = ["resolve"]


def resolve(own: Schedule, settings: TrainSettings) -> Schedule:
    """The schedule of a network (`nets.segmentation.schedules`) with what the settings change.

    Another optimizer than the network's own brings the rate and decay it has in the study, where the settings give none.
    A network's own warm-up shrinks with the steps.
    """
    if settings.optimizer not in ("auto", own.optimizer):
        other = TRANSFORMER if settings.optimizer == "adamw" else CONVOLUTIONAL
        own = replace(other, iterations=own.iterations, head_multiplier=own.head_multiplier)
    schedule = own.shortened(settings.steps) if settings.steps else own
    return replace(
        schedule,
        lr=settings.lr or schedule.lr,
        weight_decay=schedule.weight_decay if settings.weight_decay < 0 else settings.weight_decay,
        warmup=schedule.warmup if settings.warmup < 0 else settings.warmup,
        backbone_multiplier=schedule.backbone_multiplier * settings.backbone_lr,
    )
