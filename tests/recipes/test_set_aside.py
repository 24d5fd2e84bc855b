"""A worker that dies over a group of scenes after the masks costs that group only, by name, until the next invocation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from terralabel.errors import RunError
from terralabel.recipes import label as recipe
from terralabel.recipes import plan
from terralabel.recipes.painting import assign_group, paint_group
from terralabel.recipes.run import Run, open_run
from terralabel.recipes.stitching import gather_objects, link_shard
from terralabel.runs.engine import Crash, InlineEngine
from tests.recipes.conftest import tree_hashes

SETTINGS = {"clusters": 4, "tile_size": 96, "overlap": 32, "workers": 0}


class Deadly(InlineEngine):
    """Does everything but `what` for a scene `over`; that kills the worker."""

    def __init__(self, what: Callable[..., Any] | None, over: str, always: bool = False) -> None:
        self.what, self.over, self.always = what, over, always

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            spared = getattr(task, "set_aside", False) and not self.always
            if function is self.what and not spared and any(scene.key == self.over for scene in task.group.scenes):
                yield task, Crash("the worker process died")
            else:
                yield from super().map(function, [task])


@pytest.fixture
def relabel(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Labels three scenes, a group each, under an engine."""
    monkeypatch.setattr(plan, "_SHARD_PIXELS", 20_000)

    def start(engine: InlineEngine, name: str = "run") -> Run:
        monkeypatch.setattr(recipe, "engine_for", lambda workers: engine)
        return recipe.label(painted / "images", tmp_path / name, **SETTINGS)

    return start


def labels(run: Run, key: str) -> np.ndarray:
    with rasterio.open(run.label_path(key)) as raster:
        return raster.read(1)


@pytest.mark.parametrize("what", [link_shard, gather_objects])
def test_the_others_go_on_and_the_next_invocation_mends(relabel: Callable[..., Run], what: Callable[..., Any]) -> None:
    undisturbed = relabel(InlineEngine(), "undisturbed")
    lost, *others = (scene.key for scene in undisturbed.scenes)
    run = relabel(Deadly(what, lost))
    assert run.finished and [f.source for f in run.failures] == [lost]
    assert "the worker process died" in run.failures[0].reason and run.failures[0].status == "crash"
    assert "1 scene;" in run.summary(list_failures=False)
    assert (labels(run, lost) == 255).all() and all((labels(run, key) != 255).any() for key in others)
    assert sum(len(batch) for batch in run.objects(lost)) == 0 and run.object_count() > 0
    assert [f.source for f in open_run(run.path).failures] == [lost]
    mended = relabel(InlineEngine())
    assert not mended.failures
    assert tree_hashes(mended.path) == tree_hashes(undisturbed.path)


def test_while_painting(relabel: Callable[..., Run]) -> None:
    class Once(Deadly):
        def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
            yield from super().map(function, tasks)
            if function is paint_group:
                self.what = None

    run = relabel(Once(paint_group, "scene_2"))
    assert [f.source for f in run.failures] == ["scene_2"] and "labels" in run.failures[0].reason
    assert (labels(run, "scene_2") == 255).all() and (labels(run, "scene_1") != 255).any()
    assert not relabel(InlineEngine()).failures


@pytest.mark.parametrize("what", [assign_group, paint_group])
def test_one_that_dies_without_objects_too_stops_by_name(relabel: Callable[..., Run], what: Callable[..., Any]) -> None:
    with pytest.raises(RunError, match=r"^scene scene_2: \w+: the worker process died; run the same command again[^\n]*$"):
        relabel(Deadly(what, "scene_2"))
    assert not relabel(InlineEngine()).failures


def test_where_nothing_would_be_left_it_stops(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "engine_for", lambda workers: Deadly(gather_objects, "scene_1"))
    with pytest.raises(RunError, match=r"^scenes scene_1 to scene_3 \(3\): objects: the worker process died"):
        recipe.label(painted / "images", tmp_path / "run", **SETTINGS)
    assert not list((tmp_path / "run").rglob("crashed/*"))
