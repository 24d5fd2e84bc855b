"""Processor time and peak memory of `annotate fit` and `annotate apply`, trunk by trunk: the table of docs/annotate.md.

usage: annotate_speed.py [--trunks nano mobilenet_v2 ...] [--encoder FILE] [--side 512] [--folder DIR] [--json FILE]

Paints two scenes and runs the very commands a user would, on one thread. A training of few steps and one of more tell what a step
costs without the start; the same model labels scenes with and without mirror images, and what a tiny scene takes is taken off.
SAM 2's trunks have the shapes of the official files and random weights: time and memory do not depend on the numbers. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import sam_models
from proof_memory import COMMAND
from terralabel.imagery.painter import write_demo

#: Trunk -> its settings; "sam2..." are written to files first.
TRUNKS = {
    "scratch": [],
    "nano": [],
    "mobilenet_v2": [],
    "timm:resnet50": ["--weights", "none", "--learns", "adapters"],
    "sam2.1_tiny": ["--learns", "adapters"],
    "sam2.1_large": ["--learns", "adapters"],
}
_FEW, _MORE = 2, 6


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time, of the process and what it started, and the largest resident set in MB."""

    seconds: float
    mb: float


def run(*arguments: object) -> Cost:
    """One command of TerraLabel in a process of its own; `SystemExit` where it fails."""
    words = [str(word) for word in arguments]
    process = subprocess.Popen(
        [*COMMAND, *words, "--quiet"], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def measured(trunk: str, folder: Path, side: int, crop: int) -> dict[str, float]:
    """Seconds a step, seconds a megapixel with and without mirror images, peaks in MB."""
    given = trunk
    if trunk.startswith("sam"):
        given = str(folder / f"{trunk}.pt")
        sam_models.write(trunk, Path(given))
    data = [
        "annotate",
        "fit",
        folder / "scenes/images",
        "--labels",
        folder / "scenes/truth",
        "--classes",
        folder / "scenes/classes.json",
    ]
    how = ["--trunk", given, *TRUNKS[trunk], "--folds", 0, "--batch-size", 4, "--crop", crop, "--threads", 1, "--workers", 0]
    few, more = (run(*data, "--out", folder / f"{trunk}-{n}", "--steps", n, *how) for n in (_FEW, _MORE))
    small, whole = folder / "small", folder / "scenes/images"
    shown = {}
    for name, flag in (("plain", "--no-flips"), ("flips", "--flips")):
        each = ["annotate", "apply", folder / f"{trunk}-{_FEW}"]
        one, all_ = (
            run(*each, images, "--out", folder / f"{trunk}-{name}-{images.name}", flag, "--tile-size", 512, "--threads", 1)
            for images in (small, whole)
        )
        shown[name], shown[f"{name}_mb"] = (all_.seconds - one.seconds) / ((2 * side * side - 64 * 64) / 1e6), all_.mb
    step = (more.seconds - few.seconds) / (_MORE - _FEW)
    return {"step": step, "fit_mb": more.mb, **shown}


def main() -> None:
    """Print a row a trunk, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", nargs="+", default=list(TRUNKS)[:-1], choices=list(TRUNKS))
    parser.add_argument("--encoder", help="weights of mobilenet_v2, where the cache has none")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--crop", type=int, default=352)
    parser.add_argument("--folder", type=Path, default=Path("proof/annotate-speed"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder: Path = given.folder
    if given.encoder:
        TRUNKS["mobilenet_v2"] = ["--weights", given.encoder]
    shutil.rmtree(folder, ignore_errors=True)
    write_demo(folder / "scenes", seed=1, scenes=2, size=given.side)
    write_demo(folder / "small-scene", seed=2, scenes=1, size=64)
    (folder / "small-scene/images").rename(folder / "small")
    print("| trunk | fit, s a step of 4 crops | peak MB | apply, s a megapixel | with mirror images | peak MB |", flush=True)
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    figures = {}
    for trunk in given.trunks:
        found = figures[trunk] = measured(trunk, folder, given.side, given.crop)
        numbers = (found["step"], found["plain"], found["flips"])
        step, plain, flips = (f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in numbers)
        print(f"| `{trunk}` | {step} | {found['fit_mb']:,.0f} | {plain} | {flips} | {found['flips_mb']:,.0f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
