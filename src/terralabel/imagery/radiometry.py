"""One radiometry for a data set: how stored values become 8-bit channels, fitted once, kept in the run.

Because it is fitted on the data set and not on the tile, the same pixels always become the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.errors import InputError, RunError
from terralabel.imagery.raster import Raster, open_raster
from terralabel.imagery.sampling import family_of, is_grey, majority, probe_all, sample
from terralabel.imagery.sources import Skipped

__all__ = ["Fit", "Radiometry", "fit_radiometry"]

#: 8-bit imagery that spans at least this much of 0..255 is taken as it is.
_FULL_RANGE = 128
#: SAR data with a larger share of negative values is in dB already: an amplitude is never negative.
_NEGATIVE_SHARE = 0.05


@dataclass(frozen=True)
class Radiometry:
    """Stored values to 8 bits, per channel: ``floor(255 * (v - low) / (high - low) + 0.5)``, clipped to 0..255.

    `kind` "stretch": v is the stored value. "decibel": v is 20*log10 of it, and `low`, `high` are in dB.
    `family` is the kind of numbers it was fitted on: "uint8", "integer" or "float".
    `grey`: channels are copies of one, and one is kept (grey SAR pictures saved as RGB).
    `bands` and `sensor` are what `open_raster` is to be called with.
    """

    kind: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    family: str
    grey: bool = False
    bands: tuple[int, ...] | None = None
    sensor: str = "optical"

    @property
    def count(self) -> int:
        """Channels that `apply` returns."""
        return len(self.low)

    def open(self, path: str | Path, *, follow_vrt: bool = False) -> Raster:
        """`open_raster` with the bands and the sensor that this radiometry was fitted with."""
        return open_raster(path, bands=self.bands, sensor=self.sensor, follow_vrt=follow_vrt)

    def apply(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8 of `Raster.read`'s pixels (H, W, C) and valid (H, W) bool; invalid pixels become 0.

        Raises `InputError` (status "mixed") when the pixels are not of the kind that was fitted.
        """
        pixels = self._fitting(pixels, valid)
        out = np.empty(pixels.shape, dtype=np.uint8)
        for channel in range(self.count):
            values = pixels[..., channel]
            if values.dtype.name in ("uint8", "uint16", "int16"):
                out[..., channel] = _tables(self, values.dtype.name)[channel][values.view(f"u{values.itemsize}")]
            else:
                out[..., channel] = _map(self, values, channel)
        out[~valid] = 0
        return out

    def _fitting(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """The channels to map, after checking that this radiometry is meant for them."""
        if family_of(pixels.dtype) != self.family:
            raise InputError(f"Pixels are {pixels.dtype}; the data set is {self.family}: process them as another run.", "mixed")
        if self.grey and pixels.shape[2] > 1 and is_grey(pixels, valid):
            return pixels[..., :1]
        if self.family == "uint8" and self.sensor == "optical" and (pixels.shape[2], self.count) == (1, 3):
            return pixels.repeat(3, axis=2)  # a grey picture among coloured ones
        if pixels.shape[2] != self.count:
            raise InputError(
                f"The image has {pixels.shape[2]} channels, the data set {self.count}: choose common ones with --bands.",
                "mixed",
            )
        return pixels

    def to_json(self) -> str:
        """One JSON object; `from_json` gives an equal radiometry back, bit for bit."""
        return json.dumps({"version": 1, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Radiometry:
        """Read what `to_json` wrote; raises `RunError` when it is something else."""
        try:
            record: dict[str, Any] = json.loads(text)
            if record.pop("version") != 1 or record["kind"] not in ("stretch", "decibel"):
                raise ValueError("unknown version or kind")
            bands = record.pop("bands")
            low, high = (tuple(float(v) for v in record.pop(name)) for name in ("low", "high"))
            if (
                len(low) != len(high)
                or not low
                or not np.isfinite([*low, *high]).all()
                or not all(map(float.__lt__, low, high))
            ):
                raise ValueError("low must be below high")
            return cls(low=low, high=high, bands=None if bands is None else tuple(map(int, bands)), **record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"The stored radiometry is damaged ({error}); start the run anew with --overwrite.") from error


@dataclass(frozen=True)
class Fit:
    """A radiometry, and the images of the data set that it is not for, with the reason of each."""

    radiometry: Radiometry
    unfit: tuple[Skipped, ...]


@lru_cache(maxsize=8)
def _tables(radiometry: Radiometry, dtype: str) -> np.ndarray:
    """(C, 256 or 65536) uint8: what each stored bit pattern becomes."""
    bits = 8 * np.dtype(dtype).itemsize
    values = np.arange(2**bits, dtype=f"u{bits // 8}").view(dtype).astype(np.float64)
    return np.stack([_map(radiometry, values, channel) for channel in range(radiometry.count)])


def _map(radiometry: Radiometry, values: np.ndarray, channel: int) -> np.ndarray:
    """uint8 of values of one channel; NaN becomes 0."""
    exact = values.dtype.itemsize > 4 or values.dtype.kind in "iu"
    work: np.ndarray = np.array(values, dtype=np.float64 if exact else np.float32)
    low, high = radiometry.low[channel], radiometry.high[channel]
    with np.errstate(all="ignore"):
        if radiometry.kind == "decibel":
            _decibel(work)
        np.subtract(work, low, out=work)
        np.multiply(work, 255.0, out=work)
        np.divide(work, high - low, out=work)
        np.add(work, 0.5, out=work)
        np.clip(work, 0, 255, out=work)
        np.nan_to_num(work, copy=False, nan=0.0)
    return work.astype(np.uint8)


def _decibel(values: np.ndarray) -> None:
    """20*log10 in place; what is not positive becomes minus infinity."""
    np.maximum(values, 0, out=values)
    np.log10(values, out=values)
    values *= 20


def fit_radiometry(
    paths: Iterable[str | Path],
    *,
    sensor: str = "optical",
    bands: Sequence[int] | None = None,
    seed: int = 0,
    percentiles: tuple[float, float] = (0.5, 99.5),
    windows: int = 512,
    follow_vrt: bool = False,
) -> Fit:
    """Fit one radiometry on a sample of the valid pixels of all images, whatever their order.

    About `windows` windows of 256 x 256 px are read, spread over the images by area (at least one each while there are
    fewer images than windows); `percentiles` of their valid pixels become `low` and `high` of each channel.
    8-bit imagery that spans half of 0..255 is taken as it is. SAR: amplitudes go to dB, unless 8-bit or already in dB.
    Images whose channel count or kind of numbers is not that of the majority, or that cannot be read, are in `Fit.unfit`.
    Raises `InputError` when no image can be read.
    """
    ordered = sorted({Path(path) for path in paths}, key=str)
    probes, unfit = probe_all(ordered, bands, sensor, follow_vrt)
    chosen = majority(probes, sensor, unfit)
    samples = sample(chosen, bands, sensor, follow_vrt, seed, windows, unfit)
    if sensor == "sar":
        _drop_other_scale(samples, chosen[0].family, unfit)
    family, count = chosen[0].family, max(probe.count for probe in chosen)
    values = np.concatenate([sample for _, sample in samples]) if samples else np.empty((0, count))
    kind = "decibel" if sensor == "sar" and family != "uint8" and not _in_decibel(values) else "stretch"
    low, high = _range(values, kind, family, percentiles)
    chosen_bands = None if bands is None else tuple(int(band) for band in bands)
    grey = any(probe.grey for probe in chosen)
    radiometry = Radiometry(kind, low, high, family, grey, chosen_bands, sensor)
    return Fit(radiometry, tuple(sorted(unfit, key=lambda s: str(s.path))))


def _in_decibel(values: np.ndarray) -> bool:
    """True when SAR values are in dB already: an amplitude is never negative."""
    return bool(values.size and (values < 0).mean() > _NEGATIVE_SHARE)


def _drop_other_scale(samples: list[tuple[Path, np.ndarray]], family: str, unfit: list[Skipped]) -> None:
    """Of SAR images in dB and images of amplitudes keep the kind that is in the majority."""
    if family == "uint8":
        return
    in_decibel = [_in_decibel(values) for _, values in samples]
    common = 2 * sum(in_decibel) > len(samples)
    names = {True: "in dB", False: "amplitudes"}
    for (path, _), scale in zip(list(samples), in_decibel, strict=True):
        if scale != common:
            unfit.append(
                Skipped(path, "mixed", f"{path} is {names[scale]}, the data set {names[common]}: process it as another run.")
            )
    samples[:] = [sample for sample, scale in zip(samples, in_decibel, strict=True) if scale == common]


def _range(
    values: np.ndarray, kind: str, family: str, percentiles: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`low` and `high` of each channel of (n, C) values; low < high always."""
    low, high = [], []
    for channel in range(values.shape[1]):
        column = values[:, channel].astype(np.float64)
        if kind == "decibel":
            column = column[column > 0]
            _decibel(column)
        first, last = np.percentile(column, percentiles) if column.size else (0.0, 1.0)
        low.append(float(first))
        high.append(float(last) if last > first else float(first) + 1.0)
    if family == "uint8" and max(high) - min(low) >= _FULL_RANGE:
        return (0.0,) * len(low), (255.0,) * len(high)
    return tuple(low), tuple(high)
