"""Reading in the background: order, how far ahead, errors, one thread, an end that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from terralabel.contracts import Encoded
from terralabel.core.grid import TilePlan
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import InputError
from terralabel.imagery.painter import write_demo
from terralabel.imagery.tiles import read_tile
from terralabel.masks.tree import TreeMasks
from terralabel.recipes import measuring
from terralabel.recipes.label import label
from terralabel.recipes.reading_ahead import read_ahead
from tests.recipes.conftest import tree_hashes


def waited(until: Callable[[], bool]) -> bool:
    """Whether something came true within five seconds."""
    end = time.monotonic() + 5
    while not until() and time.monotonic() < end:
        time.sleep(0.001)
    return until()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_so_many_are_read_while_one_is_worked_on(ahead: int) -> None:
    read: list[int] = []

    def note(item: int) -> int:
        read.append(item)
        return item * item

    for i, future in enumerate(read_ahead(note, range(7), ahead=ahead)):
        assert future.result() == i * i
        expected = list(range(min(i + ahead + 1, 7)))
        assert waited(lambda expected=expected: read == expected)
        time.sleep(0.01)
        assert read == expected


def test_an_error_is_that_of_its_item() -> None:
    def halve(item: int) -> int:
        if item % 3 == 1:
            raise SystemExit(item) if item == 4 else ZeroDivisionError(item)
        return item

    futures = list(read_ahead(halve, range(6), ahead=2))
    assert [type(f.exception()).__name__ for f in futures] == [
        "NoneType", "ZeroDivisionError", "NoneType", "NoneType", "SystemExit", "NoneType",
    ]  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


def test_one_thread_reads_and_closes_and_is_gone_at_the_end() -> None:
    threads: list[int] = []
    closed: list[int] = []

    def slow(item: int) -> int:
        threads.append(threading.get_ident())
        time.sleep(0.05)
        assert not closed
        return item

    before = threading.active_count()
    with closing(read_ahead(slow, range(100), close=lambda: closed.append(threading.get_ident()))) as reads:
        assert next(reads).result() == 0 and next(reads).result() == 1
    assert set(closed) == set(threads) != {threading.get_ident()} and len(closed) == 1
    assert len(threads) <= 3 and threading.active_count() == before
    assert list(read_ahead(slow, [], close=lambda: closed.append(0))) == [] and len(closed) == 2


def test_label_reads_the_next_tile_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tile is there before the masks of the last are; one that cannot be read fails alone; no other byte changes."""
    write_demo(tmp_path, seed=2, scenes=1, size=96)
    settings = {"clusters": 3, "tile_size": 64, "overlap": 16, "workers": 0, "masks": "tree"}
    whole = label(tmp_path / "images", tmp_path / "whole", **settings)
    read: dict[str, int] = {}
    generate = TreeMasks.generate

    def patient(self: TreeMasks, encoded: Encoded) -> Masks:
        place = int(encoded.tile.key[-1])
        assert waited(lambda: len(read) >= min(2 * int(encoded.tile.key[-7]) + place + 2, 4))
        return generate(self, encoded)

    def noted(raster: Any, plan: TilePlan, radiometry: Any) -> Tile:
        read[plan.key] = threading.get_ident()
        return read_tile(raster, plan, radiometry)

    def torn(raster: Any, plan: TilePlan, radiometry: Any) -> Tile:
        if plan.key.endswith(":00000:00001"):
            raise InputError("its strip is gone", status="unreadable")
        return read_tile(raster, plan, radiometry)

    monkeypatch.setattr(TreeMasks, "generate", patient)
    monkeypatch.setattr(measuring, "read_tile", noted)
    run = label(tmp_path / "images", tmp_path / "ahead", **settings)
    assert len(read) == 4 and len(set(read.values())) == 1 and threading.get_ident() not in read.values()
    assert tree_hashes(run.path) == tree_hashes(whole.path)
    monkeypatch.setattr(TreeMasks, "generate", generate)
    monkeypatch.setattr(measuring, "read_tile", torn)
    torn_run = label(tmp_path / "images", tmp_path / "torn", **settings)
    assert dict(torn_run.tile_counts) == {"ok": 3, "failed": 1} and "its strip is gone" in torn_run.failures[0].reason
