"""Label rasters against true ones: match clusters to classes, count, measure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.errors import InputError
from terralabel.evaluate.boundary import BoundaryF
from terralabel.evaluate.confusion import Confusion, Contingency, matched
from terralabel.evaluate.pairing import few, paired
from terralabel.evaluate.rasters import LabelRaster, open_labels
from terralabel.evaluate.report import LabelReport, report_of

__all__ = ["LabelReport", "evaluate_folders", "evaluate_pairs"]

Progress = Callable[[int, int], None]


def evaluate_folders(
    prediction_dir: Path | str,
    truth_dir: Path | str,
    *,
    ignore: Collection[int] = (IGNORE,),
    match: str = "majority",
    tolerance: float = 3.0,
    known: Collection[int] | None = None,
    names: Mapping[int, str] | None = None,
    threshold: int | None = None,
    progress: Progress | None = None,
) -> LabelReport:
    """Compare the class-id masks (PNG or TIFF, one band) of two folders that have equal stems.

    ignore: true ids that do not count, besides 255 and the truth's declared nodata value. match: see `matched`.
    tolerance: of outlines, in pixels. known: the ids the truth may have besides the ignored; others are refused with
    their counts. names: class id -> name, for the tables. threshold: the truth is a grey mask, 1 where it is at least that, else 0.
    progress(done, total) counts images, twice each.
    Raises `InputError` when no stems are equal, sizes differ, or a file is not a class-id mask.
    """
    pairs, only_predicted, only_true = paired(Path(prediction_dir), Path(truth_dir))
    report = evaluate_pairs(
        pairs, ignore=ignore, match=match, tolerance=tolerance, known=known, names=names, threshold=threshold, progress=progress
    )
    return replace(report, only_predicted=tuple(only_predicted), only_true=tuple(only_true))


def evaluate_pairs(
    pairs: Collection[tuple[Path, Path]],
    *,
    ignore: Collection[int] = (IGNORE,),
    match: str = "majority",
    tolerance: float = 3.0,
    known: Collection[int] | None = None,
    names: Mapping[int, str] | None = None,
    threshold: int | None = None,
    progress: Progress | None = None,
) -> LabelReport:
    """Compare (predicted, true) mask files; two passes, as outlines are compared after the clusters are matched."""
    _check_sizes(pairs)
    tick = _ticker(progress, 2 * len(pairs))
    confusion = Confusion((*ignore, IGNORE))
    for predicted, true in pairs:
        for prediction, truth in _strips(predicted, true, threshold):
            confusion.add(prediction, truth)
        tick()
    table = confusion.contingency()
    _check_truth(table, confusion, known)
    meaning = matched(table, match)
    outlines = BoundaryF(table.true.tolist(), meaning, tolerance)
    for predicted, true in pairs:
        for prediction, truth in _strips(predicted, true, threshold):
            outlines.add(prediction, truth)
        outlines.end_image()
        tick()
    return replace(report_of(table, match, outlines, names), images=len(pairs), ignore=confusion.ignore)


def _strips(predicted: Path, true: Path, threshold: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Strips of both masks, nodata as 255."""
    with open_labels(predicted) as ours, open_labels(true) as theirs:
        for prediction, truth in zip(ours.strips(), theirs.strips(), strict=True):
            true_ids = _without_nodata(theirs, truth) if threshold is None else (truth >= threshold).astype(np.uint8)
            yield _without_nodata(ours, prediction), true_ids


def _without_nodata(raster: LabelRaster, ids: np.ndarray) -> np.ndarray:
    ids = raster.checked(ids)
    return ids if raster.nodata in (None, IGNORE) else np.where(ids == raster.nodata, IGNORE, ids)


def _check_sizes(pairs: Collection[tuple[Path, Path]]) -> None:
    """Open every file once, so that a wrong one is reported before the long passes."""
    wrong = []
    for predicted, true in pairs:
        with open_labels(predicted) as ours, open_labels(true) as theirs:
            if (ours.height, ours.width) != (theirs.height, theirs.width):
                wrong.append(f"{predicted.name} {ours.width} x {ours.height} against {theirs.width} x {theirs.height}")
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(pairs)} predicted masks have another size than the truth: {few(wrong)}. "
            "Expected equal width and height.",
            "wrong-size",
        )


def _check_truth(table: Contingency, confusion: Confusion, known: Collection[int] | None) -> None:
    if not table.pixels:
        raise InputError(
            f"No pixel of the truth has a class: all {table.ignored:,} are of ignored ids ({_ids(confusion.ignore)}).",
            "no-labels",
        )
    white = confusion.count_of_true(IGNORE)
    black = confusion.count_of_true(0)
    mostly = black + white > 0.5 * (table.pixels + table.ignored)
    if white and (table.true.tolist() == [0] or (len(table.true) > 100 and mostly)):
        raise InputError(
            f"The truth has {black:,} px of 0, {white:,} of 255 (which means 'no label') and {len(table.true)} classes in all: "
            "this looks like a yes/no mask. Write it as 0 and 1 (in doubt, 1 where it is 128 or more).",
            "yes-no-mask",
        )
    if known is not None:
        totals = dict(zip(table.true.tolist(), (table.counts.sum(axis=0) + table.unlabelled).tolist(), strict=True))
        unknown = [f"{c} ({totals[c]:,} px)" for c in totals if c not in set(known)]
        if unknown:
            raise InputError(
                f"The truth has unknown ids {few(unknown, 8)}; known are {_ids(known)}. Ignore them, or map them.",
                "unknown-ids",
            )


def _ids(ids: Iterable[int]) -> str:
    return few([str(i) for i in sorted(ids)], 12) or "none"


def _ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return tick
