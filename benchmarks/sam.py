"""SAM's everything-mode, its post-processing and whole runs, against the official package and the released ALPS steps.

    python benchmarks/sam.py                 all, about a quarter of an hour on two quiet cores
    python benchmarks/sam.py --quick         tiny network and images: shows that it runs, the figures mean nothing
    python benchmarks/sam.py --table         measure nothing, print the table of what has been measured
    python benchmarks/sam.py --docs docs/sam.md    put the table into that page, between its marks
    python benchmarks/sam.py --models [NAMES]      a table of all sizes of the family instead (`sam_models.py`); --docs puts it in, too

ViT-B with random weights, 1024 x 1024 pixels, 1024 points, two threads. A random network's masks pass no filter, so all
sides compute what they always compute and are then fed the same realistic logits (`sam_feed.py`). Every measurement is a process of its own
(`sam_sides.py`); sides take turns; medians [min..max]. What is measured is kept in --work, so an interrupted run goes on.

official   segment-anything 1.0, SamAutomaticMaskGenerator at its defaults
tuned      the same with points_per_batch=1 and THP_MEM_ALLOC_ENABLE=1
thp        ours with THP_MEM_ALLOC_ENABLE=1, which is what `tuned` is compared with
alps       the released steps with their faults (`sam_sides.alps`)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import sam_models
from sam_models import MODELS

_HERE = Path(__file__).resolve().parent
THREADS = 2
#: Between these the table stands in a page.
MARKS = ("<!-- benchmarks/sam.py -->", "<!-- end of benchmarks/sam.py -->")
MODEL_MARKS = ("<!-- benchmarks/sam.py --models -->", "<!-- end of benchmarks/sam.py --models -->")
_THP = {"THP_MEM_ALLOC_ENABLE": "1"}


@dataclass(frozen=True)
class Side:
    """One side: what `sam_sides` runs, with which environment, how often, and which masks it should have found."""

    name: str
    run: str
    repeats: int = 1
    environment: tuple[tuple[str, str], ...] = ()
    same_as: str = ""


SIDES = (
    Side("official", "official"),
    Side("tuned", "tuned", environment=tuple(_THP.items())),
    Side("fp32", "fp32", 2, same_as="official"),
    Side("thp", "fp32", 2, tuple(_THP.items()), "official"),
    Side("bf16", "bf16", 2),
    Side("bf16-agreement", "bf16-agreement"),
    Side("adaptive", "adaptive", 2, same_as="official"),
    Side("post-official", "post-official"),
    Side("post-ours", "post-ours", 1, same_as="post-official"),
    Side("alps", "alps"),
    Side("label", "label", 2),
    Side("label-bf16", "label-bf16"),
)
#: (ours, reference, target).
RATIOS = (
    ("fp32", "official", ">= 4x"),
    ("thp", "tuned", ">= 2x"),
    ("bf16", "official", ">= 9x"),
    ("adaptive", "official", ""),
    ("post-ours", "post-official", ">= 50x"),
    ("label", "alps", ">= 10x"),
    ("label-bf16", "alps", ""),
)
PARTS = {
    "everything": ("official", "tuned", "fp32", "thp", "bf16", "bf16-agreement", "adaptive"),
    "post": ("post-official", "post-ours"),
    "label": ("alps", "label", "label-bf16"),
}


# ----------------------------------------------------------------------------------------------------------- measuring


def measure(work: Path, names: Iterable[str], quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Run what has not been run yet, sides in turn; every result is written as soon as it is there."""
    results = _read(work)
    wanted = set(names)
    chosen = [side for side in SIDES if side.name in wanted]
    for turn in range(max(side.repeats for side in chosen)):
        for side in chosen:
            if turn < side.repeats and len(results.get(side.name, [])) <= turn:
                results.setdefault(side.name, []).append(_run(side, work, quick))
                (work / "results.json").write_text(json.dumps(results, indent=1))
                last = results[side.name][-1]
                print(
                    f"{side.name:<14} {last['seconds']:8.2f} s  {last['peak_gib']:.2f} GiB  {last['masks']} masks", flush=True
                )
    return results


