"""The report's pictures: scenes beside their labels, and a card per class with crops of its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from terralabel.core.classes import IGNORE, ClassEntry
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import TerraLabelError
from terralabel.export import picture
from terralabel.export.markup import ImageBudget, histogram, number, percent, text
from terralabel.export.specimens import THUMBNAIL, ClassFacts, ReportView, RunFacts, Specimen, label_raster

__all__ = [
    "CARDS",
    "PictureView",
    "cards_section",
    "class_name",
    "crop",
    "crop_window",
    "overlay_section",
    "read_labels",
    "view",
]

#: Classes that get a card with pictures; the rest stand in the table only.
CARDS = 150
#: Clusters of one class that get contact sheets.
_CLUSTERS = 12
_OVERLAY_SIZE = 720
#: Side of the largest window that is read at once.
_PIECE = 2048


class PictureView(Protocol):
    """What gives the pixels of scenes: a run, say."""

    def read_rgb(self, scene_key: str, window: Window, max_size: int | None = None) -> np.ndarray:
        """As `contracts.RunView.read_rgb`."""
        ...


def class_name(entry: ClassEntry) -> str:
    """The swatch and the name of a class, as HTML."""
    return f'<i class=swatch style="background:{entry.color}"></i><bdi>{text(entry.name, 120)}</bdi>'


def _overlay_windows(scenes: tuple[Scene, ...], count: int) -> list[tuple[Scene, Window, str]]:
    """Whole scenes spread over the run; where there are few, also windows at native size inside the large ones."""
    ordered = sorted(scenes, key=lambda scene: scene.key)
    if not ordered or count < 1:
        return []
    pick = sorted({round(i * (len(ordered) - 1) / max(count - 1, 1)) for i in range(count)})
    places = [(ordered[i], Window(0, 0, ordered[i].width, ordered[i].height), "whole scene") for i in pick]
    large = [scene for scene, _, _ in places if min(scene.width, scene.height) >= 2 * _OVERLAY_SIZE]
    spots = [(0.5, 0.5), (0.25, 0.3), (0.75, 0.7), (0.7, 0.25), (0.3, 0.75), (0.5, 0.1)]
    for fx, fy in spots:
        for scene in large:
            x, y = (round(f * (size - _OVERLAY_SIZE)) for f, size in ((fx, scene.width), (fy, scene.height)))
            places.append((scene, Window(x, y, _OVERLAY_SIZE, _OVERLAY_SIZE), f"native size at column {x}, row {y}"))
    return places[:count]


def read_labels(path: Path, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Class ids of a window, nearest neighbour, at `size` (h, w)."""
    import rasterio
    from rasterio.windows import Window as Block

    with rasterio.open(path, driver="GTiff") as source:
        return source.read(1, window=Block(window.x, window.y, window.width, window.height), out_shape=size)


