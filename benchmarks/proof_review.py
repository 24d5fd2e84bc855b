"""What a person's actions on the page are worth: mIoU against their number, for an oracle that answers by the truth.

    python benchmarks/proof_review.py --data DIR [--sets NAME ...] [--images N] [--clusters N] [--order gain|worst] [--json FILE]
        [--picture FILE]

The oracle works at the desk of `terralabel review`, by the calls that the page makes, on a run of `label` that `quality score` judged by rules.

1. It names the classes, the largest first, each by the true class it shares most pixels with: one action a class, the name of another class
   merges. True classes that no cluster stands for get a class of their own, one action each.
2. It works through the queue: a judged label is a cluster in a picture. It accepts it, or gives it the class that most of it is: one action.
3. It looks at picture after picture and clicks into the largest part that is wrong; the run's own mask generator answers. A mask that makes
   the picture better is added with its class: two actions; one that does not costs the click and ends the picture.

Beside it masks drawn from nothing, in random order, each a true object (connected part of a class) without fault: once an action a mask,
once an action a click, a click for each corner of the outline (simplified by at most 1.5 pixels). Every pixel with a true class counts; one
without a label is wrong. At the end the rasters that `export` would write are held against what was counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

import terralabel as tl
from proof_label import SETS, UNKNOWN, DataSet
from terralabel.core.files import write_text
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.evaluate.curves import Chart, Line, draw_charts
from terralabel.export.features import read_labels
from terralabel.export.shapes import Shape
from terralabel.recipes.curate import name_shares
from terralabel.recipes.reviewed import settled
from terralabel.recipes.survey import survey_clusters
from terralabel.review.desk import Desk
from terralabel.review.prompting import Prompter
from terralabel.review.queue import Queue

NAMES = ("multiclass/penang", "multiclass/forest", "multiclass/dronedeploy")
SHOWN = (0, 10, 20, 40, 60, 100, 200, 300, 400)
#: Wrong parts smaller than this share of a picture are not seen; the simplification of an outline, pixels.
_SEEN, _CORNERS = 0.005, 1.5


class Tally:
    """Pixels by (true class, given class), and the mIoU of them; given class -1: none."""

    def __init__(self, classes: list[int]) -> None:
        self.classes = classes
        self.counts = np.zeros((len(classes), len(classes) + 1), np.int64)

    def add(self, true: np.ndarray, given: int, sign: int = 1) -> None:
        """Count pixels per true class (len(classes),) under a given class's place (-1: none)."""
        self.counts[:, given] += sign * true

    @property
    def miou(self) -> float:
        """Mean IoU of the true classes."""
        square = self.counts[:, :-1]
        hit = np.diag(square)
        return float(np.mean(hit / np.maximum(self.counts.sum(axis=1) + square.sum(axis=0) - hit, 1)))


def truth_of(data_set: DataSet, mask: Path) -> np.ndarray:
    """(H, W) true class ids, `UNKNOWN` where none counts."""
    stored = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    ids = data_set.classes(stored if stored.ndim == 2 else stored[..., 0]).astype(np.uint8)
    return np.where(np.isin(ids, data_set.ignore), np.uint8(UNKNOWN), ids)


def drawn(truths: list[np.ndarray], classes: list[int], seed: int = 0) -> Iterator[tuple[int, float]]:
    """(clicks so far, mIoU) after every true object that is drawn, in random order; the first before any."""
    objects = []
    for true in truths:
        for place, class_id in enumerate(classes):
            _, parts, about, _ = cv2.connectedComponentsWithStats((true == class_id).astype(np.uint8), connectivity=8)
            for k, (x, y, w, h, area) in enumerate(about[1:].tolist(), start=1):
                objects.append((place, area, corners(parts[y : y + h, x : x + w] == k)))
    tally = Tally(classes)
    for place, area, _ in objects:
        tally.add(area * np.eye(len(classes), dtype=np.int64)[place], -1)
    clicks = 0
    yield clicks, tally.miou
    for index in np.random.default_rng(seed).permutation(len(objects)).tolist():
        place, area, cost = objects[index]
        pixels, clicks = area * np.eye(len(classes), dtype=np.int64)[place], clicks + cost
        tally.add(pixels, -1, -1)
        tally.add(pixels, place)
        yield clicks, tally.miou


