"""Sets of texts with boxes and masks: RRSIS-D's layout, RefSegRS's, tables; and pickles that are programs."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.imagery.datasets.fake import noise, save

from terralabel.errors import InputError
from terralabel.imagery.datasets.referring import open_referring, plain_pickle


def rrsis(root: Path, protocol: int = 2) -> Path:
    """Two pictures of 40 x 50: a polygon with two sentences, an RLE of the test split."""
    for name in ("00001.jpg", "00002.jpg"):
        save((root / "images/rrsisd/JPEGImages" / name).with_suffix(".png"), noise(40, 50, 1)).rename(
            root / "images/rrsisd/JPEGImages" / name
        )
    runs = [40 * 10 + 5, 10, 30, 10, 40 * 50 - (40 * 10 + 5 + 50)]
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 10], "segmentation": [[5, 5, 25, 5, 25, 15, 5, 15]]},
        {"id": 12, "image_id": 2, "category_id": 4, "bbox": [10, 5, 2, 10], "segmentation": {"size": [40, 50], "counts": runs}},
    ]
    images = [{"id": k, "file_name": f"0000{k}.jpg", "width": 50, "height": 40} for k in (1, 2)]
    categories = [{"id": 3, "name": "ship"}, {"id": 4, "name": "dam"}]
    (root / "rrsisd").mkdir(parents=True)
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "rrsisd/instances.json").write_text(json.dumps(data))
    refs = [
        {"ref_id": 1, "ann_id": 11, "image_id": 1, "category_id": 3, "split": "train", "file_name": "00001.jpg",
         "sentences": [{"sent": "the ship  on the left", "sent_id": 1}, {"raw": "A ship", "sent_id": 2}]},
        {"ref_id": 2, "ann_id": 12, "image_id": 2, "category_id": 4, "split": "test", "file_name": "00002.jpg",
         "sentences": [{"sent": "a dam", "sent_id": 3}]},
        {"ref_id": 3, "ann_id": 99, "split": "test", "sentences": []},
    ]  # fmt: skip
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps(refs, protocol))
    return root


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_rrsis_as_released(tmp_path: Path, protocol: int) -> None:
    found = open_referring(rrsis(tmp_path, protocol))
    assert [(item.key, item.text, item.split, item.category) for item in found.items] == [
        ("1-0", "the ship on the left", "train", "ship"),
        ("1-1", "A ship", "train", "ship"),
        ("2-0", "a dam", "test", "dam"),
    ]
    assert found.items[0].xyxy == (5, 5, 25, 15)
    assert found.items[0].image.name == "00001.jpg"
    assert len(found.problems) == 1
    assert "reference 2" in found.problems[0]
    assert found.mask is not None
    polygon, run_lengths = found.mask(found.items[0]), found.mask(found.items[2])
    assert polygon.shape == (40, 50)
    assert polygon.sum() == 20 * 10
    assert polygon[5:15, 5:25].all()
    assert run_lengths.sum() == 20
    assert run_lengths[5:15, 10:12].all()
    assert [item.key for item in found.split("test").items] == ["2-0"]


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_with_code_in_it_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    root, mark = rrsis(tmp_path / "set"), tmp_path / "ran"
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps([{"ref_id": 1, "sentences": _Evil(mark)}], protocol))
    with pytest.raises(InputError, match=r"it would run \S+\.open when read"):
        open_referring(root)
    assert not mark.exists()


def test_a_damaged_pickle_is_told(tmp_path: Path) -> None:
    whole = pickle.dumps([{"a": 1}])
    for cut in (b"", whole[:-3], b"not a pickle", b"\x80\x04]"):
        with pytest.raises(InputError, match="damaged pickle"):
            plain_pickle(io.BytesIO(cut), tmp_path / "refs(unc).p")
    with pytest.raises(InputError, match="names things outside"):
        plain_pickle(io.BytesIO(b"Pabc\n."), tmp_path / "refs(unc).p")


def test_refsegrs(tmp_path: Path) -> None:
    for stem in ("7", "8"):
        save(tmp_path / f"images/{stem}.png", noise(30, 30, 0))
    mask = np.zeros((30, 30), np.uint8)
    mask[4:10, 6:20] = 255
    save(tmp_path / "masks/7.png", mask)
    save(tmp_path / "masks/8.png", np.zeros((30, 30), np.uint8))
    (tmp_path / "output_phrase_train.txt").write_text("7 road along the river\n8 nothing here\n9 no such image\n")
    found = open_referring(tmp_path)
    assert [(item.text, item.xyxy, item.split) for item in found.items] == [("road along the river", (6, 4, 20, 10), "train")]
    assert len(found.problems) == 2
    assert found.mask is not None
    assert (found.mask(found.items[0]) == (mask > 0)).all()


def test_tables_of_triplets(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(30, 40, 0))
    (tmp_path / "t.csv").write_text(
        'image,text,x0,y0,x1,y1\na.png,"the pond, east",1,2,10,20\na.png,out,0,0,99,9\nb.png,lost,0,0,1,1\n'
    )
    found = open_referring(tmp_path / "t.csv")
    assert [(item.text, item.xyxy) for item in found.items] == [("the pond, east", (1, 2, 10, 20))]
    assert len(found.problems) == 2
    row = {"image": "a.png", "text": "家", "x0": 0, "y0": 0, "x1": 4, "y1": 4, "split": "val"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    assert open_referring(tmp_path / "t.jsonl").items[0].split == "val"


def test_what_is_no_set_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refs\(unc\)\.p"):
        open_referring(tmp_path)
    root = rrsis(tmp_path / "set")
    (root / "rrsisd/instances.json").unlink()
    with pytest.raises(InputError, match="is missing"):
        open_referring(root)
