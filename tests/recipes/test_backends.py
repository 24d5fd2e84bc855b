"""Backends of other people that misbehave: each costs its own tile, which is reported, and nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from terralabel.cli.main import run as terralabel
from terralabel.errors import SettingsError
from terralabel.imagery.painter import write_demo
from terralabel.recipes import measuring
from terralabel.recipes.backends import make_generator, resolve
from terralabel.recipes.label import label
from terralabel.recipes.run import Run, open_run
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.engine import InlineEngine, ProcessEngine

_BACKEND = '''
import os, signal
import numpy as np
from terralabel.core.masks import Masks
from terralabel.core.rle import concatenate, encode
from terralabel.masks.tree import TreeMasks

class Fickle(TreeMasks):
    """The tree masks, but for one tile, where it does what its argument says."""
    name, version = "fickle", "1"

    def __init__(self, argument):
        super().__init__()
        object.__setattr__(self, "does", argument)

    def generate(self, encoded):
        tile = encoded.tile
        if not tile.key.endswith(":00000:00001"):
            return super().generate(encoded)
        if self.does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "raise":
            raise ZeroDivisionError("two lines\\nof trouble")
        if self.does == "memory":
            raise MemoryError
        if self.does == "exit":
            raise SystemExit(3)
        if self.does == "size":
            return Masks.from_arrays([np.ones((7, 9), bool)])
        if self.does == "arrays":
            return [np.ones(tile.size, bool)]
        if self.does == "runs":
            whole = Masks.from_arrays([np.ones(tile.size, bool)])
            return Masks(**{**vars(whole), "runs": whole.runs - 1})
        if self.does == "nodata":
            return Masks.from_arrays([np.ones(tile.size, bool), ~tile.valid])
        if self.does == "nothing":
            return Masks.empty(tile.size)

class Narrow:
    """Features whose width or values are wrong on one tile."""
    name, version, needs_encoded = "narrow", "1", False

    def __init__(self, argument):
        self.does = argument

    def extract(self, tile, masks, encoded=None):
        odd = tile.key.endswith(":00000:00001")
        columns = 2 if odd and self.does == "width" else 3
        vectors = np.stack([masks.area + c for c in range(columns)], 1).astype(np.float32)
        if odd and self.does == "nan":
            vectors[0, 0] = np.nan
        return vectors
'''


@pytest.fixture
def fickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a backend, installed as pip would: workers find it through its entry point, too."""
    site = tmp_path / "site"
    info = site / "fickle-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "fickle.py").write_text(_BACKEND)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fickle\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        textwrap.dedent(
            """
            [terralabel.masks]
            fickle = fickle:Fickle
            [terralabel.features]
            narrow = fickle:Narrow
            """
        )
    )
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of four tiles whose second tile has a corner without data, and a scene of one tile."""
    folder = tmp_path_factory.mktemp("fickle")
    write_demo(folder, seed=2, scenes=1, size=96)
    path = folder / "images" / "scene_1.tif"
    with rasterio.open(path) as source:
        profile, pixels = source.profile, source.read()
    pixels[:, :30, 70:] = 0
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
    with rasterio.open(folder / "images" / "small.tif", "w", **{**profile, "width": 60, "height": 60}) as target:
        target.write(pixels[:, 36:, :60])
    return folder / "images"


def run_with(images: Path, out: Path, workers: int = 0, **settings: str) -> Run:
    return label(images, out, clusters=3, tile_size=64, overlap=16, workers=workers, **settings)


def labels_of(run: Run, key: str) -> np.ndarray:
    with rasterio.open(run.label_path(key)) as labels:
        return labels.read(1)


@pytest.fixture(scope="module")
def control(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Masks per tile of an undisturbed run."""
    return masks_of(run_with(images, tmp_path_factory.mktemp("control") / "run", masks="tree"))


def masks_of(run: Run) -> dict[str, int]:
    return {tile.key: tile.masks for scene in run.scenes for tile in run.tiles(scene.key)}


def only_the_second_failed(run: Run, reason: str, control: dict[str, int]) -> None:
    assert [f.source for f in run.failures] == ["scene_1:00000:00001"]
    (failure,) = run.failures
    assert reason in failure.reason and "\n" not in failure.reason
    assert dict(run.tile_counts) == {"ok": 4, "failed": 1}
    assert masks_of(run) == {**control, failure.source: 0}
    assert (labels_of(run, "scene_1")[:40, 60:] == 255).all()  # the failed tile alone answers for these
    assert (labels_of(run, "scene_1") != 255).mean() > 0.4 and (labels_of(run, "small") != 255).mean() > 0.4
    assert "failed   scene_1:00000:00001" in run.summary()


