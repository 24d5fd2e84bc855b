"""Everything-mode against SAM's own loop, written out in full-size arrays."""

from __future__ import annotations

import dataclasses
import json
import pickle
from itertools import product
from math import ceil

import numpy as np
import pytest

from terralabel.contracts import Encoded, MaskGenerator
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError
from terralabel.masks.everything import Everything, crop_boxes, everything_on, point_grid, records
from terralabel.testing import FloodPromptable, sample_tiles


def blocks(height: int = 90, width: int = 130, seed: int = 0) -> Tile:
    rng = np.random.default_rng(seed)
    colours = rng.integers(20, 236, (6, 8, 3))
    row, column = np.arange(height) * 6 // height, np.arange(width) * 8 // width
    return Tile.from_array((colours[row][:, column] + rng.integers(-4, 5, (height, width, 3))).astype(np.uint8))


def sam_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    keep: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        ok = True
        for j in keep:
            w = max(0, min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0]))
            h = max(0, min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1]))
            area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])]
            ok &= not w * h / max(area[0] + area[1] - w * h, 1e-9) > threshold
        if ok:
            keep.append(i)
    return keep


def sam_crops(height: int, width: int, layers: int, ratio: float) -> list[tuple[int, list[int]]]:
    out = [(0, [0, 0, width, height])]
    for layer in range(layers):
        n = 2 ** (layer + 1)
        overlap = int(ratio * min(height, width) * (2 / n))
        crop_w, crop_h = (ceil((overlap * (n - 1) + length) / n) for length in (width, height))
        for x, y in product([(crop_w - overlap) * i for i in range(n)], [(crop_h - overlap) * i for i in range(n)]):
            out.append((layer + 1, [x, y, min(x + crop_w, width), min(y + crop_h, height)]))
    return out


def sam_generate(tile: Tile, per_side: int, layers: int, iou: float, stability: float) -> list[dict]:
    """`SamAutomaticMaskGenerator._generate_masks`, step by step, one point at a time."""
    flood, found = FloodPromptable(), []
    height, width = tile.size
    for _, (x0, y0, x1, y1) in sam_crops(height, width, layers, 512 / 1500):
        crop = Tile.from_array(tile.pixels[y0:y1, x0:x1])
        seen, mine = flood.encode(crop), []
        for py, px in product(range(per_side), range(per_side)):
            point = np.array([(px + 0.5) / per_side * (x1 - x0), (py + 0.5) / per_side * (y1 - y0)])
            labels = np.ones((1, 1), dtype=int)
            answer = flood.predict(seen, points=point.astype(np.float32)[None, None], point_labels=labels)
            for k in range(answer.alternatives):
                if not (answer.masks.predicted_iou[k] > iou and answer.masks.stability_score[k] >= stability):
                    continue
                full = np.zeros(tile.size, dtype=bool)
                full[y0:y1, x0:x1] = answer.masks.array(k)
                ys, xs = np.nonzero(full)
                box = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
                at_crop = np.abs(box - [x0, y0, x1, y1]) <= 20
                if (at_crop & ~(np.abs(box - [0, 0, width, height]) <= 20)).any():
                    continue
                score = answer.masks.predicted_iou[k]
                mine.append(
                    {
                        "mask": full,
                        "box": box,
                        "iou": score,
                        "point": point + np.array([x0, y0]),
                        "crop": [x0, y0, x1 - x0, y1 - y0],
                    }
                )
        found += [mine[i] for i in sam_nms([m["box"] for m in mine], [m["iou"] for m in mine], 0.7)]
    if layers:
        small_first = [1 / (m["crop"][2] * m["crop"][3]) for m in found]
        found = [found[i] for i in sam_nms([m["box"] for m in found], small_first, 0.7)]
    return found


@pytest.mark.parametrize(("layers", "per_side"), [(0, 6), (1, 5), (2, 3)])
def test_equals_sams_own_loop(layers: int, per_side: int) -> None:
    tile = blocks()
    expected = sam_generate(tile, per_side, layers, 0.5, 0.6)
    generator = Everything(
        FloodPromptable(),
        points_per_side=per_side,
        points_per_batch=7,
        pred_iou_thresh=0.5,
        stability_score_thresh=0.6,
        crop_n_layers=layers,
    )
    masks = generator.generate(generator.encode(tile))
    assert len(masks) == len(expected) > 10
    for i, want in enumerate(expected):
        np.testing.assert_array_equal(masks.array(i), want["mask"])
        assert masks.crop_box[i].tolist() == want["crop"]
        np.testing.assert_allclose(masks.point_coords[i], want["point"], rtol=1e-6)
    assert len({tuple(c) for c in masks.crop_box.tolist()}) > 1 or not layers


def test_grid_and_crops_are_sams() -> None:
    np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert point_grid(32).shape == (1024, 2) and point_grid(32)[0, 0] == 1 / 64
    for size, layers in (((90, 130), 2), ((1024, 768), 3), ((7, 5), 1)):
        ours = [(layer, [w.x, w.y, w.right, w.bottom]) for layer, w in crop_boxes(size, layers, 512 / 1500)]
        assert ours == sam_crops(*size, layers, 512 / 1500)
    assert all(window.area for _, window in crop_boxes((1, 1), 2, 512 / 1500))


