import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from terralabel.core import rle
from terralabel.core.georeference import Georeference
from terralabel.export.polygons import object_polygons, place, simplified, trace
from terralabel.export.segments import Segments, run_segments

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.booleans())


def outline(mask):
    runs, offsets = rle.concatenate([rle.encode(mask)])
    return trace(run_segments(runs, offsets, mask.shape[0]))[0]


def filled(polygon, shape):
    if polygon.is_empty:
        return np.zeros(shape, dtype=bool)
    return rasterio.features.rasterize([(polygon, 1)], out_shape=shape, dtype="uint8").astype(bool)


@given(masks)
@settings(max_examples=300, deadline=None)
def test_outlines_are_valid_exact_and_4_connected(mask):
    polygon = outline(mask)
    assert polygon.geom_type == "MultiPolygon"
    assert polygon.is_valid, shapely.is_valid_reason(polygon)
    assert polygon.area == mask.sum()
    assert np.array_equal(filled(polygon, mask.shape), mask)
    parts = [s for s, _ in rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4)]
    assert len(polygon.geoms) == len(parts)


def test_outlines_equal_gdals():
    mask = gaussian_filter(np.random.default_rng(5).random((120, 90)), 2) > 0.5
    theirs = [shapely.make_valid(shapely.geometry.shape(s)) for s, _ in rasterio.features.shapes(mask.astype("u1"), mask=mask)]
    assert shapely.symmetric_difference(outline(mask), shapely.union_all(theirs)).area == 0


def test_many_masks_at_once_equal_one_by_one():
    rng = np.random.default_rng(1)
    many = [rng.random((7, 9)) < p for p in (0.1, 0.5, 0.9, 0.0, 1.0)]
    runs, offsets = rle.concatenate([rle.encode(m) for m in many])
    together = trace(run_segments(runs, offsets, 7))
    for mask, polygon in zip(many, together, strict=True):
        assert polygon.equals(outline(mask)) or (polygon.is_empty and not mask.any())


def test_island_in_a_hole_in_a_part():
    mask = np.zeros((11, 11), dtype=bool)
    mask[1:10, 1:10] = True
    mask[3:8, 3:8] = False
    mask[5, 5] = True
    polygon = outline(mask)
    assert sorted((part.area, len(part.interiors)) for part in polygon.geoms) == [(1.0, 0), (56.0, 1)]


def test_a_huge_box_costs_nothing():
    corner = np.array([0, 199_999])
    polygon = trace(Segments(np.zeros(2, dtype=np.int64), corner, corner, corner + 1, 1))[0]
    assert polygon.area == 2
    assert polygon.bounds == (0, 0, 200_000, 200_000)


def test_objects_lie_in_scene_pixels(run):
    for batch in run.objects("a"):
        for polygon, box in zip(object_polygons(batch), batch.bbox, strict=True):
            assert polygon.bounds == (box[0], box[1], box[0] + box[2], box[1] + box[3])


def test_simplification_keeps_polygons_valid_and_close():
    rng = np.random.default_rng(2)
    many = [gaussian_filter(rng.random((60, 60)), 3) > 0.5 for _ in range(20)]
    runs, offsets = rle.concatenate([rle.encode(m) for m in many])
    exact = trace(run_segments(runs, offsets, 60))
    fewer = simplified(exact, 1.0)
    assert shapely.is_valid(fewer).all()
    assert shapely.get_num_coordinates(fewer).sum() < 0.5 * shapely.get_num_coordinates(exact).sum()
    assert shapely.hausdorff_distance(exact, fewer).max() <= 1.5
    assert simplified(exact, 0.0, 0) is exact


def test_vertex_cap():
    y, x = np.mgrid[:200, :200]
    disk = outline(np.hypot(x - 100, y - 100) < 90)
    capped = simplified(np.array([disk], dtype=object), 0.0, 40)[0]
    assert shapely.get_num_coordinates(capped) <= 40
    assert capped.is_valid
    assert abs(capped.area / disk.area - 1) < 0.05
    assert capped.geom_type == "MultiPolygon"


@pytest.mark.parametrize(
    "transform",
    [(0.5, 0, 500_000.0, 0, -0.5, 5_000_000.0), (0.4, 0.3, 5e5, 0.3, -0.4, 5e6), (1e-5, 0, 10.0, 0, 1e-5, 47.0)],
)
def test_vertices_land_within_a_hundredth_of_a_pixel(transform):
    georeference = Georeference(transform, "EPSG:32632")
    polygon = outline(np.eye(5, dtype=bool))
    a, b, c, d, e, f = transform
    expected = [(a * x + b * y + c, d * x + e * y + f) for x, y in shapely.get_coordinates(polygon)]
    moved = shapely.get_coordinates(place(np.array([polygon], dtype=object), georeference)[0])
    pixel = georeference.pixel_area**0.5
    assert np.abs(moved - np.array(expected)).max() < 0.01 * pixel


def test_unplaced_scenes_have_y_upwards():
    square = np.array([shapely.box(1, 2, 3, 4)], dtype=object)
    assert place(square, Georeference())[0].bounds == (1, -4, 3, -2)
