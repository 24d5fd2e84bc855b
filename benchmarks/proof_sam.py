"""`label --masks` with a SAM checkpoint, from images to exports, on every image set of a folder.

    python benchmarks/proof_sam.py --data DIR                    tiny random checkpoint of each family in turn
    python benchmarks/proof_sam.py --data DIR --masks FILE       a checkpoint of yours

Shows that the way works, not that labels are good: without --masks the network is random and so are its masks. Each set, by its first
images, is labelled through the command line, exported in every format, read back, and labelled again. Checked: counts balance,
label rasters lie on their images' grids, features are finite, exports open, and the second time nothing is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyogrio
import rasterio

from terralabel import registry
from terralabel.recipes.run import Run, open_run
from terralabel.runs.parts import read_part

FAMILIES = ("sam", "sam2.1", "sam_hq", "edgetam", "sam3", "sam2")
_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")
_NO_IMAGES = {"masks", "labels"}


@dataclass(frozen=True)
class Outcome:
    """What became of one set."""

    name: str
    family: str
    images: int
    scenes: int
    failed: int
    tiles: int
    masks: int
    objects: int
    width: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name:<26} {self.family:<8} {self.scenes}/{self.images} images ({self.failed} failures by name), {self.tiles} tiles, "
            f"{self.masks:,} masks, {self.objects:,} objects, {self.width} features, {self.seconds:.1f} s"
        )


def image_sets(data: Path) -> Iterator[tuple[str, list[Path]]]:
    """(name, images) of every folder that holds images itself and is not called masks or labels."""
    for folder in sorted(path for path in [data, *data.rglob("*")] if path.is_dir() and path.name not in _NO_IMAGES):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES and "mask" not in path.stem)
        if files:
            yield str(folder.relative_to(data)).removesuffix("/images"), files


def tiny_checkpoint(family: str, folder: Path) -> Path:
    """A random checkpoint of a family in its official format, small enough for a few milliseconds an image."""
    from terralabel.nets.sam import loading
    from terralabel.nets.sam.families import tiny

    path = folder / f"tiny_{family}.pt"
    if not path.exists():
        checkpoint = tiny(family)
        loading.write_official(loading.build(checkpoint), checkpoint, path)
    return path


def prove(name: str, images: list[Path], masks: Path, family: str, out: Path, workers: int) -> Outcome:
    """Label, check, export, read back, label again."""
    began = time.perf_counter()
    sensor = "sar" if "sar" in name or "S1" in images[0].stem else "optical"
    settings = ["--masks", str(masks), "--clusters", "5", "--sensor", sensor, "--workers", str(workers), "--device", "cpu"]
    settings += [
        "--pred-iou-thresh",
        "0",
        "--stability-score-thresh",
        "0",
        "--points-per-side",
        "12",
        "--tau",
        "1",
        "--min-size",
        "1",
    ]
    command = [str(Path(sys.executable).with_name("terralabel")), "label", *map(str, images), "--out", str(out), *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 1 and not out.exists():
        raise RuntimeError(f"{name}: {done.stderr[-500:]}")
    if done.returncode == 1 and "None of" in done.stderr:  # every image refused, each with its reason
        return Outcome(name, family, len(images), 0, len(images), 0, 0, 0, 0, time.perf_counter() - began)
    expect(done.returncode in (0, 2), f"{name}: exit code {done.returncode}: {done.stderr[-500:]}")
    run = open_run(out)
    expect(run.finished and (done.returncode == 2) == bool(run.failures), f"{name}: exit code and failures disagree")
    tiles, found, width = _checked(name, run, len(images))
    _exports_open(name, run)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    again = subprocess.run(command, capture_output=True, text=True)
    expect(again.returncode == done.returncode, f"{name}: the second time ended with {again.returncode}")
    if not any(row.status == "failed" for scene in run.scenes for row in run.tiles(scene.key)):
        same = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
        expect(same, f"{name}: the second time wrote parts again")
    seconds = time.perf_counter() - began
    return Outcome(
        name, family, len(images), len(run.scenes), len(run.failures), tiles, found, run.object_count(), width, seconds
    )


def expect(holds: bool, otherwise: str) -> None:
    """Stop the proof where something does not hold."""
    if not holds:
        raise RuntimeError(otherwise)


def _checked(name: str, run: Run, images: int) -> tuple[int, int, int]:
    """(tiles, masks, width of the features), after checking counts, features and label rasters."""
    expect(len(run.scenes) + len(run.failed_sources) == images, f"{name}: {images} images are not all accounted for")
    rows = [row for scene in run.scenes for row in run.tiles(scene.key)]
    expect(sum(run.tile_counts.values()) == len(rows), f"{name}: tile counts do not balance")
    found, width = 0, 0
    for path in sorted((run.path / "parts" / "features").iterdir()):
        vectors = np.asarray(read_part(path).columns["feature"])
        expect(bool(np.isfinite(vectors).all()), f"{name}: {path.name} has features that are not finite")
        found += len(vectors)
        width = max(width, vectors.shape[1] if len(vectors) else 0)
    expect(found == sum(row.masks for row in rows), f"{name}: {found} features for {sum(row.masks for row in rows)} masks")
    for scene in run.scenes:
        with rasterio.open(run.label_path(scene.key)) as labels:
            expect(labels.shape == (scene.height, scene.width), f"{name}: {scene.key} has another size than its image")
    return len(rows), found, width


def _exports_open(name: str, run: Run) -> None:
    """Every export is written, and opens in the program made for it."""
    from terralabel.recipes.run import export_run, report_run

    out = run.path.with_name(f"{run.path.name}-export")
    placed = any(scene.georeference.crs for scene in run.scenes)  # GeoJSON knows nothing but places on earth
    export_run(run, [form for form in registry.names("export") if placed or form != "geojson"], out)
    for path in sorted(out.rglob("*")):
        if path.suffix == ".gpkg":
            for layer, _ in pyogrio.list_layers(path):
                expect(pyogrio.read_info(path, layer=layer)["features"] >= 0, f"{name}: {path.name}")
        elif path.suffix in (".tif", ".png"):
            with rasterio.open(path) as raster:
                raster.read(1)
        elif path.suffix in (".json", ".geojson"):
            json.loads(path.read_text(encoding="utf-8"))
    expect(report_run(run).stat().st_size > 1000, f"{name}: the report is empty")
    shutil.rmtree(out)


def main(arguments: list[str] | None = None) -> list[Outcome]:
    """Prove every set; stops at the first that does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--masks", type=Path, help="a checkpoint; by default tiny random ones of all families in turn")
    parser.add_argument("--images", type=int, default=2, help="images of each set; 0: all")
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="proof-sam-") as scratch:
        for i, (name, images) in enumerate(image_sets(options.data)):
            if options.sets and name not in options.sets:
                continue
            family = "given" if options.masks else FAMILIES[i % len(FAMILIES)]
            masks = options.masks or tiny_checkpoint(family, Path(scratch))
            chosen = images[: options.images] if options.images else images
            out = Path(scratch) / name.replace("/", "-")
            outcomes.append(prove(name, chosen, masks, family, out, options.workers))
            print(outcomes[-1], flush=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{len(outcomes)} sets, {sum(o.scenes for o in outcomes)} images, {sum(o.masks for o in outcomes):,} masks: all hold")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return outcomes


if __name__ == "__main__":
    main()
