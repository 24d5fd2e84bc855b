"""Label a whole archive with a model that has learned from a few: `annotate apply`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.core.settings import changed
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.imagery.sources import SourceFile, content_hash
from terralabel.imagery.tiles import scene_of
from terralabel.recipes.annotate.cut import cut_of
from terralabel.recipes.annotate.pictures import Decided, Labelling, Signalled, load_signalled
from terralabel.recipes.annotate.views import Seen, look, make_views, windows_of
from terralabel.recipes.ingest import Failure, find
from terralabel.recipes.label_classes import kept_names
from terralabel.recipes.labels_run import LabelsRun, is_labels, write_labels_run
from terralabel.recipes.quality.recipe import gate_notes, load_judge, set_gate, verdicts_by
from terralabel.recipes.quality.store import label_hashes, quality_parts, save_verdicts
from terralabel.recipes.settings import LabelSettings
from terralabel.recipes.training import needs_torch
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.progress import Progress, Silent
from terralabel.train.annotation.settings import ApplySettings
from terralabel.train.segmentation.settings import stored

if TYPE_CHECKING:
    from terralabel.imagery.radiometry import Radiometry
    from terralabel.imagery.raster import Raster
    from terralabel.train.annotation.views import Views
    from terralabel.train.segmentation.checkpoint import Checkpoint

__all__ = ["Painter", "annotate_apply", "pictures_of"]

#: Version of this stage's code: part of the digest of its parts.
_VERSION = 1
_TAG = "TERRALABEL_ANNOTATION"


def annotate_apply(
    model: str | Path,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: ApplySettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> LabelsRun:
    """Label images with a model of `annotate_fit`; returns the run, which exports, reports and is judged like any other.

    `sources`: as of `label`. `settings`, or its fields as `values`. Images of any size, in bounded memory; they become the
    network's input by the radiometry of the model. Scenes that are there are not done again, and large ones go on within. An
    image that fails is in `run.failures`. Raises `RunError` when `out` was made with another model or other settings, unless
    `overwrite`.

        >>> import terralabel as tl
        >>> few = {"steps": 2, "batch_size": 2, "crop": 64, "folds": 0, "trunk": "scratch"}  # hundreds of steps, in earnest
        >>> fitted = tl.annotate_fit("images", "fitted", labels="truth", reading={"classes": "classes.json"}, **few)
        >>> found = tl.annotate_apply("fitted", "images", "annotated", flips=False)
        >>> found.finished
        True
    """
    needs_torch()
    from terralabel.train.segmentation.checkpoint import open_checkpoint

    settings, progress = settings or ApplySettings(**values), progress or Silent()
    checkpoint = open_checkpoint(model, "last" if Path(model).is_dir() else None)
    if not str(checkpoint.record["network"]["name"]).startswith("elnet:"):
        raise SettingsError(
            f"{model} is a network of `pretrain` or `finetune`: use `terralabel predict`, or fit one with `annotate fit`."
        )
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    found = find(named, Path(out), LabelSettings(follow_vrt=settings.follow_vrt))
    folder = RunFolder(out)
    folder.create()
    with folder.lock(progress.say):
        cut = cut_of(Path(model)) if settings.cut else ()
        painter = Painter(folder, checkpoint, settings, make_views(checkpoint, settings), progress, cut)
        _agree(folder, painter, overwrite)
        failures = [Failure(str(s.path), s.status, s.reason) for s in found.skipped]
        scenes: list[Scene] = []
        for source in found.files:
            result = describe(source, checkpoint, settings)
            (scenes if isinstance(result, Scene) else failures).append(result)  # type: ignore[arg-type]
        if not scenes:
            raise InputError(f"None of {len(failures)} inputs can be used; the first: {failures[0].reason}", failures[0].status)
        painter.record(scenes, failures, finished=False)
        failures += painter.paint_all(scenes)
        done = [scene for scene in scenes if scene.source not in {f.source for f in failures}]
        for failure in failures:
            progress.say(f"failed: {' '.join(failure.reason.split())} [{failure.status}]")
        painter.judge(done, Path(model) if Path(model).is_dir() else Path(model).parent)
        folder.remove_unused_parts(painter.kept(done))
        run = painter.record(done, failures, finished=True)
    folder.note_history({"command": "annotate apply", "scenes": len(done), "failed": len(failures)})
    return run


def describe(source: SourceFile, checkpoint: Checkpoint, settings: ApplySettings) -> Scene | Failure:
    """The scene of an image, if it is one that the model's radiometry is for."""
    radiometry = checkpoint.radiometry
    try:
        with radiometry.open(source.path, follow_vrt=settings.follow_vrt) as raster:
            radiometry.apply(*raster.read(Window(0, 0, 1, 1)))  # refuses other channels and kinds of numbers
            return scene_of(source, raster, sensor=radiometry.sensor, sha256=content_hash(source.path))
    except InputError as error:
        return Failure(str(source.path), error.status, str(error))
    except SettingsError as error:
        return Failure(str(source.path), "bands", str(error))
    except FileNotFoundError as error:
        return Failure(str(source.path), "vanished", f"{source.path}: {error.strerror}")


