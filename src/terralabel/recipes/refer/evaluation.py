"""`evaluate referring`: both stages on a set of texts with masks, or masks that somebody else made, against the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from terralabel.contracts import Locator
from terralabel.core.files import atomic_path
from terralabel.core.triplets import Triplet, TripletSet
from terralabel.errors import InputError, SettingsError
from terralabel.evaluate.referring import PUBLISHED_SIDE, ReferringReport, overlap
from terralabel.imagery.datasets.reading import stored_label
from terralabel.imagery.datasets.referring import open_referring
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.imagery.tiles import read_whole
from terralabel.masks.referred import referred_masks
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.refer.finding import make_locator
from terralabel.recipes.refer.settings import ReferSettings
from terralabel.runs.progress import Progress, Silent

__all__ = ["evaluate_referring"]

#: The locator that is told the true box: the second stage alone.
TRUTH = "truth"


def evaluate_referring(
    data: str | Path | TripletSet,
    *,
    split: str = "test",
    predictions: str | Path | None = None,
    out: str | Path | None = None,
    settings: ReferSettings | None = None,
    progress: Progress | None = None,
    **values: object,
) -> tuple[ReferringReport, ReferringReport]:
    """(figures at native size, figures at 480 px as published) over the texts of a split ("all": of all).

    `predictions`: a folder of masks KEY.png (not 0: meant) made elsewhere. Without it, the locator of the settings finds the surest box
    of each text and the promptable makes its mask; ``locator="truth"`` takes the set's own box. `out` keeps these masks, and an
    interrupted evaluation goes on there. A text without box or mask counts with IoU 0. Raises `InputError` for a set without masks or split.

        >>> import terralabel as tl
        >>> native, published = tl.evaluate_referring("texts", locator="truth", masks="tree")
        >>> published.side, 0 < native.miou <= 1
        (480, True)
    """
    progress = progress or Silent()
    settings = settings or ReferSettings(**values)  # type: ignore[arg-type]
    found = data if isinstance(data, TripletSet) else open_referring(data)
    for problem in found.problems:
        progress.say(f"left out: {problem}")
    items = found.split(split).items
    if found.mask is None or not items:
        splits = ", ".join(sorted({item.split or "(none)" for item in found.items}))
        raise InputError(
            f"{found.name}: nothing to evaluate: {'it has no masks' if found.mask is None else f'no split {split!r}; it has {splits}'}."
        )
    answer = _given(Path(predictions)) if predictions is not None else _made(found, settings, Path(out) if out else None)
    counts: dict[int, list[tuple[int, int]]] = {0: [], PUBLISHED_SIDE: []}
    progress.start("evaluate", len(items), "texts")
    for item in items:
        truth, mask = found.mask(item), answer(item)
        for side, column in counts.items():
            column.append(overlap(mask if mask is not None else np.zeros_like(truth), truth, side))
        progress.advance()
    progress.finish()
    keys = tuple(item.key for item in items)
    reports = []
    for side, column in counts.items():
        both = np.array(column, dtype=np.int64)  # (n, 2)
        reports.append(ReferringReport(keys, both[:, 0], both[:, 1], side))
    return reports[0], reports[1]


def _given(folder: Path) -> Callable[[Triplet], np.ndarray | None]:
    """Masks that somebody else made."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one mask KEY.png for each text.")

    def answer(item: Triplet) -> np.ndarray | None:
        path = folder / f"{item.key}.png"
        return stored_label(path)[0] > 0 if path.is_file() else None

    return answer


def _made(found: TripletSet, settings: ReferSettings, out: Path | None) -> Callable[[Triplet], np.ndarray | None]:
    """Masks by locator and promptable, kept in `out`."""
    if settings.locator in ("auto", "boxes"):
        raise SettingsError("Nothing says where things are: --locator truth (the set's own boxes), or a locator by name.")
    radiometry = fit_radiometry(sorted({item.image for item in found.items}), sensor=settings.sensor).radiometry
    promptable = make_promptable(settings.labelling)
    locator: Locator | None = None if settings.locator == TRUTH else make_locator(settings.locator, settings.device)

    def answer(item: Triplet) -> np.ndarray | None:
        kept = out / f"{item.key}.png" if out is not None else None
        if kept is not None and kept.is_file():
            return stored_label(kept)[0] > 0
        tile = read_whole(item.image, radiometry)
        boxes = np.array([item.xyxy], dtype=np.float32)
        if locator is not None:
            proposed, scores = locator.locate(tile, item.text)
            boxes = proposed[np.argsort(-scores, kind="stable")[:1]]
        mask = np.zeros(tile.size, dtype=bool)
        if len(boxes):
            mask = referred_masks(promptable, tile, boxes, point=settings.point, refine=settings.refine).masks.array(0)
        if kept is not None:
            with atomic_path(kept) as temporary:
                Path(temporary).write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())
        return mask

    return answer
