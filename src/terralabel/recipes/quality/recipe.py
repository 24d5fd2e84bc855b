"""Which labels to trust: fit a judge on labels that have truth, score labels of any origin, and sort them by a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.files import write_text
from terralabel.core.quality import Signals, Verdicts
from terralabel.errors import InputError, SettingsError
from terralabel.evaluate.calibration import QualityReport, quality_report, reliability_picture, risk_coverage_picture
from terralabel.labels.quality.gate import Gate, gate_for_promise, gate_for_share, parse_promise, parse_share
from terralabel.labels.quality.judge import Judge, fit_judge, rules_judge
from terralabel.labels.quality.reasons import reasons
from terralabel.recipes.foreign_labels import LabelReading
from terralabel.recipes.ingest import Failure
from terralabel.recipes.labels_run import LabelsRun
from terralabel.recipes.quality.measuring import Measured, labelled_scenes, measure, truth_of
from terralabel.recipes.quality.opening import opened_labels, reopened
from terralabel.recipes.quality.settings import QualitySettings
from terralabel.recipes.quality.store import label_hashes, load_signals, save_verdicts
from terralabel.recipes.run import Run, require_finished
from terralabel.runs.progress import Progress, Silent

__all__ = [
    "Fitted",
    "Scored",
    "gate_notes",
    "load_judge",
    "quality_fit",
    "quality_score",
    "save_judge",
    "set_gate",
    "verdicts_by",
]

#: Without promise or share, labels of at least this expected IoU are accepted.
_ACCEPT = 0.7
#: Where the judge does not know good labels from bad, this share of the labels is left to a person.
_REVIEW = 0.2
#: With fewer scenes, tiles count as pictures when a judge is tested on pictures that it did not see.
_FEW_SCENES = 10


@dataclass(frozen=True)
class Fitted:
    """A judge that was fitted; `report`: how well it predicts pictures that it did not see, None for rules alone."""

    path: Path
    judge: Judge
    report: QualityReport | None
    failures: tuple[Failure, ...]

    @property
    def text(self) -> str:
        """What the command prints at the end."""
        lines = [f"judge   {self.path}: {self.judge.note}"]
        if self.report is not None:
            lines += [f"  {line}" for line in self.report.to_text().splitlines()]
        return "\n".join([*lines, *_told(self.failures)])


@dataclass(frozen=True)
class Scored:
    """A run whose labels were judged; `failures` of this scoring."""

    run: Run | LabelsRun
    verdicts: Verdicts
    gate: Gate
    note: str
    failures: tuple[Failure, ...]

    @property
    def text(self) -> str:
        """What the command prints at the end."""
        counts, total = self.verdicts.counts, max(len(self.verdicts), 1)
        lines = [
            f"run     {self.run.path}",
            f"judge   {self.note}",
            f"gate    {self.gate.note}",
            *(f"{name:<7} {n:>7,}  {n / total:.0%}" for name, n in counts.items()),
        ]
        worst = self.verdicts.take(self.verdicts.worst_first[:3])
        lines += [
            f"worst   {key}, class {c}: expected IoU {q:.2f}{f', {why}' if why else ''}"
            for key, c, q, why in zip(
                worst.scene, worst.units.class_id.tolist(), worst.quality.tolist(), worst.reasons, strict=True
            )
        ]
        lines.append(
            f"next    terralabel export {self.run.path} --format geopackage --out DIR · terralabel report {self.run.path}"
        )
        return "\n".join([*lines, *_told(self.failures)])


def _told(failures: tuple[Failure, ...]) -> list[str]:
    lines = [f"failed  {' '.join(f.reason.split())} [{f.status}]" for f in failures[:10]]
    return lines + ([f"failed  ... and {len(failures) - 10:,} more"] if len(failures) > 10 else [])


def quality_fit(
    labels: str | Path,
    truth: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    reading: LabelReading | None = None,
    truth_reading: LabelReading | None = None,
    settings: QualitySettings | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> Fitted:
    """Fit a judge on labels some of which have truth, and write it, with the pictures of its reliability beside it.

    labels: a run, or a folder (or file) of class-id masks, with `images` if they lie elsewhere. truth: true masks of equal stems.
    The labels must not have been learned from this truth, or the judge will trust their like too much. `reading`,
    `truth_reading`: how masks are read (class map, values to ignore, threshold). `settings`, or its fields as `values`.
    Raises `InputError` for labels or truth that cannot be used. With too few labels the judge is a set of rules, and says so.

        >>> import terralabel as tl
        >>> fitted = tl.quality_fit("run", "truth", "judge.json", pixels=False)
        >>> fitted.judge.units
        'class'
    """
    settings, progress = settings or QualitySettings(**values), progress or Silent()
    with opened_labels(Path(labels), images, None, reading or LabelReading(), settings, progress) as run:
        found = measure(run, settings, progress, truth_of(run, Path(truth), truth_reading or reading or LabelReading()))
        failures = (*getattr(run, "failed_sources", ()), *found.failures)
    groups = found.scene
    if len(set(groups)) < _FEW_SCENES:  # a mosaic or two: their tiles are the witnesses
        groups = tuple(f"{key} {x} {y}" for key, (x, y, *_) in zip(found.scene, found.window.tolist(), strict=True))
    judge = fit_judge(found.signals, found.true, groups, units=settings.units, seed=settings.seed)
    report = save_judge(judge, Path(out), settings.reject)
    return Fitted(Path(out), judge, report, failures)


def save_judge(judge: Judge, path: Path, reject: float) -> QualityReport | None:
    """Write a judge, and `reliability.png` and `risk_coverage.png` beside it; returns how well it does on held-out pictures."""
    write_text(path, judge.to_json())
    if not judge.fitted:
        return None
    predicted, true, _ = judge.held_out()
    reliability_picture(path.with_name(f"{path.stem}_reliability.png"), predicted, true)
    risk_coverage_picture(path.with_name(f"{path.stem}_risk_coverage.png"), predicted, true)
    return quality_report(predicted, true, Gate(_ACCEPT, reject).decide(predicted))


def load_judge(path: str | Path) -> Judge:
    """The judge in a file, or in the folder of a model that `annotate fit` made; `InputError` when there is none."""
    path = Path(path)
    file = path / "judge.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"No judge at {file} ({error}): make one with `quality fit`.", "not-a-judge") from error
    return Judge.from_json(text, str(file))


def quality_score(
    labels: str | Path,
    out: str | Path | None = None,
    *,
    images: str | Path | None = None,
    judge: str | Path | Judge | None = None,
    promise: str | None = None,
    review: str | float | None = None,
    reading: LabelReading | None = None,
    settings: QualitySettings | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> Scored:
    """Score labels of any origin and decide on each: accept, review or reject; `export` and `report` show it.

    labels: a run, in which the verdicts are stored, or a folder (or file) of class-id masks, of which a run is made in `out`; `images` as
    in `quality_fit`. judge: a file of `quality_fit`, the folder of a model, or None for rules. promise: "mean IoU >= .85"; review: a share such as
    "20%"; neither: an expected IoU of .7. Labels that did not change are not measured again, so that a gate may be tried.
    Raises `SettingsError` for a promise that cannot be understood, or that rules alone cannot give.

        >>> import terralabel as tl
        >>> scored = tl.quality_score("run", review="20%", pixels=False)
        >>> sum(scored.verdicts.counts.values()) == len(scored.verdicts)
        True
    """
    settings, progress = settings or QualitySettings(**values), progress or Silent()
    used = judge if isinstance(judge, Judge) else rules_judge(settings.units) if judge is None else load_judge(judge)
    if used.units != settings.units:
        settings = replace(settings, units=used.units)
    _check_gate(used, promise, review)
    with opened_labels(Path(labels), images, out, reading or LabelReading(), settings, progress) as run:
        require_finished(run, "judge")
        with run.folder.lock(progress.say):
            found, notes = _measured(run, settings, progress)
            gate = set_gate(used, found.signals, promise=promise, review=review, reject=settings.reject)
            verdicts = verdicts_by(used, gate, found.scene, found.window, found.signals)
            save_verdicts(run.folder, verdicts, {**notes, **gate_notes(used, gate, found.signals)}, found.signals)
        run.folder.note_history({"verb": "quality score", "judge": used.version, "gate": gate.note, **verdicts.counts})
        failures = (*(run.failures if isinstance(run, LabelsRun) else ()), *found.failures)
        return Scored(reopened(run), verdicts, gate, used.note, failures)


def _check_gate(judge: Judge, promise: str | None, review: str | float | None) -> None:
    if promise is not None and review is not None:
        raise SettingsError("--promise and --review: give one of them, a gate is set by either.")
    if promise is not None:
        parse_promise(promise)
    if review is not None:
        parse_share(review)
    if promise is not None and not judge.fitted:
        raise SettingsError(
            f"--promise {promise!r}: needs a judge that was fitted on labels with truth ({judge.note}): make one with `quality fit`,"
            ' or let a person look at the worst: --review "20%".'
        )


def set_gate(
    judge: Judge,
    signals: Signals,
    *,
    promise: str | None = None,
    review: str | float | None = None,
    reject: float = 0.5,
) -> Gate:
    """The gate for these labels: by a promise (on the judge's held-out labels), by a share of these labels, or as it is by default."""
    reject = reject if judge.knows else 0.0  # of an order at best nothing is rejected by its value
    if promise is not None:
        predicted, true, pictures = judge.held_out(signals)
        return gate_for_promise(predicted, true, promise, pictures=pictures, reject=reject)
    if review is not None or not judge.knows:
        return gate_for_share(judge.predict(signals), _REVIEW if review is None else review, reject=reject)
    return Gate(_ACCEPT, min(reject, _ACCEPT), f"accepted from an expected IoU of {_ACCEPT:g}, rejected below {reject:g}")


def verdicts_by(judge: Judge, gate: Gate, scene: tuple[str, ...], window: np.ndarray, signals: Signals) -> Verdicts:
    """Quality, decision and reasons of every unit; `scene` n keys, `window` (n, 4) int64 xywh in scene pixels, boxes too."""
    quality = judge.predict(signals)
    decision = gate.decide(quality)
    return Verdicts(
        scene, window, signals.units, quality, decision, reasons(quality, decision, signals.units.empty, judge.gains(signals))
    )


def gate_notes(judge: Judge, gate: Gate, signals: Signals) -> dict[str, Any]:
    """What is stored beside verdicts, so that the report can tell how they came about."""
    predicted, true, _ = judge.held_out(signals)
    accept = gate.accept if np.isfinite(gate.accept) else None
    return {
        "judge": judge.version if judge.fitted else "rules",
        "judge_note": judge.note,
        "gate": {"accept": accept, "reject": gate.reject, "note": gate.note},
        "held_out": [predicted.tolist(), true.tolist()],
    }


def _measured(run: Run | LabelsRun, settings: QualitySettings, progress: Progress) -> tuple[Measured, dict[str, Any]]:
    """The signals of a run: those that are stored, where labels, images and settings are still the same; else measured."""
    hashes = label_hashes(labelled_scenes(run))
    wanted = {name: value for name, value in asdict(settings).items() if name != "reject"}
    notes: dict[str, Any] = {"labels": hashes, "images": {s.key: s.sha256 for s in run.scenes}, "measured": wanted}
    stored = load_signals(run.folder)
    if stored is not None and _same(stored[2], notes):
        verdicts, signals, before = stored
        progress.say("labels unchanged: signals as they were measured before")
        return Measured(verdicts.scene, verdicts.window, signals, np.full(len(signals), np.nan, np.float32), None), {
            **notes,
            "measured": before["measured"],
        }
    return measure(run, settings, progress), notes


def _same(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether stored signals are of these labels; those that a network left ("by") know more than could be measured here."""
    if before.get("labels") != now["labels"] or before.get("images", now["images"]) != now["images"] or "clusters" in before:
        return False
    measured = before.get("measured", {})
    if "by" in measured:
        return measured.get("units", "class") == now["measured"]["units"]
    return measured == now["measured"]
