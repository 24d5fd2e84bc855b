"""Small data sets in the layouts of the real ones, with made-up pixels.

Run it to look at one: `python tests/imagery/datasets/fake.py isaid FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ISAID = ((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 127, 255), (0, 100, 155))  # ids 0, 1, 2, 14, 15
POTSDAM = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0))


def save(path: Path, array: np.ndarray) -> Path:
    """A picture of (H, W) or (H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def patches(height: int, width: int, values: int, seed: int, side: int = 8) -> np.ndarray:
    """(H, W) uint8 of squares with values 0..values - 1, all of which occur."""
    rows, columns = -(-height // side), -(-width // side)
    cells = np.random.default_rng(seed).permutation(np.arange(rows * columns) % values).reshape(rows, columns)
    return np.repeat(np.repeat(cells, side, 0), side, 1)[:height, :width].astype(np.uint8)


def painted(ids: np.ndarray, colors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.array(colors, dtype=np.uint8)[ids]


def isaid(root: Path, size: tuple[int, int] = (100, 130)) -> Path:
    """The release: train and val with semantic and instance masks, test without."""
    for split, names in (("train", ("P0000", "P0001")), ("val", ("P0003",)), ("test", ("P0006",))):
        for seed, name in enumerate(names):
            save(root / f"{split}/images/{name}.png", noise(*size, seed))
            if split != "test":
                shown = painted(patches(*size, 5, seed), ISAID)
                save(root / f"{split}/Semantic_masks/{name}_instance_color_RGB.png", shown)
                save(root / f"{split}/Instance_masks/{name}_instance_id_RGB.png", noise(*size, seed))
    return root


def potsdam(root: Path, boundary: bool = True, size: int = 120) -> Path:
    """Two tiles of the release, one for training and one for validation."""
    for seed, tile in enumerate(("2_10", "2_13")):
        ids = patches(size, size, 7, seed)
        save(root / f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif", noise(size, size, seed))
        save(root / f"5_Labels_all/top_potsdam_{tile}_label.tif", painted(ids % 6, POTSDAM))
        if boundary:
            shown = painted(ids, POTSDAM)
            shown[ids == 4] = (252, 255, 0)  # as in tile 4_12 of the release
            save(root / f"5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif", shown)
    return root


def loveda(root: Path) -> Path:
    """The release: numbered pictures, ids 0..7."""
    number = 0
    for split in ("Train", "Val", "Test"):
        for place in ("Rural", "Urban"):
            number += 1
            save(root / f"{split}/{place}/images_png/{number}.png", noise(40, 40, number))
            if split != "Test":
                save(root / f"{split}/{place}/masks_png/{number}.png", patches(40, 40, 8, number))
    return root


def samrs(root: Path, count: int = 6) -> Path:
    """The three subsets in the layout of the release; 255 is background."""
    places = (
        ("dotav2_1024/trainval/images", "dotav2_1024/trainval/hbox_segs_init/gray", 18, "png"),
        ("dior/JPEGImages-trainval", "dior/hbox_segs_trainvaltest_init/gray", 20, "jpg"),
        ("fair1m_1024/trainval/images", "fair1m_1024/trainval/rhbox_segs_init/gray", 37, "png"),
    )
    for subset, (images, labels, classes, suffix) in enumerate(places):
        for k in range(count):
            ids = patches(64, 64, classes + 1, k, side=4)
            save(root / images / f"{subset}_{k}.{suffix}", noise(64, 64, k))
            save(root / labels / f"{subset}_{k}.png", np.where(ids == classes, 255, ids).astype(np.uint8))
    return root


def coco(root: Path) -> Path:
    """Two pictures; a polygon, one inside it, a plain RLE, a crowd."""
    for name in ("a", "b"):
        save(root / f"images/{name}.png", noise(20, 30, ord(name)))
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[4, 4, 8, 4, 8, 8, 4, 8]], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "segmentation": [square], "iscrowd": 0},
        {"id": 3, "image_id": 8, "category_id": 1, "segmentation": {"size": [20, 30], "counts": [100, 50, 450]}},
        {"id": 4, "image_id": 8, "category_id": 3, "segmentation": {"size": [20, 30], "counts": [500, 20, 80]}, "iscrowd": 1},
    ]
    images = [{"id": 7 + k, "file_name": f"{name}.png", "width": 30, "height": 20} for k, name in enumerate("ab")]
    categories = [{"id": 1, "name": "field"}, {"id": 3, "name": "pond"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(data))
    return root


def sos(root: Path, count: int = 3) -> Path:
    """The release: grey radar chips in three equal channels, anti-aliased masks; the first mask of each folder is empty."""
    for split in ("train", "test"):
        for sensor in ("palsar", "sentinel"):
            for k in range(count):
                grey, mask = _slick(k, k > 0)
                save(root / f"{split}/{sensor}/image/{10001 + k}_sat.png", np.repeat(grey[..., None], 3, 2))
                save(root / f"{split}/{sensor}/label/{10001 + k}_mask.png", mask)
    return root


def sos_refined(root: Path, count: int = 3) -> Path:
    """The refined edition: images and masks by split, called by their sensors."""
    for split in ("train", "val"):
        for sensor in ("palsar", "sentinel"):
            for k in range(count):
                grey, mask = _slick(k, k > 0)
                save(root / f"images/{split}/{sensor}_{k + 1}.png", np.repeat(grey[..., None], 3, 2))
                save(root / f"masks/{split}/{sensor}_{k + 1}.png", mask)
    return root


def _slick(seed: int, oil: bool, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 sea with speckle and a dark slick, and its mask 0..255, grey along its edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    distance = np.abs(y - size * (0.5 + 0.2 * np.sin(x / 9 + seed))) - size / 10
    mask = np.clip(128 - 40 * distance, 0, 255) * oil
    sea = rng.gamma(4, 30, (size, size)) * np.where(mask >= 128, 0.35, 1.0)
    return np.clip(sea, 0, 255).astype(np.uint8), mask.astype(np.uint8)


def chn6(root: Path, count: int = 3) -> Path:
    """The release: colour images, a road across each, masks of 0 and 255 with a grey edge."""
    for split in ("train", "val"):
        for k in range(count):
            _, mask = _slick(k, True)
            save(
                root / f"{split}/images/am{k}_sat.jpg",
                np.where((mask >= 128)[..., None], 190, noise(64, 64, k) // 2).astype(np.uint8),
            )
            save(root / f"{split}/gt/am{k}_mask.png", mask)
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "isaid": isaid,
    "potsdam": potsdam,
    "loveda": loveda,
    "samrs": samrs,
    "coco": coco,
    "sos": sos,
    "sos_refined": sos_refined,
    "chn6-cug": chn6,
}

if __name__ == "__main__":
    print(MAKERS[sys.argv[1]](Path(sys.argv[2])))
