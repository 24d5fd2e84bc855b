"""What runs that are folders of label rasters have in common, whoever made the labels."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.grid import Window
from terralabel.core.quality import Verdicts
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.recipes.ingest import Failure, load_radiometry, load_scenes
from terralabel.recipes.quality.store import Judged, load_judged
from terralabel.runs.folder import RunFolder

if TYPE_CHECKING:
    from terralabel.export.corrections import Corrections

__all__ = ["FolderRun", "manifest_format"]

#: The grey of a picture that nobody gave: labels may come without their images.
_NO_IMAGE = 226


def manifest_format(folder: RunFolder) -> Any:
    """What a folder's manifest says its format is; None when there is no manifest that can be read."""
    try:
        return json.loads(folder.manifest_path.read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError):
        return None


class FolderRun(ABC):
    """A run of `labels/KEY.tif`, `scenes.jsonl`, `classes.json` and a manifest; the base of those that implement `RunView`."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.path = folder, folder.path
        self.manifest: dict[str, Any] = json.loads(folder.manifest_path.read_text(encoding="utf-8"))
        ingested = load_scenes(folder)
        self.scenes: tuple[Scene, ...] = ingested.scenes
        self.failures: tuple[Failure, ...] = (
            *ingested.failures,
            *(Failure(**row) for row in self.manifest.get("failures", [])),
        )

    @property
    def id(self) -> str:
        """16 hex digits: equal for equal inputs, settings and backends."""
        return str(self.manifest["run_id"])

    @property
    def finished(self) -> bool:
        """True when whoever makes the labels has come to the end."""
        return bool(self.manifest.get("finished"))

    @property
    def classes(self) -> Classes:
        """The classes of the labels."""
        return Classes.from_json(self.folder.classes_path.read_text(encoding="utf-8"))

    @cached_property
    def _scene(self) -> dict[str, Scene]:
        return {scene.key: scene for scene in self.scenes}

    def source_path(self, scene_key: str) -> Path:
        """The input image."""
        return Path(self._scene[scene_key].source)

    def label_path(self, scene_key: str) -> Path:
        """The label raster: GeoTIFF on the source grid, class ids, nodata 255."""
        path = self.folder.labels_path / f"{self._scene[scene_key].key}.tif"
        if not path.is_file():
            raise RunError(f"{path} is not there: finish the run with the same command that made it.")
        return path

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 of a window with the run's radiometry, shrunk so that no side exceeds `max_size`; grey without images."""
        from terralabel.export.picture import display_rgb, fit

        if self.folder.radiometry_path.is_file():
            radiometry = load_radiometry(self.folder)
            with radiometry.open(self.source_path(scene_key)) as raster:
                pixels, valid = raster.read(window)
            image = display_rgb(radiometry.apply(pixels, valid))
        else:
            image = np.full((window.height, window.width, 3), _NO_IMAGE, np.uint8)
        return image if max_size is None else fit(image, max_size)

    @property
    def corrections(self) -> Corrections:
        """What a person drew or changed."""
        from terralabel.export.corrections import load_corrections

        return load_corrections(self.folder.corrections_path / "corrections.jsonl")

    @cached_property
    def judged(self) -> Judged | None:
        """What is known of the quality of the labels; None when nobody has judged them."""
        there = {scene.key: path for scene in self.scenes if (path := self.folder.labels_path / f"{scene.key}.tif").is_file()}
        return load_judged(self.folder, there)

    @property
    def verdicts(self) -> Verdicts | None:
        """The verdicts on the labels, if there are any."""
        return None if self.judged is None else self.judged.verdicts

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Counts of everything, JSON-able."""

    def status_json(self) -> str:
        """`facts` as JSON text."""
        return json.dumps(self.facts(), indent=2)
