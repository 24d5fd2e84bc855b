"""Judged labels as layers: the worst first, with quality, status and reasons, exactly where they lie."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio.features

from terralabel.core.quality import EMPTY, Units, Verdicts
from terralabel.export.judged import QualityPage, quality_section
from terralabel.export.markup import ImageBudget
from terralabel.export.vectors import GeoJson, GeoPackage, GeoParquet
from terralabel.export.verdicts import unit_mask


@pytest.fixture
def judged(run):
    """The run of one scene with four verdicts: two classes, one object, one empty quarter."""
    whole = (0, 0, 80, 60)
    corner = run.labels["a"][40:58, 10:30] == 3
    units = Units.of_rows(
        [
            (0, 0, (45, 5, 30, 50), int((run.labels["a"] == 0).sum())),
            (3, 0, (6, 6, 29, 52), int((run.labels["a"] == 3).sum())),
            (3, 2, (10, 40, 20, 18), int(corner.sum())),
            (EMPTY, 0, whole, 0),
        ]
    )
    run.verdicts = Verdicts(
        ("a",) * 4,
        np.array([whole] * 4, dtype=np.int64),
        units,
        np.array([0.9, 0.6, 0.2, np.nan], dtype=np.float32),
        ("accept", "review", "reject", "review"),
        ("", "flipped views disagree", "edges do not follow <the> picture; odd shape", "nothing to judge it by"),
    )
    return run


def test_layers_hold_what_was_decided_worst_first(judged, tmp_path) -> None:
    (path,) = GeoPackage().export(judged, tmp_path)
    layers = {layer: geopandas.read_file(path, layer=layer) for layer in ("accepted", "review", "rejected")}
    assert [len(layer) for layer in layers.values()] == [1, 2, 1]
    review = layers["review"]
    assert review["rank"].tolist() == [1, 2] and review["status"].tolist() == ["review", "review"]
    assert np.isnan(review["quality"][0]) and review["quality"][1] == pytest.approx(0.6)
    assert review["class_name"].tolist() == ["nothing labelled", "roof"]
    assert layers["rejected"]["reasons"][0] == "edges do not follow <the> picture; odd shape"
    assert layers["accepted"]["area_m2"][0] == pytest.approx(layers["accepted"]["area_px"][0] * 0.25, rel=2e-3)


def test_shapes_are_those_of_the_labels(judged, tmp_path) -> None:
    (path,) = GeoPackage().export(judged, tmp_path)
    transform = rasterio.Affine(*judged.scenes[0].georeference.transform)

    def pixels(layer: str, row: int) -> np.ndarray:
        shape = geopandas.read_file(path, layer=layer).geometry[row]
        assert shape.is_valid
        return rasterio.features.rasterize([shape], (60, 80), transform=transform).astype(bool)

    labels = judged.labels["a"]
    assert np.array_equal(pixels("accepted", 0), labels == 0)
    assert np.array_equal(pixels("review", 1), labels == 3)
    corner = np.zeros((60, 80), dtype=bool)
    corner[40:50, 10:20] = corner[50:58, 20:30] = True
    assert np.array_equal(pixels("rejected", 0), corner)
    assert pixels("review", 0).all(), "an empty picture is shown by its frame"


def test_layers_come_with_styles_and_only_when_judged(judged, run, painter, tmp_path) -> None:
    (path,) = GeoPackage().export(judged, tmp_path / "a")
    with closing(sqlite3.connect(path)) as base:
        styled = [row[0] for row in base.execute("SELECT f_table_name FROM layer_styles")]
    assert styled == ["masks", "labels", "tiles", "accepted", "review", "rejected"]
    plain = painter.Run(tmp_path / "plain").add(painter.scene(), painter.masks(), painter.class_ids)
    (path,) = GeoPackage().export(plain, tmp_path / "b")
    assert {name for name, kind in pyogrio.list_layers(path) if kind is not None} == {"masks", "labels", "tiles"}


def test_other_vector_formats_have_them_too(judged, tmp_path) -> None:
    names = [path.name for path in GeoParquet().export(judged, tmp_path / "p")]
    assert names[-3:] == ["accepted.parquet", "review.parquet", "rejected.parquet"]
    assert geopandas.read_parquet(tmp_path / "p" / "review.parquet")["rank"].tolist() == [1, 2]
    assert (tmp_path / "j" / "rejected.geojson") in GeoJson().export(judged, tmp_path / "j")


def test_same_verdicts_same_bytes(judged, tmp_path) -> None:
    first, second = (GeoPackage().export(judged, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_the_object_of_a_box_is_the_one_that_fills_it() -> None:
    labels = np.zeros((6, 6), dtype=np.uint8)
    labels[0, :] = labels[:, 0] = 1
    labels[3:5, 3:5] = 1
    assert unit_mask(labels, 1, 0).sum() == 15 and unit_mask(labels, 1, 7).sum() == 11


def test_the_report_tells_why_and_shows_the_worst(judged) -> None:
    judged.read_rgb = lambda key, window, size=None: np.full((window.height, window.width, 3), 90, np.uint8)
    html = quality_section(judged, QualityPage(judged.verdicts, ["Fitted on <3> labels."]), ImageBudget(10**6))
    assert "Fitted on &lt;3&gt; labels." in html and "edges do not follow &lt;the&gt; picture" in html
    assert html.index("0.200") < html.index("0.600"), "worst first"
    assert html.count("<figure class=pair>") == 3 and html.count("data:image/jpeg") == 6
