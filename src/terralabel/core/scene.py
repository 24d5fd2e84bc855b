"""One input image, as the rest of the package knows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from terralabel.core.georeference import Georeference

__all__ = ["Scene"]


@dataclass(frozen=True)
class Scene:
    """One input image of a run.

    `key` is unique in the run, safe as a file name on every system (also where case is folded), and sorts in the order
    of processing; it is the source's own stem unless that would collide. `source` is the path as found. `stem` is the
    source's own stem, byte for byte. `split` is "train", "val" or "test" for mmseg folders, else None.
    `sha256` is the hash of the file's content, taken at ingest.
    """

    key: str
    source: str
    stem: str
    width: int
    height: int
    georeference: Georeference = field(default_factory=Georeference)
    sensor: str = "optical"
    split: str | None = None
    sha256: str = ""
