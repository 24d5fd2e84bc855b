"""Where the pictures that `masks nano` learns from come from, what is kept of them beside a run, and which of them make a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from terralabel.core.files import atomic_path
from terralabel.train.own_masks import with_own_masks
from terralabel.train.pictures import (
    BUILDING,
    FIELD,
    WATER,
    Picture,
    collages,
    flood,
    labelled,
    mosaic,
    scenes,
    unlabelled,
    waters,
    with_stable_masks,
)  # fmt: skip

__all__ = ["chosen", "read_sources"]

#: Least and most scale of a source's pictures. `fields` is read at half its size.
_SCALES = {
    "buildings": (0.45, 2.2), "fields": (0.45, 1.6), "collages": (0.6, 2.2), "scenes": (0.6, 2.0), "waters": (0.7, 1.6),
    "unlabelled": (0.4, 1.5), "flood": (0.4, 1.5),
}  # fmt: skip
#: Where the pictures of every batch come from, and, step by step, that of one more.
_MIX = ("buildings", "buildings", "buildings", "fields", "fields", "collages", "scenes")
_LAST = ("unlabelled", "waters", "collages", "unlabelled", "waters", "flood")
#: How often a picture of buildings is four tiles together.
_MOSAIC = 0.4


def read_sources(data: Path, cache: Path, count: int, seed: int, start: Path | None = None) -> dict[str, list[Picture]]:
    """All pictures to learn from by source, with the stable masks of the hierarchy, and of the network `start`, if any; `count`
    collages, half as many waters, a quarter as many scenes. Kept in the folder `cache`, as they take minutes."""
    stored, own = cache / "pictures.npz", cache / "own.npz"
    if not stored.exists():
        _write_pictures(stored, _real_pictures(data))
    if start is not None and not own.exists():
        every = ((source, picture) for source, pictures in _read_pictures(stored).items() for picture in pictures)
        _write_pictures(own, ((source, with_own_masks(picture, start)) for source, picture in every))
    found = _read_pictures(stored if start is None else own)
    found["collages"] = collages(count, seed, cache / "collages.npz")
    found["waters"] = waters(-(-count // 2), seed, cache / "waters.npz")
    found["scenes"] = scenes(-(-count // 4), seed, cache / "scenes.npz")
    return found


def _read_pictures(stored: Path) -> dict[str, list[Picture]]:
    kinds = {"buildings": BUILDING, "fields": FIELD, "flood": WATER, "unlabelled": 0}
    found: dict[str, list[Picture]] = {source: [] for source in kinds}
    with np.load(stored) as file:
        for key in sorted(name for name in file.files if name.endswith("/pixels")):
            source, number, _ = key.split("/")
            ids = file[f"{source}/{number}/ids"].astype(np.int32)
            found[source].append(Picture(file[key], ids, 0 if source == "unlabelled" else 1, (kinds[source],)))
    return found


def _write_pictures(stored: Path, pictures: Iterable[tuple[str, Picture]]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for source, picture in pictures:
        key = f"{source}/{len(arrays) // 2:05d}"
        arrays[f"{key}/pixels"], arrays[f"{key}/ids"] = picture.pixels, picture.ids.astype(np.uint16)
    with atomic_path(stored) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _real_pictures(data: Path) -> Iterator[tuple[str, Picture]]:
    for folder in ("oam-buildings", "oam-buildings-multi/area1"):
        for pixels, ids in labelled(data / folder):
            yield "buildings", with_stable_masks(pixels, ids)
    for pixels, ids in labelled(data / "fields", 0.5):
        yield "fields", with_stable_masks(pixels, ids)
    for folder in ("boxes-aerial", "coarse-s2"):
        for pixels in unlabelled(data / folder):
            yield "unlabelled", with_stable_masks(pixels, None)
    for pixels, ids in flood(data / "sen1floods11"):
        yield "flood", with_stable_masks(pixels, ids)


def chosen(sources: dict[str, list[Picture]], step: int, rng: np.random.Generator) -> list[tuple[Picture, float, float]]:
    """The pictures of a batch, and the least and the most scale of each."""
    names = (*_MIX, _LAST[step % len(_LAST)])
    return [(_picture(name, sources[name], rng), *_SCALES[name]) for name in names]


def _picture(name: str, pictures: list[Picture], rng: np.random.Generator) -> Picture:
    """One of a source's pictures; of buildings, whose tiles are small, as often four of them together."""
    count = 4 if name == "buildings" and rng.random() < _MOSAIC else 1
    some = [pictures[int(i)] for i in rng.integers(len(pictures), size=count)]
    return mosaic(some, rng) if count > 1 else some[0]
