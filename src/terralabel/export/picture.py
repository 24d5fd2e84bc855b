"""Pictures for people: labels over imagery, legends, contact sheets. Arrays in, arrays or image files out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path
from terralabel.errors import ContractError, SettingsError

__all__ = [
    "colorize",
    "contact_sheet",
    "display_rgb",
    "draw_outline",
    "encode_jpeg",
    "fit",
    "legend",
    "overlay",
    "panels",
    "save_picture",
    "text_strip",
]

#: What stands where no class does, in `colorize`: light grey.
NO_LABEL_RGB = (226, 226, 226)
_PAPER, _INK = (255, 255, 255), (32, 36, 42)


def display_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1) or (H, W, C >= 3) uint8 as (H, W, 3) uint8: grey is repeated, further bands are left out."""
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ContractError(f"Picture: expected (H, W), (H, W, 1) or (H, W, 3) uint8, got {image.shape} {image.dtype}.")
    return np.ascontiguousarray(image[..., :3]) if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)


def _palette(classes: Classes, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(colours (n, 3) uint8, known (n,) bool) indexed by class id, for ids up to `top`."""
    size = max([top, IGNORE, *(entry.id for entry in classes)]) + 1
    colors, known = np.full((size, 3), NO_LABEL_RGB, np.uint8), np.zeros(size, bool)
    for entry in classes:
        colors[entry.id], known[entry.id] = entry.rgb, True
    return colors, known


def colorize(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """(H, W) class ids as (H, W, 3) uint8 in the colours of the classes; light grey where there is no label."""
    colors, _ = _palette(classes, int(labels.max(initial=0)))
    return colors[labels]


def _borders(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    return edge


def overlay(image: np.ndarray, labels: np.ndarray, classes: Classes, opacity: float = 0.5, edges: bool = True) -> np.ndarray:
    """Labels over imagery, (H, W, 3) uint8.

    `image` is uint8 as in `display_rgb`, `labels` (H, W) class ids of the same size; `opacity` 0 shows only the imagery,
    1 only the labels; `edges` draws the borders of classes in full colour. Pixels without a label stay as they are.
    """
    rgb = display_rgb(image)
    if labels.shape != rgb.shape[:2]:
        raise ContractError(f"Overlay: labels are {labels.shape}, the image is {rgb.shape[:2]}; expected the same size.")
    if not 0 <= opacity <= 1:
        raise SettingsError(f"Overlay opacity {opacity}: expected 0 to 1.")
    colors, known = _palette(classes, int(labels.max(initial=0)))
    paint, there = colors[labels], known[labels]
    mixed = np.rint(rgb * (1 - opacity) + paint * float(opacity)).astype(np.uint8)
    if edges:
        line = _borders(labels)
        mixed[line] = np.rint(0.75 * paint[line]).astype(np.uint8)
    return np.where(there[..., None], mixed, rgb)


def fit(image: np.ndarray, max_size: int) -> np.ndarray:
    """`image` scaled down (never up) so that its longer side is at most `max_size`."""
    height, width = image.shape[:2]
    scale = max_size / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_outline(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """A copy of (H, W, 3) uint8 with the outline of an (H, W) bool mask: a line in the colour on a darkened rim."""
    contours, _ = cv2.findContours(np.ascontiguousarray(mask, np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rim = cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, 3) > 0
    out = np.ascontiguousarray(image).copy()
    out[rim] = out[rim] // 2
    return cv2.drawContours(out, contours, -1, tuple(int(c) for c in color), 1)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _printable(text: str, limit: int = 60) -> str:
    """One line of at most `limit` characters that Pillow's own font can draw."""
    line = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def text_strip(text: str, width: int, size: int = 15, *, ink: tuple[int, int, int] = _INK) -> np.ndarray:
    """One line of text on white, (about 1.8 * size, width, 3) uint8; what does not fit is cut."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (width, round(1.8 * size)), _PAPER)
    ImageDraw.Draw(strip).text((4, 0.3 * size), _printable(text, 200), fill=ink, font=_font(size))
    return np.asarray(strip)


def legend(classes: Classes, width: int, *, shares: dict[int, float] | None = None, size: int = 15) -> np.ndarray:
    """Swatches and names of all classes in rows, (h, width, 3) uint8; `shares` adds each class's share of the area."""
    from PIL import Image, ImageDraw

    font, line, x, y = _font(size), round(1.9 * size), 8, 6
    places = []
    for entry in classes:
        share = f"  {100 * shares[entry.id]:.1f} %" if shares and entry.id in shares else ""
        text = _printable(entry.name, 40) + share
        need = round(font.getlength(text)) + 2 * size + 12
        if x > 8 and x + need > width:
            x, y = 8, y + line
        places.append((x, y, entry.rgb, text))
        x += need
    picture = Image.new("RGB", (width, y + line + 4), _PAPER)
    draw = ImageDraw.Draw(picture)
    for left, top, rgb, text in places:
        draw.rounded_rectangle((left, top + 2, left + size, top + 2 + size), 3, fill=rgb, outline=_INK)
        draw.text((left + size + 7, top + 1), text, fill=_INK, font=font)
    return np.asarray(picture)


def contact_sheet(crops: Sequence[np.ndarray], columns: int, *, gap: int = 4) -> np.ndarray:
    """Crops (h, w, 3) uint8 in rows of `columns`, each centred in a cell of the largest crop's size, on white."""
    if not crops or columns < 1:
        raise ContractError(f"Contact sheet: expected crops and at least one column, got {len(crops)} and {columns}.")
    height, width = max(c.shape[0] for c in crops), max(c.shape[1] for c in crops)
    rows = -(-len(crops) // columns)
    sheet = np.full((rows * (height + gap) - gap, min(columns, len(crops)) * (width + gap) - gap, 3), 255, np.uint8)
    for index, crop in enumerate(crops):
        y = index // columns * (height + gap) + (height - crop.shape[0]) // 2
        x = index % columns * (width + gap) + (width - crop.shape[1]) // 2
        sheet[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return sheet


def panels(rows: Iterable[Sequence[np.ndarray]], captions: Sequence[str], classes: Classes, *, gap: int = 6) -> np.ndarray:
    """Rows of pictures side by side (image | truth | labels, say) under captions, with the legend below."""
    rows = [[display_rgb(picture) for picture in row] for row in rows]
    if not rows or any(len(row) != len(captions) for row in rows):
        raise ContractError(f"Panels: expected rows of {len(captions)} pictures, one per caption.")
    cell = max(picture.shape[1] for row in rows for picture in row)
    size = max(min(cell // 24, 20), 10)
    head = contact_sheet([text_strip(caption, cell, size) for caption in captions], len(captions), gap=gap)
    body = [contact_sheet([*row, np.zeros((1, cell, 3), np.uint8)], len(captions) + 1, gap=gap) for row in rows]
    body = [sheet[:, : head.shape[1]] for sheet in body]
    blank = np.full((gap, head.shape[1], 3), 255, np.uint8)
    stacked = [head, *(part for sheet in body for part in (sheet, blank)), legend(classes, head.shape[1], size=size)]
    return np.concatenate(stacked)


def encode_jpeg(image: np.ndarray, quality: int = 82) -> bytes:
    """(H, W, 3) uint8 as JPEG bytes, the same on every run."""
    done, data = cv2.imencode(".jpg", display_rgb(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ContractError(f"Picture of {image.shape} could not be encoded as JPEG.")
    return data.tobytes()


def save_picture(final: Path, image: np.ndarray, quality: int = 88) -> Path:
    """Write uint8 pixels (see `display_rgb`) as .png, .jpg or .jpeg, whole or not at all; returns `final`."""
    final = Path(final)
    suffix = final.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise SettingsError(f"Picture {final.name!r}: expected a name that ends in .png, .jpg or .jpeg.")
    if suffix == ".png":
        data = cv2.imencode(".png", display_rgb(image)[..., ::-1])[1].tobytes()
    else:
        data = encode_jpeg(image, quality)
    with atomic_path(final) as temporary:
        temporary.write_bytes(data)
    return final