def view(run: PictureView, scene: Scene, window: Window, max_size: int) -> np.ndarray:
    """A window of a scene, (h, w, 3) uint8 with no side over `max_size`; a large one is put together from small reads."""
    if window.area <= _PIECE * _PIECE:
        return run.read_rgb(scene.key, window, max_size)
    scale = max_size / max(window.width, window.height)
    out = np.zeros((max(round(window.height * scale), 1), max(round(window.width * scale), 1), 3), np.uint8)
    rows, columns = (_cuts(full, small) for full, small in ((window.height, out.shape[0]), (window.width, out.shape[1])))
    for y0, y1, top, bottom in rows:
        for x0, x1, left, right in columns:
            piece = run.read_rgb(scene.key, Window(window.x + x0, window.y + y0, x1 - x0, y1 - y0), max_size)
            out[top:bottom, left:right] = cv2.resize(piece, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return out


def _cuts(full: int, small: int) -> list[tuple[int, int, int, int]]:
    """(start, stop) in `full` pixels and (start, stop) in `small` ones of pieces of at most about `_PIECE` pixels."""
    count = min(-(-full // _PIECE), small)
    shown = [round(i * small / count) for i in range(count + 1)]
    read = [at * full // small for at in shown]
    return list(zip(read, read[1:], shown, shown[1:], strict=False))


def overlay_section(run: ReportView, count: int, budget: ImageBudget) -> str:
    figures = []
    for scene, window, what in _overlay_windows(run.scenes, count):
        path = label_raster(run, scene.key)
        if path is None:
            continue
        try:
            image = view(run, scene, window, _OVERLAY_SIZE)
        except TerraLabelError as error:  # an image that has gone since: the report says so and goes on
            budget.unreadable.append(str(error))
            continue
        labels = read_labels(path, window, (image.shape[0], image.shape[1]))
        painted = picture.overlay(image, labels, run.classes, opacity=0.55)
        uris = [budget.uri(picture.encode_jpeg(side, 80)) for side in (image, painted)]
        if None in uris:
            break
        h, w = image.shape[:2]
        tags = "".join(
            f'<img src="{uri}" width={w} height={h} alt="{alt} of {text(scene.stem, 100)}">'
            for uri, alt in zip(uris, ("image", "labels"), strict=True)
        )
        where = f"{what}, {number(window.width)} x {number(window.height)} px"
        caption = f"<figcaption><b><bdi>{text(scene.stem, 120)}</bdi></b> · {where}</figcaption>"
        figures.append(f"<figure class=pair>{caption}<div>{tags}</div></figure>")
    return f"<div class=pairs>{''.join(figures)}</div>" if figures else ""


def crop_window(specimen: Specimen, scene: Scene) -> Window:
    """A square around the object with some of what lies about it, moved into the scene."""
    x, y, w, h = specimen.bbox
    side = max(round(1.35 * max(w, h)) + 10, 80)
    width, height = min(side, scene.width), min(side, scene.height)
    left = min(max(x + w // 2 - width // 2, 0), scene.width - width)
    top = min(max(y + h // 2 - height // 2, 0), scene.height - height)
    return Window(left, top, width, height)


def crop(run: PictureView, specimen: Specimen, scene: Scene, rgb: tuple[int, int, int]) -> np.ndarray:
    """The crop of one object with its outline, (h, w, 3) uint8, no side over `THUMBNAIL`."""
    window = crop_window(specimen, scene)
    image = view(run, scene, window, THUMBNAIL)
    height, width = image.shape[:2]
    sx, sy = width / window.width, height / window.height
    x, y, w, h = specimen.bbox
    left, top = round((x - window.x) * sx), round((y - window.y) * sy)
    shape = cv2.resize(
        specimen.mask.astype(np.uint8), (max(round(w * sx), 1), max(round(h * sy), 1)), interpolation=cv2.INTER_NEAREST
    )
    mask = np.zeros((height, width), bool)
    shape = shape[: height - top, : width - left]
    mask[top : top + shape.shape[0], left : left + shape.shape[1]] = shape > 0
    bright = (rgb[0] // 2 + 127, rgb[1] // 2 + 127, rgb[2] // 2 + 127)
    return picture.draw_outline(image, mask, bright)


def _sheet(run: ReportView, specimens: list[Specimen], rgb: tuple[int, int, int], budget: ImageBudget) -> str:
    scenes = {scene.key: scene for scene in run.scenes}
    tags = []
    for item in specimens:
        try:
            uri = budget.uri(picture.encode_jpeg(crop(run, item, scenes[item.scene], rgb), 76))
        except TerraLabelError as error:
            budget.unreadable.append(str(error))
            continue
        if uri:
            about = text(f"object {item.id} of {scenes[item.scene].stem}, {item.area} px, cluster {item.cluster_id}", 160)
            score = f"<figcaption>{item.score:.2f}</figcaption>"
            tags.append(f'<figure title="{about}"><img src="{uri}" alt="{about}">{score}</figure>')
    return f"<div class=crops>{''.join(tags)}</div>" if tags else "<p class=soft>no pictures</p>"


def cards_section(run: ReportView, shown: list[ClassEntry], facts: RunFacts, count: int, budget: ImageBudget) -> str:
    used = [entry for entry in shown if facts.classes[entry.id].objects][:CARDS]
    cards = [_card(run, entry, facts.classes[entry.id], facts, count, budget) for entry in used]
    if facts.classes.get(IGNORE) is not None and facts.classes[IGNORE].objects:
        dropped = ClassEntry(IGNORE - 1, "dropped: objects of clusters in no class", "#888888")
        cards.append(_card(run, dropped, facts.classes[IGNORE], facts, count, budget, key="dropped"))
    return "".join(cards)


def _card(
    run: ReportView, entry: ClassEntry, seen: ClassFacts, facts: RunFacts, count: int, budget: ImageBudget, key: str = ""
) -> str:
    details = [
        ("objects", number(seen.objects)),
        ("share of area", percent(seen.pixels, facts.scene_pixels)),
        ("mean score", f"{seen.score_sum / max(seen.objects, 1):.2f}"),
        ("set by a person", number(seen.corrected) if seen.corrected else ""),
        ("clusters", number(len(seen.clusters)) if len(seen.clusters) > 1 else ""),
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in details if value)
    sizes = histogram(seen.sizes, "objects by size in pixels")
    return (
        f'<article class=card id="class-{key or entry.id}" style="--class:{entry.color}"><header><h3>{class_name(entry)}</h3>'
        f"<p>{number(seen.objects)} objects · {percent(seen.pixels, facts.scene_pixels)} of the area</p></header>"
        f"<div class=body><div><h4>Size in pixels</h4>{sizes}<dl class=facts>{listed}</dl></div>"
        f"{_cluster_sheets(run, entry, seen, count, budget)}</div></article>"
    )


def _cluster_sheets(run: ReportView, entry: ClassEntry, seen: ClassFacts, count: int, budget: ImageBudget) -> str:
    """Contact sheets of each cluster of a class; the more clusters, the fewer crops of each."""
    clusters = sorted(seen.clusters.items(), key=lambda pair: (-pair[1].objects, pair[0]))
    each = count if len(clusters) == 1 else max(count // 3, 1)
    sheets = []
    for cluster_id, cluster in clusters[:_CLUSTERS]:
        name = f"cluster {cluster_id}" if cluster_id >= 0 else "drawn by a person"
        whose = f"{name} ({number(cluster.objects)}): " if len(clusters) > 1 else ""
        for title, shelf in (("typical", cluster.typical), ("least certain", cluster.uncertain)):
            sheets.append(f"<div><h4>{whose}{title}</h4>{_sheet(run, shelf.best(each), entry.rgb, budget)}</div>")
    rest = len(clusters) - _CLUSTERS
    return "".join(sheets) + (f"<p class=soft>and {number(rest)} smaller clusters</p>" if rest > 0 else "")
