import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from terralabel.errors import RunError
from terralabel.export.coco import Coco

SAM_KEYS = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}


@pytest.mark.filterwarnings("ignore")  # pycocotools warns about NumPy 2
def test_pycocotools_reads_the_exact_masks(run, painter, tmp_path):
    (path,) = Coco().export(run, tmp_path)
    assert path == tmp_path / "annotations/instances.json"
    coco = COCO(str(path))
    assert coco.getCatIds() == [0, 3]
    for number, mask in enumerate(painter.masks()[:3], start=1):
        assert np.array_equal(coco.annToMask(coco.anns[number]).astype(bool), mask)
    assert 4 not in coco.anns  # its cluster was dropped


def test_annotations_are_sam_records(run, painter, tmp_path):
    data = json.loads(Coco().export(run, tmp_path)[0].read_text())
    assert data["images"] == [{"id": 1, "file_name": "a.tif", "width": 80, "height": 60, "scene": "a"}]
    for annotation, mask in zip(data["annotations"], painter.masks()[:3], strict=True):
        assert set(annotation) >= SAM_KEYS | {"id", "image_id", "category_id", "iscrowd"}
        ((x, y),) = annotation["point_coords"]
        assert mask[int(y), int(x)]
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()


@pytest.mark.filterwarnings("ignore")
def test_polygons_where_there_is_no_hole(run, painter, tmp_path):
    data = json.loads(Coco(polygons=True).export(run, tmp_path)[0].read_text())
    kinds = [type(a["segmentation"]) for a in data["annotations"]]
    assert kinds == [list, dict, list]
    rles = coco_mask.frPyObjects(data["annotations"][2]["segmentation"], 60, 80)
    assert np.array_equal(coco_mask.decode(coco_mask.merge(rles)).astype(bool), painter.masks()[2])


def test_one_file_per_split(painter, tmp_path):
    run = painter.Run(tmp_path / "run")
    for key, split in (("a", "train"), ("b", "val"), ("c", "train")):
        run.add(painter.scene(key, split=split), painter.masks(), painter.class_ids)
    files = Coco().export(run, tmp_path)
    assert [f.name for f in files] == ["instances_train.json", "instances_val.json"]
    train, val = (json.loads(f.read_text()) for f in files)
    assert [i["scene"] for i in train["images"]] == ["a", "c"]
    assert [i["id"] for i in val["images"]] == [2]
    assert {a["image_id"] for a in train["annotations"]} == {1, 3}


def test_a_run_without_objects_is_valid_json(painter, tmp_path):
    run = painter.Run(tmp_path / "run").add(painter.scene(), [], [])
    assert json.loads(Coco().export(run, tmp_path)[0].read_text())["annotations"] == []


def test_scenes_past_32_bits_are_refused(run, tmp_path):
    run.scenes = (replace(run.scenes[0], width=70_000, height=70_000),)
    with pytest.raises(RunError, match="geopackage"):
        Coco().export(run, tmp_path)
    assert list(tmp_path.glob("annotations/*")) == []
