"""From the arguments of `label` to scenes: find, hash, describe, and one radiometry for all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from terralabel.core.files import write_text
from terralabel.core.georeference import Georeference
from terralabel.core.scene import Scene
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.imagery.sources import SourceFile, Sources, content_hash, find_sources
from terralabel.imagery.tiles import scene_of
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.engine import Crash, Engine
from terralabel.runs.folder import RunFolder
from terralabel.runs.progress import Progress

__all__ = ["Failure", "Ingested", "changed_since", "find", "ingest", "load_radiometry", "load_scenes", "store_scenes"]


@dataclass(frozen=True)
class Failure:
    """An input that gives no labels: `status` is machine-readable, `reason` one sentence."""

    source: str
    status: str
    reason: str


@dataclass(frozen=True)
class Ingested:
    """The scenes of a run in order of their keys, and what could not be used."""

    scenes: tuple[Scene, ...]
    failures: tuple[Failure, ...]


def find(sources: Sequence[str | Path], out: Path, settings: LabelSettings) -> Sources:
    """The images that `sources` name; refuses a run folder that lies inside one of them."""
    target = Path(os.path.abspath(out))
    for source in sources:
        folder = Path(os.path.abspath(source))
        if folder.is_dir() and (target == folder or folder in target.parents):
            raise SettingsError(
                f"--out {out} lies inside the input folder {source}: its own files would be read as images; choose a folder beside it."
            )
    found = find_sources(sources, follow_vrt=settings.follow_vrt)
    if not found.files and not found.skipped:
        raise InputError(
            f"No images in {', '.join(map(str, sources))}: expected GeoTIFF, PNG, JPEG or JPEG 2000 files.", "no-images"
        )
    return found


@dataclass(frozen=True)
class _Look:
    source: SourceFile
    settings: LabelSettings
    known_hash: str = ""


def _look(task: _Look) -> tuple[Scene | Failure, tuple[int, int]]:
    """Open and hash one file, in a worker; returns it with (size, mtime_ns), by which a rerun knows it again."""
    source, settings = task.source, task.settings
    from terralabel.imagery.raster import open_raster

    try:
        stamp = os.stat(source.path)
        with open_raster(source.path, bands=settings.bands, sensor=settings.sensor, follow_vrt=settings.follow_vrt) as raster:
            scene = scene_of(source, raster, sensor=settings.sensor, sha256=task.known_hash or content_hash(source.path))
        return scene, (stamp.st_size, stamp.st_mtime_ns)
    except InputError as error:
        return Failure(str(source.path), error.status, str(error)), (0, 0)
    except SettingsError as error:
        return Failure(str(source.path), "bands", str(error)), (0, 0)
    except OSError as error:
        return Failure(str(source.path), "vanished", f"{source.path}: {error.strerror}"), (0, 0)


def ingest(
    folder: RunFolder,
    found: Sources,
    settings: LabelSettings,
    engine: Engine,
    progress: Progress,
    *,
    refit: bool = False,
) -> Ingested:
    """Describe every image and write scenes.jsonl and radiometry.json; hashes of unchanged files are taken over.

    `refit` fits the radiometry anew where the run has one.
    """
    known = _known_hashes(folder)
    tasks = []
    for source in found.files:
        try:
            stamp = os.stat(source.path)
            tasks.append(_Look(source, settings, known.get((str(source.path), stamp.st_size, stamp.st_mtime_ns), "")))
        except OSError:
            tasks.append(_Look(source, settings))
    progress.start("ingest", len(tasks), "images")
    results: dict[str, tuple[Scene | Failure, tuple[int, int]]] = {}
    for task, result in engine.map(_look, tasks):
        if isinstance(result, Crash):
            result = Failure(str(task.source.path), "crash", f"{task.source.path}: {result.reason}"), (0, 0)
        results[task.source.key] = result
        progress.advance()
    progress.finish()
    scenes = [r for r, _ in results.values() if isinstance(r, Scene)]
    failures = [r for r, _ in results.values() if isinstance(r, Failure)]
    failures += [Failure(str(s.path), s.status, s.reason) for s in found.skipped]
    for source in found.files:
        if source.warning:
            progress.say(f"warning: {source.warning}")
    if not scenes:
        first = failures[0]
        raise InputError(f"None of {len(failures)} inputs can be used; the first: {first.reason}", first.status)
    unfit = _radiometry(folder, scenes, settings, refit)
    failures += unfit
    bad = {f.source for f in unfit}
    scenes = sorted((s for s in scenes if s.source not in bad), key=lambda s: s.key)
    failures.sort(key=lambda f: (f.source, f.status))
    for failure in failures:
        progress.say(f"failed: {_one_line(failure.reason)} [{failure.status}]")
    stamps = {r.key: stamp for r, stamp in results.values() if isinstance(r, Scene)}
    store_scenes(folder, scenes, failures, stamps)
    return Ingested(tuple(scenes), tuple(failures))


def _radiometry(folder: RunFolder, scenes: list[Scene], settings: LabelSettings, refit: bool) -> list[Failure]:
    """The data set's radiometry; the scenes it is not for come back as failures.

    Fitted once: images that come later take the one that is there, so that the masks of the others stay as they are.
    """
    fit = fit_radiometry(
        [s.source for s in scenes],
        sensor=settings.sensor,
        bands=settings.bands,
        seed=settings.seed,
        follow_vrt=settings.follow_vrt,
    )
    if refit or not folder.radiometry_path.is_file() or not _alike(load_radiometry(folder), fit.radiometry):
        write_text(folder.radiometry_path, fit.radiometry.to_json() + "\n")
    return [Failure(str(s.path), s.status, s.reason) for s in fit.unfit]


def _alike(old: Radiometry, new: Radiometry) -> bool:
    """Whether both are for the same kind of numbers, bands and sensor, whatever their ranges."""
    return replace(old, low=new.low, high=new.high) == new and old.count == new.count


def load_radiometry(folder: RunFolder) -> Radiometry:
    """The run's radiometry."""
    try:
        return Radiometry.from_json(folder.radiometry_path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{folder.radiometry_path} is missing: run `terralabel label` again with the same settings.") from error


def store_scenes(
    folder: RunFolder,
    scenes: Sequence[Scene],
    failures: Sequence[Failure],
    stamps: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write scenes.jsonl; `stamps`: scene key -> (bytes, mtime_ns) of its source, asked of the file where they are not given."""
    seen = {s.key: ((st := os.stat(s.source)).st_size, st.st_mtime_ns) for s in scenes} if stamps is None else stamps
    lines: list[dict[str, Any]] = [
        {"scene": asdict(scene), "bytes": seen[scene.key][0], "mtime_ns": seen[scene.key][1]} for scene in scenes
    ]
    lines += [{"failure": asdict(failure)} for failure in failures]
    # ASCII JSON: names that are not valid Unicode survive as escapes
    write_text(folder.scenes_path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def _lines(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in folder.scenes_path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise RunError(f"{folder.scenes_path} is damaged ({error}): delete it and run `terralabel label` again.") from error


def _known_hashes(folder: RunFolder) -> dict[tuple[str, int, int], str]:
    rows = [line for line in _lines(folder) if "scene" in line]
    return {(r["scene"]["source"], r["bytes"], r["mtime_ns"]): r["scene"]["sha256"] for r in rows}


def changed_since(folder: RunFolder) -> set[str]:
    """Sources whose size or time is not what it was when they were hashed; one that is gone has not changed."""
    changed = set()
    for source, size, mtime_ns in _known_hashes(folder):
        try:
            stamp = os.stat(source)
        except OSError:
            continue
        if (stamp.st_size, stamp.st_mtime_ns) != (size, mtime_ns):
            changed.add(source)
    return changed


def load_scenes(folder: RunFolder) -> Ingested:
    """What `ingest` wrote."""
    scenes, failures = [], []
    for line in _lines(folder):
        if "scene" in line:
            values = dict(line["scene"])
            place = values.pop("georeference")
            scenes.append(replace(Scene(**values), georeference=Georeference(tuple(place["transform"]), place["crs"])))
        else:
            failures.append(Failure(**line["failure"]))
    return Ingested(tuple(scenes), tuple(failures))


def _one_line(text: str) -> str:
    return " ".join(text.split())
