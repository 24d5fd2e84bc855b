"""Label rasters of new imagery by a trained network, whatever its size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import write_text
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.core.settings import changed
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.imagery.sources import SourceFile, content_hash
from terralabel.imagery.tiles import scene_of
from terralabel.recipes.ingest import Failure, find
from terralabel.recipes.settings import LabelSettings
from terralabel.recipes.training import needs_torch
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.progress import Progress, Silent
from terralabel.train.segmentation.settings import PredictSettings, stored

if TYPE_CHECKING:
    from terralabel.imagery.raster import Raster
    from terralabel.train.segmentation.checkpoint import Checkpoint
    from terralabel.train.segmentation.inference import Mapper

__all__ = ["Predicted", "predict"]

_FORMAT = 1
_TAG = "TERRALABEL_PREDICTION"


@dataclass(frozen=True)
class Predicted:
    """The predictions in a folder: `labels/KEY.tif` of each scene, `classes.json`, `scenes.jsonl`; what failed, with reasons."""

    path: Path
    scenes: tuple[Scene, ...]
    failures: tuple[Failure, ...]
    classes: Classes

    def label_path(self, scene_key: str) -> Path:
        """The label raster of a scene."""
        return self.path / "labels" / f"{scene_key}.tif"

    @property
    def text(self) -> str:
        """What the command prints at the end."""
        lines = [f"predicted   {len(self.scenes)} scenes in {len(self.classes)} classes: {self.path / 'labels'}/*.tif"]
        lines += [f"failed      {' '.join(f.reason.split())} [{f.status}]" for f in self.failures]
        return "\n".join(lines)


def predict(
    checkpoint: str | Path,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: PredictSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> Predicted:
    """Label images with a trained network: a georeferenced raster of class ids for each, in the classes' colours.

    `checkpoint`: the folder of a training (its best checkpoint, else its last) or a checkpoint file. `sources`: as of `label`.
    `settings`, or its fields as `values`. Images become the network's input by the radiometry stored in the checkpoint.
    Memory does not grow with the images. Scenes that are there are not computed again; `overwrite` goes on although checkpoint
    or settings differ from those before. A scene that fails is in `Predicted.failures`, and the others are done.

        >>> import terralabel as tl
        >>> trained = tl.pretrain("run", "trained", network="segformer-mit-b0", steps=2, batch_size=2, crop=64)
        >>> found = tl.predict("trained", "images", "predicted", probabilities=True)
        >>> found.label_path("scene_1").name
        'scene_1.tif'
    """
    needs_torch()
    from terralabel.train.segmentation.checkpoint import open_checkpoint

    settings, progress, out = settings or PredictSettings(**values), progress or Silent(), Path(out)
    opened = open_checkpoint(checkpoint)
    found = find([sources] if isinstance(sources, (str, Path)) else sources, out, LabelSettings(follow_vrt=settings.follow_vrt))
    mapper = _mapper(opened, settings)
    folder = RunFolder(out)
    out.mkdir(parents=True, exist_ok=True)
    with folder.lock(progress.say):
        _agree(out, opened, settings, overwrite)
        write_text(out / "classes.json", opened.classes.to_json() + "\n")
        scenes: list[Scene] = []
        failures = [Failure(str(s.path), s.status, s.reason) for s in found.skipped]
        progress.start("predict", len(found.files), "images")
        for source in found.files:
            result = _one(source, out, opened, mapper, settings)
            if isinstance(result, Scene):
                scenes.append(result)
            else:
                progress.say(f"failed: {' '.join(result.reason.split())} [{result.status}]")
                failures.append(result)
            progress.advance()
        progress.finish()
        _write_ledger(out, scenes, failures)
    if not scenes:
        raise InputError(f"None of {len(failures)} inputs can be used; the first: {failures[0].reason}", failures[0].status)
    return Predicted(out, tuple(scenes), tuple(failures), opened.classes)


def _mapper(checkpoint: Checkpoint, settings: PredictSettings) -> Mapper:
    """The checkpoint's network, ready to look at windows."""
    import torch

    from terralabel.nets.checkpoints import compare_keys
    from terralabel.nets.segmentation.building import build
    from terralabel.train.segmentation.distributed import device_of
    from terralabel.train.segmentation.inference import Mapper

    if settings.threads:
        torch.set_num_threads(settings.threads)
    made = checkpoint.record["network"]
    network = build(str(made["name"]), int(made["classes"]), int(made["bands"]), bool(made["auxiliary"]))
    weights = checkpoint.weights()
    compare_keys(weights, network.state_dict(), f"{checkpoint.path} as {made['name']}")
    network.load_state_dict(weights)
    network.mean, network.std = tuple(checkpoint.record["mean"]), tuple(checkpoint.record["std"])
    device = device_of(settings.device)
    network.to(device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tile_size, overlap = _windows(checkpoint, settings)
    batch_size = settings.batch_size or (8 if device.type == "cuda" else 1)
    return Mapper(network, device, tile_size=tile_size, overlap=overlap, batch_size=batch_size, precision=settings.precision)


def _windows(checkpoint: Checkpoint, settings: PredictSettings) -> tuple[int, int]:
    """(tile size, overlap)."""
    tile_size = settings.tile_size or int(checkpoint.record["crop"])
    overlap = tile_size // 4 if settings.overlap < 0 else settings.overlap
    if overlap * 2 > tile_size:
        raise SettingsError(f"overlap {overlap} is more than half of the windows' side {tile_size}: make it smaller.")
    return tile_size, overlap


def _one(source: SourceFile, out: Path, checkpoint: Checkpoint, mapper: Mapper, settings: PredictSettings) -> Scene | Failure:
    """Write the rasters of one scene, unless they are there."""
    radiometry = checkpoint.radiometry
    try:
        sha256 = content_hash(source.path)
        with radiometry.open(source.path, follow_vrt=settings.follow_vrt) as raster:
            scene = scene_of(source, raster, sensor=radiometry.sensor, sha256=sha256)
            name = digest([checkpoint.sha256, stored(settings), sha256, scene.key])
            if not _is_there(out, scene, name, settings):
                _write(out, scene, raster, checkpoint, mapper, settings, name)
        return scene
    except InputError as error:
        return Failure(str(source.path), error.status, str(error))
    except SettingsError as error:
        return Failure(str(source.path), "bands", str(error))
    except FileNotFoundError as error:
        return Failure(str(source.path), "vanished", f"{source.path}: {error.strerror}")


def _write(
    out: Path, scene: Scene, raster: Raster, checkpoint: Checkpoint, mapper: Mapper, settings: PredictSettings, name: str
) -> None:
    """The label raster last: with it the scene is done."""
    from terralabel.export.probabilities import ProbabilityRaster, probability_raster
    from terralabel.export.rasters import write_label_raster

    radiometry, classes, tags = checkpoint.radiometry, checkpoint.classes, {_TAG: name}
    ids = np.array([entry.id for entry in classes], dtype=np.uint16)

    def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
        pixels, valid = raster.read(window)
        return radiometry.apply(pixels, valid), valid

    def blocks(beside: ProbabilityRaster | None) -> Iterator[tuple[Window, np.ndarray]]:
        for part in mapper.blended(read, scene.width, scene.height):
            if beside is not None:
                beside.add(part.window, part.probabilities)
            yield part.window, np.where(part.valid, ids[part.probabilities.argmax(axis=0)], IGNORE)

    with ExitStack() as stack:
        beside = None
        if settings.probabilities:
            path = out / "probabilities" / f"{scene.key}.tif"
            beside = stack.enter_context(probability_raster(path, scene, classes, tags))
        write_label_raster(out / "labels" / f"{scene.key}.tif", scene, classes, blocks(beside), tags=tags)


def _is_there(out: Path, scene: Scene, name: str, settings: PredictSettings) -> bool:
    """Whether the scene's rasters say that they were made of this image by this checkpoint with these settings."""
    import rasterio
    from rasterio.errors import RasterioIOError

    folders = ["labels", *(["probabilities"] if settings.probabilities else [])]
    for path in (out / folder / f"{scene.key}.tif" for folder in folders):
        try:
            with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path, driver="GTiff") as written:
                if written.tags().get(_TAG) != name:
                    return False
        except RasterioIOError:
            return False
    return True


