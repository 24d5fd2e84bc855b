"""From names in the settings to backends: which one `auto` means, and what it is made with."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from terralabel import registry
from terralabel.errors import MissingExtraError, SettingsError
from terralabel.nets.weights import check
from terralabel.recipes.networks import weights_of
from terralabel.recipes.settings import LabelSettings

__all__ = ["make_clusterer", "make_extractor", "make_generator", "resolve"]

#: Settings of SAM's everything-mode, passed on to `masks.everything.Everything` by these very names.
_EVERYTHING = (
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
    "grid",
)


def resolve(settings: LabelSettings) -> tuple[str, str]:
    """(masks, features): the backends' names with `auto` decided; `networks.settle` decides the masks of a new run."""
    masks = "tree" if settings.masks == "auto" else settings.masks
    features = settings.features
    if features == "auto":
        features = _suited_features(masks)
    if features in ("pooled", "fused") and masks == "tree":
        raise SettingsError(
            f"features {features}: the tree masks have no network to pool from; use --features appearance or an encoder's name."
        )
    return masks, features


def _suited_features(masks: str) -> str:
    """Of a mask backend that says, by a true `makes_features`, that it gives a feature map: its `best_features`, or to pool from it."""
    if weights_of(masks) is not None:
        return "pooled"
    backend = registry.create("masks", masks) if masks != "tree" else None
    return getattr(backend, "best_features", "pooled") if getattr(backend, "makes_features", False) else "appearance"


def make_generator(settings: LabelSettings) -> Any:
    """The mask generator; a backend that only takes prompts is driven by a grid of points.

    The same object for the same settings, until a file of its weights is replaced under the same name.
    """
    weights = weights_of("tree" if settings.masks == "auto" else settings.masks)
    if weights is None:
        return _generator(settings, ())
    from terralabel.masks.sam import stamp

    return _generator(settings, stamp(weights))


@lru_cache(maxsize=4)
def _generator(settings: LabelSettings, weights_files: tuple[Any, ...]) -> Any:
    name, _ = resolve(settings)
    weights = weights_of(name)
    if weights is not None:
        return _sam(weights, settings)
    _, grid, prompted = name.partition("everything:")
    named = prompted if grid else name
    nano = named.partition(":")[0] == "nano"
    how = {"min_size": settings.min_size} if name == "tree" else {"device": settings.device} if nano else {}
    backend = registry.create("masks", named, **how)
    return backend if hasattr(backend, "generate") and not grid else _everything(backend, settings)


def _sam(weights: str, settings: LabelSettings) -> Any:
    """Everything-mode on the SAM of these weights; they are loaded here, so bad ones stop before any image is read."""
    names = ("device", "precision", "threads", "stability_score_offset", "compile")
    how = {name: getattr(settings, name) for name in names}
    try:
        return _everything(registry.create("masks", f"sam:{weights}", **how), settings)
    except MissingExtraError:
        if Path(weights).expanduser().is_file():
            check(Path(weights).expanduser())  # a web page saved as weights is no reason to install anything
        raise


def _everything(promptable: Any, settings: LabelSettings) -> Any:
    from terralabel.masks.everything import Everything

    values = asdict(settings)
    generator = Everything(promptable, **{key: values[key] for key in _EVERYTHING})
    generator.points_per_batch = settings.points_per_batch  # changes no mask, so it is not in the version either
    return generator


@lru_cache(maxsize=4)
def make_extractor(settings: LabelSettings) -> Any:
    """The feature extractor, not yet fitted."""
    _, name = resolve(settings)
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
