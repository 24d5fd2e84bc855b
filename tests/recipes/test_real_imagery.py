"""The main job on real files of awkward kinds: place, bands, types and nodata come through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.recipes.label import label

pytestmark = pytest.mark.data

CASES = {
    "eight bands": ("geo-io/torchsat/tiff_8channel_uint8.tif", {}),
    "16-bit, custom projection": ("geo-io/solaris/sample_geotiff_custom_proj.tif", {}),
    "rotated (one colour: a single mask, which the gate would drop)": ("geo-io/rasterio/rotated.tif", {"tau": 1.0}),
    "float radar in dB with NaN": ("sen1floods11/Spain_7370579_S1Hand.tif", {"sensor": "sar"}),
    "complex or amplitude radar": ("geo-io/solaris/sar_vv.tif", {"sensor": "sar"}),
    "chosen bands of thirteen": ("sen1floods11/Spain_7370579_S2Hand.tif", {"bands": (4, 3, 2)}),
    "alpha": ("geo-io/rasterio/RGBA.byte.tif", {}),
    "nodata around": ("geo-io/rasterio/RGB.byte.tif", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_lie_on_the_source_grid(name: str, data_dir: Path, tmp_path: Path) -> None:
    path, settings = CASES[name]
    run = label(data_dir / path, tmp_path / "run", clusters=4, workers=0, **settings)
    assert not run.failures
    (scene,) = run.scenes
    with rasterio.open(run.label_path(scene.key)) as labels, rasterio.open(data_dir / path) as image:
        assert labels.shape == image.shape and labels.transform == image.transform
        assert (labels.crs is None) == (image.crs is None)
        if image.crs is not None:
            assert labels.crs.to_wkt() == image.crs.to_wkt()
        found, valid = labels.read(1), image.dataset_mask() > 0
    assert (found[~valid] == 255).all()
    assert (found[valid] != 255).mean() > 0.9
    assert len(np.unique(found[found != 255])) >= (1 if "one colour" in name else 2)


def test_a_place_that_is_only_ground_control_points_is_refused_with_the_way_out(data_dir: Path, tmp_path: Path) -> None:
    run = label(
        [data_dir / "geo-io/rasterio/RGB.byte.tif", data_dir / "geo-io/rasterio/RGB.byte.gcp.vrt"],
        tmp_path / "run",
        clusters=4,
        workers=0,
        follow_vrt=True,
    )
    (failure,) = run.failures
    assert failure.status == "gcp-only" and "gdalwarp" in failure.reason
