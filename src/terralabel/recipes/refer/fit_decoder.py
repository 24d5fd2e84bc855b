"""`refer fit-decoder`: the mask decoder of a SAM or of `nano` fitted to a share of the true masks of a set.

After PSLG-SAM (arXiv 2506.10503), whose second stage gains most of what there is to gain from a tenth of the masks. Nothing but the
decoder changes; the file that comes out goes wherever `--masks` does.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terralabel.core.files import write_text
from terralabel.core.tile import Tile
from terralabel.errors import InputError, SettingsError
from terralabel.export.drawn import is_drawing
from terralabel.imagery.datasets.instances import MaskSet, MaskTile, open_masks
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.imagery.tiles import read_tile
from terralabel.recipes.drawn.labels import drawn_labels
from terralabel.recipes.networks import weights_of
from terralabel.recipes.training import needs_torch, own_folder
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.progress import Progress, Silent
from terralabel.train.referring.settings import DecoderSettings, stored

if TYPE_CHECKING:
    from terralabel.train.referring.decoders import DecoderPupil, Lesson

__all__ = ["FittedDecoder", "refer_fit_decoder"]

_FEATURES, _DRAWN = "features", "drawn"
#: What the folder may hold of its own, checkpoints apart.
_OWN = (
    "decoder.json",
    "resume.pt",
    "log.csv",
    "tensorboard",
    ".lock",
    "model.safetensors",
    "config.json",
    "nano.safetensors",
    _FEATURES,
    _DRAWN,
)
#: At most so many masks that were not learned from are answered before and after, to see what it brought.
_JUDGED = 200


@dataclass(frozen=True)
class FittedDecoder:
    """What `refer_fit_decoder` wrote: `file` is the whole network with its new decoder, `masks` what --masks is to be given for it.

    `learned` of `of` masks were learned from; `before` and `after` are the mean IoU of the answers to the true boxes of `judged` other
    masks, on the decoder's own cells (NaN: there are no others); `loss` is the mean of the last steps.
    """

    file: Path
    masks: str
    name: str
    learned: int
    of: int
    judged: int
    before: float
    after: float
    loss: float
    problems: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A few words for a person."""
        lines = [
            f"{self.file}: {self.name}, its mask decoder fitted to {self.learned:,} of {self.of:,} masks, loss {self.loss:.3f}"
        ]
        if self.judged:
            lines.append(
                f"{self.judged:,} masks not learned from: mean IoU of the answers to their boxes {self.before:.3f} before,"
                f" {self.after:.3f} after"
            )
        return "\n".join([*lines, f"Use it: --masks {self.masks}"])


def refer_fit_decoder(
    source: str | Path | MaskSet,
    out: str | Path,
    *,
    masks: str,
    labels: str | Path | None = None,
    progress: Progress | None = None,
    settings: DecoderSettings | None = None,
    **values: Any,
) -> FittedDecoder:
    """Fit the mask decoder of a SAM or of ``nano`` to a share of true masks; its image encoder is at rest. Resumes.

    `source`: what `imagery.datasets.instances.open_masks` reads: a set of texts with masks, a COCO file, a run, or images beside
    their masks, which `labels` names where they lie elsewhere: a folder, a raster, a COCO file, or a GeoPackage, GeoJSON, GeoParquet
    or Shapefile with the outlines of things. `masks`: as for `label`, a SAM by name, file or folder, or ``nano``.
    Splits "train" and "" are learned from. `settings`, or their fields as `values`: see `train.referring.settings`. With the same
    seed on a CPU the same weights come out. Raises `InputError` where there is no mask, `SettingsError` for what has no such decoder.

        >>> import terralabel as tl
        >>> few = {"share": 0.5, "steps": 2, "batch_size": 2}  # hundreds of steps, in earnest
        >>> fitted = tl.refer_fit_decoder("images", "decoder", labels="truth", masks="nano", **few)
        >>> fitted.file.name
        'nano.safetensors'
    """
    needs_torch()
    settings, progress = settings or DecoderSettings(**values), progress or Silent()
    kind, weights = _decoder_of(masks)
    folder = own_folder(Path(out), _OWN, "mask decoder")
    with RunFolder(folder).lock(progress.say):
        found = source if isinstance(source, MaskSet) else _opened(source, labels, folder / _DRAWN, settings, progress)
        pictures = _Pictures(found, settings)
        found = pictures.fit_for(found)
        for problem in found.problems:
            progress.say(f"left out: {problem}")
        taught, others, count = _shared_out(found, settings)
        pupil = _pupil(kind, weights, pictures, folder / _FEATURES, settings)
        note = {"masks": f"{pupil.name} {pupil.origin}", "settings": stored(settings), "lessons": _identity(taught)}
        loss, before, after = _learn(pupil, taught, others, folder, settings, json.loads(json.dumps(note)), progress)
        shutil.rmtree(folder / _FEATURES, ignore_errors=True)
    file = folder / pupil.file
    named = f"nano:{file}" if kind == "nano" else str(file)
    return FittedDecoder(file, named, pupil.name, len(taught), count, len(others), before, after, loss, found.problems)