def _agree(out: Path, checkpoint: Checkpoint, settings: PredictSettings, overwrite: bool) -> None:
    """Write prediction.json; refuse a folder whose predictions were made otherwise."""
    path = out / "prediction.json"
    wanted = {"format": _FORMAT, "checkpoint": checkpoint.sha256, "step": checkpoint.step, "settings": stored(settings)}
    if path.is_file() and not overwrite:
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            different = [line for line in changed(old["settings"], settings) if not line.startswith("probabilities")]
            different += [] if old["checkpoint"] == checkpoint.sha256 else ["another checkpoint"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}): predict anew with --overwrite.") from error
        if different:
            raise SettingsError(f"{out} was predicted otherwise: {'; '.join(different)}. Give another --out, or --overwrite.")
    write_text(path, json.dumps(wanted, indent=1, sort_keys=True) + "\n")


def _write_ledger(out: Path, scenes: Sequence[Scene], failures: Sequence[Failure]) -> None:
    """scenes.jsonl: a row for every input."""
    rows = [{"scene": scene.key, "source": scene.source, "sha256": scene.sha256, "status": "ok"} for scene in scenes]
    rows += [{"source": f.source, "status": f.status, "reason": f.reason} for f in failures]
    write_text(out / "scenes.jsonl", "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