@dataclass(frozen=True)
class Painter:
    """A model at work on a run: looks at scenes, and writes their label rasters."""

    folder: RunFolder
    checkpoint: Checkpoint
    settings: ApplySettings
    views: Views
    progress: Progress
    cut: tuple[float, ...] = ()

    @property
    def made_by(self) -> str:
        """What painted the labels, and its version."""
        return f"elnet {self.checkpoint.sha256[:12]}"

    @property
    def classes(self) -> Classes:
        """What the labels mean."""
        return self.checkpoint.classes

    @property
    def background(self) -> int | None:
        """The id of the class that is no object."""
        found = self.checkpoint.record["background"]
        return None if found is None else int(found)

    def record(self, scenes: Sequence[Scene], failures: Sequence[Failure], *, finished: bool) -> LabelsRun:
        """Write the run's ledger."""
        return write_labels_run(
            self.folder,
            made_by=self.made_by,
            scenes=scenes,
            classes=kept_names(self.folder.classes_path, self.classes),
            settings={"model": self.checkpoint.sha256, **stored(self.settings)},
            failures=failures,
            radiometry=self.checkpoint.radiometry,
            background=self.background,
            finished=finished,
        )

    def paint_all(self, scenes: Sequence[Scene]) -> list[Failure]:
        """Every scene that is not done; those that fail."""
        todo = [scene for scene in scenes if not self._is_there(scene)]
        counts = {scene.key: windows_of(self.views, scene.width, scene.height) for scene in scenes}
        total = sum(counts.values())
        self.progress.start("annotate", total, "windows", total - sum(counts[scene.key] for scene in todo))
        failures = []
        for scene in todo:
            try:
                self.paint(scene)
            except InputError as error:
                failures.append(Failure(scene.source, error.status, str(error)))
            except FileNotFoundError as error:
                failures.append(Failure(scene.source, "vanished", f"{scene.source}: {error.strerror}"))
        self.progress.finish()
        return failures

    def paint(self, scene: Scene) -> None:
        """Look at one scene and write its label."""
        from terralabel.export.rasters import write_label_raster

        radiometry = self.checkpoint.radiometry
        with radiometry.open(scene.source, follow_vrt=self.settings.follow_vrt) as raster:
            seen = look(scene, raster, radiometry, self.views, self.folder, self._name(scene), self.progress.advance)
            found = Signalled(self.background)
            pictures = pictures_of(scene, seen, raster, radiometry, self.labelling)

            def blocks() -> Iterator[tuple[Window, np.ndarray]]:
                for picture in pictures:
                    found.add(scene.key, picture)
                    yield picture.window, picture.evidence.label

            tags = {_TAG: self._name(scene)}
            shown = kept_names(self.folder.classes_path, self.classes)
            write_label_raster(self.folder.labels_path / f"{scene.key}.tif", scene, shown, blocks(), tags=tags)
        found.write(self._signals_path(scene))
        for _, _, path in seen.files:
            path.unlink()

    def judge(self, scenes: Sequence[Scene], model: Path) -> None:
        """Score the labels of all scenes by the model's judge, and decide on them."""
        judge = load_judge(model)
        found = Signalled(self.background)
        for scene in scenes:
            found.join(load_signalled(self._signals_path(scene), self.background))
        rows = found.signals
        gate = set_gate(judge, rows, promise=self.settings.promise or None, review=self.settings.review or None)
        verdicts = verdicts_by(judge, gate, tuple(found.scene), found.window, rows)
        hashes = label_hashes({scene.key: self.folder.labels_path / f"{scene.key}.tif" for scene in scenes})
        notes = {
            "labels": hashes,
            "images": {scene.key: scene.sha256 for scene in scenes},
            "measured": {"by": self.made_by, "units": found.units},
            **gate_notes(judge, gate, rows),
        }
        save_verdicts(self.folder, verdicts, notes, rows)

    @property
    def labelling(self) -> Labelling:
        """How what is seen becomes labels."""
        return Labelling(self.classes, self.background, self.settings.specks, cut=self.cut)

    def _signals_path(self, scene: Scene) -> Path:
        return self.folder.part_path("signals", scene.key, self._name(scene))

    def _name(self, scene: Scene) -> str:
        """Names all that decides a scene's label."""
        return digest([self.checkpoint.sha256, stored(self.settings), self.cut, scene.sha256, scene.key, _VERSION])

    def _is_there(self, scene: Scene) -> bool:
        """Whether the scene's label says that it was made of this image by this model with these settings."""
        import rasterio
        from rasterio.errors import RasterioIOError

        if not self._signals_path(scene).is_file():
            return False
        try:
            path = self.folder.labels_path / f"{scene.key}.tif"
            with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path, driver="GTiff") as written:
                return written.tags().get(_TAG) == self._name(scene)
        except RasterioIOError:
            return False

    def kept(self, scenes: Sequence[Scene]) -> set[Path]:
        """Parts of a finished run: the verdicts on its labels, and the signals that a later run goes on from."""
        return quality_parts(self.folder) | {self._signals_path(scene) for scene in scenes}


def pictures_of(scene: Scene, seen: Seen, raster: Raster, radiometry: Radiometry, labelling: Labelling) -> Iterator[Decided]:
    """The pictures of an open scene, in order."""

    def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
        pixels, valid = raster.read(window)
        return radiometry.apply(pixels, valid), valid

    return labelling.pictures(seen, read, scene.width, scene.height)


def _agree(folder: RunFolder, painter: Painter, overwrite: bool) -> None:
    """Refuse a run that was made otherwise."""
    if not folder.exists:
        return
    if not is_labels(folder):
        raise RunError(f"{folder.path} is a run of another kind: choose another folder.")
    try:
        old = json.loads(folder.manifest_path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder.manifest_path} is damaged ({error}): start anew in another folder.") from error
    different = [] if old.get("model") == painter.checkpoint.sha256 else ["another model"]
    different += changed(old, painter.settings)
    if different and not overwrite:
        raise RunError(f"{folder.path} was made otherwise ({'; '.join(different)}): give another --out, or --overwrite.")
