"""How fast, as ratios against named references measured in the same run.

    python benchmarks/bench.py                    everything, a few minutes
    python benchmarks/bench.py --only painting    one part: pooling painting kmeans label stitch import
    python benchmarks/bench.py --json FILE        the figures, machine-readable

Both sides of a ratio work on the same input in turn, a then b then a..., on one thread, and their medians are compared; min
and max are shown. The time is the processor's, so that what else the machine does counts little; only `label` and `import` are
by the wall clock. A reference that would take hours works on fewer masks; its time for all of them is then computed, and said to be.
The references are re-created from the description of the released ALPS code:

pooling     the 256-channel map enlarged bilinearly to full size once, then each mask: multiply, sum, divide by the count of
            what is not zero
painting    each mask: full-size `mask * id`, pasted onto the label where it is not zero; once by numpy, and once by the loop
            over pixels that the released code has
kmeans      scikit-learn's MiniBatchKMeans with the released settings (batches of 512, one pass), by its faster door, `fit`
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from terralabel.core import rle
from terralabel.core.grid import plan_tiles
from terralabel.core.masks import Masks

SIDE, CHANNELS, CELLS = 1024, 256, 64


@dataclass(frozen=True)
class Timing:
    """Seconds of one side: median, min, max of `repeats`."""

    median: float
    low: float
    high: float
    repeats: int

    def __str__(self) -> str:
        scale, unit = (1, "s") if self.median >= 1 else (1e3, "ms")
        return f"{self.median * scale:.4g} {unit} [{self.low * scale:.3g}..{self.high * scale:.3g}]"

    def times(self, factor: float) -> Timing:
        """The time for `factor` times the work."""
        return Timing(self.median * factor, self.low * factor, self.high * factor, self.repeats)


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    part: str
    what: str
    ours: Timing
    reference: str = ""
    theirs: Timing | None = None
    target: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the reference."""
        return self.theirs.median / self.ours.median if self.theirs else None

    def __str__(self) -> str:
        text = f"{self.part:<9} {self.what}: {self.ours}"
        if self.theirs:
            text += f"\n{'':9}   against {self.reference}: {self.theirs}  ->  {self.ratio:,.4g}x"
        text += f"\n{'':9}   target {self.target}" if self.target else ""
        return text + (f"\n{'':9}   {self.note}" if self.note else "")


