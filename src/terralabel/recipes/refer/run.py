"""A run of `refer`, as people and exporters see it: the masks that texts mean, a class for each text."""

from __future__ import annotations

import json
from typing import Any

from terralabel.errors import RunError
from terralabel.recipes.detected_run import DetectedRun
from terralabel.recipes.folder_run import FolderRun, manifest_format
from terralabel.recipes.ingest import Failure
from terralabel.runs.folder import RunFolder

__all__ = ["FORMAT", "ReferRun", "is_referred"]

#: What the manifest of such a run says its format is.
FORMAT = "refer 1"


def is_referred(folder: RunFolder) -> bool:
    """True for a folder that `refer` made."""
    return manifest_format(folder) == FORMAT


class ReferRun(DetectedRun):
    """A run folder of `refer`, opened; implements `contracts.RunView`."""

    def __init__(self, folder: RunFolder) -> None:
        if not is_referred(folder):
            raise RunError(f"{folder.path} is no run of refer: make one with `terralabel refer`.")
        FolderRun.__init__(self, folder)

    @property
    def failed_sources(self) -> tuple[Failure, ...]:
        """Inputs that failed, for the report."""
        return self.failures

    @property
    def referred(self) -> dict[str, Any]:
        """Scene key -> for each text what was understood, how its meaning was found, and what was chosen (referred.json)."""
        path = self.path / "referred.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def facts(self) -> dict[str, Any]:
        """Counts of everything, JSON-able."""
        told = self.referred.values()
        texts = [query["text"] for query in self.manifest["queries"]]
        chosen = [sum(len(rows[k]["chosen"]) for rows in told) for k in range(len(texts))]
        queries = [{**query, "chosen": count} for query, count in zip(self.manifest["queries"], chosen, strict=True)]
        return {**super().facts(), "locator": self.manifest["locator"], "queries": queries}

    def summary(self, list_failures: bool = True) -> str:
        """What a person wants to know at the end, and where the files are; failures one by one, or only how many."""
        facts = self.facts()
        lines = [
            f"run {self.path} (refer; {'finished' if self.finished else 'unfinished'})",
            f"  scenes   {facts['scenes']:,}" + (f", {len(self.failures):,} failed" if self.failures else ""),
            f"  found    {facts['boxes']:,} boxes by {facts['locator'].split()[0]}, masks by {self.masks_name}",
        ]
        for query in facts["queries"]:
            what = f"{query['chosen']:,} chosen" if query["chosen"] else "nothing in the images is that"
            lines.append(f"  text     {_short(query['text'])!r}: {what}")
        lines += [
            f"  labels   {self.folder.labels_path}/*.tif, {len(self.classes)} classes, 255 elsewhere; why: {self.path}/referred.json",
            f"  next     terralabel export {self.path} --format geopackage --out DIR · terralabel report {self.path}",
        ]
        told = [f"  failed   {f.source}: {' '.join(f.reason.split())}" for f in self.failures] if list_failures else []
        told += [f"  problem  {text}" for text in facts["problems"]]
        return "\n".join([*lines, *told[:10], *([f"  and {len(told) - 10:,} more"] if len(told) > 10 else [])])


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
