"""Refresh the pictures of these pages from a demo folder (`terralabel demo --out demo`):

    python docs/make_pictures.py demo

`demo.jpg` is the demo's own picture, `confusion.jpg` what `evaluate labels --picture` draws; `report.jpg` and `cards.jpg` are
views of the demo's report by a headless Chromium, where one is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from terralabel.export.picture import fit, save_picture

PICTURES = Path(__file__).parent / "pictures"
#: Neither picture may be larger than this, in bytes.
LIMIT = 250_000


def screenshot(page: Path, width: int = 1280, height: int = 2600) -> np.ndarray | None:
    """The first `height` pixels of a page as a browser shows it, (H, W, 3) uint8; None without a browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars"]
        flags += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={shot}"]
        subprocess.run([browser, *flags, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        return cv2.imread(str(shot))[..., ::-1]


def first_rows(sheet: np.ndarray, count: int) -> np.ndarray:
    """The first rows of the demo's picture and its legend; rows are told by the white lines between them."""
    blank = (sheet > 250).all((1, 2))
    ends = np.flatnonzero(~blank[:-1] & blank[1:]) + 1
    tall = np.flatnonzero(np.diff(ends, prepend=0) > 100)  # captions and the legend are lower than that
    return np.concatenate([sheet[: ends[tall[count - 1]] + 6], sheet[ends[tall[-1]] :]])


def terralabel(*arguments: object) -> None:
    """Run the command of this environment."""
    command = Path(sys.executable).with_name("terralabel")
    subprocess.run([command, *map(str, arguments)], check=True, capture_output=True)


def save_small(name: str, image: np.ndarray) -> None:
    """Write a picture as JPEG at the best quality that stays under the limit."""
    for quality in (85, 78, 70, 60, 50, 40):
        path = save_picture(PICTURES / name, image, quality)
        if path.stat().st_size <= LIMIT:
            break
    print(f"{path}: {image.shape[1]} x {image.shape[0]}, {path.stat().st_size / 1000:.0f} kB, quality {quality}")


def main() -> None:
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    save_small("demo.jpg", fit(first_rows(cv2.imread(str(demo / "demo.png"))[..., ::-1], 2), 1200))
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "confusion.png"
        terralabel("evaluate", "labels", demo / "run", "--truth", demo / "truth", "--match", "none", "--picture", picture)
        save_small("confusion.jpg", cv2.imread(str(picture))[..., ::-1])
    page = screenshot(demo / "report.html")
    if page is None:
        print("no Chromium here: report.jpg and cards.jpg stay as they are")
    else:
        save_small("report.jpg", fit(page[:2000], 1250))
        save_small("cards.jpg", fit(page[1500:2500], 1100))


if __name__ == "__main__":
    main()
