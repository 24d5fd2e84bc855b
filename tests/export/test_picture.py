"""Pictures: the right colours in the right places."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from terralabel.core.classes import ClassEntry, Classes
from terralabel.errors import ContractError, SettingsError
from terralabel.export import picture

CLASSES = Classes((ClassEntry(0, "water", "#0000ff"), ClassEntry(300, "roof", "#ff0000")))
LABELS = np.array([[0, 0, 300, 300], [0, 0, 300, 300], [255, 255, 7, 7]], np.uint16)


def test_colorize_uses_the_classes_colours_and_grey_for_none() -> None:
    colors = picture.colorize(LABELS, CLASSES)
    assert colors.shape == (3, 4, 3)
    assert colors[0, 0].tolist() == [0, 0, 255] and colors[0, 3].tolist() == [255, 0, 0]
    assert colors[2, 0].tolist() == colors[2, 3].tolist() == list(picture.NO_LABEL_RGB)


def test_overlay_mixes_and_leaves_unlabelled_pixels_alone() -> None:
    image = np.full((3, 4, 3), 100, np.uint8)
    mixed = picture.overlay(image, LABELS, CLASSES, opacity=0.5, edges=False)
    assert mixed[0, 0].tolist() == [50, 50, 178] and mixed[0, 3].tolist() == [178, 50, 50]
    assert (mixed[2] == 100).all() and (image == 100).all()
    assert np.array_equal(picture.overlay(image, LABELS, CLASSES, 0.0, edges=False), image)
    lined = picture.overlay(image, LABELS, CLASSES, 0.5)
    assert (lined[0, 1] != mixed[0, 1]).any() and (lined[0, 0] == mixed[0, 0]).all()


def test_overlay_takes_grey_images_and_refuses_what_does_not_fit() -> None:
    assert picture.overlay(np.zeros((3, 4), np.uint8), LABELS, CLASSES).shape == (3, 4, 3)
    with pytest.raises(ContractError, match="same size"):
        picture.overlay(np.zeros((4, 4, 3), np.uint8), LABELS, CLASSES)
    with pytest.raises(SettingsError, match="0 to 1"):
        picture.overlay(np.zeros((3, 4, 3), np.uint8), LABELS, CLASSES, 1.5)
    with pytest.raises(ContractError, match="uint8"):
        picture.display_rgb(np.zeros((3, 4, 3), np.float32))


def test_an_outline_follows_the_mask_and_holes() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    mask[18:22, 18:22] = False
    out = picture.draw_outline(np.full((40, 40, 3), 100, np.uint8), mask, (255, 0, 0))
    assert out[10, 20].tolist() == [255, 0, 0] and out[9, 20].tolist() == [50, 50, 50]
    assert out[14, 14].tolist() == [100] * 3 and out[3, 3].tolist() == [100] * 3
    assert (out[17:23, 17:23] == [255, 0, 0]).all(-1).any()


def test_fit_only_shrinks() -> None:
    image = np.zeros((50, 200, 3), np.uint8)
    assert picture.fit(image, 100).shape == (25, 100, 3)
    assert picture.fit(image, 400) is image


def test_legend_shows_every_colour_and_wraps() -> None:
    many = Classes.of_clusters(24)
    narrow, wide = picture.legend(many, 260), picture.legend(many, 1600)
    assert narrow.shape[1] == 260 and narrow.shape[0] > wide.shape[0]
    shown = {tuple(int(v) for v in c) for c in narrow.reshape(-1, 3)}
    assert {entry.rgb for entry in many} <= shown


def test_legend_survives_any_name() -> None:
    odd = Classes((ClassEntry(1, "läke\n\t\u202e水" + "x" * 500, "#123456"),))
    assert picture.legend(odd, 300, shares={1: 0.25}).shape[1] == 300


def test_contact_sheet_places_crops_in_order() -> None:
    crops = [np.full((10, 10, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = picture.contact_sheet(crops, 2, gap=2)
    assert sheet.shape == (22, 22, 3)
    assert sheet[5, 5, 0] == 10 and sheet[5, 17, 0] == 20 and sheet[17, 5, 0] == 30 and sheet[17, 17, 0] == 255
    with pytest.raises(ContractError, match="expected crops"):
        picture.contact_sheet([], 2)


def test_panels_stack_rows_under_captions() -> None:
    image = np.full((60, 80, 3), 90, np.uint8)
    rows = [[image, picture.colorize(np.zeros((60, 80), np.uint8), CLASSES)]] * 2
    sheet = picture.panels(rows, ["image", "labels"], CLASSES)
    assert sheet.shape[1] == 166 and sheet.shape[0] > 126
    assert (sheet == 90).all(-1).sum() >= 2 * 60 * 80
    with pytest.raises(ContractError, match="per caption"):
        picture.panels(rows, ["image"], CLASSES)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_save_picture_round_trips(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24] = (250, 120, 10)
    path = picture.save_picture(tmp_path / f"sub/out{suffix}", image)
    back = cv2.imread(str(path))[..., ::-1].astype(int)
    assert back.shape == image.shape and np.abs(back - image)[:, [4, 40]].max() <= 4
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(SettingsError, match="ends in"):
        picture.save_picture(tmp_path / "out.gif", image)