class OnlyTiles:
    """One worker process for the stages that run a mask backend, this process for the others: starting workers takes long."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        dangerous = function in (measuring.measure_shard, measuring.probe_tile)
        engine = ProcessEngine(1) if dangerous else InlineEngine()
        yield from engine.map(function, tasks)
        engine.close()

    def close(self) -> None:
        """Nothing is kept."""


@pytest.mark.usefixtures("fickle")
def test_a_tile_that_always_kills_its_worker_is_quarantined_alone(
    images: Path, control: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terralabel.recipes.label.engine_for", lambda workers: OnlyTiles())
    run = run_with(images, tmp_path / "run", workers=1, masks="fickle:kill", features="appearance")
    only_the_second_failed(run, "crash: the worker process died", control)
    assert run.failures[0].status == "crash"
    with pytest.raises(SystemExit) as left:
        terralabel(["status", str(run.path)])
    assert left.value.code == 2


@pytest.mark.usefixtures("fickle")
@pytest.mark.parametrize(
    "does, reason",
    [
        ("raise", "ZeroDivisionError: two lines of trouble"),
        ("memory", "out-of-memory"),
        ("exit", "SystemExit"),
        ("size", "ContractError: masks 'fickle': expected masks of 64 x 64"),
        ("arrays", "ContractError: masks 'fickle': expected Masks, got list"),
        ("runs", "ContractError"),
    ],
)
def test_a_backend_that_fails_on_a_tile_costs_that_tile(
    images: Path, control: dict[str, int], tmp_path: Path, does: str, reason: str
) -> None:
    only_the_second_failed(run_with(images, tmp_path / "run", masks=f"fickle:{does}", features="appearance"), reason, control)


@pytest.mark.usefixtures("fickle")
@pytest.mark.parametrize("does, reason", [("width", "expected (n, 3)"), ("nan", "finite")])
def test_features_that_break_their_contract_cost_the_tile(
    images: Path, control: dict[str, int], tmp_path: Path, does: str, reason: str
) -> None:
    only_the_second_failed(run_with(images, tmp_path / "run", masks="tree", features=f"narrow:{does}"), reason, control)


@pytest.mark.usefixtures("fickle")
def test_masks_over_pixels_without_data_are_cut_back(images: Path, tmp_path: Path) -> None:
    run = run_with(images, tmp_path / "run", masks="fickle:nodata", features="appearance", tau="1")
    assert run.failures == ()
    values = labels_of(run, "scene_1")
    assert (values[:30, 70:] == 255).all() and (values[40:, 60:] != 255).any()
    for batch in run.objects("scene_1"):
        for i, (x, y, w, h) in enumerate(batch.bbox):
            canvas = np.zeros((96, 96), bool)
            canvas[y : y + h, x : x + w] = batch.crop(i)
            assert not canvas[:30, 70:].any()


@pytest.mark.usefixtures("fickle")
def test_a_tile_without_masks_is_empty_not_failed(images: Path, tmp_path: Path) -> None:
    run = run_with(images, tmp_path / "run", masks="fickle:nothing", features="appearance")
    assert run.failures == () and dict(run.tile_counts) == {"ok": 4, "empty": 1}


@pytest.mark.usefixtures("fickle")
def test_what_failed_is_tried_again_and_heals(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile that failed for a passing reason: the same command again gives what an undisturbed run gives."""
    import fickle  # type: ignore[import-not-found]

    from tests.recipes.conftest import tree_hashes

    first = run_with(images, tmp_path / "run", masks="fickle:raise", features="appearance")
    assert len(first.failures) == 1
    before = tree_hashes(first.path)
    assert run_with(images, tmp_path / "run", masks="fickle:raise", features="appearance").failures
    assert tree_hashes(first.path) == before
    monkeypatch.setattr(fickle.Fickle, "generate", fickle.TreeMasks.generate)
    assert run_with(images, tmp_path / "whole", masks="fickle:raise", features="appearance").failures == ()
    healed = run_with(images, tmp_path / "run", masks="fickle:raise", features="appearance")
    assert healed.failures == () and open_run(healed.path).finished
    assert tree_hashes(healed.path) == tree_hashes(tmp_path / "whole")


def test_features_suit_the_masks() -> None:
    pytest.importorskip("torch")
    pairs = {masks: resolve(LabelSettings(masks=masks))[1] for masks in ("tree", "nano", "auto")}
    assert pairs == {"tree": "appearance", "nano": "fused", "auto": "appearance"}
    with pytest.raises(SettingsError, match="features fused: the tree masks have no network"):
        resolve(LabelSettings(masks="tree", features="fused"))


def test_nano_is_told_the_device() -> None:
    assert make_generator(LabelSettings(masks="nano", device="cuda:1")).device == "cuda:1"
