"""What a person's actions on the page are worth: mIoU against their number, for an oracle that answers by the truth.

    python benchmarks/proof_review.py --data DIR [--sets NAME ...] [--images N] [--clusters N] [--json FILE] [--picture PNG]

The oracle works at the desk of `terralabel review`. First it names the classes, the largest first, each by the true class it shares
most pixels with: one action a class, the name of another class merges. Then it works through the objects, those first of which
most is expected to be gained (pixels times doubt), and gives each the class it mostly is: one action an object, also where nothing
had to be changed. Beside it, masks drawn from nothing: one action a true object (connected part of a class), drawn without fault, in
random order. Every pixel with a true class counts; one without a label is wrong.
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
from terralabel.evaluate.curves import Chart, Line, draw_charts
from terralabel.export.features import read_labels
from terralabel.recipes.curate import name_shares
from terralabel.recipes.reviewed import settled
from terralabel.recipes.survey import survey_clusters
from terralabel.review.desk import Desk

NAMES = ("multiclass/penang", "multiclass/forest", "multiclass/dronedeploy")
SHOWN = (0, 5, 10, 20, 40, 60, 100, 200, 400, 800)


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


def drawn(truths: list[np.ndarray], classes: list[int], seed: int = 0) -> Iterator[float]:
    """mIoU after every true object that is drawn, in random order."""
    objects = []
    for true in truths:
        for place, class_id in enumerate(classes):
            _, _, about, _ = cv2.connectedComponentsWithStats((true == class_id).astype(np.uint8), connectivity=8)
            objects += [(place, int(area)) for area in about[1:, 4]]
    tally = Tally(classes)
    for place, area in objects:
        tally.add(area * np.eye(len(classes), dtype=np.int64)[place], -1)
    yield tally.miou
    for index in np.random.default_rng(seed).permutation(len(objects)).tolist():
        place, area = objects[index]
        pixels = area * np.eye(len(classes), dtype=np.int64)[place]
        tally.add(pixels, -1, -1)
        tally.add(pixels, place)
        yield tally.miou


def object_table(run: tl.Run, truths: dict[str, np.ndarray], classes: list[int]) -> list[tuple[int, float, np.ndarray]]:
    """(cluster, certainty, pixels that it shows by true class) of every object that shows pixels with a true class."""
    rows = []
    for scene in run.scenes:
        true = truths[scene.stem]
        about = {
            int(i): (int(c), float(s))
            for b in run.objects(scene.key)
            for i, c, s in zip(b.id, b.cluster_id, b.score, strict=True)
        }
        pixels: dict[int, np.ndarray] = {}
        for window, ids in run.instances(scene.key):
            part = true[window.slices()]
            for place, class_id in enumerate(classes):
                found, counts = np.unique(ids[(part == class_id) & (ids > 0)], return_counts=True)
                for number, count in zip(found.tolist(), counts.tolist(), strict=True):
                    pixels.setdefault(number, np.zeros(len(classes), np.int64))[place] += count
        rows += [(*about[number], counts) for number, counts in sorted(pixels.items())]
    return rows


def reviewed(
    desk: Desk,
    rows: list[tuple[int, float, np.ndarray]],
    shares: dict[int, list[tuple[str, float]]],
    classes: list[int],
    lost: np.ndarray,
) -> list[float]:
    """mIoU after every action: names first, then objects. `lost`: pixels by true class that no object shows."""
    place_of = {f"class {c}": i for i, c in enumerate(classes)}
    meaning: dict[int, int] = {}
    by_cluster: dict[int, np.ndarray] = {}
    for cluster, _, pixels in rows:
        by_cluster[cluster] = by_cluster.get(cluster, 0) + pixels
    tally = Tally(classes)
    tally.add(lost, -1)
    for pixels in by_cluster.values():
        tally.add(pixels, -1)
    curve = [tally.miou]
    assert desk.survey is not None
    for card in sorted(desk.survey.cards.values(), key=lambda card: (-card.area, card.cluster)):
        found = shares.get(card.cluster)
        if not found:
            continue
        name = found[0][0]
        state = desk.now()
        mine, twin = state.classes[state.classes.of_cluster[card.cluster]], [e for e in state.classes if e.name == name]
        if twin:
            desk.change_classes("merge", classes=[twin[0].id, mine.id], seen=state.version)
        else:
            desk.change_classes("name", classes=[mine.id], name=name, seen=state.version)
        meaning[card.cluster] = place_of[name]
        tally.add(by_cluster.get(card.cluster, np.zeros(len(classes), np.int64)), -1, -1)
        tally.add(by_cluster.get(card.cluster, np.zeros(len(classes), np.int64)), meaning[card.cluster])
        curve.append(tally.miou)
    for cluster, _, pixels in sorted(rows, key=lambda row: -(1 - row[1]) * int(row[2].sum())):
        given, wanted = meaning.get(cluster, -1), int(pixels.argmax())
        if given != wanted:
            tally.add(pixels, given, -1)
            tally.add(pixels, wanted)
        curve.append(tally.miou)
    return curve


def prove(data_set: DataSet, data: Path, images: int, clusters: int) -> dict:
    """Both curves of a set."""
    files = data_set.files(data)[:images]
    truths = {image.stem: truth_of(data_set, mask) for image, mask in files}
    classes = sorted({int(c) for true in truths.values() for c in np.unique(true)} - {UNKNOWN})
    with tempfile.TemporaryDirectory() as folder:
        run = tl.label([image for image, _ in files], Path(folder) / "run", clusters=str(clusters), sensor=data_set.sensor)
        (Path(folder) / "truth").mkdir()
        for stem, true in truths.items():
            cv2.imwrite(str(Path(folder) / "truth" / f"{stem}.png"), true)
        names = ",".join(f"{c}=class {c}" for c in classes)
        shares = name_shares(run, Path(folder) / "truth", names)
        rows = object_table(run, truths, classes)
        total = np.array([sum(int((t == c).sum()) for t in truths.values()) for c in classes])
        desk = Desk(run, author="oracle")
        desk.survey = survey_clusters(run)
        ours = reviewed(desk, rows, shares, classes, total - sum((row[2] for row in rows), np.zeros(len(classes), np.int64)))
        actions = desk.now().version
        _check(run, desk, truths, classes, ours[actions])
        desk.close()
    return {
        "set": data_set.name,
        "images": len(files),
        "classes": len(classes),
        "named after": actions,
        "objects": len(rows),
        "review": [round(v, 4) for v in ours],
        "drawn": [round(v, 4) for v in drawn(list(truths.values()), classes)],
    }


def _check(run: tl.Run, desk: Desk, truths: dict[str, np.ndarray], classes: list[int], expected: float) -> None:
    """The rasters after the names, as `export` would paint them, have the mIoU that was counted."""
    settled(run)
    tally = Tally(classes)
    place = {e.id: classes.index(int(e.name.split()[1])) for e in desk.now().classes if e.name.startswith("class ")}
    for scene in run.scenes:
        ids = read_labels(run.label_path(scene.key), Window(0, 0, scene.width, scene.height))
        for given in np.unique(ids).tolist():
            true = truths[scene.stem][ids == given]
            tally.add(np.array([(true == c).sum() for c in classes]), place.get(given, -1))
    if abs(tally.miou - expected) > 1e-6:
        raise RuntimeError(f"counted mIoU {expected:.4f}, painted {tally.miou:.4f}")


def table(results: list[dict]) -> str:
    """Markdown: mIoU after so many actions."""
    shown = " | ".join(map(str, SHOWN))
    lines = [f"| set | how | {shown} |", "|---|---|" + "--:|" * len(SHOWN)]
    for result in results:
        for how in ("review", "drawn"):
            curve = result[how]
            cells = " | ".join(f"{100 * curve[n]:.1f}" if n < len(curve) else "" for n in SHOWN)
            lines.append(f"| {result['set']} | {how} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=NAMES)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--clusters", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    results = []
    for data_set in [s for s in SETS if s.name in args.sets]:
        results.append(prove(data_set, args.data, args.images, args.clusters))
        last = results[-1]
        print(
            f"{last['set']}: {last['images']} images, {last['classes']} classes, named after {last['named after']} actions, {last['objects']:,} objects",
            flush=True,
        )
        print(table(results), flush=True)
    if args.json:
        write_text(args.json, json.dumps(results) + "\n")
    if args.picture:
        charts = [
            Chart(
                r["set"],
                "actions",
                [Line(how, [(n, v) for n, v in enumerate(r[how][:401])]) for how in ("review", "drawn")],
                0.0,
                1.0,
            )
            for r in results
        ]
        draw_charts(args.picture, charts, columns=len(charts))


if __name__ == "__main__":
    main()
