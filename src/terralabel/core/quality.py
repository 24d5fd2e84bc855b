"""What is judged of automatic labels, and what was found: columns that labels, exports and runs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terralabel.errors import ContractError

__all__ = ["DECISIONS", "EMPTY", "Signals", "Units", "Verdicts"]

#: What a gate says of a unit: use it, let a person look, leave it out.
DECISIONS = ("accept", "review", "reject")
#: The class id of the unit that a picture without any labelled object is.
EMPTY = -1


def _check(name: str, column: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if column.shape != shape or column.dtype != dtype:
        raise ContractError(f"{name}: expected {shape} {np.dtype(dtype)}, got {column.shape} {column.dtype}.")


@dataclass(frozen=True)
class Units:
    """`n` units of one or more pictures, each of which gets one score.

    class_id    (n,) int32; `EMPTY` for a picture that has no labelled object at all
    component   (n,) int32; 0: all pixels of the class in the picture, k >= 1: its k-th object (connected component)
    box         (n, 4) int64 xywh, tight, in picture or scene pixels; the whole picture for an empty one
    area        (n,) int64 pixels; 0 for an empty picture
    """

    class_id: np.ndarray
    component: np.ndarray
    box: np.ndarray
    area: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.class_id)
        _check("Units.class_id", self.class_id, (n,), np.int32)
        _check("Units.component", self.component, (n,), np.int32)
        _check("Units.box", self.box, (n, 4), np.int64)
        _check("Units.area", self.area, (n,), np.int64)

    def __len__(self) -> int:
        return len(self.class_id)

    @property
    def empty(self) -> np.ndarray:
        """(n,) bool: pictures without any labelled object."""
        return self.class_id == EMPTY

    def take(self, which: np.ndarray) -> Units:
        """The units at `which` (indices or bool), in that order."""
        return Units(self.class_id[which], self.component[which], self.box[which], self.area[which])

    def moved(self, x: int, y: int) -> Units:
        """The same units in a frame whose origin lies at (-x, -y) of this one."""
        return Units(self.class_id, self.component, self.box + np.array([x, y, 0, 0], dtype=np.int64), self.area)

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, int, tuple[int, int, int, int], int]]) -> Units:
        """From (class id, component, box, area) rows; none is fine."""
        return cls(
            np.array([row[0] for row in rows], dtype=np.int32),
            np.array([row[1] for row in rows], dtype=np.int32),
            np.array([row[2] for row in rows], dtype=np.int64).reshape(-1, 4),
            np.array([row[3] for row in rows], dtype=np.int64),
        )

    @classmethod
    def join(cls, parts: Sequence[Units]) -> Units:
        """One after the other."""
        parts = [*parts, cls.of_rows([])]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("class_id", "component", "box", "area")))


@dataclass(frozen=True)
class Signals:
    """`n` rows of signals: names (s of them), values (n, s) float32 with NaN for what is not known, and the units."""

    names: tuple[str, ...]
    values: np.ndarray
    units: Units

    def __post_init__(self) -> None:
        expected = (len(self.units), len(self.names))
        if self.values.shape != expected or self.values.dtype != np.float32:
            raise ContractError(f"Signals.values: expected {expected} float32, got {self.values.shape} {self.values.dtype}.")

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, name: str) -> np.ndarray:
        """(n,) float32 of one signal."""
        return self.values[:, self.names.index(name)]

    def take(self, which: np.ndarray) -> Signals:
        """The rows at `which` (indices or bool), in that order."""
        return Signals(self.names, self.values[which], self.units.take(which))

    @classmethod
    def join(cls, parts: Sequence[Signals]) -> Signals:
        """One after the other; all have the same names."""
        names = parts[0].names if parts else ()
        if any(part.names != names for part in parts):
            raise ContractError("Signals.join: the parts have different signals.")
        values = np.concatenate([np.zeros((0, len(names)), np.float32), *(part.values for part in parts)])
        return cls(names, values, Units.join([part.units for part in parts]))


@dataclass(frozen=True)
class Verdicts:
    """`n` judged units of the scenes of a run, in the order they were found.

    scene       n scene keys
    window      (n, 4) int64 xywh, scene pixels: the picture (a tile, or a whole small scene) in which the unit lies
    units       boxes in scene pixels
    quality     (n,) float32 in [0, 1]: the IoU that is expected of the unit; NaN where nothing is known
    decision    n of `DECISIONS`
    reasons     n sentences, several joined by "; ", empty where there is nothing to say
    """

    scene: tuple[str, ...]
    window: np.ndarray
    units: Units
    quality: np.ndarray
    decision: tuple[str, ...]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.units)
        _check("Verdicts.window", self.window, (n, 4), np.int64)
        _check("Verdicts.quality", self.quality, (n,), np.float32)
        for name in ("scene", "decision", "reasons"):
            if len(getattr(self, name)) != n:
                raise ContractError(f"Verdicts.{name}: expected {n} entries, got {len(getattr(self, name))}.")
        unknown = sorted(set(self.decision) - set(DECISIONS))
        if unknown:
            raise ContractError(f"Verdicts.decision: expected {', '.join(DECISIONS)}; got {unknown[0]!r}.")

    def __len__(self) -> int:
        return len(self.units)

    def take(self, which: np.ndarray) -> Verdicts:
        """The verdicts at `which` (indices), in that order."""
        return Verdicts(
            tuple(self.scene[i] for i in which.tolist()),
            self.window[which],
            self.units.take(which),
            self.quality[which],
            tuple(self.decision[i] for i in which.tolist()),
            tuple(self.reasons[i] for i in which.tolist()),
        )

    @property
    def worst_first(self) -> np.ndarray:
        """(n,) positions by rising quality, those without one first; of equals the larger, then the one found first."""
        order = np.lexsort((np.arange(len(self)), -self.units.area, np.nan_to_num(self.quality, nan=-1.0)))
        return order.astype(np.int64)

    def decided(self, decision: str) -> Verdicts:
        """The verdicts of one decision, worst first."""
        order = self.worst_first
        return self.take(order[np.array([self.decision[i] == decision for i in order.tolist()], dtype=bool)])

    @property
    def counts(self) -> dict[str, int]:
        """Units by decision."""
        return {name: self.decision.count(name) for name in DECISIONS}

    @classmethod
    def join(cls, parts: Sequence[Verdicts]) -> Verdicts:
        """One after the other."""
        none = Units.join([])
        parts = [*parts, cls((), np.zeros((0, 4), np.int64), none, np.zeros(0, np.float32), (), ())]
        return cls(
            tuple(key for part in parts for key in part.scene),
            np.concatenate([part.window for part in parts]),
            Units.join([part.units for part in parts]),
            np.concatenate([part.quality for part in parts]),
            tuple(text for part in parts for text in part.decision),
            tuple(text for part in parts for text in part.reasons),
        )
