"""Where every part of a run lies: names made from all that decides a part's content.

The digest of a part covers the settings, the code version of its stage, the backends' versions, the radiometry, the
content hash of the inputs, and the digests of the parts it is made from. So resuming is looking whether a file is
there, and a changed setting can never pick up an old result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from terralabel.core.files import write_text
from terralabel.core.scene import Scene
from terralabel.recipes.measuring import MeasureJob, gate_reference
from terralabel.recipes.plan import NETWORK_SHARD_TILES, Group, Shard, plan_groups
from terralabel.recipes.quality.store import quality_parts
from terralabel.recipes.settings import LabelSettings, stored
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.parts import read_notes

__all__ = ["Backends", "Layout", "recorded"]

#: Code versions of the stages: raise one whenever the stage's output for the same input changes.
_CODE = {"masks": 1, "features": 1, "links": 1, "objects": 2, "clusters": 4, "assigned": 2, "labels": 1}


@dataclass(frozen=True)
class Backends:
    """Who made a run's parts, as recorded in its manifest: names with versions, so that a run opens without them."""

    masks: str
    features: str
    clusters: str
    scaling: str = "standard"
    fitted: str = ""  # digest of what the extractor learned of the data set, if it learns anything
    network: bool = False  # True where a network makes the masks: shards are smaller then
    shard_tiles: int = 0  # tiles of such a shard; 0: `NETWORK_SHARD_TILES`

    @classmethod
    def of(cls, generator: Any, extractor: Any, clusterer: str, fitted: str = "", shard_tiles: int = 0) -> Backends:
        """The record of live backends."""
        scaling = getattr(extractor, "scaling", "standard")
        names = f"{generator.name} {generator.version}", f"{extractor.name} {extractor.version}", clusterer
        network = bool(getattr(getattr(generator, "promptable", None), "makes_features", False))
        return cls(*names, scaling, fitted, network, shard_tiles if network else 0)


