"""`refer` with locators of words on imagery, as a person types it: tiny random weights in the official formats, a raster of several tiles."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.transform import from_origin

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.nets.grounding.tiny import save_grounding_dino, save_owlv2, save_sam3
from tests.recipes.conftest import tree_hashes

from terralabel.core.files import TEMPORARY_PREFIX
from terralabel.core.grid import plan_tiles
from terralabel.nets.grounding.models import load_grounding
from terralabel.recipes.refer import finding
from terralabel.runs.parts import read_part

_LOCATORS = {"grounding-dino": save_grounding_dino, "owlv2": save_owlv2, "sam3": save_sam3}
#: Twelve tiles: three tasks of a locator.
_TILES = ("--tile-size", "96", "--overlap", "32", "--masks", "tree", "--threshold", "0.01", "--workers", "0")


def town(path: Path) -> np.ndarray:
    """A GeoTIFF of 256 x 192 pixels in UTM: green ground, red houses. Returns (192, 256, 3) uint8."""
    pixels = np.random.default_rng(0).integers(60, 90, (192, 256, 3)).astype(np.uint8)
    for x, y in ((20, 20), (88, 60), (150, 30), (200, 130), (60, 140)):
        pixels[y : y + 30, x : x + 34] = (200, 60, 50)
    how = {"driver": "GTiff", "width": 256, "height": 192, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=from_origin(300_000, 5_000_000, 0.5, 0.5), **how) as raster:
        raster.write(pixels.transpose(2, 0, 1))
    return pixels


@pytest.fixture(scope="module", params=sorted(_LOCATORS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Name of a family, its folder of weights, a raster."""
    folder = tmp_path_factory.mktemp(request.param)
    town(folder / "town.tif")
    return request.param, _LOCATORS[request.param](folder / "weights"), folder / "town.tif"


def test_from_words_to_maps_by_the_command_line(place: tuple[str, Path, Path], say: Callable, tmp_path: Path) -> None:
    family, weights, image = place
    words, run = ("--text", "the red house", "--locator", f"{family}:{weights}"), tmp_path / "run"
    said = say("refer", image, *words, *_TILES, "--out", run, "--explain")
    assert said.code == 0, said.err
    told = json.loads((run / "referred.json").read_text())["town"][0]
    assert told["chosen"] and f"by {family}" in said.out
    best = max(float(score) for scores in alone(family, weights, image) for score in scores)
    assert max(row["score"] for row in told["chosen"]) == pytest.approx(best, abs=1e-4)
    with rasterio.open(run / "labels/town.tif") as label, rasterio.open(image) as source:
        assert (label.crs, label.transform, label.shape) == (source.crs, source.transform, source.shape)
        assert (label.read(1) != 255).any()
    said = say("export", run, "--format", "geopackage,geopackage-wgs84,coco", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    layers = {path.name: pyogrio.read_info(path, layer="masks") for path in sorted((tmp_path / "out").rglob("*.gpkg"))}
    assert ["32632" in info["crs"] for info in layers.values()] == ["wgs84" not in name for name in layers]
    assert {info["features"] for info in layers.values()} == {len(told["chosen"])}
    assert say("report", run).code == 0
    assert "the red house" in (run / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (run / "explain").iterdir()) == ["town-01-steps.png", "town-01.png"]


def alone(family: str, weights: Path, image: Path) -> list[np.ndarray]:
    """Scores of each tile by the model without us: pixels are 8-bit, so that they go in as they are."""
    model = load_grounding(family, str(weights), "cpu")
    with rasterio.open(image) as raster:
        pixels = raster.read().transpose(1, 2, 0)
    plans = plan_tiles("town", 256, 192, 96, 32)
    return [model.find(np.ascontiguousarray(pixels[plan.window.slices()]), "red house")[1] for plan in plans]


def test_what_was_located_before_a_crash_is_not_located_again(
    place: tuple[str, Path, Path], say: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, weights, image = place
    command = ("refer", image, "--text", "house", "--locator", f"{family}:{weights}", *_TILES)
    assert say(*command, "--out", tmp_path / "whole").code == 0
    written, write = [], finding.write_part

    def crash(part: Path, *more: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write(part, *more)
        written.append(part)

    with monkeypatch.context() as broken:
        broken.setattr(finding, "write_part", crash)
        assert say(*command, "--out", tmp_path / "run").code != 0
    assert len(list((tmp_path / "run/parts/located").iterdir())) == 2
    before = [read_part(part).columns["score"] for part in written]
    assert say(*command, "--out", tmp_path / "run").code == 0
    assert all(len(scores) for scores in before)
    assert tree_hashes(tmp_path / "run") == tree_hashes(tmp_path / "whole")


@pytest.mark.slow
def test_killed_by_the_system_it_goes_on_to_the_same_bytes(say: Callable, tmp_path: Path) -> None:
    town(tmp_path / "town.tif")
    weights = save_owlv2(tmp_path / "weights")
    command = ["refer", tmp_path / "town.tif", "--text", "house", "--locator", f"owlv2:{weights}", *_TILES]
    assert say(*command, "--out", tmp_path / "whole").code == 0
    words = [sys.executable, "-m", "terralabel", *map(str, command), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not list((tmp_path / "run").glob("parts/located/*.parquet")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert say(*command, "--out", tmp_path / "run").code == 0
    assert not list((tmp_path / "run").rglob(f"{TEMPORARY_PREFIX}*"))
    assert tree_hashes(tmp_path / "run") == tree_hashes(tmp_path / "whole")


def test_a_text_that_the_network_cannot_read_fails_in_one_line(
    place: tuple[str, Path, Path], say: Callable, tmp_path: Path
) -> None:
    family, weights, image = place
    said = say("refer", image, "--text", "house " * 300, "--locator", f"{family}:{weights}", *_TILES, "--out", tmp_path / "run")
    assert said.code in (1, 2)
    assert "tokens" in said.err + said.out and "shorten it" in said.err + said.out
    assert "Traceback" not in said.err
