"""From names in the settings to backends: which one `auto` means, and what it is made with."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from terralabel import registry
from terralabel.errors import SettingsError
from terralabel.recipes.settings import LabelSettings

__all__ = ["make_clusterer", "make_extractor", "make_generator", "resolve"]

#: Settings of SAM's everything-mode, passed on to `masks.everything.Everything` by these very names.
_EVERYTHING = (
    "points_per_side",
    "points_per_batch",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
)

_WEIGHTS = (".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors")


def resolve(settings: LabelSettings) -> tuple[str, str, str]:
    """(masks, features, why): the backends' names with `auto` decided, and one line that says why."""
    masks, why = settings.masks, ""
    if masks == "auto":
        masks = "tree"
        why = "masks: tree (no network needed; `terralabel models list` shows what else can be used)"
    if masks.endswith(_WEIGHTS) or (masks not in registry.names("masks") and Path(masks).is_file()):
        from terralabel.nets.weights import check

        found = str(check(Path(masks))).splitlines()[0]
        raise SettingsError(
            f"--masks {masks}: {found}; this version has no mask generator for weights files: use --masks tree."
        )
    features = settings.features
    if features == "auto":
        features = "pooled" if _has_network(masks) else "appearance"
    if features == "pooled" and masks == "tree":
        raise SettingsError(
            "features pooled: the tree masks have no network to pool from; use --features appearance or an encoder's name."
        )
    return masks, features, why


def _has_network(masks: str) -> bool:
    """True for a mask backend that says, by a true `makes_features`, that it gives a feature map to pool from."""
    return masks != "tree" and bool(getattr(registry.create("masks", masks), "makes_features", False))


@lru_cache(maxsize=4)
def make_generator(settings: LabelSettings) -> Any:
    """The mask generator; a backend that only takes prompts is driven by a grid of points."""
    name, _, _ = resolve(settings)
    _, grid, prompted = name.partition("everything:")
    backend = registry.create(
        "masks", prompted if grid else name, **({"min_size": settings.min_size} if name == "tree" else {})
    )
    if hasattr(backend, "generate") and not grid:
        return backend
    from terralabel.masks.everything import Everything

    values = asdict(settings)
    return Everything(backend, **{key: values[key] for key in _EVERYTHING})


@lru_cache(maxsize=4)
def make_extractor(settings: LabelSettings) -> Any:
    """The feature extractor, not yet fitted."""
    _, name, _ = resolve(settings)
    takes_device = name.partition(":")[0] in ("hf", "mobilenet_v2", "timm")
    return registry.create("features", name, **({"device": settings.device} if takes_device else {}))


def make_clusterer(settings: LabelSettings, scaling: str) -> Any:
    """The clusterer; `scaling` is what the extractor asks for, used unless the settings say otherwise."""
    scale = scaling if settings.scale == "auto" else settings.scale
    if settings.clusters == "auto":
        return registry.create("clusters", "dpmm", seed=settings.seed, scale=scale)
    return registry.create(
        "clusters", "kmeans", clusters=int(settings.clusters), seed=settings.seed, scale=scale, pca=settings.pca or None
    )