class Layout:
    """The groups and shards of a run and the paths of their parts."""

    def __init__(self, folder: RunFolder, settings: LabelSettings, scenes: tuple[Scene, ...], backends: Backends) -> None:
        self.folder = folder
        self.settings = settings
        self.scenes = scenes
        self.backends = backends
        network_tiles = (backends.shard_tiles or NETWORK_SHARD_TILES) if backends.network else 0
        self.groups = plan_groups(scenes, settings.tile_size, settings.overlap, network_tiles)
        self._scene = {scene.key: scene for scene in scenes}
        self._digests: dict[str, str] = {}

    @property
    def run_id(self) -> str:
        """16 hex digits: equal for runs of equal inputs, settings and backends."""
        backends = {name: value for name, value in vars(self.backends).items() if name not in ("network", "shard_tiles")}
        return digest([stored(self.settings), [s.sha256 for s in self.scenes], backends, self._radiometry])

    def shards(self) -> Iterator[tuple[Group, Shard]]:
        """Every shard with its group, in order."""
        return ((group, shard) for group in self.groups for shard in group.shards)

    def has_seams(self, group: Group) -> bool:
        """True when a scene of the group is cut into several tiles."""
        return sum(len(shard.tiles) for shard in group.shards) > len(group.scenes)

    # ------------------------------------------------------------------------------------------------------- crashes

    def crash_path(self, group: Group) -> Path:
        """A note, there while the group is left without objects because a worker died over it."""
        return self.folder.path / "parts" / "crashed" / f"{group.name}.txt"

    def crashes(self) -> dict[str, str]:
        """Group name -> why it is left without objects."""
        paths = {group.name: self.crash_path(group) for group in self.groups}
        return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}

    def set_aside(self, group: Group, reason: str) -> None:
        """Leave a group without objects; the names of its parts, and of all that is made from them, change."""
        write_text(self.crash_path(group), reason)
        self._digests.clear()

    def take_back(self) -> int:
        """Try again what was set aside; returns how many groups."""
        paths = [path for group in self.groups if (path := self.crash_path(group)).is_file()]
        for path in paths:
            path.unlink()
        self._digests.clear()
        return len(paths)

    # ------------------------------------------------------------------------------------------------------- digests

    @cached_property
    def _radiometry(self) -> str:
        return hashlib.sha256(self.folder.radiometry_path.read_bytes()).hexdigest()

    @cached_property
    def _mask_settings(self) -> dict[str, Any]:
        """The settings that masks depend on: all but those about features and clusters, and the seed.

        What the seed may change before the clusters is the radiometry, which is in the digest itself.
        """
        values = stored(self.settings)
        later = {"seed", *(f.name for f in fields(self.settings) if f.metadata["group"] == "Features and clusters")}
        return {name: value for name, value in values.items() if name not in later}

    def _remember(self, name: str, value: Any) -> str:
        if name not in self._digests:
            self._digests[name] = digest(value() if callable(value) else value)
        return self._digests[name]

    def _masks_digest(self, shard: Shard) -> str:
        def content() -> list[Any]:
            scenes = sorted({tile.scene for tile in shard.tiles})
            tiles = [[t.key, *_numbers(t.window), *_numbers(t.core)] for t in shard.tiles]
            inputs = [[key, self._scene[key].sha256, gate_reference(self._scene[key])] for key in scenes]
            return ["masks", _CODE["masks"], self.backends.masks, self._mask_settings, self._radiometry, inputs, tiles]

        return self._remember(f"masks {shard.name}", content)

    def _features_digest(self, shard: Shard) -> str:
        made_by = [self.backends.features, self.backends.fitted]
        return self._remember(
            f"features {shard.name}", lambda: ["features", _CODE["features"], made_by, self._masks_digest(shard)]
        )

    def _group_masks_digest(self, group: Group) -> str:
        def content() -> list[str]:
            crashed = ["crashed"] if self.crash_path(group).is_file() else []
            return [*(self._masks_digest(shard) for shard in group.shards), *self._failed(group), *crashed]

        return self._remember(f"group masks {group.name}", content)

    def _failed(self, group: Group) -> list[str]:
        """Keys of the tiles that gave nothing: they may yet heal, and what is made from a group's masks depends on it."""
        rows = [row for path in self.mask_paths(group) if path.exists() for row in read_notes(path)["tiles"]]
        return [row["key"] for row in rows if row["status"] == "failed"]

    def _objects_digest(self, group: Group) -> str:
        def content() -> list[Any]:
            features = [self._features_digest(shard) for shard in group.shards]
            return ["objects", _CODE["objects"], _CODE["links"], self._group_masks_digest(group), features]

        return self._remember(f"objects {group.name}", content)

    def clusterer_digest(self) -> str:
        """Names the fitted clusterer: equal objects, splits and settings give an equal one."""

        def content() -> list[Any]:
            s = self.settings
            how = [s.clusters, s.scale, s.pca, s.seed, s.transductive, self.backends.clusters, self.backends.scaling]
            return [
                "clusters",
                _CODE["clusters"],
                how,
                [self._objects_digest(g) for g in self.groups],
                [s.split for s in self.scenes],
            ]

        return self._remember("clusters", content)

    def _assigned_digest(self, group: Group) -> str:
        return digest(["assigned", _CODE["assigned"], self._objects_digest(group), self.clusterer_digest(), self._splits()])

    def _splits(self) -> str:
        path = self.splits_path()
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    # --------------------------------------------------------------------------------------------------------- paths

    def masks_path(self, shard: Shard) -> Path:
        """Masks of a shard's tiles, and the ledger rows of the tiles."""
        return self.folder.part_path("masks", shard.name, self._masks_digest(shard))

    def features_path(self, shard: Shard) -> Path:
        """Features of a shard's masks."""
        return self.folder.part_path("features", shard.name, self._features_digest(shard))

    def mask_paths(self, group: Group) -> tuple[Path, ...]:
        """`masks_path` of every shard of a group."""
        return tuple(self.masks_path(shard) for shard in group.shards)

    def feature_paths(self, group: Group) -> tuple[Path, ...]:
        """`features_path` of every shard of a group."""
        return tuple(self.features_path(shard) for shard in group.shards)

    def link_path(self, group: Group, shard: Shard) -> Path:
        """Links of a shard's tiles to later tiles."""
        return self.folder.part_path("links", shard.name, digest(["links", _CODE["links"], self._group_masks_digest(group)]))

    def link_paths(self, group: Group) -> tuple[Path, ...]:
        """`link_path` of every shard; none where the group has no seams, or was set aside."""
        if not self.has_seams(group) or self.crash_path(group).is_file():
            return ()
        return tuple(self.link_path(group, shard) for shard in group.shards)

    def objects_path(self, group: Group) -> Path:
        """Stitched objects of a group."""
        return self.folder.part_path("objects", group.name, self._objects_digest(group))

    def object_features_path(self, group: Group) -> Path:
        """Their features, row for row."""
        return self.folder.part_path("object-features", group.name, self._objects_digest(group))

    def painted_path(self, group: Group) -> Path:
        """Which object each pixel shows."""
        return self.folder.part_path("painted", group.name, self._objects_digest(group))

    def assigned_path(self, group: Group) -> Path:
        """Cluster and certainty of each object, row for row."""
        return self.folder.part_path("assigned", group.name, self._assigned_digest(group))

    def clusterer_path(self) -> Path:
        """The fitted clusterer's arrays."""
        return self.folder.path / "parts" / "clusters" / f"all-{self.clusterer_digest()}.npz"

    def extractor_path(self) -> Path | None:
        """What the extractor learned of the data set; None when it learns nothing."""
        return self.folder.path / "parts" / "extractor" / f"all-{self.backends.fitted}.npz" if self.backends.fitted else None

    def splits_path(self) -> Path:
        """A person's splits of clusters: they speak of one fitted clusterer."""
        return self.folder.corrections_path / f"splits-{self.clusterer_digest()}.npz"

    def corrections_path(self) -> Path:
        """What a person drew, for all scenes."""
        return self.folder.corrections_path / "corrections.jsonl"

    def marker_path(self, group: Group, classes: str, corrections: str) -> Path:
        """The part that says the group's rasters show this class map (its JSON) and these corrections (their digest)."""
        content = ["labels", _CODE["labels"], self._assigned_digest(group), classes, corrections]
        return self.folder.part_path("labels", group.name, digest(content))

    def label_path(self, scene: Scene) -> Path:
        """The label raster of a scene: what people open."""
        return self.folder.labels_path / f"{scene.key}.tif"

    def measure_job(self, group: Group, shard: Shard) -> MeasureJob:
        """The work of one shard."""
        wanted = {tile.scene for tile in shard.tiles}
        scenes = tuple(scene for scene in group.scenes if scene.key in wanted)
        return MeasureJob(
            self.folder.path,
            self.settings,
            shard,
            scenes,
            self.masks_path(shard),
            self.features_path(shard),
            self.extractor_path(),
        )

    def kept(self, classes: str, corrections: str) -> set[Path]:
        """Every part of a finished run; what else lies in its parts folder is left over from other settings."""
        paths = {self.clusterer_path(), *quality_parts(self.folder)}
        if self.extractor_path() is not None:
            paths.add(self.extractor_path())  # type: ignore[arg-type]
        for group in self.groups:
            paths |= {*self.mask_paths(group), *self.feature_paths(group), *self.link_paths(group)}
            paths |= {self.objects_path(group), self.object_features_path(group), self.painted_path(group)}
            paths |= {self.assigned_path(group), self.marker_path(group, classes, corrections), self.crash_path(group)}
        return paths


def _numbers(window: Any) -> list[int]:
    return [window.x, window.y, window.width, window.height]


def recorded(manifest: Mapping[str, Any]) -> Backends:
    """The backends a manifest names."""
    return Backends(**manifest["backends"])
