"""The run folder: what is where, who may write, and what it was made with.

RUN/
  manifest.json      settings, versions, backends, inputs: equal for equal runs (no times in it)
  history.jsonl      one line per invocation: command, times, counts, outcome
  scenes.jsonl       every input image: key, source, size, georeference, sha256
  radiometry.json    the data set's stretch
  classes.json       the class map; a person's names and merges live here
  corrections/       what a person drew or changed; no rerun touches it
  parts/STAGE/       Parquet parts, `SHARD-DIGEST.parquet`
  labels/            one label raster per scene: the result
  report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terralabel.core.files import TEMPORARY_PREFIX, space_error, write_text
from terralabel.errors import RunError

__all__ = ["FORMAT", "RunFolder", "digest"]

#: Version of the folder's layout; a run of another format is refused, never reinterpreted.
FORMAT = 2


def digest(value: Any) -> str:
    """16 hex digits that name a JSON-able value: equal for equal values on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunFolder:
    """Paths and small files of a run; knows nothing of imagery or stages."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    manifest_path = property(lambda self: self.path / "manifest.json")
    history_path = property(lambda self: self.path / "history.jsonl")
    scenes_path = property(lambda self: self.path / "scenes.jsonl")
    radiometry_path = property(lambda self: self.path / "radiometry.json")
    classes_path = property(lambda self: self.path / "classes.json")
    corrections_path = property(lambda self: self.path / "corrections")
    labels_path = property(lambda self: self.path / "labels")

    def part_path(self, stage: str, shard: str, part_digest: str) -> Path:
        """Where the part of a shard lies, whether it is there yet or not."""
        return self.path / "parts" / stage / f"{shard}-{part_digest}.parquet"

    @property
    def exists(self) -> bool:
        """True when the folder holds a run."""
        return self.manifest_path.is_file()

    def create(self) -> None:
        """Make the folder; a non-empty folder that is not a run is refused."""
        try:
            if self.path.exists() and not self.path.is_dir():
                raise RunError(f"{self.path} is a file; give a folder for the run.")
            if self.path.is_dir() and not self.exists:
                foreign = [
                    p.name for p in self.path.iterdir() if p.name not in _OWN and not p.name.startswith(TEMPORARY_PREFIX)
                ]
                if foreign:
                    raise RunError(
                        f"{self.path} is not empty and not a run (it holds {foreign[0]!r}): give a new or an empty folder."
                    )
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise (space_error(error, self.path) or RunError(f"Cannot create {self.path}: {error.strerror}.")) from error

    def manifest(self) -> dict[str, Any]:
        """The manifest; `RunError` when the folder is no run or of another format."""
        if not self.exists:
            known = "it does not exist" if not self.path.exists() else "it has no manifest.json"
            raise RunError(
                f"{self.path} is not a TerraLabel run ({known}): start one with `terralabel label SOURCE --out {self.path}`."
            )
        try:
            manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
            found = manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.manifest_path} is damaged ({error}): restore it, or start a new run.") from error
        if found != FORMAT:
            raise RunError(f"{self.path} has run format {found}, this TerraLabel reads {FORMAT}: use the version that made it.")
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        write_text(self.manifest_path, json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")

    def note_history(self, entry: Mapping[str, Any]) -> None:
        """Append one line; the only file in a run that carries times. A full disk costs the line, nothing else."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry}
        try:
            with open(self.history_path, "ab+") as handle:
                if handle.tell():
                    handle.seek(-1, os.SEEK_END)
                    if handle.read(1) != b"\n":
                        handle.write(b"\n")  # the line before was cut off
                handle.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            if space_error(error, self.history_path) is None:
                raise

    def history(self) -> list[dict[str, Any]]:
        """All invocations, oldest first; a line cut off by a crash is passed over."""
        entries = []
        if self.history_path.is_file():
            for line in self.history_path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entries.append(json.loads(line))
                except ValueError:
                    continue
        return entries

    @contextmanager
    def lock(self, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Hold the run: a second process waits until the first has finished, and then finds its parts done."""
        descriptor = self._lock_file()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process is working on {self.path}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self.remove_temporary()
            yield
            self.remove_temporary()  # a worker may outlive its killed parent by half a second, and be cut off in writing
        finally:
            os.close(descriptor)

    @contextmanager
    def brief_lock(self) -> Iterator[bool]:
        """Hold the run for a moment, if nobody else does: yields whether. Cleans nothing up."""
        descriptor = self._lock_file()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def _lock_file(self) -> int:
        """The descriptor of the file that is locked."""
        try:
            return os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise (space_error(error, self.path / ".lock") or error) from error

    def remove_temporary(self) -> int:
        """Delete what a killed process left under temporary names; call only with the lock held."""
        count = 0
        for folder, _, files in os.walk(self.path):
            for name in files:
                if name.startswith(TEMPORARY_PREFIX):
                    Path(folder, name).unlink(missing_ok=True)
                    count += 1
        return count

    def remove_unused_parts(self, used: set[Path]) -> int:
        """Delete parts that the finished run does not refer to (older settings or inputs); returns how many."""
        count = 0
        for part in sorted((self.path / "parts").rglob("*")):
            if part.is_file() and part not in used:
                part.unlink()
                count += 1
        return count


_OWN = {
    ".lock", "history.jsonl", "parts", "scenes.jsonl", "radiometry.json", "corrections", "labels", "probabilities", "classes.json", "model",
}  # fmt: skip
