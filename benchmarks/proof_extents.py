"""Do the same pixels give the same masks, whatever lies around them? `tree` on two windows of one picture, shifted by some pixels.

    python benchmarks/proof_extents.py --data DIR [--side 900]

Of the masks farther from the borders of both windows than a margin: the share that is in both to the pixel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.masks.tree import TreeMasks

#: Folder, and which of its pictures in the order of names.
PICTURES = (("fields", (1, 5, 12)), ("houses", (4, 5)), ("multiclass/loveda", (0,)))
#: The second window begins so many columns and rows after the first.
SHIFT = np.array([37, 53])
MARGINS = (96, 192, 288)
#: Masks of at most so many pixels are counted once more, apart.
SMALL = 4096


def pictures(data: Path, side: int) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8, large enough for both windows."""
    for folder, places in PICTURES:
        paths = sorted((data / folder / "images").iterdir())
        for place in places:
            image = cv2.cvtColor(cv2.imread(str(paths[place])), cv2.COLOR_BGR2RGB)
            if min(image.shape[0] - SHIFT[1], image.shape[1] - SHIFT[0]) >= side:
                yield image


def inner(masks: Masks, origin: np.ndarray, side: int, margin: int, most: float) -> set[bytes]:
    """The masks of up to `most` pixels that lie farther than `margin` from the borders of both windows, as bytes."""
    first = masks.bbox[:, :2] + origin
    last = first + masks.bbox[:, 2:]
    clear = (first >= SHIFT + margin).all(axis=1) & (last <= side - margin).all(axis=1) & (masks.area <= most)
    return {first[i].astype(np.int64).tobytes() + masks.crop(int(i)).tobytes() for i in np.flatnonzero(clear)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--side", type=int, default=900, help="pixels of a window's side")
    arguments = parser.parse_args()
    backend, side = TreeMasks(), arguments.side
    found: dict[tuple[int, float], list[tuple[int, int]]] = {(m, most): [] for m in MARGINS for most in (np.inf, SMALL)}
    for image in pictures(arguments.data, side):
        windows = []
        for origin in (np.zeros(2, np.int64), SHIFT):
            x, y = origin
            tile = Tile.from_array(np.ascontiguousarray(image[y : y + side, x : x + side]))
            windows.append((backend.generate(backend.encode(tile)), origin))
        for (margin, most), counts in found.items():
            one, two = (inner(masks, origin, side, margin, most) for masks, origin in windows)
            counts.append((len(one & two), len(one | two)))
    for (margin, most), counts in found.items():
        same, every = np.sum(counts, axis=0)
        least = min(both / max(either, 1) for both, either in counts)
        print(f"margin {margin}, up to {most:.0f} px: {same / every:.4f} of {every} masks, least picture {least:.3f}")


if __name__ == "__main__":
    main()
