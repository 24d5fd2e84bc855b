"""The verbs `refer fit` and `evaluate referring`, and that `refer SOURCE` is `refer run SOURCE`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.docs.test_reference import texts


def test_fit_then_refer_with_what_was_fitted(say: Callable, tmp_path: Path) -> None:
    texts(tmp_path)
    said = say("refer", "fit", tmp_path / "triplets.csv", "--out", tmp_path / "locator", "--steps", "2", "--batch-size", "2")
    assert said.code == 0, said.err
    assert "fitted to 2 triplets" in said.out
    asked = ("--text", "building", "--locator", f"fitted:{tmp_path / 'locator'}", "--threshold", "0", "--masks", "tree")
    said = say("refer", tmp_path / "texts/images", *asked, "--workers", "0", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert (tmp_path / "run" / "labels").is_dir()


def test_evaluate_referring_with_true_boxes_and_with_given_masks(say: Callable, tmp_path: Path) -> None:
    texts(tmp_path)
    said = say("evaluate", "referring", tmp_path / "texts", "--locator", "truth", "--masks", "tree", "--published",
               "--out", tmp_path / "made", "--json", tmp_path / "scores.json")  # fmt: skip
    assert said.code == 0, said.err
    assert "1 texts, 480 px" in said.out
    assert "| DiCoR | 78.23 |" in said.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["native"]["miou"] > 90
    given = say(
        "evaluate", "referring", tmp_path / "texts", "--predictions", tmp_path / "made", "--json", tmp_path / "again.json"
    )
    assert given.code == 0, given.err
    assert json.loads((tmp_path / "again.json").read_text()) == scores


def test_what_is_missing_is_told(say: Callable, tmp_path: Path) -> None:
    texts(tmp_path)
    assert "it has test" in say("evaluate", "referring", tmp_path / "texts", "--split", "val", "--locator", "truth").err
    assert "Nothing says where things are" in say("evaluate", "referring", tmp_path / "texts").err
    assert "it has no masks" in say("evaluate", "referring", tmp_path / "triplets.csv", "--locator", "truth").err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear reader")
    assert "is not empty and no locator" in say("refer", "fit", tmp_path / "triplets.csv", "--out", tmp_path / "mine").err
    assert "expected small" in say("refer", "fit", tmp_path / "triplets.csv", "--out", tmp_path / "l", "--start", "huge").err


def test_a_decoder_is_fitted_to_outlines_on_a_map_and_used_like_any_weights(say: Callable, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.cli.test_refer_locators import town

    from terralabel.nets.sam.families import tiny
    from terralabel.nets.sam.loading import build, write_official

    town(tmp_path / "town.tif")
    east, north = 300_000, 5_000_000
    places = ((20, 20), (88, 60), (150, 30), (200, 130), (60, 140))
    rings = [
        [[east + x / 2, north - y / 2], [east + x / 2 + 17, north - y / 2], [east + x / 2 + 17, north - y / 2 - 15],
         [east + x / 2, north - y / 2 - 15], [east + x / 2, north - y / 2]]
        for x, y in places
    ]  # fmt: skip
    features = [
        {"type": "Feature", "properties": {"class": "house"}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for ring in rings
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    (tmp_path / "houses.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    write_official(build(tiny("sam2.1")), tiny("sam2.1"), tmp_path / "sam.pt")
    for masks, file, use in ((tmp_path / "sam.pt", "model.safetensors", ""), ("nano", "nano.safetensors", "nano:")):
        out = tmp_path / file.partition(".")[0]
        said = say("refer", "fit-decoder", tmp_path / "town.tif", "--labels", tmp_path / "houses.geojson", "--masks", masks,
                   "--share", "0.6", "--steps", "2", "--batch-size", "2", "--device", "cpu", "--out", out)  # fmt: skip
        assert said.code == 0, said.err
        assert "fitted to 3 of 5 masks" in said.out and "2 masks not learned from" in said.out
        assert f"Use it: --masks {use}{out / file}" in said.out
        boxes = ("--boxes", tmp_path / "houses.geojson", "--text", "the largest house", "--workers", "0")
        said = say("refer", tmp_path / "town.tif", *boxes, "--masks", f"{use}{out / file}", "--out", tmp_path / f"run-{file}")
        assert said.code == 0, said.err
        assert (tmp_path / f"run-{file}" / "labels" / "town.tif").is_file()