def _read(work: Path) -> dict[str, list[dict[str, Any]]]:
    path = work / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _run(side: Side, work: Path, quick: bool) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name not in _THP} | dict(side.environment)
    environment |= {"OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, str(_HERE / "sam_sides.py"), side.run, "--work", str(work), *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ----------------------------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class Agreement:
    """How the masks of one side stand to the reference's: counts, and per reference mask the best IoU of ours."""

    reference: int
    ours: int
    identical: float
    above: float
    mean: float
    worst: float

    def __str__(self) -> str:
        return (
            f"{self.ours} masks for {self.reference}; identical {self.identical:.1%}, IoU >= .99 {self.above:.1%}, "
            f"mean IoU {self.mean:.4f}, worst {self.worst:.4f}"
        )


def agreement(reference: np.ndarray, ours: np.ndarray) -> Agreement:
    """Of two (n, bytes) uint8 arrays of packed bits."""
    if not len(reference) or not len(ours):
        same = float(len(reference) == len(ours))
        return Agreement(len(reference), len(ours), same, same, same, same)
    area = np.bitwise_count(ours).sum(1, dtype=np.int64)
    best = []
    for mask in reference:
        common = np.bitwise_count(ours & mask).sum(1, dtype=np.int64)
        best.append((common / np.maximum(area + np.bitwise_count(mask).sum(dtype=np.int64) - common, 1)).max())
    found = np.array(best)
    figures = ((found == 1).mean(), (found >= 0.99).mean(), found.mean(), found.min())
    return Agreement(len(reference), len(ours), *(float(figure) for figure in figures))


def agreements(work: Path) -> dict[str, Agreement]:
    """Of every side that was measured and has a reference."""
    found = {}
    for side in SIDES:
        ours, reference = (work / f"masks-{name}.npz" for name in (side.run, side.same_as))
        if side.same_as and ours.is_file() and reference.is_file():
            found[side.name] = agreement(np.load(reference)["bits"], np.load(ours)["bits"])
    return found


# ----------------------------------------------------------------------------------------------------------- reporting


def table(work: Path) -> list[str]:
    """The figures as rows of Markdown."""
    results, same = _read(work), agreements(work)
    rows = ["| side | seconds | against | ratio | target | peak memory | masks |", "|---|--:|---|--:|--:|--:|---|"]
    against = {ours: (reference, target) for ours, reference, target in RATIOS}
    for side in SIDES:
        if not results.get(side.name) or side.name == "bf16-agreement":
            continue
        reference, target = against.get(side.name, ("", ""))
        ratio = ""
        if results.get(reference):
            ratio = f"{_median(results[reference]) / _median(results[side.name]):.3g}x"
        told = str(same[side.name]) if side.name in same else f"{results[side.name][-1]['masks']}"
        peak = max(run["peak_gib"] for run in results[side.name])
        rows.append(
            f"| {side.name} | {_seconds(results[side.name])} | {reference} | {ratio} | {target} | {peak:.2f} GiB | {told} |"
        )
    return [*rows, "", *_notes(results)]


def _notes(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    notes = []
    for name in ("fp32", "bf16"):
        if results.get(name):
            last = results[name][-1]
            notes.append(f"{name}: of which encoder {last['encoder']:.3g} s.")
    if results.get("fp32"):
        past = results["fp32"][-1]["past"]
        notes.append(
            f"Of 3072 candidates {past['predicted_iou']:.1%} pass the predicted IoU and {past['stability']:.1%} stability too; "
            f"{results['fp32'][-1]['masks']} masks are left after duplicates."
        )
    if results.get("bf16-agreement"):
        near = results["bf16-agreement"][-1]
        notes.append(
            f"bf16 against fp32 where nothing is fed (the random network's own {near['masks']} noise-like masks): mean IoU "
            f"{near['mean_iou']:.4f}, worst {near['worst_iou']:.4f}, predicted IoU at most {near['predicted_iou_apart']:.4f} apart."
        )
    for name in ("alps", "label"):
        if results.get(name):
            stages = ", ".join(f"{stage} {value:.3g}" for stage, value in results[name][-1]["stages"].items())
            notes.append(f"{name}: {stages}.")
    return notes


def _median(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["seconds"] for run in runs)


def _seconds(runs: list[dict[str, Any]]) -> str:
    taken = [run["seconds"] for run in runs]
    spread = f" [{min(taken):.3g}..{max(taken):.3g}]" if len(taken) > 1 else ""
    return f"{_median(runs):.3g}{spread}"


def machine() -> str:
    """What this was measured on, in one line."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "segment-anything"))
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {packages}; {THREADS} threads"
    )


def _others(work: Path) -> None:
    """Encoder and decoder alone, by their own benchmarks; what they print is kept in --work."""
    for script in ("sam_encoder.py", "sam_decoder.py"):
        kept = work / f"{script}.txt"
        if (_HERE / script).is_file() and not kept.is_file():
            done = subprocess.run([sys.executable, str(_HERE / script)], capture_output=True, text=True)
            print(done.stdout, flush=True)
            if done.returncode == 0:
                kept.write_text(done.stdout)
            else:
                print(f"{script} failed: {done.stderr[-500:]}", flush=True)


def main(arguments: list[str] | None = None) -> list[str]:
    """Measure what is asked for and not yet there; print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="these parts only")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, the figures mean nothing")
    parser.add_argument("--work", type=Path, help="where weights, images and results are kept")
    parser.add_argument("--images", type=int, default=1, help="images of the whole-run part")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table")
    parser.add_argument("--docs", type=Path, help="a page to put the table into, between its marks")
    parser.add_argument("--components", action="store_true", help="encoder and decoder alone too")
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), help="sizes of the family instead, all or these")
    parser.add_argument("--points-per-side", type=int, default=4, help="points of each model in --models")
    options = parser.parse_args(arguments)
    if options.models is not None:
        return _of_models(options)
    work: Path = options.work or Path("proof") / ("bench-sam-quick" if options.quick else "bench-sam")
    if not options.table:
        described = machine()
        print(described, flush=True)
        if options.again:
            (work / "results.json").unlink(missing_ok=True)
        _prepared(work, options.quick, options.images)
        if not (work / "results.json").is_file():
            (work / "machine.txt").write_text(described + "\n")
        measure(work, (name for part in options.only for name in PARTS[part]), options.quick)
        if options.components:
            _others(work)
    lines = [(work / "machine.txt").read_text().strip(), "", *table(work)]
    (work / "table.md").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n", flush=True)
    if options.docs:
        options.docs.write_text(with_table(options.docs.read_text(encoding="utf-8"), lines), encoding="utf-8")
    return lines


