"""How long the pages of `terralabel review` take, and what the server holds, on a run of many scenes and judged labels.

    python benchmarks/review_scale.py [--scenes N] [--units N] [--tiles N]

The run is of painted scenes: a few are labelled, and the lists are filled up with copies (as many scenes and judged labels as
asked for, 48 clusters), so that only the page is measured. CPU seconds of the server, median of five requests each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from starlette.testclient import TestClient

import terralabel as tl
from terralabel.core.classes import Classes
from terralabel.core.quality import Signals, Units, Verdicts
from terralabel.imagery.painter import write_demo
from terralabel.recipes.quality.store import save_verdicts
from terralabel.recipes.survey import Survey, survey_clusters
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House

BASE = "http://127.0.0.1:8765"


def judge(run: tl.Run, count: int) -> None:
    """Give the run `count` judged labels, 60 px each, spread over its scenes; seven of ten for review."""
    dice = np.random.default_rng(0)
    scenes = run.scenes
    at = dice.integers(0, len(scenes), count)
    corner = dice.integers(0, 400, (count, 2))
    class_ids = dice.integers(0, 12, count).astype(np.int32)
    box = np.concatenate([corner, np.full((count, 2), 60)], axis=1).astype(np.int64)
    units = Units(class_ids, np.zeros(count, np.int32), box, np.full(count, 3600, np.int64))
    quality = dice.uniform(0.2, 0.95, count).astype(np.float32)
    decision = tuple("review" if q < 0.7 else "accept" for q in quality.tolist())
    window = np.tile(np.array([[0, 0, 512, 512]], dtype=np.int64), (count, 1))
    keys = tuple(scenes[i].key for i in at.tolist())
    signals = Signals(("area",), quality[:, None], units)
    save_verdicts(run.folder, Verdicts(keys, window, units, quality, decision, ("the views disagree",) * count), {}, signals)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(the first, the median of five more) in CPU seconds."""
    spent = []
    for _ in range(6):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return spent[0], statistics.median(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--tiles", type=int, default=400)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder), seed=3, scenes=2, size=512)
        run = tl.label(Path(folder) / "images", Path(folder) / "run", clusters=12, workers=0)
        judge(run, args.units)
        began = time.process_time()
        survey = survey_clusters(run)
        print(
            f"survey: {1e6 * (time.process_time() - began) / run.object_count():.0f} us CPU a mask ({run.object_count():,} masks)"
        )
        real = run.scenes
        run.scenes = tuple(
            replace(real[i % len(real)], key=real[i % len(real)].key if i < len(real) else f"copy_{i}")
            for i in range(args.scenes)
        )
        run.folder.classes_path.write_text(Classes.of_clusters(48).to_json(), encoding="utf-8")
        desk = Desk(run)
        cards = {k: replace(survey.cards[k % len(survey.cards)], cluster=k) for k in range(48)}
        desk.survey = Survey(cards, survey.touching)
        page = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url=BASE)
        print(
            f"{len(run.scenes):,} scenes, {args.units:,} judged labels, 48 clusters; CPU ms of the first request, and the median of later ones"
        )
        for address in (
            "/classes",
            "/classes.json",
            "/scenes",
            "/scenes?q=copy_4",
            "/map/0",
            "/queue",
            "/queue?sort=gain&page=50",
            "/units/7.json",
            "/units/7.jpg",
            "/state.json",
        ):
            first, later = seconds(lambda a=address: page.get(a).raise_for_status())
            print(f"  {address:<28} {1000 * first:8.0f} {1000 * later:8.0f}")
        first, later = seconds(lambda: page.post("/api/prompt", json={"row": 7, "points": [[250, 250, 1]]}))
        print(f"  {'click to mask':<28} {1000 * first:8.0f} {1000 * later:8.0f}")
        before = psutil.Process(os.getpid()).memory_info().rss
        for i in range(args.tiles):
            z = i % 2
            page.get(f"/tiles/{i % 2}/image/{z}/{i // 2 % (z + 1)}/{i // 4 % (z + 1)}.jpg")
            page.get(f"/tiles/{i % 2}/labels/{z}/{i // 2 % (z + 1)}/{i // 4 % (z + 1)}.png?hide={i}")
            page.get(f"/crops/{i % 12}/typical/{i % 5}.jpg")
        after = psutil.Process(os.getpid()).memory_info().rss
        print(f"memory: {before / 1e6:,.0f} MB, after {3 * args.tiles:,} pictures {after / 1e6:,.0f} MB")
        desk.close()


if __name__ == "__main__":
    main()