def _opened(
    source: str | Path, labels: str | Path | None, drawn: Path, settings: DecoderSettings, progress: Progress
) -> MaskSet:
    """The true masks; shapes that somebody drew in a GIS become rasters in `drawn` first."""
    if labels is None or not is_drawing(labels):
        return open_masks(source, labels, tile_size=settings.tile_size)
    shapes = drawn_labels(source, labels, drawn, progress=progress, bands=settings.bands, sensor=settings.sensor)
    return open_masks(shapes, tile_size=settings.tile_size)


def _decoder_of(masks: str) -> tuple[str, str]:
    """("sam", its weights) or ("nano", its file or "" for the shipped one)."""
    name, _, argument = masks.partition(":")
    if name == "nano":
        return "nano", argument
    weights = weights_of(masks)
    if weights is None:
        raise SettingsError(
            f"--masks {masks}: has no mask decoder that is fitted here: give a SAM by name, file or folder, or nano."
        )
    return "sam", weights


def _shared_out(found: MaskSet, settings: DecoderSettings) -> tuple[list[Lesson], list[Lesson], int]:
    """The masks to learn from, those to judge by, and of how many the former are a share."""
    from terralabel.train.referring.decoders import Lesson

    def lessons(*splits: str) -> list[Lesson]:
        return [Lesson(tile, k) for tile in found.tiles if tile.split in splits for k in range(len(tile.truth))]

    every = lessons("train", "")
    if not every:
        raise InputError(f"{found.name}: no mask of a train split to learn from.", "nothing")
    order = np.random.default_rng(settings.seed).permutation(len(every))
    number = max(1, round(settings.share * len(every)))
    others = lessons("val") or [every[k] for k in order[number:].tolist()]
    judged = np.linspace(0, len(others) - 1, min(_JUDGED, len(others))).astype(int)
    return [every[k] for k in sorted(order[:number].tolist())], [others[k] for k in judged.tolist()], len(every)


def _identity(lessons: Sequence[Lesson]) -> str:
    return digest([[item.tile.key, item.tile.image.name, item.tile.truth.code(item.index).tolist()] for item in lessons])


class _Pictures:
    """Windows of images after the set's radiometry."""

    def __init__(self, found: MaskSet, settings: DecoderSettings) -> None:
        images = sorted({tile.image for tile in found.tiles})
        fit = fit_radiometry(images, bands=settings.bands, sensor=settings.sensor)
        self._radiometry, self._unfit = fit.radiometry, fit.unfit

    def fit_for(self, found: MaskSet) -> MaskSet:
        """The set without images that cannot be used together with the others, which become problems."""
        unfit = {skipped.path for skipped in self._unfit}
        tiles = tuple(tile for tile in found.tiles if tile.image not in unfit)
        told = tuple(f"{skipped.reason} [{skipped.status}]" for skipped in self._unfit)
        return replace(found, tiles=tiles, problems=(*found.problems, *told))

    def __call__(self, tile: MaskTile) -> Tile:
        with self._radiometry.open(tile.image) as raster:
            return read_tile(raster, tile.plan, self._radiometry)


def _pupil(kind: str, weights: str, pictures: _Pictures, kept: Path, settings: DecoderSettings) -> DecoderPupil:
    from terralabel.train.referring.decoders import NanoPupil, SamPupil

    if kind == "nano":
        return NanoPupil(weights, pictures, settings.moved, settings.device)
    return SamPupil(weights, pictures, kept, settings.moved, settings.device)


def _learn(
    pupil: DecoderPupil,
    taught: Sequence[Lesson],
    others: Sequence[Lesson],
    folder: Path,
    settings: DecoderSettings,
    note: dict[str, Any],
    progress: Progress,
) -> tuple[float, float, float]:
    """(loss of the last steps, mean IoU on the others before the first step and after the last); `decoder.json` keeps the two."""
    from terralabel.train.referring.fit import begun, fit

    told, state = folder / "decoder.json", begun(folder, note)
    known: dict[str, Any] = {} if state is None else json.loads(told.read_text(encoding="utf-8"))
    if state is None:
        known = {**note, "before": _mean_overlap(pupil, others, progress, "before")}
        write_text(told, json.dumps(known, indent=1) + "\n")
    elif state["step"] < settings.steps:
        progress.say(f"going on from step {state['step']:,} of {settings.steps:,}")
    progress.start("fit", settings.steps, "steps", 0 if state is None else int(state["step"]))
    loss = fit(pupil, taught, folder, settings, note, advance=lambda step, loss: progress.advance())
    progress.finish()
    if "after" not in known:
        known["after"] = _mean_overlap(pupil, others, progress, "after")
        write_text(told, json.dumps(known, indent=1) + "\n")
    before, after = (math.nan if known[when] is None else float(known[when]) for when in ("before", "after"))
    return loss, before, after


def _mean_overlap(pupil: DecoderPupil, others: Sequence[Lesson], progress: Progress, when: str) -> float | None:
    """Mean IoU of the answers to true boxes; None where there are none."""
    if not others:
        return None
    pupil.net.eval()
    progress.start(f"answers {when}", len(others), "masks")
    found = []
    for lesson in others:
        found.append(pupil.overlap(lesson))
        progress.advance()
    progress.finish()
    return float(np.mean(found))
