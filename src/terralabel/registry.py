"""Name -> backend: built-ins and other people's packages come through the same door.

A package adds a backend with an entry point in the group of its kind:

    [project.entry-points."terralabel.masks"]
    mybackend = "mypackage.module:Factory"

A name may carry an argument, ``timm:resnet50``: the factory of ``timm`` is then called with ``argument="resnet50"``.
Names of checkpoints may stand alone: ``sam_vit_b`` is ``sam:sam_vit_b``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from terralabel.errors import MissingExtraError, SettingsError

__all__ = ["create", "names"]

_BUILT_IN: dict[str, dict[str, str]] = {
    "masks": {
        "everything": "terralabel.masks.everything:everything_on",
        "nano": "terralabel.masks.nano:make_nano",
        "sam": "terralabel.masks.sam:make_sam",
        "tree": "terralabel.masks.tree:TreeMasks",
    },
    "features": {
        "appearance": "terralabel.features.appearance:Appearance",
        "fused": "terralabel.features.fused:Fused",
        "hf": "terralabel.features.encoders:hf",
        "mobilenet_v2": "terralabel.features.encoders:mobilenet_v2",
        "pooled": "terralabel.features.pooled:Pooled",
        "timm": "terralabel.features.encoders:timm",
    },
    "clusters": {
        "kmeans": "terralabel.clusters.ward:MergedKMeans",
        "dpmm": "terralabel.clusters.dpmm:SplitMerge",
    },
    "export": {
        "geotiff": "terralabel.export.rasters:GeoTiff",
        "png": "terralabel.export.folders:ClassPng",
        "mmseg": "terralabel.export.folders:MmsegFolders",
        "geopackage": "terralabel.export.vectors:GeoPackage",
        "geopackage-wgs84": "terralabel.export.vectors:geopackage_wgs84",
        "geoparquet": "terralabel.export.vectors:GeoParquet",
        "coco": "terralabel.export.coco:Coco",
        "geojson": "terralabel.export.vectors:GeoJson",
        "yolo": "terralabel.export.yolo:Yolo",
        "instances": "terralabel.export.instances:Instances",
        "sure": "terralabel.export.sure:Sure",
    },
    "locators": {
        "fitted": "terralabel.nets.grounding.locators:fitted",
        "grounding-dino": "terralabel.nets.grounding.locators:grounding_dino",
        "owlv2": "terralabel.nets.grounding.locators:owlv2",
        "sam3": "terralabel.nets.grounding.locators:sam3",
    },
    "datasets": {
        "chn6-cug": "terralabel.imagery.datasets.chn6:Chn6",
        "coco": "terralabel.imagery.datasets.coco:Coco",
        "folder": "terralabel.imagery.datasets.folders:ImageFolder",
        "isaid": "terralabel.imagery.datasets.isaid:ISaid",
        "loveda": "terralabel.imagery.datasets.loveda:LoveDA",
        "mmseg": "terralabel.imagery.datasets.folders:MmsegFolder",
        "potsdam": "terralabel.imagery.datasets.potsdam:Potsdam",
        "run": "terralabel.imagery.datasets.folders:RunFolderLabels",
        "samrs": "terralabel.imagery.datasets.samrs:Samrs",
        "sos": "terralabel.imagery.datasets.sos:Sos",
    },
}

#: Names that begin like this are checkpoints (`terralabel models list`) of a backend.
_CHECKPOINTS: dict[str, dict[str, str]] = {
    "masks": dict.fromkeys(("edgetam", "sam2", "sam3", "sam_"), "sam"),
}


def _entries(kind: str) -> dict[str, str]:
    found = {entry.name: entry.value for entry in entry_points(group=f"terralabel.{kind}")}
    return {**found, **_BUILT_IN.get(kind, {})}


def names(kind: str) -> list[str]:
    """The names known for a kind of backend ("masks", "features", "clusters", "export", "locators", "datasets"), sorted."""
    return sorted(_entries(kind))


def create(kind: str, name: str, /, **settings: Any) -> Any:
    """The backend `name` or ``name:argument`` of a kind, made with `settings`.

    Raises `SettingsError` for an unknown name (with the nearest known one) or an argument that is missing or not taken,
    and `MissingExtraError` when the backend needs a package that is not installed.
    """
    entries = _entries(kind)
    if name not in entries:
        name, _, argument = _in_full(kind, name).partition(":")
        settings = {"argument": argument, **settings} if argument else settings
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"Unknown {kind} {name!r}; known: {', '.join(sorted(entries))}.{hint}")
    factory = _factory(kind, name, entries[name])
    _check_argument(kind, name, factory, "argument" in settings)
    return factory(**settings)


def _in_full(kind: str, name: str) -> str:
    """``sam_vit_b`` as ``sam:sam_vit_b``; other names as they are."""
    for start, backend in _CHECKPOINTS.get(kind, {}).items():
        if name.startswith(start) and ":" not in name:
            return f"{backend}:{name}"
    return name


def _factory(kind: str, name: str, place: str) -> Callable[..., Any]:
    module, _, attribute = place.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("terralabel"):
            raise
        raise MissingExtraError(f"{kind} {name!r} needs the package {error.name!r}: pip install {error.name}.") from error


def _check_argument(kind: str, name: str, factory: Callable[..., Any], given: bool) -> None:
    """Refuse ``appearance:x`` and a bare ``timm`` in the user's words."""
    takes = inspect.signature(factory).parameters.get("argument")
    if given and takes is None:
        raise SettingsError(f"{kind} {name!r} takes no argument; give just {name!r}.")
    if not given and takes is not None and takes.default is inspect.Parameter.empty:
        raise SettingsError(f"{kind} {name!r} needs an argument: {name}:ARGUMENT, see `terralabel models list`.")
