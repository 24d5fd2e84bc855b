"""Evidence and signals of a run's labels, picture by picture: what judges are fitted on, and what they judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.quality import Signals
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.evaluate.pairing import paired_stems
from terralabel.export.features import read_labels
from terralabel.export.picture import display_rgb
from terralabel.export.rasters import label_environment
from terralabel.imagery.datasets.class_lists import class_list
from terralabel.imagery.datasets.reading import read_label
from terralabel.imagery.raster import Raster
from terralabel.labels.quality.evidence import Evidence, true_iou
from terralabel.labels.quality.pixels import Pixels
from terralabel.labels.quality.signals import no_signals, signals
from terralabel.recipes.foreign_labels import LabelReading, background_of
from terralabel.recipes.ingest import Failure, load_radiometry
from terralabel.recipes.labels_run import LabelsRun
from terralabel.recipes.quality.settings import QualitySettings
from terralabel.recipes.run import Run
from terralabel.runs.progress import Progress

__all__ = ["Measured", "Truth", "labelled_scenes", "measure", "truth_of"]

#: Most pictures whose pixels a classifier learns from; of more, as many evenly spread.
_LEARNED = 400


@dataclass(frozen=True)
class Measured:
    """Signals of all units of a run: `scene` and `window` (n, 4) of each, `true` (n,) float32 IoU, NaN where nobody knows."""

    scene: tuple[str, ...]
    window: np.ndarray
    signals: Signals
    true: np.ndarray
    background: int | None
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Truth:
    """True labels of some of a run's scenes: scene key -> what `read_label` reads."""

    dataset: LabelledSet
    items: dict[str, LabelledImage]

    def read(self, scene: Scene, window: Window) -> np.ndarray | None:
        """(h, w) uint8 class ids; None for a scene without truth."""
        item = self.items.get(scene.key)
        return None if item is None else read_label(self.dataset, item, window)


def labelled_scenes(run: Run | LabelsRun) -> dict[str, Path]:
    """Scene key -> label raster of the scenes that have one; those over which a worker died have none."""
    places = {scene.key: run.folder.labels_path / f"{scene.key}.tif" for scene in run.scenes}
    return {key: path for key, path in places.items() if path.is_file()}


def truth_of(run: Run | LabelsRun, folder: Path, reading: LabelReading) -> Truth:
    """The true masks of equal stems in a folder; `InputError` when there are none, or their classes are not the labels'."""
    there = labelled_scenes(run)
    stems = {f"{s.split}/{s.stem}" if s.split else s.stem: s for s in run.scenes if s.key in there}
    paths = {stem: there[scene.key] for stem, scene in stems.items()}
    pairs, _, _ = paired_stems(paths, folder, str(run.path))
    by_path = {path: stems[stem] for stem, path in paths.items()}
    items = {by_path[ours].key: LabelledImage(by_path[ours].key, ours, true) for ours, true in pairs}
    classes, to_ids = class_list(folder, reading.classes, list(items.values()), reading.ignore, reading.threshold)
    mine, theirs = ({entry.id for entry in found} for found in (run.classes, classes))
    if not mine & theirs:
        raise InputError(
            f"The truth in {folder} has the classes {sorted(theirs)[:8]}, the labels {sorted(mine)[:8]}: give equal ids to equal"
            " classes (for clusters: `terralabel align`).",
            "other-classes",
        )
    return Truth(LabelledSet(folder.name, classes, tuple(items.values()), to_ids), items)


def measure(run: Run | LabelsRun, settings: QualitySettings, progress: Progress, truth: Truth | None = None) -> Measured:
    """The signals of every unit of a run, in the order of its scenes; with `truth` of those scenes only that have some.

    A scene that cannot be read is a failure, and the others go on. Memory: one picture, and the pixels that a classifier drew.
    """
    reader = _Reader(run, settings)
    there = labelled_scenes(run)
    scenes = [scene for scene in run.scenes if scene.key in there and (truth is None or scene.key in truth.items)]
    plans = [(scene, plan.core) for scene in scenes for plan in _pictures(scene, settings)]
    failures: dict[str, Failure] = {}
    if settings.pixels and reader.has_images:
        reader.learn(plans, failures, progress)
    keys, windows, rows, true = [], [], [], []
    progress.start("quality", len(plans), "pictures")
    for scene, window in plans:
        if scene.key not in failures:
            try:
                evidence = reader.evidence(scene, window)
                found = signals(evidence, reader.background, settings.units)
                wanted = truth.read(scene, window) if truth is not None else None
                right = np.full(len(found), np.nan, np.float32)
                if wanted is not None:
                    right = true_iou(evidence, wanted, reader.background, settings.units)
                keys += [scene.key] * len(found)
                windows += [(window.x, window.y, window.width, window.height)] * len(found)
                rows.append(Signals(found.names, found.values, found.units.moved(window.x, window.y)))
                true.append(right)
            except InputError as error:
                _failed(failures, scene, error, progress)
        progress.advance()
    progress.finish()
    reader.close()
    return Measured(
        tuple(keys),
        np.array(windows, dtype=np.int64).reshape(-1, 4),
        Signals.join([no_signals(), *rows]),
        np.concatenate([*true, np.zeros(0, np.float32)]),
        reader.background,
        tuple(failures.values()),
    )


