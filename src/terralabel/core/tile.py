"""One window of imagery, with its place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from terralabel.core.georeference import Georeference
from terralabel.core.grid import TilePlan, Window
from terralabel.errors import ContractError, SettingsError

__all__ = ["Tile"]


@dataclass(frozen=True)
class Tile:
    """Pixels of one window after the data set's radiometry, and where they lie.

    `pixels` is (H, W, C) uint8, C >= 1: the percentile stretch (or dB stretch for SAR) has been applied;
    where C == 3 and the sensor is optical the order is red, green, blue.
    `valid` is (H, W) bool; pixels outside it are 0 and mean nothing.
    `georeference` is that of the window, not of the scene.
    """

    plan: TilePlan
    pixels: np.ndarray
    valid: np.ndarray
    georeference: Georeference = field(default_factory=Georeference)
    sensor: str = "optical"

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.dtype != np.uint8:
            raise ContractError(f"Tile.pixels: expected (H, W, C) uint8, got {self.pixels.shape} {self.pixels.dtype}.")
        if self.valid.shape != self.pixels.shape[:2] or self.valid.dtype != bool:
            raise ContractError(
                f"Tile.valid: expected {self.pixels.shape[:2]} bool, got {self.valid.shape} {self.valid.dtype}."
            )
        window = self.plan.window
        if (window.height, window.width) != self.pixels.shape[:2]:
            raise ContractError(f"Tile.plan: window is {window.height} x {window.width}, pixels are {self.pixels.shape[:2]}.")

    @property
    def key(self) -> str:
        """The plan's key: unique in a run, sorts in processing order."""
        return self.plan.key

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def rgb(self, instead: str) -> np.ndarray:
        """(H, W, 3) uint8 for a network that knows colour pictures: one band three times, or the first three of an optical tile.

        Raises `SettingsError` for two bands and for several of SAR; `instead` is the setting that takes them, for the message.
        """
        bands = self.pixels.shape[2]
        if bands == 1:
            return np.repeat(self.pixels, 3, axis=2)
        if self.sensor == "sar":
            raise SettingsError(
                f"SAR with {bands} bands: this encoder knows colour pictures; choose one band with --bands, or {instead}."
            )
        if bands == 2:
            raise SettingsError("2 bands: this encoder takes one or three; choose with --bands.")
        return self.pixels[:, :, :3]

    @classmethod
    def from_array(
        cls, pixels: np.ndarray, valid: np.ndarray | None = None, *, key: str = "array", sensor: str = "optical"
    ) -> Tile:
        """A tile around a bare (H, W) or (H, W, C) uint8 array: for notebooks, tests and prompts."""
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        window = Window(0, 0, pixels.shape[1], pixels.shape[0])
        valid = np.ones(pixels.shape[:2], dtype=bool) if valid is None else valid
        return cls(TilePlan(f"{key}:00000:00000", key, 0, 0, window, window), pixels, valid, Georeference(), sensor)
