"""Name -> backend: built-ins and other people's packages come through the same door.

A package adds a backend with an entry point in the group of its kind:

    [project.entry-points."terralabel.masks"]
    mybackend = "mypackage.module:Factory"
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from terralabel.errors import MissingExtraError, SettingsError

__all__ = ["create", "names"]

_BUILT_IN: dict[str, dict[str, str]] = {
    "masks": {
        "tree": "terralabel.masks.tree:TreeMasks",
    },
    "features": {
        "appearance": "terralabel.features.appearance:Appearance",
        "pooled": "terralabel.features.pooled:Pooled",
    },
    "clusters": {
        "kmeans": "terralabel.clusters.kmeans:OnlineKMeans",
        "dpmm": "terralabel.clusters.dpmm:SplitMerge",
    },
    "export": {
        "geotiff": "terralabel.export.rasters:GeoTiff",
        "png": "terralabel.export.rasters:ClassPng",
        "mmseg": "terralabel.export.rasters:MmsegFolders",
        "geopackage": "terralabel.export.vectors:GeoPackage",
        "geoparquet": "terralabel.export.vectors:GeoParquet",
        "coco": "terralabel.export.coco:Coco",
        "yolo": "terralabel.export.yolo:Yolo",
    },
}


def _entries(kind: str) -> dict[str, str]:
    found = {entry.name: entry.value for entry in entry_points(group=f"terralabel.{kind}")}
    return {**found, **_BUILT_IN.get(kind, {})}


def names(kind: str) -> list[str]:
    """The names known for a kind of backend ("masks", "features", "clusters", "export"), sorted."""
    return sorted(_entries(kind))


def create(kind: str, name: str, /, **settings: Any) -> Any:
    """The backend `name` of a kind, made with `settings`; unknown names raise `SettingsError` with the nearest one."""
    entries = _entries(kind)
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"Unknown {kind} {name!r}; known: {', '.join(sorted(entries))}.{hint}")
    module, _, attribute = entries[name].partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("terralabel"):
            raise
        raise MissingExtraError(f"{kind} {name!r} needs the package {error.name!r}: pip install 'terralabel[all]'.") from error
    return factory(**settings)
