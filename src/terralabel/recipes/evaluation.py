"""Labels of a run, or of a folder, against truth."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from terralabel.core.classes import IGNORE, Classes
from terralabel.evaluate.labels import LabelReport, evaluate_folders, evaluate_pairs
from terralabel.evaluate.pairing import paired_stems
from terralabel.evaluate.segmentation import SegmentationReport, evaluate_predictions
from terralabel.recipes.reviewed import settled
from terralabel.recipes.run import Run, open_run, require_finished
from terralabel.runs.folder import RunFolder

__all__ = ["evaluate_labels", "evaluate_segmentation", "evaluation_text", "truth_pairs"]


def evaluate_labels(
    source: str | Path | Run, truth: str | Path, *, ignore: Collection[int] = (IGNORE,), match: str = "majority"
) -> LabelReport:
    """Measure the labels of a run, or the class-id masks of a folder, against true masks of equal stems.

    ignore: true ids that do not count. match: "majority", "hungarian" or "none" (ids are classes already). Raises
    `InputError` for masks that cannot be compared, `RunError` for a run that is not finished.

        >>> import terralabel as tl
        >>> scores = tl.evaluate_labels("run", "truth", match="hungarian")
        >>> scores.write_json("scores.json")
    """
    if not isinstance(source, Run) and not RunFolder(source).exists:
        return evaluate_folders(source, truth, ignore=ignore, match=match)
    run = source if isinstance(source, Run) else open_run(source)
    require_finished(run, "evaluate")
    settled(run)
    pairs, only_predicted, only_true = truth_pairs(run, Path(truth))
    names = {entry.id: entry.name for entry in run.classes}
    report = evaluate_pairs(pairs, ignore=ignore, match=match, names=names if match == "none" else None)
    return replace(report, only_predicted=tuple(only_predicted), only_true=tuple(only_true))


def truth_pairs(run: Run, truth: Path) -> tuple[list[tuple[Path, Path]], list[str], list[str]]:
    """(label raster, true mask) of the scenes that have one; stems without a partner on either side."""
    stems: dict[str, Path] = {}
    for scene in run.scenes:
        name = f"{scene.split}/{scene.stem}" if scene.split else scene.stem
        stems[name if name not in stems else scene.key] = run.label_path(scene.key)
    return paired_stems(stems, truth, str(run.path))


def evaluation_text(
    source: Path, truth: Path, *, ignore: Collection[int], match: str, json_path: Path | None, picture: Path | None
) -> str:
    """What `terralabel evaluate labels` prints, after writing what it was asked to write."""
    report = evaluate_labels(source, truth, ignore=ignore, match=match)
    if json_path is not None:
        report.write_json(json_path)
    if picture is not None:
        from terralabel.evaluate.picture import confusion_picture

        confusion_picture(report, picture)
    return report.to_text()


def evaluate_segmentation(
    prediction: str | Path,
    truth: str | Path,
    *,
    ignore: Collection[int] = (IGNORE,),
    background: int | None = None,
    with_background: bool = True,
    absent: str = "left-out",
    threshold: int | None = None,
) -> SegmentationReport:
    """Measure the predictions of a network (what `predict` left, or any folder of class-id masks) against truth.

    ignore: true ids that do not count. background: the id of the background class, if there is one; with_background False
    leaves it out of the means. absent: "left-out" or "zero", for classes that neither side has. threshold: the truth is a grey
    mask, class 1 where it is at least that, else 0. The report names its convention. Raises `InputError` for masks that cannot
    be compared.

        >>> import terralabel as tl
        >>> report = tl.evaluate_segmentation("truth", "truth", background=1, with_background=False)
        >>> report.miou
        1.0
        >>> report.convention.split("; ")[1]
        'background (1) left out'
    """
    folder = Path(prediction)
    labels = folder / "labels" if (folder / "labels").is_dir() else folder
    found = folder / "classes.json"
    classes = Classes.from_json(found.read_text(encoding="utf-8")) if found.is_file() else None
    return evaluate_predictions(
        labels,
        Path(truth),
        classes=classes,
        ignore=ignore,
        background=background,
        with_background=with_background,
        absent=absent,
        threshold=threshold,
    )
