"""The settings of `label`: each described once, for Python, the command line and YAML."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from terralabel.core.settings import coerce, setting
from terralabel.errors import SettingsError

__all__ = ["LabelSettings", "stored"]

_IMAGERY, _MASKS, _SAM, _CLASSES, _MACHINE = "Imagery", "Masks", "SAM's everything-mode", "Features and clusters", "Machine"


@dataclass(frozen=True)
class LabelSettings:
    """Settings of `terralabel label`."""

    masks: str = setting(
        "auto",
        "Mask generator: auto, nano, tree, a SAM by name (`models list`), weights file, folder or hub name, or another backend.",
        group=_MASKS,
    )
    tau: float = setting(
        0.3,
        "Filtering gate: drop masks larger than this share of the image (of a 1024 x 1024 part where it is larger).",
        low=0.0,
        high=1.0,
        group=_MASKS,
    )
    min_size: int = setting(48, "Drop masks of fewer pixels.", low=1, group=_MASKS)
    features: str = setting(
        "auto",
        "Features per mask: auto, appearance, pooled, fused, or an encoder by name (timm:MODEL, hf:MODEL, mobilenet_v2:FILE).",
        group=_CLASSES,
    )
    clusters: str = setting("16", "Number of clusters, or auto to find it.", group=_CLASSES)
    scale: str = setting(
        "auto", "Scaling of features before clustering.", choices=("auto", "none", "standard", "l2"), group=_CLASSES
    )
    pca: int = setting(
        0, "Reduce features to this many principal components before clustering; 0 keeps all.", low=0, group=_CLASSES
    )
    transductive: bool = setting(
        False,
        "Fit clusters on val and test images too, as the paper's protocol does; off: on train only where there are splits.",
        group=_CLASSES,
    )
    tile_size: int = setting(
        1024, "Side of the square windows that large images are read in, pixels.", low=32, high=16384, group=_IMAGERY
    )
    overlap: int = setting(192, "Overlap of neighbouring windows, pixels.", low=0, group=_IMAGERY)
    bands: tuple[int, ...] | None = setting(
        None, "Bands to use, 1-based, comma-separated, in this order (default: see docs/imagery.md).", group=_IMAGERY
    )
    sensor: str = setting("optical", "What took the images.", choices=("optical", "sar"), group=_IMAGERY)
    follow_vrt: bool = setting(False, "Open VRT files, which may refer to any other file on this machine.", group=_IMAGERY)
    points_per_side: int = setting(32, "Points per side of the prompt grid.", low=1, high=1024, group=_SAM)
    points_per_batch: int = setting(
        64, "Points prompted at once; halved by itself when memory runs out.", low=1, results=False, group=_SAM
    )
    tiles_per_batch: int = setting(
        0,
        "Tiles in one pass of a network's encoder; halved by itself when memory runs out; 0: 4 on a GPU, 1 on a CPU.",
        low=0,
        high=64,
        results=False,
        group=_SAM,
    )
    grid: str = setting(
        "full",
        "Prompt every point, or (adaptive) every other one and then those that no mask covers: faster, not the same masks.",
        choices=("full", "adaptive"),
        group=_SAM,
    )
    precision: str = setting(
        "fp32",
        "Numbers that networks compute with; bf16 is faster, its masks differ a little.",
        choices=("fp32", "bf16"),
        group=_SAM,
    )
    compile: bool = setting(
        False, "Compile a network's encoder for the GPU: minutes at the start, then faster; other last bits.", group=_SAM
    )
    pred_iou_thresh: float = setting(0.88, "Drop masks whose predicted IoU is lower.", low=0.0, high=1.0, group=_SAM)
    stability_score_thresh: float = setting(0.95, "Drop masks whose stability is lower.", low=0.0, high=1.0, group=_SAM)
    stability_score_offset: float = setting(1.0, "Shift of the cut-off that stability is measured with.", group=_SAM)
    box_nms_thresh: float = setting(
        0.7, "Drop masks whose box overlaps a better one's by more (IoU).", low=0.0, high=1.0, group=_SAM
    )
    crop_n_layers: int = setting(0, "Also look at crops: layer i has 4**i of them.", low=0, high=4, group=_SAM)
    crop_nms_thresh: float = setting(0.7, "As box_nms_thresh, between crops.", low=0.0, high=1.0, group=_SAM)
    crop_overlap_ratio: float = setting(512 / 1500, "Overlap of crops, share of the image.", low=0.0, high=1.0, group=_SAM)
    crop_n_points_downscale_factor: int = setting(1, "Points per side shrink by this factor per crop layer.", low=1, group=_SAM)
    min_mask_region_area: int = setting(0, "Remove holes and islands smaller than this, pixels.", low=0, group=_SAM)
    device: str = setting("auto", "Where networks run: auto, cpu, cuda, cuda:1, mps.", results=False, group=_MACHINE)
    workers: int = setting(
        -1,
        "Worker processes; -1: one per core (networks: as many as memory holds), 0: everything in this process.",
        low=-1,
        results=False,
        group=_MACHINE,
    )
    threads: int = setting(
        1, "Threads of a network on the CPU, per worker; another number may change the last bits.", low=1, group=_MACHINE
    )
    seed: int = setting(0, "Seed of everything random.", low=0, group=_MACHINE)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, coerce(type(self), item.name, getattr(self, item.name)))
        if self.overlap * 2 > self.tile_size:
            raise SettingsError(
                f"overlap {self.overlap} is more than half of tile_size {self.tile_size}: make tiles larger or the overlap smaller."
            )
        if self.clusters != "auto" and not (self.clusters.isdigit() and 1 <= int(self.clusters) <= 60000):
            raise SettingsError(f"clusters: expected auto or a whole number from 1 to 60000; got {self.clusters!r}.")
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise SettingsError(f"bands: expected 1-based band numbers such as 4,3,2; got {self.bands}.")

    @property
    def worker_count(self) -> int:
        """Processes to start; 0 for none."""
        return (
            self.workers
            if self.workers >= 0
            else len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )


#: Settings that came later: left out where they have their default, so that runs made before keep their digests.
_LATER = ("compile", "grid", "precision", "threads")


def stored(settings: LabelSettings) -> dict[str, Any]:
    """The settings that decide what comes out, as JSON-able values: what the manifest keeps."""
    default = {f.name: f.default for f in fields(settings)}
    later = {name for name in _LATER if getattr(settings, name) == default[name]}
    keep = {f.name for f in fields(settings) if f.metadata.get("results", True)} - later
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items() if name in keep
    }