def _of_models(options: argparse.Namespace) -> list[str]:
    """The table of `sam_models`, printed and put into a page."""
    work = options.work or Path("proof") / "bench-sam-models"
    if not options.table:
        sam_models.measure(work, options.models or list(MODELS), options.points_per_side)
    lines = [f"{machine().removesuffix(f'{THREADS} threads')}1 thread, seconds of the processor", "", *sam_models.table(work)]
    print(*lines, sep="\n", flush=True)
    if options.docs:
        options.docs.write_text(with_table(options.docs.read_text(encoding="utf-8"), lines, MODEL_MARKS), encoding="utf-8")
    return lines


def with_table(page: str, lines: list[str], marks: tuple[str, str] = MARKS) -> str:
    """The page with these lines between its marks."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise SystemExit(f"the page has no place for the table: expected the marks {marks[0]} and {marks[1]}")
    return "\n".join([before + begin, "", *lines, "", end + after])


def _prepared(work: Path, quick: bool, images: int) -> None:
    """Weights and images, made in a process of their own (memory is measured per side, not here)."""
    code = f"import sys; sys.path.insert(0, {str(_HERE)!r}); import sam_sides; from pathlib import Path; "
    code += f"sam_sides.prepare(Path({str(work)!r}), {quick}, {images})"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    if importlib.util.find_spec("segment_anything") is None:
        raise SystemExit("benchmarks/sam.py compares with the official package: make setup (pip install segment-anything)")
    main()
