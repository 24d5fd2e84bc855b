"""The report's section on the quality of labels: what was decided and why, how far scores can be trusted, and the worst of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.grid import Window
from terralabel.core.quality import DECISIONS, EMPTY, Verdicts
from terralabel.errors import TerraLabelError
from terralabel.export import picture
from terralabel.export.cards import view
from terralabel.export.features import read_labels
from terralabel.export.markup import ImageBudget, bar, number, percent, table, text
from terralabel.export.specimens import ReportView
from terralabel.export.verdicts import unit_mask

__all__ = ["QualityPage", "quality_section"]

_SIDE, _WORST, _ROWS = 420, 12, 100
_NAMES = {"accept": "accepted", "review": "to be reviewed", "reject": "rejected"}
_OUTLINE = (255, 200, 0)


@dataclass(frozen=True)
class QualityPage:
    """What the section shows: verdicts, sentences on judge and gate, and pictures (caption, PNG file) of how it does on known labels."""

    verdicts: Verdicts
    lines: Sequence[str]
    pictures: Sequence[tuple[str, Path]] = ()


def quality_section(run: ReportView, page: QualityPage, budget: ImageBudget) -> str:
    """HTML of the section."""
    verdicts = page.verdicts
    counts, total = verdicts.counts, len(verdicts)
    figures = "".join(
        f'<div class="figure"><b>{number(counts[name])}</b><span>{_NAMES[name]}, {percent(counts[name], total)}</span></div>'
        for name in DECISIONS
    )
    lines = "".join(f"<p class=soft>{text(line, 600)}</p>" for line in page.lines)
    out = f'<div class="figures">{figures}</div>{lines}' + _diagrams(page, budget) + _class_table(run, verdicts)
    return out + _reason_table(verdicts) + _worst(run, verdicts, budget)


def _diagrams(page: QualityPage, budget: ImageBudget) -> str:
    tags = []
    for caption, path in page.pictures:
        image = cv2.imread(str(path))
        if image is not None and (uri := budget.uri(picture.encode_jpeg(image[..., ::-1], 90))):
            size = f"width={image.shape[1]} height={image.shape[0]}"
            tags.append(f'<img src="{uri}" {size} alt="{text(caption)}">')
    if not tags:
        return ""
    about = "On labels with truth that the judge had not seen"
    return f"<figure class=pair><figcaption>{about}</figcaption><div>{''.join(tags)}</div></figure>"


def _class_table(run: ReportView, verdicts: Verdicts) -> str:
    names = {**{entry.id: entry.name for entry in run.classes}, EMPTY: "nothing labelled"}
    rows = []
    for class_id in np.unique(verdicts.units.class_id).tolist():
        part = verdicts.take(np.flatnonzero(verdicts.units.class_id == class_id))
        known = part.quality[np.isfinite(part.quality)]
        mean = float(known.mean()) if len(known) else float("nan")
        shown = [number(part.counts[name]) for name in DECISIONS]
        rows.append([f"<bdi>{text(names.get(class_id, class_id), 120)}</bdi>", f"{bar(mean)} {number(mean)}", *shown])
    return table(
        ["Class", "Expected IoU, mean", *(_NAMES[n].capitalize() for n in DECISIONS)], rows, numeric=(2, 3, 4), limit=_ROWS
    )


def _reason_table(verdicts: Verdicts) -> str:
    found = Counter(reason for text_ in verdicts.reasons if text_ for reason in text_.split("; "))
    rows = [[text(reason, 160), number(n)] for reason, n in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    return "<h4>Why labels are doubted</h4>" + table(["Reason", "Labels"], rows, numeric=(1,), limit=_ROWS) if rows else ""


def _worst(run: ReportView, verdicts: Verdicts, budget: ImageBudget) -> str:
    """The worst labels as pairs of image and outline; those that were accepted are no example of it."""
    doubted = verdicts.take(
        np.array([i for i in verdicts.worst_first.tolist() if verdicts.decision[i] != "accept"], dtype=np.int64)
    )
    figures = []
    for row in range(min(len(doubted), _WORST)):
        try:
            figures.append(_pair(run, doubted, row, budget))
        except TerraLabelError as error:  # an image or a label that has gone since
            budget.unreadable.append(str(error))
    return f"<h4>The worst</h4><div class=pairs>{''.join(figures)}</div>" if any(figures) else ""


def _pair(run: ReportView, verdicts: Verdicts, row: int, budget: ImageBudget) -> str:
    scene = next(s for s in run.scenes if s.key == verdicts.scene[row])
    window, box = Window(*verdicts.window[row].tolist()), Window(*verdicts.units.box[row].tolist())
    class_id, component = int(verdicts.units.class_id[row]), int(verdicts.units.component[row])
    image = view(run, scene, window, _SIDE)
    mask = np.zeros((window.height, window.width), dtype=np.uint8)
    if class_id != EMPTY:
        labels = read_labels(run.label_path(scene.key), box)
        mask[box.relative_to(window).slices()] = unit_mask(labels, class_id, component)
    small = cv2.resize(mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST) > 0
    uris = [budget.uri(picture.encode_jpeg(side, 80)) for side in (image, picture.draw_outline(image, small, _OUTLINE))]
    if None in uris:
        return ""
    names = {**{entry.id: entry.name for entry in run.classes}, EMPTY: "nothing labelled"}
    size = f"width={image.shape[1]} height={image.shape[0]}"
    tags = "".join(f'<img src="{uri}" {size} alt="{alt}">' for uri, alt in zip(uris, ("image", "label"), strict=True))
    caption = (
        f"<b>{number(float(verdicts.quality[row]))}</b> · <bdi>{text(names.get(class_id, class_id), 60)}</bdi> in"
        f" <bdi>{text(scene.stem, 100)}</bdi> · {_NAMES[verdicts.decision[row]]}: {text(verdicts.reasons[row])}"
    )
    return f"<figure class=pair><figcaption>{caption}</figcaption><div>{tags}</div></figure>"