def _pictures(scene: Scene, settings: QualitySettings) -> Iterator:
    return iter(plan_tiles(scene.key, scene.width, scene.height, settings.tile_size, 0))


def _failed(failures: dict[str, Failure], scene: Scene, error: InputError, progress: Progress) -> None:
    failures[scene.key] = Failure(scene.source, error.status, str(error))
    progress.say(f"failed: {' '.join(str(error).split())} [{error.status}]")


class _Reader:
    """Windows of a run's images, labels and probabilities as evidence; one image stays open."""

    def __init__(self, run: Run | LabelsRun, settings: QualitySettings) -> None:
        if run.classes.dtype != "uint8":
            raise InputError(
                f"{run.path} has class ids past 254: quality is judged of at most 255 classes; merge some (`terralabel clusters`).",
                "too-many-classes",
            )
        self.run, self.settings = run, settings
        given = settings.background if settings.background is not None else getattr(run, "background", None)
        self.background = background_of(run.classes, given)
        self.class_ids = tuple(entry.id for entry in run.classes)
        self.has_images = run.folder.radiometry_path.is_file()
        self._radiometry = load_radiometry(run.folder) if self.has_images else None
        self._pixels: Pixels | None = None
        self._open: tuple[str, Raster] | None = None

    def learn(self, plans: list[tuple[Scene, Window]], failures: dict[str, Failure], progress: Progress) -> None:
        """Draw pixels of pictures spread evenly over the run."""
        pixels = Pixels(self.class_ids, self.settings.seed)
        step = max(len(plans) / _LEARNED, 1.0)
        chosen = [plans[int(i * step)] for i in range(min(len(plans), _LEARNED))]
        progress.start("pixels", len(chosen), "pictures")
        for scene, window in chosen:
            if scene.key not in failures:
                try:
                    image, valid = self._image(scene, window)
                    pixels.add(_name(scene, window), image, self._label(scene, window), valid)
                except InputError as error:
                    _failed(failures, scene, error, progress)
            progress.advance()
        progress.finish()
        self._pixels = pixels

    def evidence(self, scene: Scene, window: Window) -> Evidence:
        """What is known about the label of a window."""
        label = self._label(scene, window)
        image, valid = self._image(scene, window) if self.has_images else (None, label != IGNORE)
        learned = None
        if self._pixels is not None and image is not None:
            learned = self._pixels.maps(_name(scene, window), image)
        return Evidence(label, image, valid, self._probability(scene, window), self.class_ids, learned=learned)

    def _label(self, scene: Scene, window: Window) -> np.ndarray:
        return read_labels(self.run.label_path(scene.key), window)

    def _image(self, scene: Scene, window: Window) -> tuple[np.ndarray, np.ndarray]:
        assert self._radiometry is not None
        if self._open is None or self._open[0] != scene.key:
            self.close()
            self._open = scene.key, self._radiometry.open(scene.source, follow_vrt=self._follow_vrt)
        pixels, valid = self._open[1].read(window)
        return display_rgb(_three(self._radiometry.apply(pixels, valid))), valid

    @property
    def _follow_vrt(self) -> bool:
        return bool(getattr(self.run.settings, "follow_vrt", False)) if isinstance(self.run, Run) else False

    def _probability(self, scene: Scene, window: Window) -> np.ndarray | None:
        """(K, h, w) float32 of the raster that a network left, if it has a band for each class."""
        path = self.run.path / "probabilities" / f"{scene.key}.tif"
        if not path.is_file():
            return None
        with label_environment(path, "read"), rasterio.open(path) as raster:
            if raster.count != len(self.class_ids) or (raster.width, raster.height) != (scene.width, scene.height):
                return None
            at = RasterWindow(window.x, window.y, window.width, window.height)  # type: ignore[call-arg]
            return (raster.read(window=at) / np.float32(255)).astype(np.float32)

    def close(self) -> None:
        """Close the image that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _three(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1) or (H, W, 3): two bands are shown as their first."""
    return pixels[..., :1] if pixels.shape[2] == 2 else pixels


def _name(scene: Scene, window: Window) -> str:
    return f"{scene.key}:{window.y}:{window.x}"