def test_batches_do_not_matter() -> None:
    tile = blocks(60, 60)
    settings = {"points_per_side": 5, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
    runs = []
    for batch in (1, 4, 64):
        generator = Everything(FloodPromptable(), points_per_batch=batch, **settings)
        runs.append(generator.generate(generator.encode(tile)).runs)
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_invalid_pixels_are_neither_asked_nor_labelled() -> None:
    tile = blocks(60, 80)
    valid = np.ones((60, 80), dtype=bool)
    valid[:, :33] = False
    valid[40:, :] = False
    holed = Tile.from_array(np.where(valid[..., None], tile.pixels, 0).astype(np.uint8), valid)

    class Leaky(FloodPromptable):
        """Answers with pixels it was told are invalid, and notes what it was asked."""

        def predict(self, encoded, **prompts):
            column, row = prompts["points"][:, 0].astype(int).T
            assert valid[row, column].all()
            answer = super().predict(encoded, **prompts)
            grown = [mask | ~valid for mask in answer.masks]
            columns = {key: getattr(answer.masks, key) for key in ("predicted_iou", "stability_score")}
            return dataclasses.replace(answer, masks=Masks.from_arrays(grown, encoded.tile.size, **columns))

    generator = Everything(Leaky(), points_per_side=8, pred_iou_thresh=0.2, stability_score_thresh=0.2, min_mask_region_area=5)
    masks = generator.generate(generator.encode(holed))
    assert len(masks)
    assert not any((mask & ~valid).any() for mask in masks)


def test_any_tile_is_fine() -> None:
    generator = Everything(FloodPromptable(), points_per_side=3, crop_n_layers=1, min_mask_region_area=4)
    for tile in sample_tiles():
        masks = generator.generate(generator.encode(tile))
        assert masks.size == tile.size
        assert len(masks) == 0 or tile.valid.any()
    alone = Everything(FloodPromptable(), points_per_side=3)
    counts = {tile.key.split(":")[0]: len(alone.generate(alone.encode(tile))) for tile in sample_tiles()}
    assert (counts["plain"], counts["pixel"], counts["nothing"]) == (1, 1, 0)


def test_records_read_by_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(2)
    arrays = [rng.random((37, 53)) < p for p in (0.02, 0.5, 0.98)] + [np.ones((37, 53), bool), np.eye(37, 53, dtype=bool)]
    got = json.loads(json.dumps(records(Masks.from_arrays(arrays))))
    keys = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
    for record, array in zip(got, arrays, strict=True):
        assert set(record) == keys
        np.testing.assert_array_equal(coco.decode(record["segmentation"]).astype(bool), array)
        theirs = coco.encode(np.asfortranarray(array.astype(np.uint8)))
        assert record["segmentation"]["counts"] == theirs["counts"].decode()
        assert record["bbox"] == coco.toBbox(theirs).tolist() and record["area"] == array.sum()
    large = Masks.from_arrays([np.arange(3000 * 4000).reshape(3000, 4000) > 11_000_000])
    assert coco.area(records(large)[0]["segmentation"]) == large.area[0]


def test_settings_are_checked_and_change_the_version() -> None:
    generator = Everything(FloodPromptable())
    assert isinstance(generator, MaskGenerator) and generator.name == "everything:flood"
    assert generator.version != Everything(FloodPromptable(), points_per_side=16).version
    assert pickle.loads(pickle.dumps(generator)).version == generator.version
    for wrong in ({"points_per_side": 0}, {"crop_n_layers": -1}, {"crop_overlap_ratio": 1.0}, {"points_per_batch": 0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Everything(FloodPromptable(), **wrong)

    class Offset(FloodPromptable):
        stability_score_offset = 0.5

    with pytest.raises(SettingsError, match=r"measures stability with 0\.5"):
        Everything(Offset())
    with pytest.raises(SettingsError, match="Unknown masks"):
        everything_on("no-such-backend")


def test_a_wrong_answer_is_refused() -> None:
    class Short(FloodPromptable):
        def predict(self, encoded, **prompts):
            answer = super().predict(encoded, **prompts)
            return dataclasses.replace(answer, masks=answer.masks.select(np.arange(2)))

    generator = Everything(Short(), points_per_side=4)
    with pytest.raises(ContractError, match="flood: expected 16 x 3 masks"):
        generator.generate(generator.encode(blocks(30, 30)))


def test_several_tiles_go_to_the_promptable_together() -> None:
    class Together(FloodPromptable):
        passes = 0

        def encode_batch(self, tiles: list[Tile]) -> list[Encoded]:
            type(self).passes += 1
            assert all(tile.valid.any() for tile in tiles)
            return [self.encode(tile) for tile in tiles]

    tiles = [blocks(seed=1), blocks(seed=2), blocks(seed=3)]
    tiles[1] = dataclasses.replace(tiles[1], valid=np.zeros(tiles[1].size, bool))
    settings = {"points_per_side": 4, "pred_iou_thresh": 0.0}
    alone, together = Everything(FloodPromptable(), **settings), Everything(Together(), **settings)
    for generator in (alone, together):
        encoded = generator.encode_batch(tiles)
        assert [e.tile for e in encoded] == tiles
        masks = [generator.generate(e) for e in encoded]
        expected = [alone.generate(alone.encode(tile)) for tile in tiles]
        assert [m.runs.tolist() for m in masks] == [m.runs.tolist() for m in expected]
        assert len(masks[0]) and not len(masks[1]) and len(masks[2])
    assert Together.passes == 1
    assert together.encode_batch(tiles[1:2])[0].state is None and Together.passes == 1
