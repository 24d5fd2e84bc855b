"""Peak memory of `label` and `export` on square mosaics of two sizes: it must not grow with the scene.

usage: proof_memory.py [--sizes 15000 30000] [--folder DIR] [--json FILE] [--keep]

Writes painted mosaics (benchmarks/make_mosaic.py), runs the very commands a user would, and watches every process they
start: VmHWM, the kernel's own record of the largest resident set. Linux only. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

BOUND_MB = 2000
GROWTH = 1.10
HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-c", "from terralabel.cli.main import run; run()"]


def peak_mb(pid: int) -> float:
    """VmHWM of a process in MB (10^6 bytes), 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def watched(arguments: list[str]) -> dict[str, float]:
    """Run a command; its seconds, and the peaks of the main process and of the largest worker, in MB."""
    began = time.monotonic()
    process = subprocess.Popen([*COMMAND, *arguments])
    main = psutil.Process(process.pid)
    peaks = {"main": 0.0, "worker": 0.0}
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        try:
            children = main.children(recursive=True)
        except psutil.Error:
            children = []
        peaks["worker"] = max([peaks["worker"], *(peak_mb(child.pid) for child in children)])
        time.sleep(0.25)
    process.returncode = os.waitstatus_to_exitcode(status)
    peaks["main"] = usage.ru_maxrss * 1024 / 1e6  # the kernel's record, however short the process lived
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    return {"seconds": round(time.monotonic() - began, 1), **{k: round(v) for k, v in peaks.items()}}


def prove(size: int, folder: Path, workers: int) -> dict[str, dict[str, float]]:
    """The figures of one size."""
    mosaic, run = folder / f"mosaic-{size}.tif", folder / f"run-{size}"
    if not mosaic.exists():
        subprocess.run([sys.executable, HERE / "make_mosaic.py", "--size", str(size), "--out", mosaic], check=True)
    figures = {"label": watched(["label", str(mosaic), "--out", str(run), "--masks", "tree", "--workers", str(workers)])}
    for name in ("geotiff", "geopackage"):
        figures[name] = watched(["export", str(run), "--format", name, "--out", str(folder / f"export-{size}-{name}")])
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[15000, 30000])
    parser.add_argument("--folder", type=Path, default=Path("proof/memory"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", action="store_true", help="leave mosaics, runs and exports")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, {options.workers} workers"
    )
    table = {}
    for size in options.sizes:
        table[size] = prove(size, options.folder, options.workers)
        for step, row in table[size].items():
            print(
                f"{size:>6} px  {step:<11} {row['seconds']:>8} s   main {row['main']:>5} MB   worker {row['worker']:>5} MB",
                flush=True,
            )
        if options.json:
            options.json.write_text(json.dumps(table, indent=2))
    good = all(max(row["main"], row["worker"]) < BOUND_MB for rows in table.values() for row in rows.values())
    first, last = table[options.sizes[0]], table[options.sizes[-1]]
    for step, row in last.items():
        for who in ("main", "worker"):
            ratio = row[who] / max(first[step][who], 1) if first[step][who] else 1.0
            good &= ratio <= GROWTH
            print(f"{step:<11} {who:<7} {ratio:.3f} of the smaller one's peak (at most {GROWTH})")
    if not options.keep:
        shutil.rmtree(options.folder)
    print("holds" if good else "DOES NOT HOLD")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
