"""From what a model saw of a scene to labels, picture by picture, each with all that there is to judge it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.quality import Signals, Units
from terralabel.export.picture import display_rgb
from terralabel.labels.quality.evidence import Evidence
from terralabel.labels.quality.signals import no_signals, signals
from terralabel.labels.tidy import tidied
from terralabel.recipes.annotate.cut import weighted
from terralabel.recipes.annotate.views import Seen
from terralabel.runs.parts import read_part, write_part

__all__ = ["PICTURE", "Decided", "Labelling", "Signalled", "load_signalled"]

#: Labels are decided, tidied and judged in squares of this side; a small image is one picture.
PICTURE = 512

#: (window) -> pixels (h, w, C) uint8 after the radiometry, valid (h, w) bool.
Read = Callable[[Window], tuple[np.ndarray, np.ndarray]]
#: (window, probabilities (K, h, w), valid) -> probabilities (K, h, w): what else is known of a window; None: nothing.
Refine = Callable[[Window, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Decided:
    """One picture of a scene: its window, and its label with the evidence."""

    window: Window
    evidence: Evidence

    def labelled(self, label: np.ndarray) -> Decided:
        """The same picture with another label, (h, w) uint8 class ids, 255 where there is no image."""
        shown = np.where(self.evidence.valid, label, IGNORE).astype(np.uint8)
        return replace(self, evidence=replace(self.evidence, label=shown))


@dataclass(frozen=True)
class Labelling:
    """How probabilities become labels. `refine` is asked with `reach` pixels around every picture; `cut` are weights of the classes."""

    classes: Classes
    background: int | None
    specks: int
    refine: Refine | None = None
    reach: int = 0
    cut: tuple[float, ...] = ()

    @property
    def ids(self) -> np.ndarray:
        """(K,) uint8 ids in the order of the network's outputs."""
        return np.array([entry.id for entry in self.classes], dtype=np.uint8)

    def pictures(self, seen: Seen, read: Read, width: int, height: int) -> Iterator[Decided]:
        """Every picture of a scene, row by row. Each is decided with its surroundings, so that seams do not show."""
        halo = max(2 * self.specks, self.reach)
        for plan in plan_tiles("", width, height, PICTURE, 0):
            core = plan.core
            around = Window(core.x - halo, core.y - halo, core.width + 2 * halo, core.height + 2 * halo)
            around = around.intersect(Window(0, 0, width, height))
            yield Decided(core, self._evidence(seen, read, core, around))

    def _evidence(self, seen: Seen, read: Read, core: Window, around: Window) -> Evidence:
        channels, valid = seen.read(around)
        first, sides, turned = seen.layers.split(channels)
        first = weighted(first, self.cut)
        sides, turned = (tuple(weighted(layer, self.cut) for layer in layers) for layers in (sides, turned))
        if self.refine is not None:
            first = self.refine(around, first, valid)
        inner = core.relative_to(around).slices()
        label = tidied(self._hard(first, valid), self.specks, self.background)[inner]
        pixels, _ = read(core)
        image = display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels)
        views, coarse = (tuple(self._hard(layer, valid)[inner] for layer in layers) for layers in (turned, sides))
        shown = np.ascontiguousarray(first[(slice(None), *inner)])
        return Evidence(label, image, valid[inner], shown, tuple(self.ids.tolist()), views, coarse)

    def _hard(self, probabilities: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """(h, w) uint8 ids of the likeliest classes, 255 where there is no image."""
        return np.where(valid, self.ids[probabilities.argmax(axis=0)], IGNORE).astype(np.uint8)


@dataclass
class Signalled:
    """Signals of the labels of pictures, as they come: a picture's scene and window for every unit."""

    background: int | None
    units: str = "class"

    def __post_init__(self) -> None:
        self.scene: list[str] = []
        self.windows: list[tuple[int, int, int, int]] = []
        self.rows: list[Signals] = []

    def add(self, scene: str, picture: Decided) -> Signals:
        """Measure the units of one picture; their boxes are in scene pixels."""
        window = picture.window
        if not picture.evidence.valid.any():
            return no_signals()
        found = signals(picture.evidence, self.background, self.units)
        self._append(scene, [(window.x, window.y, window.width, window.height)] * len(found), found, window)
        return found

    def _append(self, scene: str, windows: list[Any], found: Signals, origin: Window) -> None:
        self.scene += [scene] * len(windows)
        self.windows += [tuple(int(v) for v in window) for window in windows]  # type: ignore[misc]
        self.rows.append(Signals(found.names, found.values, found.units.moved(origin.x, origin.y)))

    def join(self, other: Signalled) -> None:
        """Take over what another has."""
        self.scene += other.scene
        self.windows += other.windows
        self.rows += other.rows

    @property
    def signals(self) -> Signals:
        """All of them."""
        return Signals.join([no_signals(), *self.rows])

    @property
    def window(self) -> np.ndarray:
        """(n, 4) int64 xywh, scene pixels."""
        return np.array(self.windows, dtype=np.int64).reshape(-1, 4)

    def write(self, path: Path) -> None:
        """Store them as a part."""
        found = self.signals
        units = {"class_id": found.units.class_id, "component": found.units.component, "box": found.units.box}
        columns = {**units, "area": found.units.area, "window": self.window, "signals": found.values}
        write_part(path, {"scene": np.array(self.scene, dtype=str), **columns}, {"signals": list(found.names)})


def load_signalled(path: Path, background: int | None) -> Signalled:
    """What `Signalled.write` stored; `RunError` for a damaged part."""
    part = read_part(path)
    columns = {name: np.asarray(column) for name, column in part.columns.items()}
    units = Units(columns["class_id"], columns["component"], columns["box"].reshape(-1, 4), columns["area"])
    names = tuple(part.notes["signals"])
    found = Signalled(background)
    found.scene = columns["scene"].tolist()
    found.windows = [tuple(row) for row in columns["window"].reshape(-1, 4).tolist()]
    found.rows = [Signals(names, columns["signals"].reshape(len(units), len(names)), units)]
    return found
