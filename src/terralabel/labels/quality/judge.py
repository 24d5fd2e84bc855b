"""The judge: predicts the IoU of labels without truth, fitted on those that have one; a file of plain numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terralabel.core.quality import Signals
from terralabel.errors import ContractError, InputError
from terralabel.labels.quality.model import FEWEST, FEWEST_PICTURES, Model, fit_model, rank_agreement, rules_model
from terralabel.labels.quality.signals import SIGNALS
from terralabel.labels.quality.units import UNITS

__all__ = ["Judge", "fit_judge", "rules_judge"]

_FORMAT = 1
#: A signal that fewer of the fitted rows know is left out.
_KNOWN_SHARE = 0.5
#: Kinds that a label may come without, in the order in which models do without them.
_WITHOUT: tuple[frozenset[str], ...] = (
    frozenset(),
    frozenset({"pixels"}),
    frozenset({"views", "sides"}),
    frozenset({"views", "sides", "pixels"}),
    frozenset({"views", "sides", "outline", "inside"}),
    frozenset({"views", "sides", "outline", "inside", "pixels"}),
)
_KIND = {signal.name: signal.kind for signal in SIGNALS}


@dataclass(frozen=True)
class Judge:
    """Expected IoU of labels: `models`, best informed first; each row goes to the first that has what it needs.

    `units`: what was judged, one of `UNITS`. `empty`: (number, those that were right) of pictures without any object.
    `note`: a sentence on what it was fitted on, or why it was not. Made by `fit_judge`, `rules_judge`, `from_json`.
    """

    units: str
    models: tuple[Model, ...]
    empty: tuple[int, int] = (0, 0)
    note: str = ""
    name: str = "judge"

    @property
    def version(self) -> str:
        """sha256 of the judge as it is stored: another one may give other scores."""
        return hashlib.sha256(_canonical(self._content()).encode()).hexdigest()

    @property
    def fitted(self) -> bool:
        """False where no label had truth, or too few: scores are an order and no promise."""
        _, true, picture = self.models[0].held_out
        return self.models[0].calibration is not None and _enough(len(true), len(set(picture)))

    @property
    def knows(self) -> bool:
        """Whether it surely told better labels from worse on pictures that it had not seen; if not, scores are an order at best."""
        return self.fitted and rank_agreement(*self.models[0].held_out).surely

    def predict(self, signals: Signals) -> np.ndarray:
        """(n,) float32 in [0, 1]: the IoU that is expected of each unit; NaN where nothing is known of it."""
        out = np.full(len(signals), np.nan)
        for model, rows in self._shared(signals):
            out[rows] = model.predict(model.columns(signals)[rows])
        empty = signals.units.empty
        out[empty] = self._of_empty(signals.take(empty))
        return out.astype(np.float32)

    def gains(self, signals: Signals) -> dict[str, np.ndarray]:
        """Kind of signal -> (n,) float64: how much better the label would look with that kind as of good labels."""
        found: dict[str, np.ndarray] = {}
        for model, rows in self._shared(signals):
            for kind, gain in model.gains(model.columns(signals)[rows]).items():
                found.setdefault(kind, np.zeros(len(signals)))[rows] = gain
        return found

    def held_out(self, signals: Signals | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(predictions, true IoU, picture) (n,) of fitted pictures as if unseen: by the model that most of `signals` go to."""
        model = self.models[0]
        if signals is not None and len(signals):
            counts = [(int(rows.sum()), -i) for i, (_, rows) in enumerate(self._shared(signals))]
            model = self.models[-max(counts)[1]]
        scores, true, picture = model.held_out
        return np.array(scores), np.array(true), np.array(picture, dtype=np.int64)

    def _shared(self, signals: Signals) -> list[tuple[Model, np.ndarray]]:
        """Each model and the rows (bool) that are its own."""
        left, out = ~signals.units.empty, []
        for index, model in enumerate(self.models):
            rows = left if index == len(self.models) - 1 else left & model.serves(signals)
            left = left & ~rows
            out.append((model, rows))
        return out

    def _of_empty(self, signals: Signals) -> np.ndarray:
        """How probably there is nothing: what speaks for it here, times how often that was right among the fitted."""
        against = np.column_stack(
            [1 - signals[n] for n in ("strongest", "learned_share")] + [signals["views"], signals["sides"]]
        )
        known = np.isfinite(against)
        rules = np.where(known, against, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        rules = np.where(known.any(axis=1), rules, 0.5)
        count, right = self.empty
        return rules * (right + 1) / (count + 2)  # Laplace's rule of succession

    def _content(self) -> dict[str, Any]:
        return {
            "terralabel": "judge",
            "format": _FORMAT,
            "units": self.units,
            "note": self.note,
            "empty": list(self.empty),
            "models": [model.to_dict() for model in self.models],
        }

    def to_json(self) -> str:
        """One JSON object with its own sha256; `from_json` gives an equal judge back, and equal bytes."""
        return _canonical({**self._content(), "sha256": self.version}) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "The judge") -> Judge:
        """Read what `to_json` wrote; `InputError` for anything else, or numbers that were changed."""
        try:
            data = json.loads(text)
            if data["terralabel"] != "judge" or data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']} of {data['terralabel']!r}")
            if data["units"] not in UNITS or not data["models"]:
                raise ValueError(f"units {data['units']!r}, {len(data['models'])} models")
            count, right = data["empty"]
            models = tuple(Model.from_dict(model) for model in data["models"])
            judge = cls(str(data["units"]), models, (int(count), int(right)), str(data["note"]))
            stored = str(data["sha256"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{where} is no judge of this TerraLabel ({error}): make one with `quality fit`.", "not-a-judge"
            ) from error
        unknown = sorted({name for model in models for name in model.names} - set(_KIND))
        if unknown:
            raise InputError(
                f"{where} asks for the signal {unknown[0]!r}, which this TerraLabel does not know: update it.", "newer"
            )
        if judge.version != stored:
            raise InputError(f"{where} is damaged (its sha256 does not fit): fit it again.", "damaged")
        return judge


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def rules_judge(units: str = "class", note: str = "no label had truth to learn from: rules only, scores are an order") -> Judge:
    """The judge when there is nothing to fit it on."""
    return Judge(units, (rules_model(tuple(s.name for s in SIGNALS if s.kind != "empty")),), note=note)


def fit_judge(
    signals: Signals, true_iou: np.ndarray, groups: Sequence[str] | np.ndarray, *, units: str = "class", seed: int = 0
) -> Judge:
    """A judge from units whose true IoU is known ((n,) float; NaN rows are left out); `groups`: the picture of each.

    Predictions of a network must be of pictures it did not train on (out of fold), or it will be trusted too much. Fewer than
    6 units or 4 pictures only tell how good labels are as a whole. `note` says so, and whether the judge knows better labels from
    worse on pictures that it has not seen. Same input, same bytes.
    """
    true, groups = np.asarray(true_iou, dtype=np.float64), np.asarray(groups)
    if len(true) != len(signals) or len(groups) != len(signals):
        raise ContractError(f"fit_judge: {len(signals)} rows of signals, {len(true)} true values, {len(groups)} groups.")
    empty, known = signals.units.empty, np.isfinite(true)
    of_empty = true[empty & known]
    counted = (len(of_empty), int((of_empty > 0.5).sum()))
    rows = np.flatnonzero(known & ~empty)
    pictures = len(np.unique(groups[rows]))
    have = f"{len(rows)} labels with truth in {pictures} pictures"
    if not len(rows):
        return Judge(units, rules_judge(units).models, counted, f"{have}: {_TOO_FEW}")
    mine = signals.take(rows)
    models = tuple(fit_model(mine, names, true[rows], groups[rows], seed) for names in _families(mine))
    if not _enough(len(rows), pictures):
        return Judge(units, models, counted, f"{have}, mean IoU {true[rows].mean():.3f}: {_TOO_FEW}")
    note = f"fitted on {len(rows)} labels of {pictures} pictures ({models[0].form}), mean IoU {true[rows].mean():.3f}"
    return Judge(units, models, counted, f"{note}; {_worth(models[0])}")


_TOO_FEW = f"too few to know good labels from bad (from {FEWEST} in {FEWEST_PICTURES} on): rules, whose scores are an order, no promise"


def _enough(labels: int, pictures: int) -> bool:
    return labels >= FEWEST and pictures >= FEWEST_PICTURES


def _worth(model: Model) -> str:
    """What the scores of a fitted model are worth, by those of pictures that it had not seen."""
    found = rank_agreement(*model.held_out)
    scores, true, _ = (np.array(column) for column in model.held_out)
    if found.surely:
        return f"off by {np.abs(scores - true).mean():.2f} on average on pictures not seen"
    return (
        f"does not know good labels from bad: on pictures not seen the rank correlation is {found.correlation:.2f}, {found.asked:.2f} is"
        " asked for; scores are an order at best, no promise"
    )


def _families(signals: Signals) -> list[tuple[str, ...]]:
    """The sets of signals that models are fitted for: all that are known, then without those that labels may lack."""
    share = np.isfinite(signals.values).mean(axis=0)
    known = [name for name, part in zip(signals.names, share, strict=True) if part >= _KNOWN_SHARE and _KIND[name] != "empty"]
    found = [tuple(name for name in known if _KIND[name] not in without) for without in _WITHOUT]
    return [names for names in dict.fromkeys(found) if names]
