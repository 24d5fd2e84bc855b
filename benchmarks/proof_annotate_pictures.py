"""Pictures of automatic labels beside the truth, from the best to the worst by their score, for `proof_annotate.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.grid import Window
from terralabel.core.quality import Verdicts
from terralabel.export.picture import display_rgb, fit, overlay, panels, save_picture, text_strip
from terralabel.imagery.datasets import read_label
from terralabel.recipes.experiment.protocol import Protocol
from terralabel.recipes.ingest import load_radiometry

__all__ = ["draw_labels"]

#: Images shown, and their longer side in the picture, pixels.
_SHOWN, _SIDE = 5, 260


def draw_labels(protocol: Protocol, true: Sequence[float | None], final: Path) -> Path:
    """`final`: images of B, spread evenly from the best to the worst score, each with its truth and its automatic label.

    `true`: the true IoU of every verdict of the protocol, None where there is no truth.
    """
    run, verdicts = protocol.run, protocol.verdicts
    radiometry, whole = load_radiometry(run.folder), protocol.labelled
    items = {str(item.image): item for item in protocol.rest.images}
    source = {scene.key: scene.source for scene in run.scenes}
    rows = []
    for key in _spread(verdicts):
        item = items[source[key]]
        with radiometry.open(item.image) as raster:
            pixels = display_rgb(radiometry.apply(*raster.read(Window(0, 0, raster.width, raster.height))))
        labels = [read_label(whole, item), read_label(whole, replace(item, label=run.label_path(key)))]
        shown = [pixels, *(overlay(pixels, ids, _objects(protocol)) for ids in labels)]
        rows.append(
            [_captioned(fit(p, _SIDE), text) for p, text in zip(shown, (key, "", _said(verdicts, true, key)), strict=True)]
        )
    return save_picture(final, panels(rows, ["image", "truth", "automatic label"], _objects(protocol)))


def _spread(verdicts: Verdicts) -> list[str]:
    """Scenes from the best to the worst mean score."""
    scores = {
        key: np.mean([verdicts.quality[k] for k in range(len(verdicts)) if verdicts.scene[k] == key]) for key in verdicts.scene
    }
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return [order[i] for i in dict.fromkeys(np.linspace(0, len(order) - 1, _SHOWN).round().astype(int).tolist())]


def _objects(protocol: Protocol) -> Classes:
    """The classes that are painted: all but the background."""
    return Classes(tuple(entry for entry in protocol.labelled.classes if entry.id != protocol.background))


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    return np.concatenate([picture, text_strip(text, picture.shape[1], 11)])


def _said(verdicts: Verdicts, true: Sequence[float | None], key: str) -> str:
    """What was thought of an image, its classes' means, and what is so."""
    mine = [k for k in range(len(verdicts)) if verdicts.scene[k] == key]
    known = [true[k] for k in mine if true[k] is not None]
    decisions = "/".join(dict.fromkeys(verdicts.decision[k] for k in mine))
    is_so = f"{np.mean(known):.2f}" if known else "?"
    return f"{decisions}: {np.mean([verdicts.quality[k] for k in mine]):.2f} expected, {is_so} true"