def corners(mask: np.ndarray) -> int:
    """Corners of the outlines, holes too, of an (h, w) bool mask: three at least."""
    rings, _ = cv2.findContours(np.pad(mask.astype(np.uint8), 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return sum(max(len(cv2.approxPolyDP(ring, _CORNERS, True)), 3) for ring in rings)


class Oracle:
    """Knows the truth, sees what the page shows, and counts what it does: `curve` is the mIoU after every action."""

    def __init__(self, desk: Desk, truths: dict[str, np.ndarray], classes: list[int]) -> None:
        self.desk, self.queue, self.prompter = desk, Queue(desk), Prompter(desk.run)
        self.classes = classes
        lut = np.full(256, -1)
        lut[classes] = np.arange(len(classes))
        self.true = {scene.key: lut[truths[scene.stem]] for scene in desk.run.scenes}
        self.judged = {s.key: read_labels(desk.run.label_path(s.key), _whole(s)).astype(np.int64) for s in desk.run.scenes}
        self.shown = {key: np.full(true.shape, -1) for key, true in self.true.items()}
        self.tally = Tally(classes)
        for true in self.true.values():
            self.tally.add(np.bincount(true[true >= 0], minlength=len(classes)), -1)
        self.curve = [self.tally.miou]

    def _paint(self, key: str, mask: np.ndarray, place: int) -> None:
        """The pixels of an (H, W) bool mask show a class now."""
        there = mask & (self.true[key] >= 0)
        true, shown = self.true[key][there], self.shown[key][there]
        for given in np.unique(shown).tolist():
            self.tally.add(np.bincount(true[shown == given], minlength=len(self.classes)), given, -1)
        self.tally.add(np.bincount(true, minlength=len(self.classes)), place)
        self.shown[key][mask] = place

    def _acted(self, times: int = 1) -> None:
        self.curve += [self.curve[-1]] * (times - 1) + [self.tally.miou]

    def _id_of(self, place: int) -> int:
        """The run's id of a true class."""
        return next(e.id for e in self.desk.now().classes if e.name == f"class {self.classes[place]}")

    def name(self, shares: dict[int, list[tuple[str, float]]]) -> None:
        """Every class gets its name, the largest first."""
        desk, places = self.desk, {f"class {c}": i for i, c in enumerate(self.classes)}
        assert desk.survey is not None
        for card in sorted(desk.survey.cards.values(), key=lambda card: (-card.area, card.cluster)):
            if not shares.get(card.cluster):
                continue
            name, state = shares[card.cluster][0][0], desk.now()
            mine = state.classes[state.classes.of_cluster[card.cluster]]
            twin = [e for e in state.classes if e.name == name]
            if twin:
                desk.change_classes("merge", classes=[twin[0].id, mine.id], seen=state.version)
            else:
                desk.change_classes("name", classes=[mine.id], name=name, seen=state.version)
            for key, judged in self.judged.items():
                self._paint(key, judged == mine.id, places[name])
            self._acted()
        for name in sorted(set(places) - {entry.name for entry in desk.now().classes}):
            desk.change_classes("new", name=name, seen=desk.now().version)
            self._acted()

    def work(self, order: str) -> None:
        """The queue: every label is accepted, or gets the class that most of it is."""
        for row in self.queue._orders[order].tolist():
            state = self.desk.now()
            shape, key = self.queue.labels.shape(row, state), self.queue.labels.scene(row).key
            mask = self._mask(key, shape)
            there = self.true[key][mask & (self.true[key] >= 0)]
            given = self.queue.labels.class_of(row, state)
            wanted = self._id_of(int(np.bincount(there).argmax())) if len(there) else given
            if wanted == given:
                self.queue.decide(row, "accept", seen=state.version)
            else:
                self.queue.decide(row, "class", class_id=wanted, seen=state.version)
                self._paint(key, mask, int(np.bincount(there).argmax()))
            self._acted()

    def click(self, most: int) -> None:
        """Picture after picture, into the largest part that is wrong, until `most` actions are done."""
        rows: dict[str, int] = {}
        for row in self.queue._orders["gain"].tolist():
            rows.setdefault(self.queue.labels.scene(row).key, row)
        for key, row in rows.items():
            while len(self.curve) <= most and self._clicked(key, row):
                pass

    def _clicked(self, key: str, row: int) -> bool:
        """One click into a picture; False where nothing is wrong that is seen, or the mask does not help."""
        found = _largest_wrong(self.true[key], self.shown[key], len(self.classes))
        if found is None:
            return False
        place, (x, y) = found
        scene = self.queue.labels.scene(row)
        view = Window(x - 128, y - 128, 256, 256).intersect(_whole(scene))
        shape, _ = self.prompter.mask(scene, view, [(x + 0.5, y + 0.5, 1)])
        mask = self._mask(key, shape)
        true, counts = self.true[key][mask], self.true[key][mask] >= 0
        gain = int((true == place).sum()) - int(((self.shown[key][mask] == true) & counts).sum())
        if gain <= 0 or shape is None:
            self._acted()
            return False
        token, version = self.queue.remember(shape), self.desk.now().version
        self.queue.decide(row, "add", class_id=self._id_of(place), mask=token, seen=version)
        self._paint(key, mask, place)
        self._acted(2)
        return True

    def _mask(self, key: str, shape: Shape | None) -> np.ndarray:
        mask = np.zeros(self.true[key].shape, dtype=bool)
        if shape is not None:
            mask[shape.box.slices()] = shape.crop(shape.box)
        return mask

    def check(self) -> None:
        """The rasters as `export` would write them have the mIoU that was counted."""
        settled(self.desk.run)
        tally, entries = Tally(self.classes), {e.id: e.name for e in self.desk.now().classes}
        names = {i: self.classes.index(int(n.split()[1])) for i, n in entries.items() if n.startswith("class ")}
        for scene in self.desk.run.scenes:
            ids, true = read_labels(self.desk.run.label_path(scene.key), _whole(scene)), self.true[scene.key]
            for given in np.unique(ids).tolist():
                there = true[(ids == given) & (true >= 0)]
                tally.add(np.bincount(there, minlength=len(self.classes)), names.get(given, -1))
        if abs(tally.miou - self.curve[-1]) > 1e-6:
            raise RuntimeError(f"counted mIoU {self.curve[-1]:.4f}, painted {tally.miou:.4f}")


def _whole(scene: Scene) -> Window:
    return Window(0, 0, scene.width, scene.height)


def _largest_wrong(true: np.ndarray, shown: np.ndarray, count: int) -> tuple[int, tuple[int, int]] | None:
    """(true class, (x, y) farthest from its border) of the largest connected part that shows another class; None for small ones only."""
    best, found = _SEEN * true.size, None
    for place in range(count):
        wrong = ((true == place) & (shown != place)).astype(np.uint8)
        _, parts, about, _ = cv2.connectedComponentsWithStats(wrong, connectivity=8)
        if len(about) > 1 and about[1:, 4].max() > best:
            part = int(about[1:, 4].argmax()) + 1
            best = int(about[part, 4])
            inside = cv2.distanceTransform(np.pad((parts == part).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(inside.argmax()), inside.shape)
            found = place, (int(x), int(y))
    return found


def prove(data_set: DataSet, data: Path, images: int, clusters: int, order: str, most: int) -> dict:
    """All curves of a set."""
    files = data_set.files(data)[:images]
    truths = {image.stem: truth_of(data_set, mask) for image, mask in files}
    classes = sorted({int(c) for true in truths.values() for c in np.unique(true)} - {UNKNOWN})
    with tempfile.TemporaryDirectory() as folder:
        run = tl.label([image for image, _ in files], Path(folder) / "run", clusters=str(clusters), sensor=data_set.sensor)
        (Path(folder) / "truth").mkdir()
        for stem, true in truths.items():
            cv2.imwrite(str(Path(folder) / "truth" / f"{stem}.png"), true)
        shares = name_shares(run, Path(folder) / "truth", ",".join(f"{c}=class {c}" for c in classes))
        tl.quality_score(run.path, review="100%")
        desk = Desk(run, author="oracle")
        desk.survey = survey_clusters(run)
        oracle = Oracle(desk, truths, classes)
        oracle.name(shares)
        named = len(oracle.curve) - 1
        oracle.work(order)
        worked = len(oracle.curve) - 1
        oracle.click(most)
        oracle.check()
        desk.close()
    masks = list(drawn(list(truths.values()), classes))
    return {
        "set": data_set.name,
        "images": len(files),
        "classes": len(classes),
        "order": order,
        "named after": named,
        "queue done after": worked,
        "review": [[n, round(v, 4)] for n, v in enumerate(oracle.curve)],
        "drawn, a mask an action": [[n, round(v, 4)] for n, (_, v) in enumerate(masks)],
        "drawn, a click an action": [[clicks, round(v, 4)] for clicks, v in masks],
    }


def at(curve: list[list[float]], actions: int) -> float | None:
    """The mIoU after so many actions; None past the end of a curve."""
    done = [v for n, v in curve if n <= actions]
    return done[-1] if curve[-1][0] >= actions else None


HOW = ("review", "drawn, a mask an action", "drawn, a click an action")


def table(results: list[dict]) -> str:
    """Markdown: mIoU after so many actions."""
    shown = " | ".join(map(str, SHOWN))
    lines = [f"| set | how | {shown} |", "|---|---|" + "--:|" * len(SHOWN)]
    for result in results:
        for how in HOW:
            found = [at(result[how], n) for n in SHOWN]
            cells = " | ".join("" if v is None else f"{100 * v:.1f}" for v in found)
            lines.append(f"| {result['set']} | {how} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=NAMES)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--clusters", type=int, default=40)
    parser.add_argument("--order", choices=("gain", "worst"), default="gain")
    parser.add_argument("--actions", type=int, default=450, help="Clicks end after so many actions.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    results = []
    for data_set in [s for s in SETS if s.name in args.sets]:
        results.append(prove(data_set, args.data, args.images, args.clusters, args.order, args.actions))
        last = results[-1]
        print(
            f"{last['set']}: {last['images']} images, {last['classes']} classes, named after {last['named after']} actions, queue done after"
            f" {last['queue done after']}, {len(last['drawn, a mask an action']) - 1:,} true objects",
            flush=True,
        )
        print(table(results), flush=True)
        if args.json:
            write_text(args.json, json.dumps(results) + "\n")
    if args.picture:
        charts = [
            Chart(r["set"], "actions", [Line(how, [(n, v) for n, v in r[how] if n <= 450]) for how in HOW], 0.0, 1.0)
            for r in results
        ]
        draw_charts(args.picture, charts, columns=len(charts))


if __name__ == "__main__":
    main()