def interleaved(repeats: int, *functions: Callable[[], object], clock: Callable[[], float] = time.process_time) -> list[Timing]:
    """The timings of several functions, called in turn `repeats` times; by default in seconds of processor time."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            began = clock()
            function()
            taken.append(clock() - began)
    return [Timing(statistics.median(taken), min(taken), max(taken), repeats) for taken in seconds]


def nested_masks(field: np.ndarray, levels: int, count: int, least: int = 32) -> Masks:
    """`count` masks, nested within one another: parts of a random relief above `levels` heights, evenly chosen."""
    codes = []
    for height in np.linspace(-1.6, 1.6, levels) * field.std():
        parts, _ = ndimage.label(field > height)
        for number, place in enumerate(ndimage.find_objects(parts)):
            crop = parts[place] == number + 1
            if crop.sum() >= least:
                codes.append(rle.encode_boxed(crop, place[1].start, place[0].start, field.shape))
    chosen = np.unique(np.linspace(0, len(codes) - 1, count).astype(int))
    return Masks.from_codes([codes[i] for i in chosen], field.shape)


def relief(height: int, width: int, scales: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """A random surface with structure at several scales, (height, width) float64."""
    rng = np.random.default_rng(seed)
    return sum(ndimage.gaussian_filter(rng.normal(size=(height, width)), s) * s for s in scales)


# ------------------------------------------------------------------------------------------------------------- the parts


def pooling(quick: bool) -> list[Row]:
    """Mean of the encoder's map over each of 200 masks."""
    from terralabel.features.pooled import pool

    side = SIDE // 8 if quick else SIDE
    masks = nested_masks(relief(side, side, (6, 12, 25, 50)), 12, 200)
    features = np.random.default_rng(1).normal(size=(CELLS, CELLS, CHANNELS)).astype(np.float32)
    few = list(range(0, len(masks), max(len(masks) // 4, 1)))[:4]
    large = np.stack([cv2.resize(np.ascontiguousarray(features[..., k]), (side, side)) for k in range(CHANNELS)])

    def enlarge() -> None:
        for k in range(CHANNELS):
            cv2.resize(np.ascontiguousarray(features[..., k]), (side, side))

    def released() -> np.ndarray:
        out = []
        for i in few:
            product = large * masks.array(i)
            out.append(product.sum((1, 2)) / np.maximum(np.count_nonzero(product, axis=(1, 2)), 1))
        return np.array(out)

    ours, up, each = interleaved(3, lambda: pool(masks, features), enlarge, released)
    scale = len(masks) / len(few)
    theirs = Timing(
        *(u + e * scale for u, e in zip((up.median, up.low, up.high), (each.median, each.low, each.high), strict=True)), 3
    )
    gap = float(np.abs(pool(masks, features)[few] - released()).max())
    note = f"largest difference {gap:.1e}; reference measured on {len(few)} masks and computed for {len(masks)}"
    reference = "full-size map, multiply and divide per mask, as released ALPS does it"
    return [Row("pooling", f"{len(masks)} masks, {side} px, {CHANNELS} channels", ours, reference, theirs, ">= 100x", note)]


def painting(quick: bool) -> list[Row]:
    """Labels from 200 masks against the released loops, and from 4000 nested masks."""
    from terralabel.labels.paint import paint, painting_order

    side = SIDE // 8 if quick else SIDE
    masks = nested_masks(relief(side, side, (6, 12, 25, 50)), 12, 200)
    ids = np.arange(len(masks))
    order = np.argsort(painting_order(masks.area))

    def by_numpy() -> np.ndarray:
        label = np.zeros(masks.size, dtype=np.int64)
        for i in order:
            pasted = masks.array(i) * (ids[i] + 1)
            label = np.where(pasted != 0, pasted, label)
        return label

    def by_pixel() -> None:
        label = np.zeros(masks.size, dtype=np.int64)
        pasted = masks.array(order[0]) * (ids[order[0]] + 1)
        for y in range(masks.size[0]):
            for x in range(masks.size[1]):
                if pasted[y, x] != 0:
                    label[y, x] = pasted[y, x]

    same = np.array_equal(np.where(by_numpy() == 0, 65535, by_numpy() - 1), paint(masks, ids, fill=65535))
    ours, numpy_loop, pixel_loop = interleaved(5, lambda: paint(masks, ids, fill=65535), by_numpy, by_pixel)
    many = nested_masks(relief(side, side, (2.5, 5, 10, 20, 40)), 40, 4000)
    large = interleaved(7, lambda: paint(many, np.arange(len(many)), fill=65535))[0]
    what = f"{len(masks)} masks, {side} px"
    depth = f"{len(many.runs):,} runs, {many.area.sum() / side**2:.0f} masks deep on average"
    return [
        Row("painting", what, ours, "full-size `mask * id` by numpy", numpy_loop, "", f"same labels: {same}"),
        Row(
            "painting", what, ours, "per-pixel loop as released ALPS does it", pixel_loop.times(len(masks)), ">= 300x",
            f"reference measured on 1 mask and computed for {len(masks)}",
        ),
        Row("painting", f"{len(many)} nested masks, {side} px", large, note=depth),
    ]  # fmt: skip


def stitch(quick: bool) -> list[Row]:
    """Links of two tiles with 4000 masks each, and the objects of a scene of four million masks."""
    from terralabel.labels.stitch import link, resolve

    side, overlap = (SIDE // 8, 32) if quick else (SIDE, 64)
    length = 2 * side - overlap
    surface = relief(length, length, (2.5, 5, 10, 20, 40))
    plans = plan_tiles("s", length, length, side, overlap)
    masks = [nested_masks(surface[plan.window.slices()], 40, 4000) for plan in plans[:3]]
    rows = []
    for other, name in ((1, "beside"), (2, "below")):
        taken = interleaved(7, lambda o=other: link(plans[0], masks[0], plans[o], masks[o]))[0]
        found = len(link(plans[0], masks[0], plans[other], masks[other])[0])
        rows.append(
            Row(
                "stitch",
                f"link a tile to the one {name}, {len(masks[0])} masks each",
                taken,
                target="< 50 ms",
                note=f"{found} links",
            )
        )
    across, each = (10, 100) if quick else (40, 2500)
    counts = np.full(across * across, each)
    tile = np.arange(across * across).reshape(across, across)
    ends = [(tile[:, :-1], tile[:, 1:]), (tile[:-1], tile[1:])]
    shared = np.arange(each // 4)
    pairs = np.concatenate([np.stack([(t.reshape(-1, 1) * each + shared).ravel() for t in pair], 1) for pair in ends])
    for wrong in (0.0, 0.1):
        rng = np.random.default_rng(0)
        mixed = np.flatnonzero(rng.random(len(pairs)) < wrong)
        tangled = pairs.copy()
        tangled[mixed, 1] += rng.integers(0, each // 4, len(mixed)) - tangled[mixed, 1] % each
        strength = rng.random(len(pairs)).astype(np.float32)
        taken = interleaved(1, lambda t=tangled, s=strength: resolve(counts, t, s))[0]
        what = f"resolve {counts.sum():,} masks, {len(pairs):,} links, {wrong:.0%} of them wrong"
        rows.append(Row("stitch", what, taken, target="< 60 s"))
    return rows


def kmeans(quick: bool) -> list[Row]:
    """Online k-means against scikit-learn's, with the inertia each reaches."""
    from sklearn.cluster import MiniBatchKMeans

    from terralabel.clusters.kmeans import OnlineKMeans

    n, d, k = (4000, 16, 8) if quick else (200_000, 64, 64)
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(k, d))[rng.integers(0, k, n)] * 2 + rng.normal(size=(n, d))).astype(np.float32)

    def batches() -> list[np.ndarray]:
        return [data[i : i + 16384] for i in range(0, n, 16384)]

    fitted: dict[str, list] = {"ours": [], "theirs": []}

    def ours() -> None:  # each time another seed, for the outcome depends on the start
        fitted["ours"].append(OnlineKMeans(clusters=k, scale="none", seed=len(fitted["ours"])).fit(batches))

    def theirs() -> None:
        model = MiniBatchKMeans(
            k, batch_size=512, max_iter=1, n_init=1, random_state=len(fitted["theirs"]), compute_labels=False
        )
        fitted["theirs"].append(model.fit(data))

    with threadpool_limits(limits=1):  # again: scikit-learn's own threads came with the import
        mine, reference = interleaved(3, ours, theirs)
    low = statistics.mean(_loss(data, model.predict(data)[0]) for model in fitted["ours"])
    high = statistics.mean(_loss(data, model.predict(data)) for model in fitted["theirs"])
    note = f"mean squared distance over three seeds {low:.3f}, reference {high:.3f} ({low / high - 1:+.1%})"
    return [Row("kmeans", f"{n:,} x {d}, K {k}", mine, "scikit-learn MiniBatchKMeans, one pass of 512", reference, "", note)]


def _loss(data: np.ndarray, groups: np.ndarray) -> float:
    """Mean squared distance of the vectors to the mean of their group."""
    squared = sum(((data[groups == g] - data[groups == g].mean(0)) ** 2).sum(dtype=np.float64) for g in np.unique(groups))
    return float(squared) / len(data)


def label(quick: bool) -> list[Row]:
    """`label --masks tree` on a painted scene: megapixels a second, and where the time goes."""
    import terralabel
    from terralabel.imagery.painter import write_demo

    size, scenes = (256, 1) if quick else (1024, 4)
    with tempfile.TemporaryDirectory() as folder:
        images, _ = write_demo(Path(folder) / "scenes", scenes=scenes, size=size)
        began = time.perf_counter()
        run = terralabel.label(images, Path(folder) / "run", masks="tree", clusters="8")
        seconds = time.perf_counter() - began
        stages = run.folder.history()[-1]
        objects = run.object_count()
    pixels = scenes * size * size / 1e6
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in stages["stages"].items())
    note = f"{pixels / seconds:.3f} megapixels/s with {stages['workers']} workers; {objects:,} objects; {spent}"
    return [
        Row(
            "label",
            f"{scenes} scenes of {size} px, tree + appearance + kmeans",
            Timing(seconds, seconds, seconds, 1),
            note=note,
        )
    ]


def imports(quick: bool) -> list[Row]:
    """Time until `import terralabel` is done and until `terralabel --help` has printed."""
    inside = "import time; t = time.perf_counter(); import terralabel; print(time.perf_counter() - t)"
    taken = [
        float(subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=True).stdout)
        for _ in range(7)
    ]
    import_time = Timing(statistics.median(taken), min(taken), max(taken), len(taken))
    command = [str(Path(sys.executable).with_name("terralabel")), "--help"]
    help_time, bare = interleaved(
        7,
        lambda: subprocess.run(command, capture_output=True, check=True),
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        clock=time.perf_counter,
    )
    return [
        Row("import", "import terralabel", import_time, target="< 0.3 s"),
        Row("import", "terralabel --help", help_time, target="< 0.5 s", note=f"of which an empty Python takes {bare}"),
    ]


PARTS = {"pooling": pooling, "painting": painting, "stitch": stitch, "kmeans": kmeans, "label": label, "import": imports}


def machine() -> str:
    """What this was measured on, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {load:.1f}; {platform.system()}, Python {platform.python_version()}, "
        f"numpy {version('numpy')}, opencv {cv2.__version__}, scikit-learn {version('scikit-learn')}; one BLAS thread"
    )


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure the parts asked for, print each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="these parts only")
    parser.add_argument("--quick", action="store_true", help="tiny inputs: shows that it runs, the figures mean nothing")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    described = machine()
    print(described, flush=True)
    rows: list[Row] = []
    for name in options.only:
        with threadpool_limits(limits=1):
            measured = PARTS[name](options.quick)
        rows += measured
        print(*measured, sep="\n", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process {peak:.2f} GiB", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        figures = [{**asdict(row), "ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps({"machine": described, "quick": options.quick, "rows": figures}, indent=2))
    return rows


if __name__ == "__main__":
    main()
