"""Coarse labels in, better labels out: every image is labelled by a network that learned from the coarse labels of others.

    alignment    labels are moved, and grown or shrunk, to where images' edges and looks say, if that shows clearly enough
    redrawing    compact objects are drawn anew from their boxes, if edges and looks say clearly that this is better
    networks     learn from what lies clear of the borders; one for each fold, and none sees what it is to label
    opinions     networks may see many labels' objects elsewhere; what they and pixels' colours say is weighed where labels are likely right
    posterior    the label's word, and what both others say, together; specks and holes go

RUN/labels/ are the enhanced labels, RUN/coarse/ the labels as they were, RUN/changes.csv says what was done to each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.core.scene import Scene
from terralabel.errors import InputError, RunError
from terralabel.imagery.datasets import read_label
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.sources import SourceFile, content_hash
from terralabel.imagery.tiles import scene_of
from terralabel.labels.coarse import DEPTH, without_borders
from terralabel.labels.quality.judge import rules_judge
from terralabel.recipes.annotate.aligning import Alignment, align_labels
from terralabel.recipes.annotate.apply import pictures_of
from terralabel.recipes.annotate.changes import Change, draw_changes, write_changes
from terralabel.recipes.annotate.fit import agree, made_folder
from terralabel.recipes.annotate.opinions import Opinions, shifted_by_networks
from terralabel.recipes.annotate.pictures import PICTURE, Decided, Labelling, Signalled
from terralabel.recipes.annotate.plan import Plan, prepare
from terralabel.recipes.annotate.redrawing import drawer, redraw_labels, settled_redraw
from terralabel.recipes.annotate.views import Seen, look, make_views, windows_of
from terralabel.recipes.labels_run import LabelsRun, is_labels, write_labels_run
from terralabel.recipes.pretrain import opened, run_radiometry
from terralabel.recipes.quality.recipe import gate_notes, set_gate, verdicts_by
from terralabel.recipes.quality.store import label_hashes, quality_parts, save_verdicts
from terralabel.recipes.training import needs_torch
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.progress import Progress, Silent
from terralabel.train.annotation.settings import EnhanceSettings
from terralabel.train.segmentation.samples import Reader, class_table
from terralabel.train.segmentation.settings import stored

__all__ = ["enhance"]

#: Labels of images of so many pixels are kept without their borders.
_WHOLE = 16_000_000


def enhance(
    images: str | Path | LabelledSet,
    out: str | Path,
    settings: EnhanceSettings | None = None,
    *,
    labels: str | Path | None = None,
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **values: Any,
) -> LabelsRun:
    """Make coarse labels better, without truth; returns the run, whose labels are the enhanced ones.

    `images`, `labels`, `reading`: as of `annotate_fit`; two labelled images at least. `settings`, or its fields as `values`. Goes on where
    it stopped. Beside the labels: the coarse ones, `changes.csv` with what changed and a score before and after, and pictures.
    Raises `InputError` for labels that cannot be learned from, `SettingsError` where `out` was started differently, unless `overwrite`.

        >>> import terralabel as tl
        >>> from pathlib import Path
        >>> from terralabel.imagery.painter import write_demo
        >>> made = write_demo(Path("two"), scenes=2, size=96)
        >>> few = {"steps": 2, "batch_size": 2, "crop": 64, "trunk": "scratch"}  # hundreds of steps, in earnest
        >>> run = tl.enhance("two/images", "enhanced", labels="two/truth", reading={"classes": "two/classes.json"}, **few)
        >>> (run.path / "changes.csv").is_file()
        True
    """
    needs_torch()
    settings, progress = settings or EnhanceSettings(**values), progress or Silent()
    given = {**(reading or {}), **({} if labels is None else {"labels": labels})}
    folder = RunFolder(out)
    folder.create()
    if folder.exists and not is_labels(folder):
        raise RunError(f"{folder.path} is a run of another kind: choose another folder.")
    how: dict[str, Any] = {"sensor": settings.sensor, "bands": settings.bands}
    model = folder.path / "model"
    settings = settled_redraw(settings, model)
    labelled = images if isinstance(images, LabelledSet) else opened(images, progress, given, out=model, **how)
    own = None if isinstance(images, LabelledSet) else run_radiometry(Path(images))
    with folder.lock(progress.say):
        plan = _plan(labelled, settings, progress, own)
        agree(made_folder(model), plan, overwrite, progress)
        repair = Repair(folder, plan, settings, progress)
        write_labels_run(folder, scenes=repair.scenes, finished=False, **repair.facts)
        for fold in range(plan.folds):
            progress.say(f"fold {fold + 1} of {plan.folds}: learning without {plan.held_out(fold)} images")
            plan.train(model / "folds" / str(fold + 1), progress, without=fold)
        repair.look_at_all(model)
        repair.mend_all()
        folder.remove_unused_parts(quality_parts(folder))
        run = write_labels_run(folder, scenes=repair.scenes, finished=True, **repair.facts)
    folder.note_history({"command": "enhance", "scenes": len(repair.scenes)})
    return run


@dataclass(frozen=True)
class _CoarsePlan(Plan):
    """A plan whose networks learn from aligned labels, and nothing near their borders."""

    alignment: Alignment | None = None
    band: int = 0

    def reader(self) -> Reader:
        """See the class."""
        assert self.alignment is not None
        return _ClearReader(self.labelled, self.radiometry, self.alignment, self.band)


class _ClearReader(Reader):
    """A reader of aligned labels without their borders."""

    def __init__(self, labelled: LabelledSet, radiometry: Radiometry, alignment: Alignment, band: int) -> None:
        super().__init__(labelled, radiometry)
        self.alignment, self.band = alignment, band
        self._ids = class_table(labelled.classes)

    def labels(self, item: LabelledImage, window: Window, size: tuple[int, int]) -> np.ndarray:
        """As of `Reader`; 255 where a border is near."""
        if size[0] * size[1] > _WHOLE:
            return self._clear(item, window, size)
        whole = Window(0, 0, *size)
        return self._remembered(f"clear {item.key}", lambda: self._clear(item, whole, size))[window.slices()]

    def _clear(self, item: LabelledImage, window: Window, size: tuple[int, int]) -> np.ndarray:
        more = 2 * self.band  # what is how narrow is seen from so far away
        around = Window(window.x - more, window.y - more, window.width + 2 * more, window.height + 2 * more)
        around = around.intersect(Window(0, 0, *size))
        labels = self._ids[self.alignment.label(item, around, size)]
        return without_borders(labels, self.band)[window.relative_to(around).slices()]


def _plan(labelled: LabelledSet, settings: EnhanceSettings, progress: Progress, radiometry: Radiometry | None) -> _CoarsePlan:
    plan = prepare(labelled, settings, progress, radiometry)
    if not plan.folds:
        raise InputError(
            f"{labelled.name} has one labelled image: enhancing needs two, since none is labelled by a network that learned from it."
            " Cut it into parts.",
            "too-few",
        )
    how = plan.labelled, plan.survey.sizes, plan.radiometry, plan.background, settings.shift, progress
    aligned = align_labels(*how)
    if settings.redraw != "none":
        items = [item for item in plan.labelled.images if item.key in plan.survey.sizes]
        aligned = redraw_labels(aligned, items, plan.survey.sizes, plan.radiometry, drawer(settings), progress)
    values = {item.name: getattr(plan, item.name) for item in fields(plan)}
    return _CoarsePlan(**values, alignment=aligned, band=settings.band)


class Repair:
    """Coarse labels at work: what networks say of them, and what becomes of them."""

    def __init__(self, folder: RunFolder, plan: _CoarsePlan, settings: EnhanceSettings, progress: Progress) -> None:
        assert plan.alignment is not None
        self.folder, self.plan, self.settings, self.progress = folder, plan, settings, progress
        self.alignment = plan.alignment
        self.items = [item for item in plan.labelled.images if item.key in plan.survey.sizes]
        self.scenes = [self._scene(item) for item in self.items]
        self.seen: dict[str, Seen] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """What the run's ledger says."""
        growth = self.alignment.growth
        notes = ["enhanced labels; those before are in coarse/, what changed in changes.csv"]
        notes += [f"coarse objects were {abs(growth)} px too {'narrow' if growth > 0 else 'wide'}"] if growth else []
        drawn = sum(len(those) for those in self.alignment.redrawn.values())
        notes += [f"{drawn} objects were drawn anew by {self.settings.redraw}"] if drawn else []
        return {
            "made_by": "enhance 1",
            "classes": self.plan.labelled.classes,
            "settings": stored(self.settings),
            "radiometry": self.plan.radiometry,
            "background": self.plan.background,
            "notes": notes,
        }

    def _scene(self, item: LabelledImage) -> Scene:
        with self.plan.radiometry.open(item.image) as raster:
            source = SourceFile(item.image, Path(item.image).stem, item.key, "")
            return scene_of(source, raster, sensor=self.plan.radiometry.sensor, sha256=content_hash(item.image))

    # ------------------------------------------------------------------------------------------------------------- looking

    def look_at_all(self, model: Path) -> None:
        """Every image by the network of its fold; then where they see the labels' objects."""
        from terralabel.train.segmentation.checkpoint import open_checkpoint

        for fold in range(self.plan.folds):
            checkpoint = open_checkpoint(model / "folds" / str(fold + 1), "last")
            views = make_views(checkpoint, self.settings.looking)
            mine = [(i, s) for i, s in zip(self.items, self.scenes, strict=True) if self.plan.fold[i.key] == fold]
            total = sum(windows_of(views, scene.width, scene.height) for _, scene in mine)
            self.progress.start(f"look {fold + 1}/{self.plan.folds}", total, "windows")
            for item, scene in mine:
                name = digest([checkpoint.sha256, stored(self.settings.looking), scene.sha256])
                with self.plan.radiometry.open(item.image) as raster:
                    how = self.plan.radiometry, views, self.folder, name, self.progress.advance
                    self.seen[scene.key] = look(scene, raster, *how, on_disk=True)
            self.progress.finish()
        sizes = self.plan.survey.sizes
        self.alignment = shifted_by_networks(self.alignment, self.items, self.seen, sizes, self.settings.shift, self.progress)

    # ------------------------------------------------------------------------------------------------------------- mending

    def mend_all(self) -> None:
        """Write every label, the coarse one beside it, verdicts, and what changed."""
        opinions = Opinions(self.alignment, self.plan.radiometry, self.seen, self.plan.survey.sizes)
        opinions.measure(self.items, self.settings.band, self.progress)
        before, after = Signalled(self.plan.background), Signalled(self.plan.background)
        changes = []
        self.progress.start("mend", len(self.scenes), "images")
        for item, scene in zip(self.items, self.scenes, strict=True):
            changes.append(self._mend(item, scene, opinions, before, after))
            self.progress.advance()
        self.progress.finish()
        judge = rules_judge()
        rows = after.signals
        gate = set_gate(judge, rows)
        notes = {
            "labels": label_hashes({scene.key: self._path("labels", scene) for scene in self.scenes}),
            "images": {scene.key: scene.sha256 for scene in self.scenes},
            "measured": {"by": "enhance 1", "units": after.units},
            **gate_notes(judge, gate, rows),
        }
        save_verdicts(self.folder, verdicts_by(judge, gate, tuple(after.scene), after.window, rows), notes, rows)
        scored = [change.scored(before, after, judge) for change in changes]
        write_changes(self.folder.path / "changes.csv", scored, self.plan.labelled.classes)
        most = sorted(scored, key=lambda change: -change.share)[: self.settings.pictures]
        classes, background = self.plan.labelled.classes, self.plan.background
        draw_changes(self.folder, most, {s.key: s for s in self.scenes}, self.plan.radiometry, classes, background)

    def _path(self, folder: str, scene: Scene) -> Path:
        return self.folder.path / folder / f"{scene.key}.tif"

    def _mend(self, item: LabelledImage, scene: Scene, opinions: Opinions, before: Signalled, after: Signalled) -> Change:
        from terralabel.export.rasters import write_label_raster

        classes, background, seen = self.plan.labelled.classes, self.plan.background, self.seen[scene.key]
        change = Change(scene.key, self.alignment.shift(item.key))

        def refine(window: Window, said: np.ndarray, valid: np.ndarray) -> np.ndarray:
            return opinions.together(item, window, said) if self.settings.trust else said

        how = Labelling(classes, background, self.settings.specks, refine, DEPTH)

        def blocks(pictures: Iterator[Decided]) -> Iterator[tuple[Window, np.ndarray]]:
            for picture in pictures:
                was = read_label(self.plan.labelled, item, picture.window)
                change.add(was, picture.evidence.label, background)
                after.add(scene.key, picture)
                before.add(scene.key, picture.labelled(was))
                yield picture.window, picture.evidence.label

        with self.plan.radiometry.open(item.image) as raster:
            pictures = pictures_of(scene, seen, raster, self.plan.radiometry, how)
            write_label_raster(self._path("labels", scene), scene, classes, blocks(pictures))
        coarse = ((w, read_label(self.plan.labelled, item, w)) for w in _squares(scene))
        write_label_raster(self._path("coarse", scene), scene, classes, coarse)
        return change


def _squares(scene: Scene) -> list[Window]:
    return [plan.core for plan in plan_tiles("", scene.width, scene.height, PICTURE, 0)]
