import numpy as np
import pytest

from terralabel.core.georeference import Georeference
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.ground import GroundArea, crs_groups


def scene(transform, crs, width=1000, height=800):
    return Scene("s", "s.tif", "s", width, height, Georeference(transform, crs))


def middle(made):
    return float(GroundArea(made).per_pixel(np.array([made.width / 2]), np.array([made.height / 2]))[0])


def test_utm_metres_are_nearly_planar():
    assert middle(scene((0.5, 0, 500_000, 0, -0.5, 5_000_000), "EPSG:32632")) == pytest.approx(0.25 / 0.9996**2, rel=1e-5)


def test_web_mercator_is_not_taken_at_its_word():
    at_60_degrees = (1.0, 0, 0.0, 0, -1.0, 8_399_737.9)
    assert middle(scene(at_60_degrees, "EPSG:3857")) == pytest.approx(0.25, rel=5e-3)


def test_feet_become_metres():
    made = scene((1.0, 0, 6_561_666, 0, -1.0, 1_800_000), "EPSG:2227")  # California zone 3, US survey feet
    assert middle(made) == pytest.approx(0.3048006**2, rel=1e-3)


def test_degrees_shrink_towards_the_pole():
    equator = middle(scene((1e-5, 0, 10, 0, -1e-5, 0.004), "EPSG:4326"))
    north = middle(scene((1e-5, 0, 10, 0, -1e-5, 60.004), "EPSG:4326"))
    assert equator == pytest.approx(1.2309, rel=1e-3)  # 1.11320 m x 1.10574 m
    assert north / equator == pytest.approx(55.800 * 111.412 / (111.320 * 110.574), rel=1e-4)


def test_a_whole_earth_adds_up():
    made = scene((0.25, 0, -180, 0, -0.25, 90), "EPSG:4326", 1440, 720)
    rows = np.arange(720) + 0.5
    total = 1440 * GroundArea(made).per_pixel(np.full(720, 700.0), rows).sum()
    assert total == pytest.approx(510_065_621_724_089, rel=2e-3)  # WGS 84


@pytest.mark.parametrize(
    "crs",
    [
        None,
        'LOCAL_CS["site",UNIT["metre",1]]',
        'ENGCRS["site",EDATUM["x"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]',
    ],
)
def test_no_area_without_a_place_on_the_earth(crs):
    assert np.isnan(middle(scene((1.0, 0, 0, 0, -1.0, 0), crs)))


def test_groups_join_equal_systems_however_written():
    from pyproj import CRS

    utm = [scene((1.0, 0, 0, 0, -1.0, 0), text) for text in ("EPSG:32632", CRS(32632).to_wkt(), None)]
    groups = crs_groups(utm)
    assert [(group.suffix, len(group.scenes)) for group in groups] == [("epsg-32632", 2), ("no-crs", 1)]


def test_nonsense_is_named():
    with pytest.raises(InputError, match="not understood"):
        crs_groups([scene((1.0, 0, 0, 0, -1.0, 0), "EPSG:nonsense")])
