"""Labels from a few shapes that a person drew: polygons as they are, points and boxes as masks of a promptable.

The result is a labelled set like any other. Images that something was drawn in have a label raster on their grid, 255 where nobody
drew, or the class of the rest; the others have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from terralabel.contracts import Promptable
from terralabel.core.files import write_text
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.drawn import Drawing, is_drawing, read_drawing
from terralabel.export.drawn_label import Layers, drawn_blocks, layered
from terralabel.export.rasters import write_label_raster
from terralabel.imagery.datasets.class_lists import read_classes
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.imagery.raster import open_raster
from terralabel.imagery.sources import SourceFile, content_hash
from terralabel.imagery.tiles import scene_of
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.drawn.prompts import prompted_shapes
from terralabel.recipes.drawn.settings import DrawnSettings
from terralabel.recipes.ingest import find
from terralabel.recipes.networks import settle
from terralabel.runs.folder import digest
from terralabel.runs.progress import Progress, Silent

__all__ = ["drawn_labels", "is_drawing"]

#: Version of this code: part of what tells whether rasters are there already.
_VERSION = 1
#: Features that are left out and told one by one.
_TOLD = 20


def drawn_labels(
    sources: Sequence[str | Path] | str | Path,
    file: str | Path,
    out: str | Path,
    settings: DrawnSettings | None = None,
    *,
    classes: str | Path | None = None,
    progress: Progress | None = None,
    **values: object,
) -> LabelledSet:
    """Label images by what was drawn over them in a GIS: a GeoPackage, GeoJSON, GeoParquet or Shapefile.

    `sources`: as of `label`. `file`: what was drawn. `out`: a folder that gets `labels/KEY.tif`, `classes.json` and `drawn.json`. `settings`, or its fields as
    `values`. `classes`: a class map in place of numbers of its own. Images in which nothing is drawn have no label; `problems`
    say what was left out (shapes in no image, without a class, crossing themselves) and what two classes claim: such pixels get no
    label. Points and boxes become masks of a promptable; points of other classes tell it what is not meant. Rasters that are there
    are not made again. Raises `InputError` when nothing in the file can be used.

    >>> import terralabel as tl
    >>> files = tl.export_run(tl.open_run("run"), ["geopackage"], "shapes")
    >>> drawn = tl.drawn_labels("images", "shapes/labels.gpkg", "drawn", class_field="class_name", rest="other")
    >>> len(drawn.labelled), drawn.classes[0].name
    (1, 'other')
    """
    settings = settings or DrawnSettings(**values)  # type: ignore[arg-type]
    progress, out, shapes = progress or Silent(), Path(out).absolute(), Path(file).absolute()
    if not is_drawing(shapes):
        raise InputError(f"{shapes}: expected a GeoPackage, GeoJSON, GeoParquet or Shapefile with drawn shapes.", "not-labels")
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    found = find(named, out, settings.labelling)
    problems = [f"{s.reason} [{s.status}]" for s in found.skipped]
    scenes = _scenes(found.files, settings, problems)
    drawing = read_drawing(
        shapes,
        scenes,
        class_field=settings.class_field,
        rest=settings.rest,
        layer=settings.layer,
        boxes=settings.shapes == "boxes",
        classes=read_classes(Path(classes))[0] if classes is not None else None,
    )
    for text in drawing.notes:
        progress.say(text)
    by_key = {scene.key: scene for scene in scenes}
    used = [by_key[key] for key in drawing.scenes]
    made = _made(used, drawing, shapes, out, settings, progress)
    problems += [*_rejected(drawing), *made]
    for text in problems:
        progress.say(f"problem: {text}")
    label = {scene.key: out / "labels" / f"{scene.key}.tif" for scene in used}
    items = [LabelledImage(s.key, Path(s.source), label.get(s.key), s.split or "") for s in scenes]
    return LabelledSet(
        shapes.stem, drawing.classes, tuple(items), None, "drawn", tuple(problems), "sar" if settings.sensor == "sar" else ""
    )


def _scenes(files: Sequence[SourceFile], settings: DrawnSettings, problems: list[str]) -> list[Scene]:
    """The images as scenes; one that cannot be opened is a problem."""
    scenes = []
    for source in files:
        try:
            with open_raster(source.path, bands=settings.bands, sensor=settings.sensor) as raster:
                scenes.append(scene_of(source, raster, sensor=settings.sensor, sha256=""))
        except InputError as error:
            problems.append(f"{error} [{error.status}]")
    if not scenes:
        raise InputError(f"None of {len(files)} images can be used; the first: {problems[0]}", "no-images")
    return scenes


def _rejected(drawing: Drawing) -> list[str]:
    """Sentences on features that were left out: those outside as a number, the others one by one."""
    outside = [r for r in drawing.rejected if r.status == "outside"]
    others = [r for r in drawing.rejected if r.status != "outside"]
    told = [f"{r.item} {r.reason} [{r.status}]" for r in others[:_TOLD]]
    told += [f"and {len(others) - _TOLD} more shapes that cannot be used"] if len(others) > _TOLD else []
    if outside:
        names = ", ".join(r.item for r in outside[:5]) + (", ..." if len(outside) > 5 else "")
        told.append(f"{len(outside)} shapes lie in no image: {names} [outside]")
    return told


def _made(
    scenes: Sequence[Scene], drawing: Drawing, shapes: Path, out: Path, settings: DrawnSettings, progress: Progress
) -> list[str]:
    """Write the label rasters, unless they are there; returns sentences on conflicts and on prompts without a mask."""
    promptable = _promptable(settings, out, progress) if drawing.prompts else None
    record = _record(scenes, drawing, shapes, settings, promptable)
    path = out / "drawn.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if before.get("digest") == record and all((out / "labels" / f"{s.key}.tif").is_file() for s in scenes):
        return list(before["problems"])
    radiometry = fit_radiometry([s.source for s in scenes], sensor=settings.sensor, bands=settings.bands).radiometry
    seen = {"tile_size": settings.tile_size, "overlap": settings.overlap}
    problems = []
    progress.start("drawn", len(scenes), "images")
    for scene in scenes:
        prompts = drawing.prompts.get(scene.key, ())
        masks, told = prompted_shapes(scene, prompts, promptable, radiometry, **seen) if promptable and prompts else ([], [])
        layers = layered(scene, masks, drawing.polygons.get(scene.key, ()))
        blocks = drawn_blocks(scene, layers, drawing.rest)
        write_label_raster(out / "labels" / f"{scene.key}.tif", scene, drawing.classes, blocks)
        problems += [*told, *_disputed(scene, layers)]
        progress.advance()
    progress.finish()
    write_text(out / "classes.json", drawing.classes.to_json() + "\n")
    write_text(path, json.dumps({"digest": record, "shapes": str(shapes), "problems": problems}, indent=1) + "\n")
    return problems


def _record(
    scenes: Sequence[Scene], drawing: Drawing, shapes: Path, settings: DrawnSettings, promptable: Promptable | None
) -> str:
    """Names all that the rasters are made of; pixels of images count only where something looks at them."""
    looked = [s.key for s in scenes if s.key in drawing.prompts]
    hashes = [content_hash(Path(s.source)) for s in scenes if s.key in looked]
    places = [(s.key, s.width, s.height, s.georeference.transform, s.georeference.crs) for s in scenes]
    used = {name: value for name, value in asdict(settings).items() if name not in ("device", "masks")}
    by = [promptable.name, promptable.version] if promptable else []
    return digest([content_hash(shapes), drawing.classes.to_json(), places, hashes, used, by, _VERSION])


def _disputed(scene: Scene, layers: Layers) -> list[str]:
    """One sentence on what two classes claim in an image."""
    if not layers.conflicts:
        return []
    pixels = sum(conflict.pixels for conflict in layers.conflicts)
    worst = max(layers.conflicts, key=lambda c: c.pixels)
    more = f", and {len(layers.conflicts) - 1} more pairs" if len(layers.conflicts) > 1 else ""
    return [
        f"{scene.key}: {pixels:,} pixels are claimed by two classes ({' and '.join(worst.items)}{more}): no label there [conflict]"
    ]


def _promptable(settings: DrawnSettings, out: Path, progress: Progress) -> Promptable:
    """What `--masks` names; auto by the weights on the machine."""
    settled, why = settle(settings.labelling, out)
    if why:
        progress.say(why)
    return make_promptable(settled)
