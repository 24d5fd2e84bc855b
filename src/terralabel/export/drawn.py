"""Labels that a person drew in a GIS: polygons, points and boxes with a class, in any coordinate system, over many images.

Polygons are labels as they stand. Points, and boxes where `boxes` says that polygons are only boxes round things, are prompts: what
they mean is found later, by a promptable.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.drawn_classes import Meaning, class_field_of, class_of
from terralabel.export.edits import Reject
from terralabel.export.placement import Placement, Unusable
from terralabel.export.shapes import Shape, rasterized
from terralabel.export.vector_features import Feature, VectorFeatures, checked_polygon

__all__ = ["Drawing", "DrawnShape", "Prompt", "is_drawing", "read_drawing"]

#: Attributes that name the image, for images without a place on the Earth.
_IMAGE_FIELDS = ("scene", "image")
_SUFFIXES = (".gpkg", ".geojson", ".parquet", ".geoparquet", ".shp")
#: A JSON file says what it is in so many bytes.
_HEAD = 65536


@dataclass(frozen=True)
class DrawnShape:
    """A polygon in one scene: the pixels whose centres it covers."""

    item: str
    class_id: int
    shape: Shape


@dataclass(frozen=True)
class Prompt:
    """A point or a box in one scene: `xyxy` scene pixels; of a point both corners are the same."""

    item: str
    class_id: int
    xyxy: tuple[float, float, float, float]

    @property
    def is_point(self) -> bool:
        """Whether it has no area."""
        return self.xyxy[:2] == self.xyxy[2:]


@dataclass(frozen=True)
class Drawing:
    """What a file says of scenes, by their keys. `rejected` are features that cannot be used; `notes` are sentences for the user.

    `rest` is the class of pixels that nobody drew, 255 for no label.
    """

    classes: Classes
    polygons: Mapping[str, tuple[DrawnShape, ...]]
    prompts: Mapping[str, tuple[Prompt, ...]]
    rest: int = IGNORE
    rejected: tuple[Reject, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def scenes(self) -> tuple[str, ...]:
        """Keys of the scenes with anything drawn in them, sorted."""
        return tuple(sorted({*self.polygons, *self.prompts}))


def is_drawing(path: str | Path) -> bool:
    """Whether a path is a vector file: GeoPackage, GeoParquet, Shapefile, or GeoJSON (COCO's JSON is none)."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() != ".json":
        return path.suffix.lower() in _SUFFIXES
    with path.open("rb") as file:
        return b'"FeatureCollection"' in file.read(_HEAD)


def read_drawing(
    path: str | Path,
    scenes: Sequence[Scene],
    *,
    class_field: str = "",
    rest: str = "",
    layer: str = "",
    boxes: bool = False,
    classes: Classes | None = None,
) -> Drawing:
    """Polygons, points and boxes of a vector file in the pixels of `scenes`.

    `class_field`: the attribute with the class (text, or whole numbers that are ids); "" takes the first of `CLASS_FIELDS` that the
    file has, and where it has none everything is of one class, called as the layer. `rest`: the class of what nobody drew.
    `boxes`: polygons are boxes round things. `classes`: a class map in place of numbers of its own.
    A polygon over several images is cut; what lies in none, has no known class or no usable geometry is in `rejected`, and the rest
    goes on. Raises `InputError` when nothing can be used, with the likely reason: no class attribute of that name, another
    coordinate system.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # GDAL's remarks on odd files; what matters becomes an error
        source = VectorFeatures(path, layer, own_numbers=True)
        field = class_field_of(source, class_field)
        features = list(source.features([f for f in (field, "id", *_IMAGE_FIELDS) if f]))
        reader = _Reader(source, tuple(scenes), boxes)
    if not features:
        raise InputError(f"{path}: has no features: draw some polygons, points or boxes, and save.", "no-labels")
    named = {f.item: class_of(f, field, source) for f in features}
    meaning = Meaning.of([name for name in named.values() if name], rest, classes)
    for feature in features:
        reader.add(feature, named[feature.item], meaning)
    if not (reader.polygons or reader.prompts):
        raise InputError(f"{path}: {_why_none(reader, features, source)}", "no-labels")
    told = [] if class_field or not field else [f"the classes are in the attribute {field!r} (--class-field names another)"]
    return Drawing(
        meaning.classes,
        {key: tuple(rows) for key, rows in sorted(reader.polygons.items())},
        {key: tuple(rows) for key, rows in sorted(reader.prompts.items())},
        meaning.rest,
        tuple(reader.rejected),
        tuple(told + reader.notes),
    )


class _Reader:
    """Features sorted into scenes, one after the other."""

    def __init__(self, source: VectorFeatures, scenes: tuple[Scene, ...], boxes: bool) -> None:
        self.scenes, self.boxes = scenes, boxes
        self.polygons: dict[str, list[DrawnShape]] = defaultdict(list)
        self.prompts: dict[str, list[Prompt]] = defaultdict(list)
        self.rejected: list[Reject] = []
        self.notes: list[str] = []
        self._bare = sum(not scene.georeference.is_placed for scene in scenes)
        crs = source.crs
        if crs is None and all(scene.georeference.crs is not None for scene in scenes):
            raise InputError(
                f"{source.path}: has no coordinate system, and the images have one: set it (in QGIS: Layer, Set CRS), and save.",
                "no-crs",
            )
        if crs is not None and self._bare == len(scenes):
            # over such images a GIS counts columns and rows, whatever system the file claims
            self.notes.append("the images have no place on the Earth: coordinates are taken for columns and rows of pixels")
            crs = None
        self._rows_down = self._bare == len(scenes) and _above_zero(source)
        self._place = Placement(crs, scenes)

    def add(self, feature: Feature, name: str, meaning: Meaning) -> None:
        """Take one feature, or note why not."""
        try:
            if not name:
                raise Unusable("no-class", "has no class")
            if name not in meaning.ids:
                raise Unusable("unknown-class", f"is of {name!r}, which is no class of the class map")
            geometry = _usable(feature.geometry)
            if self._rows_down:
                geometry = shapely.transform(geometry, lambda xy: xy * np.array([1.0, -1.0]))
            self._take(feature, geometry, meaning.ids[name])
        except Unusable as why:
            self.rejected.append(Reject(feature.item, *why.args))

    def _take(self, feature: Feature, geometry: shapely.Geometry, class_id: int) -> None:
        places = self._places(feature, geometry)
        if not places:
            raise Unusable("outside", "lies in no image")
        taken = [self._taken(feature.item, class_id, scene, pixels) for scene, pixels in places]
        if not any(taken):
            raise Unusable("too-small", f"covers no pixel centre of {places[0][0].key}")

    def _places(self, feature: Feature, geometry: shapely.Geometry) -> list[tuple[Scene, shapely.Geometry]]:
        """The images a feature lies in, and its coordinates there."""
        found = self._place.everywhere(geometry)
        named = next((text for field in _IMAGE_FIELDS if (text := feature.text(field))), "")
        if named:
            alike = {scene.key for scene in self.scenes if named in (scene.key, scene.stem, Path(scene.source).name)}
            if not alike:
                raise Unusable("unknown-scene", f"names the image {named!r}, which is not here")
            return [(scene, pixels) for scene, pixels in found if scene.key in alike]
        if self._bare > 1:
            raise Unusable(
                "no-scene", "several images have no place on the Earth: fill in an attribute 'image' with the file's name"
            )
        return found

    def _taken(self, item: str, class_id: int, scene: Scene, pixels: shapely.Geometry) -> bool:
        """Whether there was a pixel of the scene in it."""
        if pixels.geom_type.endswith("Point"):
            inside = shapely.get_coordinates(pixels)
            inside = inside[((inside >= 0) & (inside < (scene.width, scene.height))).all(axis=1)]
            self._prompt(scene, [Prompt(item, class_id, (x, y, x, y)) for x, y in inside.tolist()])
            return len(inside) > 0
        if self.boxes:
            left, top, right, bottom = shapely.bounds(pixels).tolist()
            xyxy = max(left, 0.0), max(top, 0.0), min(right, float(scene.width)), min(bottom, float(scene.height))
            if min(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]) >= 1:
                self._prompt(scene, [Prompt(item, class_id, xyxy)])
            return min(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]) >= 1
        shape = rasterized(pixels, scene.width, scene.height)
        if shape is not None:
            self.polygons[scene.key].append(DrawnShape(item, class_id, shape))
        return shape is not None

    def _prompt(self, scene: Scene, prompts: list[Prompt]) -> None:
        if prompts:
            self.prompts[scene.key] += prompts


def _above_zero(source: VectorFeatures) -> bool:
    """Whether rows are counted downward as positive numbers; QGIS shows such images below the axis."""
    bounds = None if source.layer is None else pyogrio.read_info(source.path, layer=source.layer, force_total_bounds=True)
    return bounds is not None and bounds["total_bounds"] is not None and bounds["total_bounds"][1] >= 0


def _usable(geometry: shapely.Geometry | None) -> shapely.Geometry:
    """A valid polygon, or one or more points."""
    if geometry is not None and geometry.geom_type in ("Point", "MultiPoint") and not geometry.is_empty:
        if not np.all(np.isfinite(shapely.get_coordinates(geometry))):
            raise Unusable("bad-coordinates", "has coordinates that are no finite numbers")
        return geometry
    if geometry is not None and geometry.geom_type in ("LineString", "MultiLineString"):
        raise Unusable("not-a-shape", "is a line, expected a polygon or a point: give it a width (in QGIS: Buffer)")
    return checked_polygon(geometry)


def _why_none(reader: _Reader, features: Sequence[Feature], source: VectorFeatures) -> str:
    """One line on a file of which nothing can be used."""
    outside = sum(reject.status == "outside" for reject in reader.rejected)
    if outside < len(reader.rejected):
        first = next(reject for reject in reader.rejected if reject.status != "outside")
        return f"none of {len(features)} shapes can be used; {first.item} {first.reason} [{first.status}]."
    bounds = shapely.total_bounds([f.geometry for f in features if f.geometry is not None])
    crs = "no coordinate system" if source.crs is None else source.crs.name
    return (
        f"none of {len(features)} shapes lies in any of {len(reader.scenes)} images: they span {bounds[0]:.6g} to {bounds[2]:.6g} and"
        f" {bounds[1]:.6g} to {bounds[3]:.6g} ({crs}). Is the file's coordinate system right, and are these its images?"
    )
