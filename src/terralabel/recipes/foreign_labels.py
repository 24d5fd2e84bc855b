"""Labels of other people as a run: folders of masks, single GeoTIFFs, what `predict` wrote; checked, copied, never changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.rasters import write_label_raster
from terralabel.imagery.datasets.class_lists import class_list, find_classes
from terralabel.imagery.datasets.pairing import Found, find_rasters, pair_files
from terralabel.imagery.datasets.reading import image_size, read_label
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.imagery.raster import open_raster
from terralabel.imagery.sniff import sniff
from terralabel.imagery.sources import SourceFile, content_hash, find_sources
from terralabel.imagery.tiles import scene_of
from terralabel.imagery.wholeness import refuse_truncated
from terralabel.recipes.ingest import Failure
from terralabel.recipes.labels_run import LabelsRun, write_labels_run
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress

__all__ = ["LabelReading", "adopt", "background_of"]

_BLOCK = 1024
#: (named source, image or None, label).
_Pair = tuple[SourceFile, Path | None, Path]


@dataclass(frozen=True)
class LabelReading:
    """How foreign label files are to be read: as of `open_labelled`. `classes`: a class map; `threshold`: of grey masks."""

    classes: Path | None = None
    ignore: tuple[int, ...] = ()
    threshold: int | None = None


def background_of(classes: Classes, given: int | None) -> int | None:
    """The class that is no object: as given, else the one named background; `InputError` when there is no such class."""
    if given is not None:
        if given not in {entry.id for entry in classes}:
            have = ", ".join(str(entry.id) for entry in classes)
            raise InputError(f"background {given} is no class of the labels; the classes are {have}.", "unknown-ids")
        return given
    named = [entry.id for entry in classes if entry.name.strip().lower() == "background"]
    return named[0] if len(named) == 1 else None


def adopt(
    labels: Path,
    images: Path | None,
    out: RunFolder,
    reading: LabelReading,
    *,
    background: int | None,
    progress: Progress,
) -> LabelsRun:
    """Copy label files, and the probabilities beside them if there are, into a run folder; those that do not fit are failures.

    `images`: where the images lie, with the names of the labels; None when there are none. Raises `InputError` when nothing can
    be used.
    """
    folder = labels / "labels" if (labels / "labels").is_dir() else labels
    found = _rasters(folder)
    pairs, failures = _readable(*_paired(found, images))
    items = [LabelledImage(source.key, image or label, label) for source, image, label in pairs]
    classes, to_ids = class_list(folder, reading.classes or find_classes(labels), items, reading.ignore, reading.threshold)
    dataset = LabelledSet(labels.name, classes, tuple(items), to_ids)
    no_object = background_of(classes, background)
    fitted = fit_radiometry([item.image for item in items]) if images is not None else None
    failures += [Failure(str(s.path), s.status, s.reason) for s in (fitted.unfit if fitted else ())]
    out.create()
    scenes = []
    progress.start("labels", len(items), "files")
    for (source, _, _), item in zip(pairs, items, strict=True):
        made = _one(dataset, item, source, out, None if fitted is None else fitted.radiometry)
        if isinstance(made, Scene):
            scenes.append(made)
            _probabilities(labels, item, out, made)
        else:
            progress.say(f"failed: {' '.join(made.reason.split())} [{made.status}]")
            failures.append(made)
        progress.advance()
    progress.finish()
    if not scenes:
        first = failures[0]
        raise InputError(f"None of {len(failures)} labels can be used; the first: {first.reason}", first.status)
    return write_labels_run(
        out,
        made_by=f"{labels.name or 'labels'} (foreign)",
        scenes=scenes,
        classes=classes,
        settings={"labels": str(labels), "images": None if images is None else str(images)},
        failures=failures,
        radiometry=None if fitted is None else fitted.radiometry,
        background=no_object,
    )


def _rasters(place: Path) -> Found:
    """The rasters of a folder, or one file."""
    if place.is_dir():
        return find_rasters(place)
    sources = find_sources([place])
    return Found(place.parent, tuple(s.path for s in sources.files), tuple(s.reason for s in sources.skipped))


def _paired(labels: Found, images: Path | None) -> tuple[list[_Pair], list[Failure]]:
    """(named source, image or None, label) of every label, and labels without their image as failures."""
    if not labels.paths:
        raise InputError(f"{labels.folder} has no label rasters: expected PNG or TIFF, a class id a pixel.", "no-images")
    failures = [Failure(str(labels.folder), "unreadable", text) for text in labels.problems]
    if images is None:
        return [(source, None, source.path) for source in find_sources(list(labels.paths)).files], failures
    pictures = _rasters(images)
    pairs = [(Path(image), label) for image, label in pair_files(pictures, labels)[0] if label is not None]
    if not pairs and len(pictures.paths) == len(labels.paths) == 1:
        pairs = [(pictures.paths[0], labels.paths[0])]
    left = sorted(set(labels.paths) - {label for _, label in pairs})
    failures += [Failure(str(path), "no-image", f"{path} has no image of its name in {images}.") for path in left]
    if not pairs:
        raise InputError(f"No label in {labels.folder} has the name of an image in {images}.", "no-equal-stems")
    of = dict(pairs)
    return [(source, source.path, of[source.path]) for source in find_sources(list(of)).files], failures


def _readable(pairs: list[_Pair], failures: list[Failure]) -> tuple[list[_Pair], list[Failure]]:
    """The pairs whose label is whole; the others are failures more."""
    kept = []
    for pair in pairs:
        try:
            refuse_truncated(pair[2], sniff(pair[2]))
            kept.append(pair)
        except InputError as error:
            failures.append(Failure(str(pair[2]), error.status, str(error)))
    if not kept:
        raise InputError(f"None of {len(failures)} labels can be used; the first: {failures[0].reason}", failures[0].status)
    return kept, failures


def _one(
    dataset: LabelledSet, item: LabelledImage, source: SourceFile, out: RunFolder, radiometry: Radiometry | None
) -> Scene | Failure:
    """Write the raster of one scene on the grid of its image, or of the label itself."""
    assert item.label is not None
    try:
        with radiometry.open(item.image) if radiometry else open_raster(item.image, bands=(1,)) as raster:
            scene = scene_of(
                source, raster, sensor=radiometry.sensor if radiometry else "optical", sha256=content_hash(item.image)
            )
        if radiometry is not None:
            scene = _fitting(scene, item.label)
        write_label_raster(out.labels_path / f"{scene.key}.tif", scene, dataset.classes, _blocks(dataset, item, scene))
        return scene
    except InputError as error:
        return Failure(str(item.label), error.status, str(error))


def _fitting(scene: Scene, label: Path) -> Scene:
    """The scene, placed as its label where only that is; `InputError` when the two do not cover the same pixels."""
    width, height = image_size(label)
    if (width, height) != (scene.width, scene.height):
        raise InputError(
            f"{label} is {width} x {height}, its image {scene.source} {scene.width} x {scene.height}: expected equal sizes.",
            "size",
        )
    with open_raster(label, bands=(1,)) as raster:
        place = raster.georeference
    mine = scene.georeference
    if not place.is_placed or not mine.is_placed:
        return replace(scene, georeference=place if place.is_placed else mine)
    if not np.allclose(place.transform, mine.transform, rtol=0, atol=0.5 * max(mine.pixel_area, 1e-18) ** 0.5):
        raise InputError(
            f"{label} lies elsewhere than its image {scene.source}: warp it onto the image's grid first.", "other-place"
        )
    return scene


def _blocks(dataset: LabelledSet, item: LabelledImage, scene: Scene) -> Iterator[tuple[Window, np.ndarray]]:
    for plan in plan_tiles(scene.key, scene.width, scene.height, _BLOCK, 0):
        yield plan.core, read_label(dataset, item, plan.core)


def _probabilities(labels: Path, item: LabelledImage, out: RunFolder, scene: Scene) -> None:
    """Take over the probabilities that `predict` left beside its labels."""
    assert item.label is not None
    there = labels / "probabilities" / f"{item.label.stem}.tif"
    if there.is_file():
        target = out.path / "probabilities" / f"{scene.key}.tif"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(there, target)
