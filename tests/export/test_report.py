"""The report: complete, bounded, the same every time, and safe whatever things are called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio

from terralabel.core import rle
from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import InputError, RunError
from terralabel.export import cards, markup, specimens
from terralabel.export.report import write_report
from terralabel.imagery.painter import CLASS_COLORS, CLASS_NAMES, paint_scene

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><script>alert(1)</script>",
    "${style} $title $sections",
    "javascript:alert(1)",
    "a\x00b\x1b[31m\u202egnp.exe",
    "\ud800 lone surrogate",
    "&lt;b&gt; &amp; <!-- -->",
    "x" * 5000,
    "水\u200d面 🌲",
    "{{7*7}} {% raw %}",
]


@dataclass
class Row:
    key: str
    window: Window
    core: Window
    status: str = "ok"
    reason: str = ""
    masks: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"large": 1})


@dataclass
class PaintedRun:
    """A run in memory, made of painted scenes whose truth was 'found' as objects, in batches of 50."""

    path: Path
    scenes: tuple[Scene, ...]
    classes: Classes
    pixels: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    id: str = "0123456789abcdef"
    masks_name: str = "tree"
    manifest: dict[str, Any] = field(default_factory=dict)
    failed: str = "out of memory"
    failed_sources: tuple = ()

    def label_path(self, scene_key: str) -> Path:
        return self.path / "labels" / f"{self.scenes.index(self._scene(scene_key))}.tif"

    def source_path(self, scene_key: str) -> Path:
        return Path(self._scene(scene_key).source)

    def _scene(self, key: str) -> Scene:
        return next(s for s in self.scenes if s.key == key)

    def write_labels(self) -> None:
        (self.path / "labels").mkdir(parents=True)
        for key, labels in self.labels.items():
            height, width = labels.shape
            place = {"nodata": 255, "crs": "EPSG:32633", "transform": [0.5, 0, 0, 0, -0.5, 0]}
            form = {"driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": labels.dtype}
            with rasterio.open(self.label_path(key), "w", **form, **place) as out:
                out.write(labels, 1)

    def objects(self, scene_key: str) -> Iterator[Objects]:
        labels, rows = self.labels[scene_key], []
        for entry in self.classes:
            _, parts, stats, _ = cv2.connectedComponentsWithStats((labels == entry.id).astype(np.uint8))
            for index in range(1, len(stats)):
                x, y, w, h, area = (int(v) for v in stats[index])
                rows.append((entry, (x, y, w, h), area, rle.encode(parts[y : y + h, x : x + w] == index)))
        rows.sort(key=lambda row: (row[1], row[0].id))
        base = 10_000 * self.scenes.index(self._scene(scene_key)) + 1
        for first in range(0, len(rows), 50):
            yield self._batch(scene_key, rows[first : first + 50], base + first)

    @staticmethod
    def _batch(key: str, rows: list, first: int) -> Objects:
        n = len(rows)
        rng = np.random.default_rng(first)
        runs, offsets = rle.concatenate([row[3] for row in rows])
        ids = np.array([row[0].id for row in rows], np.int32)
        ones = np.ones(n, np.float32)
        area = np.array([row[2] for row in rows], np.int64)
        score = np.clip(0.3 + 0.08 * np.log2(area) * rng.uniform(0.6, 1, n), 0, 1).astype(np.float32)
        boxes = np.array([row[1] for row in rows], np.int64).reshape(n, 4)
        cluster = np.array([row[0].clusters[0] for row in rows], np.int32)
        return Objects(
            key, np.arange(first, first + n), cluster, ids, score, ones, ones, ("auto",) * n, boxes, area, runs, offsets
        )

    def tiles(self, scene_key: str) -> Iterator[Row]:
        scene = self._scene(scene_key)
        for plan in plan_tiles(scene_key, scene.width, scene.height, 128, 16):
            status = "failed" if plan.row == plan.column == 1 else "ok"
            yield Row(plan.key, plan.window, plan.core, status, self.failed if status == "failed" else "", 12)

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        assert window.x >= 0 and window.y >= 0 and window.area > 0
        full = self.pixels[scene_key]
        assert window.right <= full.shape[1] and window.bottom <= full.shape[0]
        crop = full[window.slices()]
        scale = min((max_size or 10**9) / max(window.width, window.height), 1.0)
        size = (max(round(window.width * scale), 1), max(round(window.height * scale), 1))
        return crop if scale == 1 else cv2.resize(crop, size, interpolation=cv2.INTER_AREA)


def painted_run(
    path: Path, count: int = 2, size: int = 256, names: tuple[str, ...] = CLASS_NAMES, stems: list[str] | None = None
) -> PaintedRun:
    entries = tuple(ClassEntry(i + 1, n, CLASS_COLORS[i % 6], (i,)) for i, n in enumerate(names))
    stems = stems or [f"scene_{i + 1}" for i in range(count)]
    scenes, pixels, labels = [], {}, {}
    for index, stem in enumerate(stems):
        key = f"key{index}"
        image, truth, _ = paint_scene(size, size, index)
        truth[:20, :30] = 255
        place = Georeference((0.5, 0, 0, 0, -0.5, 0), "EPSG:32633")
        scenes.append(Scene(key, f"/images/{stem}.tif", stem, size, size, place))
        pixels[key], labels[key] = image, truth
    run = PaintedRun(path, tuple(scenes), Classes(entries), pixels, labels)
    run.manifest = {
        "command": ["terralabel", "label", "images", "--out", str(path.name), "--clusters", "6"],
        "settings": {
            "masks": "tree",
            "features": "appearance",
            "clusters": "6",
            "tau": 0.3,
            "tile_size": 128,
            "bands": [1, 2, 3],
        },
        "versions": {"terralabel": "0.1.0", "numpy": np.__version__},
        "backends": {"masks": "tree 1", "features": "appearance 1", "clusters": "kmeans"},
        "finished": True,
        "notes": ["Masks come from region trees: no weights were on this machine."],
    }
    run.failed_sources = (SimpleNamespace(source="bad.tif", status="truncated", reason="truncated after 10 bytes"),)
    run.write_labels()
    (path / "radiometry.json").write_text('{"kind": "percentile", "low": [3, 5, 9], "high": [220, 213, 200]}')
    return run


EVALUATION = {
    "miou": 0.71,
    "ari": 0.6,
    "nmi": 0.55,
    "purity": 0.9,
    "boundary_f": None,
    "iou_per_class": {"1": 0.8, "2": 0.9, "3": None},
    "match": "majority",
    "matching": {"0": 1, "1": None},
    "class_names": {"1": "field", "2": "forest"},
    "confusion": {"columns_true": [1, 2], "rows_predicted": [1, 2, None], "pixels": [[90, 10], [8, 30], [2, 0]]},
}
HISTORY = [{"time": "2026-01-02T03:04:05Z", "verb": "label", "outcome": "finished", "seconds": 12.5, "workers": 2}]


def _raise(error: Exception) -> Any:
    raise error


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that what is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> PaintedRun:
    return painted_run(tmp_path_factory.mktemp("report") / "demo run")


@pytest.fixture(scope="module")
def page(run: PaintedRun) -> Page:
    return Page(write_report(run, run.path / "report.html", evaluation=EVALUATION, history=HISTORY).read_text(encoding="utf-8"))


def test_the_page_is_whole_and_loads_nothing(page: Page) -> None:
    assert not page.open
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert all(value.startswith("data:image/jpeg;base64,") for name, value in attributes.items() if name == "src" and value)
        assert all(value.startswith("#") for name, value in attributes.items() if name == "href" and value), tag
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_it_tells_what_was_done_and_what_came_out(run: PaintedRun, page: Page) -> None:
    count = sum(len(batch) for scene in run.scenes for batch in run.objects(scene.key))
    for words in (
        "demo run", "terralabel label images --out", "2026-01-02T03:04:05Z", "no weights were on this machine", "tile_size",
        "percentile", "220, 213, 200", "appearance 1", "out of memory", "key0:00001:00001", "2 tiles failed", "field", "bare soil", "least certain", "0.710",
        "adjusted Rand index", "majority", "finished 2026-01-02T03:04:05Z", "no class", "8.0\xa0%",
        "masks were found; gates dropped 18 by large", "bad.tif", "truncated after 10 bytes", markup.number(count), "scene_2",
    ):  # fmt: skip
        assert words in page.words, words
    pictures = [a for t, a in page.tags if t == "img"]
    assert len(pictures) > 2 * 2 + 6 * 6
    assert sum(a.get("class") == "histogram" for t, a in page.tags if t == "svg") == 6


def test_shares_of_the_area_are_those_of_the_label_rasters(run: PaintedRun, page: Page) -> None:
    total = sum(labels.size for labels in run.labels.values())
    water = sum(int((labels == 3).sum()) for labels in run.labels.values())
    blank = sum(int((labels == 255).sum()) for labels in run.labels.values())
    assert markup.percent(water, total) in page.words and f"no label or no data {markup.percent(blank, total)}" in page.words


def test_equal_runs_give_equal_bytes(run: PaintedRun, tmp_path: Path) -> None:
    first, again = (write_report(run, tmp_path / f"{name}.html").read_bytes() for name in "ab")
    assert first == again and [p.name for p in sorted(tmp_path.iterdir())] == ["a.html", "b.html"]


@pytest.mark.parametrize("start", [0, 6])
def test_names_are_text_whatever_they_are(tmp_path: Path, start: int) -> None:
    names = tuple(HOSTILE[start : start + 6])
    run = painted_run(tmp_path / "r", names=names, stems=list(HOSTILE[start : start + 6]), size=96)
    run.failed = names[0]
    run.manifest |= {
        "notes": list(names),
        "command": list(names),
        "settings": {name: name for name in names},
        names[1]: names[2],
    }
    run.path = run.path.rename(tmp_path / "<img src=x onerror=alert(1)>")
    evaluation = {
        "iou_per_class": dict.fromkeys(names, 0.5),
        "confusion": {"columns_true": [names[0]], "rows_predicted": [names[1]], "pixels": [[1]]},
        names[0]: names[1],
    }
    raw = write_report(run, tmp_path / "out.html", evaluation=evaluation).read_bytes().decode("utf-8")
    page = Page(raw)
    assert not page.open
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "nav", "main", "footer", "section", "article",
        "div", "p", "b", "i", "a", "bdi", "h1", "h2", "h3", "h4", "ul", "li", "dl", "dt", "dd", "span", "small", "code",
        "pre", "figure", "figcaption", "img", "svg", "rect", "text", "line", "table", "thead", "tbody", "tr", "th", "td",
        "details", "summary",
    }  # fmt: skip
    assert not [a for _, a in page.tags if any(n.startswith("on") for n in a) or a.get("src") == "x"]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", raw)
    assert "x" * 2001 not in raw
    for name in (n for n in names if n.isprintable() and len(n) < 100):
        assert name in page.words  # what was typed is what is read


def test_a_run_without_anything_still_has_a_report(tmp_path: Path) -> None:
    run = painted_run(tmp_path / "r", count=1, size=64)
    empty = PaintedRun(run.path, (), Classes(), {}, {})
    assert "0 scenes" in Page(write_report(empty, tmp_path / "none.html").read_text()).words
    run.label_path = lambda key: _raise(RunError("not there yet"))  # type: ignore[method-assign]
    words = Page(write_report(run, tmp_path / "nolabels.html").read_text()).words
    assert "1 scenes have no label raster" in words and "no raster" in words


def test_images_that_have_gone_are_told(tmp_path: Path) -> None:
    run = painted_run(tmp_path / "r", count=2, size=96)
    read = run.read_rgb
    gone = InputError("/images/scene_2.tif has gone", "vanished")
    run.read_rgb = lambda key, *rest: _raise(gone) if key == "key1" else read(key, *rest)  # type: ignore[method-assign]
    page = Page(write_report(run, tmp_path / "out.html").read_text())
    assert "pictures could not be read. The first: /images/scene_2.tif has gone" in page.words
    assert sum(tag == "img" for tag, _ in page.tags) > 10


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2000, 3), (5, 900)])
def test_scenes_of_any_shape(tmp_path: Path, height: int, width: int) -> None:
    run = painted_run(tmp_path / "r", count=1, size=64)
    scene = replace(run.scenes[0], width=width, height=height)
    labels = np.ones((height, width), np.uint8)
    run = PaintedRun(
        tmp_path / "odd", (scene,), run.classes, {"key0": np.zeros((height, width, 3), np.uint8)}, {"key0": labels}
    )
    run.write_labels()
    page = Page(write_report(run, tmp_path / "out.html").read_text())
    assert "100.0\xa0% of the area" in page.words and sum(tag == "img" for tag, _ in page.tags) == 4


def test_dropped_clusters_and_unnamed_ones_are_told(tmp_path: Path) -> None:
    run = painted_run(tmp_path / "r", count=1, size=128, names=("cluster 0", "cluster 1", "water"))
    run.classes = Classes(run.classes.entries)
    batches = list(run.objects("key0"))
    for batch in batches:
        batch.class_id[batch.class_id == 2] = 255
    run.objects = lambda key: iter(batches)  # type: ignore[method-assign]
    words = Page(write_report(run, tmp_path / "out.html").read_text()).words
    assert "dropped: objects of clusters in no class" in words and "2 of 3 classes are clusters that nobody has named" in words


def test_a_class_of_several_clusters_shows_each(tmp_path: Path) -> None:
    run = painted_run(tmp_path / "r", count=1, size=192)
    water = run.classes[3]
    run.classes = Classes((run.classes[1], run.classes[2], ClassEntry(3, "wet", water.color, (2, 9)), *run.classes.entries[3:]))
    batches = list(run.objects("key0"))
    for batch in batches:
        batch.cluster_id[(batch.class_id == 3) & (batch.id % 2 == 0)] = 9
        batch.cluster_id[(batch.class_id == 4) & (batch.id % 2 == 0)] = -1
    run.objects = lambda key: iter(batches)  # type: ignore[method-assign]
    words = Page(write_report(run, tmp_path / "out.html").read_text()).words
    counts = {c: sum(int((b.cluster_id == c).sum()) for b in batches) for c in (2, 9, -1)}
    assert min(counts.values()) > 0
    assert f"cluster 2 ({counts[2]}): typical" in words and f"cluster 9 ({counts[9]}): least certain" in words
    assert f"drawn by a person ({counts[-1]}): typical" in words


def test_pictures_stop_at_the_budget(run: PaintedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terralabel.export.report._IMAGE_BYTES", 60_000)
    raw = write_report(run, tmp_path / "small.html").read_text()
    assert len(raw) < 60_000 + 80_000
    assert "pictures were left out to keep this page small" in raw


def test_many_classes_stay_under_the_bound(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(240))
    run = painted_run(tmp_path / "r", count=1, size=256, names=names)
    rng = np.random.default_rng(0)
    grid = rng.integers(1, 241, (32, 32)).astype(np.uint8)
    run.labels["key0"] = np.where(np.kron(grid, np.ones((8, 8), np.uint8)) > 240, 255, np.kron(grid, np.ones((8, 8), np.uint8)))
    final = write_report(run, tmp_path / "many.html")
    assert final.stat().st_size < 15_000_000
    assert final.read_text().count("<article") == 150


def test_specimens_do_not_depend_on_batches(run: PaintedRun) -> None:
    def shelves(size: int) -> list:
        joined = list(run.objects("key0"))
        facts = specimens.ClassFacts(room=5)
        for batch in joined:
            rows = np.flatnonzero(batch.class_id == 1)
            for part in np.array_split(rows, size):
                specimens._count_objects(facts, batch, part)
        return [item.id for shelf in (facts.cluster(0).typical, facts.cluster(0).uncertain) for item in shelf.best(5)]

    assert shelves(1) == shelves(7) and len(shelves(1)) > 5


def test_typical_come_first_by_score_and_the_same_place_comes_last() -> None:
    n = 4
    runs, offsets = rle.concatenate([rle.encode(np.ones((10, 10), bool))] * n)
    score = np.array([0.2, 0.9, np.nan, 0.8], np.float32)
    boxes = np.array([[0, 0, 10, 10], [50, 0, 10, 10], [90, 0, 10, 10], [51, 1, 10, 10]], np.int64)
    i32, f32 = np.zeros(n, np.int32), np.ones(n, np.float32)
    objects = Objects("s", np.arange(1, 5), i32, i32, score, f32, f32, ("auto",) * n, boxes, np.full(n, 100), runs, offsets)
    facts = specimens.ClassFacts(room=9)
    specimens._count_objects(facts, objects, np.arange(n))
    assert [item.id for item in facts.cluster(0).typical.best(9)] == [2, 1, 3, 4]
    assert [item.id for item in facts.cluster(0).uncertain.best(2)] == [3, 1]
    assert facts.sizes[6] == 4 and facts.score_sum == pytest.approx(1.9)


def test_thumbnails_of_huge_masks_agree_with_those_of_decoded_ones() -> None:
    mask = np.zeros((2100, 2100), bool)
    mask[300:1500, 700:1900] = True
    small = specimens.thumbnail(rle.encode(mask), 2100, 2100)
    expected = cv2.resize(mask.astype(np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST) > 0
    assert small.shape == (128, 128) and (small != expected).mean() < 0.02
    exact = specimens.thumbnail(rle.encode(mask[290:390, 650:750]), 100, 100)
    assert np.array_equal(exact, mask[290:390, 650:750])


def test_label_pixels_counts_every_block(run: PaintedRun) -> None:
    ids, counts = np.unique(run.labels["key1"], return_counts=True)
    assert specimens.label_pixels(run.label_path("key1"), step=100) == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    assert specimens.label_raster(run, "key1") == run.label_path("key1")


def test_large_windows_are_read_in_pieces(run: PaintedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_PIECE", 50)
    asked: list[Window] = []
    whole = run.read_rgb("key0", Window(0, 0, 256, 256), 64)

    def read(key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        asked.append(window)
        return PaintedRun.read_rgb(run, key, window, max_size)

    monkeypatch.setattr(run, "read_rgb", read)
    pieced = cards.view(run, run.scenes[0], Window(0, 0, 256, 256), 64)
    assert pieced.shape == (64, 64, 3) and max(window.area for window in asked) <= 60 * 60
    assert sum(window.area for window in asked) == 256 * 256
    assert np.abs(pieced.astype(int) - whole).mean() < 4


def test_numbers_for_people() -> None:
    assert markup.number(1234567) == "1\u202f234\u202f567" and markup.number(0.12345) == "0.123"
    assert markup.number(float("nan")) == "n/a" and markup.number("<") == "&lt;"
    assert (
        markup.percent(1, 100_000) == "&lt;0.1\xa0%"
        and markup.percent(1, 4) == "25.0\xa0%"
        and markup.percent(0, 0) == "0.0\xa0%"
    )
    assert dict(markup.flatten({"a": {"b": [1, 2]}, "c": [{"d": None}]})) == {"a.b": "1, 2", "c[0].d": "(none)"}
