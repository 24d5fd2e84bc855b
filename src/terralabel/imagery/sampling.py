"""Which images of a data set belong together, and a sample of their valid pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from terralabel.core.grid import Window
from terralabel.errors import InputError
from terralabel.imagery.raster import Raster, open_raster
from terralabel.imagery.sources import Skipped

__all__ = ["Probe", "family_of", "is_grey", "majority", "probe_all", "sample"]

#: Side of the windows that are sampled, in pixels.
_SAMPLE = 256
#: Rows of windows that are sampled where a window costs its whole rows.
_MAX_ROWS = 16
#: Pixels kept for the percentiles, over all scenes.
_MAX_PIXELS = 2_000_000


def family_of(dtype: np.dtype) -> str:
    """The kind of numbers: "uint8", "integer" or "float"."""
    return "uint8" if dtype == np.uint8 else "float" if dtype.kind == "f" else "integer"


def is_grey(pixels: np.ndarray, valid: np.ndarray) -> bool:
    """True when all channels are equal wherever valid."""
    return bool(np.all((pixels == pixels[..., :1]).all(axis=2) | ~valid))


@dataclass(frozen=True)
class Probe:
    """What the header of one image says. `count` is 1 for a `grey` one."""

    path: Path
    width: int
    height: int
    count: int
    family: str
    grey: bool

    @property
    def signature(self) -> tuple[int, str]:
        return self.count, self.family


def probe_all(
    paths: Sequence[Path], bands: Sequence[int] | None, sensor: str, follow_vrt: bool
) -> tuple[list[Probe], list[Skipped]]:
    """What the headers say, and the images that cannot be opened; `InputError` when none can."""
    probes, unfit = [], []
    for path in paths:
        try:
            with open_raster(path, bands=bands, sensor=sensor, follow_vrt=follow_vrt) as raster:
                grey = sensor == "sar" and raster.count == 3 and _looks_grey(raster)
                count = 1 if grey else raster.count
                probes.append(Probe(path, raster.width, raster.height, count, family_of(raster.dtype), grey))
        except InputError as error:
            unfit.append(Skipped(path, error.status, str(error)))
    if not probes:
        first = f" ({unfit[0].reason})" if unfit else ""
        raise InputError(f"None of {len(paths)} images can be read{first}", unfit[0].status if unfit else "missing")
    return probes, unfit


def _looks_grey(raster: Raster) -> bool:
    side = min(raster.width, _SAMPLE), min(raster.height, _SAMPLE)
    return is_grey(*raster.read(Window((raster.width - side[0]) // 2, (raster.height - side[1]) // 2, *side)))


def majority(probes: Sequence[Probe], sensor: str, unfit: list[Skipped]) -> list[Probe]:
    """The images that agree with most others on channels and kind of numbers; the rest go to `unfit`.

    A grey 8-bit picture among optical RGB ones agrees: its three colours are equal.
    """
    counts = Counter(probe.signature for probe in probes)
    common = max(counts, key=lambda signature: (counts[signature], signature))
    agreeing = {common, (1, "uint8")} if sensor == "optical" and common == (3, "uint8") else {common}
    for probe in probes:
        if probe.signature not in agreeing:
            has, most = (f"{count} channels of {family}" for count, family in (probe.signature, common))
            reason = f"{probe.path} has {has}, the data set {most}: process it as another run, or use --bands."
            unfit.append(Skipped(probe.path, "mixed", reason))
    return [probe for probe in probes if probe.signature in agreeing]


def sample(
    probes: Sequence[Probe],
    bands: Sequence[int] | None,
    sensor: str,
    follow_vrt: bool,
    seed: int,
    windows: int,
    unfit: list[Skipped],
) -> list[tuple[Path, np.ndarray]]:
    """Valid pixels (n, C) of windows spread over the images, per image; images that fail go to `unfit`."""
    count = max(probe.count for probe in probes)
    if len(probes) > windows:
        kept = np.random.default_rng(seed).choice(len(probes), windows, replace=False)
        probes = [probes[i] for i in sorted(kept)]
    area = sum(probe.width * probe.height for probe in probes)
    quota = [max(1, round(windows * probe.width * probe.height / area)) for probe in probes]
    expected = sum(min(q * _SAMPLE**2, p.width * p.height) for q, p in zip(quota, probes, strict=True))
    step = max(1, int(np.ceil(np.sqrt(expected / _MAX_PIXELS))))
    samples = []
    for index, (probe, share) in enumerate(zip(probes, quota, strict=True)):
        try:
            with open_raster(probe.path, bands=bands, sensor=sensor, follow_vrt=follow_vrt) as raster:
                pixels = _sample_scene(raster, share, step, np.random.default_rng([seed, index]))
            samples.append((probe.path, pixels[:, : probe.count].repeat(count // probe.count, axis=1)))
        except InputError as error:
            unfit.append(Skipped(probe.path, error.status, str(error)))
    return samples


def _sample_scene(raster: Raster, share: int, step: int, rng: np.random.Generator) -> np.ndarray:
    """(n, C) valid pixels, every `step`-th, of `share` windows; empty windows are replaced by others, four times at most."""
    order = _cells(raster, share, rng)
    taken: list[np.ndarray] = []
    for start in range(0, len(order), share):
        for y, x in sorted(order[start : start + share].tolist()):  # top to bottom: some formats only read forwards
            window = Window(x, y, min(_SAMPLE, raster.width - x), min(_SAMPLE, raster.height - y))
            pixels, valid = raster.read(window)
            thinned = pixels[::step, ::step][valid[::step, ::step]]
            if len(thinned):
                taken.append(thinned)
        if len(taken) >= share:
            break
    return np.concatenate(taken) if taken else np.empty((0, raster.count), raster.dtype)


def _cells(raster: Raster, share: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) y, x of different windows in random order, n at most 4 * `share`; from few rows where rows are read whole."""
    rows, columns = (np.arange(0, length, _SAMPLE) for length in (raster.height, raster.width))
    rows, columns = rng.permutation(rows)[: 4 * share], rng.permutation(columns)[: 4 * share]
    if raster.row_wise:
        rows = rows[:_MAX_ROWS]
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return rng.permutation(grid)[: 4 * share]
