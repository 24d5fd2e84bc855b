"""`masks nano` keeps the contracts with the shipped network, and with any other of its architecture."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from terralabel import registry
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError, WeightsError
from terralabel.masks.nano_three import best_three
from terralabel.masks.pasting import paste, stability
from terralabel.masks.tree import TreeMasks
from terralabel.nets.nano import runtime
from terralabel.testing import check_mask_generator, check_promptable

pytest.importorskip("onnxruntime")

from terralabel.masks import nano
from terralabel.masks.nano import Nano, _promise, _together


@pytest.fixture(scope="module")
def roof() -> Tile:
    """A bright roof with a shadow on grass."""
    rng = np.random.default_rng(1)
    pixels = np.full((160, 192, 3), (96, 124, 62), np.float32)
    pixels[64:112, 76:136] *= 0.4
    pixels[56:104, 70:130] = (190, 90, 70)
    return Tile.from_array(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8))


def overlap(mask: np.ndarray) -> float:
    truth = np.zeros((160, 192), bool)
    truth[56:104, 70:130] = True
    return (mask & truth).sum() / (mask | truth).sum()


def test_contract_of_a_promptable() -> None:
    check_promptable(Nano(), exact=False)


def test_contract_of_a_generator() -> None:
    check_mask_generator(Nano())


def test_finds_the_roof_by_box_point_and_alone(roof: Tile) -> None:
    backend = Nano()
    encoded = backend.encode(roof)
    by_box = backend.predict(encoded, boxes=np.array([[70, 56, 130, 104]], np.float32))
    assert by_box.alternatives == 1 and overlap(by_box.masks.array(0)) > 0.9
    by_point = backend.predict(encoded, points=np.array([[[100, 80]]], np.float32), point_labels=np.ones((1, 1), int))
    assert by_point.alternatives == 3 and max(overlap(mask) for mask in by_point.masks) > 0.8
    assert max(overlap(mask) for mask in backend.generate(encoded)) > 0.8


def test_a_rough_mask_is_improved(roof: Tile) -> None:
    rough = np.zeros(roof.size, bool)
    rough[60:110, 66:124] = True
    backend = Nano()
    better = backend.predict(backend.encode(roof), masks=Masks.from_arrays([rough]))
    assert overlap(better.masks.array(0)) > overlap(rough)


def test_point_answers_rise_in_area_and_single_mask_is_the_most_promising(roof: Tile) -> None:
    backend = Nano()
    encoded = backend.encode(roof)
    asked = {"points": np.array([[[100, 80]], [[20, 20]]], np.float32), "point_labels": np.ones((2, 1), int)}
    three, one = backend.predict(encoded, **asked).masks, backend.predict(encoded, **asked, multimask=False).masks
    assert (np.diff(three.area.reshape(2, 3), axis=1) >= 0).all()
    np.testing.assert_array_equal(one.predicted_iou, three.predicted_iou.reshape(2, 3).max(1))


def test_a_large_tile_is_looked_at_in_several_sizes() -> None:
    pixels = np.full((900, 1200, 3), 90, np.uint8)
    pixels[100:800, 200:1100] = (180, 150, 90)
    backend = Nano()
    encoded = backend.encode(Tile.from_array(pixels))
    assert encoded.state.sizes == ((900, 1200), (225, 300), (56, 75))
    mask = backend.predict(encoded, boxes=np.array([[200, 100, 1100, 800]], np.float32)).masks.array(0)
    truth = (pixels == (180, 150, 90)).all(-1)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_prompts_do_not_depend_on_their_batch(roof: Tile) -> None:
    backend = Nano()
    encoded = backend.encode(roof)
    boxes = np.random.default_rng(0).uniform(0, 90, (70, 2)).astype(np.float32)
    boxes = np.concatenate([boxes, boxes + 40], 1)
    together = backend.predict(encoded, boxes=boxes).masks
    for i in (0, 33, 69):
        alone = backend.predict(encoded, boxes=boxes[i : i + 1]).masks.array(0)
        both = together.array(i)
        assert (alone & both).sum() >= 0.98 * (alone | both).sum()


def test_feature_map_covers_the_tile(roof: Tile) -> None:
    encoded = Nano().encode(roof)
    assert encoded.feature_map is not None and encoded.feature_map.dtype == np.float32
    assert encoded.covers == (roof.size[0] / 8, roof.size[1] / 8)


def test_bands(roof: Tile) -> None:
    backend = Nano()
    for bands in (1, 2, 3, 5):
        pixels = np.repeat(roof.pixels, 2, axis=2)[:, :, :bands]
        assert (
            len(backend.predict(backend.encode(Tile.from_array(pixels)), boxes=np.array([[5, 5, 60, 60]], np.float32)).masks)
            == 1
        )


def test_registered_and_says_what_is_wrong(roof: Tile, tmp_path: Path) -> None:
    backend = registry.create("masks", "nano")
    assert backend.name == "nano" and backend.makes_features
    assert backend.version != Nano(nms_thresh=0.5).version
    assert backend.version == Nano(device="cpu").version and "-onnx-" in backend.version
    with pytest.raises(SettingsError, match="guess_thresh"):
        Nano(guess_thresh=2)
    with pytest.raises(ContractError, match="points, boxes or masks"):
        backend.predict(backend.encode(roof))
    with pytest.raises(WeightsError, match="missing"):
        Nano(weights=str(tmp_path / "none.safetensors")).encode(roof)


def test_paste_cuts_at_zero_inside_the_window() -> None:
    logits = np.full((1, 8, 8), -1.0, np.float32)
    logits[:, 2:6, 2:6] = 1
    valid = np.ones((40, 50), bool)
    valid[:, 20:] = False
    code = paste(logits, np.array([[4.0, 4.0, 36.0, 36.0]]), valid)
    mask = Masks.from_codes(code, (40, 50)).array(0)
    expected = np.zeros((40, 50), bool)
    expected[12:28, 12:20] = True
    assert (mask != expected).sum() <= 8  # corners are rounded by the interpolation
    assert not mask[:, 20:].any()
    outside = paste(logits, np.array([[60.0, 60.0, 90.0, 90.0]]), valid)
    assert Masks.from_codes(outside, (40, 50)).area[0] == 0


def test_stability_is_a_share() -> None:
    sure, unsure, none = np.full((4, 4), 9.0), np.full((4, 4), 0.5), np.full((4, 4), -9.0)
    np.testing.assert_array_equal(stability(np.stack([sure, unsure, none]), 1.0), [1, 0, 0])


def test_the_hierarchy_fills_what_the_network_leaves_bare(roof: Tile) -> None:
    strict = Nano(pred_iou_thresh=0.9)
    encoded = strict.encode(roof)
    alone, filled = Nano(pred_iou_thresh=0.9, fill=False).generate(encoded), strict.generate(encoded)
    assert filled.covered().mean() > 0.99 > 0.9 > alone.covered().mean()
    assert (np.diff(filled.predicted_iou) <= 0).all()  # one ranking
    assert {mask.tobytes() for mask in filled} & {mask.tobytes() for mask in alone}


def test_both_kinds_of_masks_keep_what_is_known_of_them() -> None:
    one = Masks.from_arrays([np.eye(6, dtype=bool)], predicted_iou=np.array([0.4], np.float32))
    other = Masks.from_arrays(
        [np.ones((6, 6), bool), np.eye(6, dtype=bool)[::-1]], predicted_iou=np.array([0.9, 0.1], np.float32)
    )
    both = _together(one, other)
    assert both.area.tolist() == [6, 36, 6]
    np.testing.assert_allclose(both.predicted_iou, [0.4, 0.9, 0.1])
    np.testing.assert_array_equal(both.point_coords, np.concatenate([one.point_coords, other.point_coords]))


def test_the_number_of_threads_of_torch_changes_nothing(roof: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(runtime, "find_spec", lambda name: name if name == "torch" else None)
    monkeypatch.setattr(nano, "_loaded", cache(nano._loaded.__wrapped__))
    assert "-torch-" in Nano().version
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(Nano().generate(Nano().encode(roof)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].runs, found[1].runs)
    np.testing.assert_array_equal(found[0].predicted_iou, found[1].predicted_iou)


def test_a_promise_at_a_point_counts_the_guess() -> None:
    expected = np.array([0.9, 0.8], np.float32)
    np.testing.assert_allclose(_promise(expected, np.array([0.25, 1.0], np.float32)), [0.45, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(_promise(expected, None), expected)


def test_the_three_most_promising_answers_are_three_different_ones() -> None:
    def block(width: int) -> np.ndarray:
        mask = np.zeros((20, 20), bool)
        mask[:, :width] = True
        return mask

    ours, theirs = [block(w) for w in (4, 10, 20)], [block(w) for w in (4, 11, 7)]
    promised = np.array([0.5, 0.9, 0.1, 0.4, 0.8, 0.7], np.float32)
    both = Masks.from_arrays([*ours, *theirs], predicted_iou=promised)
    found = best_three(both, 1)
    assert found.area.tolist() == [200, 140, 80]  # 11 columns are like 10, and promise less
    np.testing.assert_allclose(found.predicted_iou, [0.9, 0.7, 0.5])
    alike = Masks.from_arrays([block(9)] * 12, predicted_iou=np.linspace(0, 1, 12).astype(np.float32))
    np.testing.assert_allclose(best_three(alike, 2).predicted_iou.reshape(2, 3)[:, 0], [8 / 11, 1])


def test_points_are_answered_by_the_network_and_the_hierarchy(roof: Tile) -> None:
    asked = {"points": np.array([[[100, 80]]], np.float32), "point_labels": np.ones((1, 1), int)}
    both, alone, tree = Nano(), Nano(fill=False), TreeMasks()
    ours = alone.predict(alone.encode(roof), **asked).masks
    theirs = tree.predict(tree.encode(roof), **asked).masks
    found = both.predict(both.encode(roof), **asked)
    assert found.alternatives == 3
    known = {mask.tobytes() for mask in ours} | {mask.tobytes() for mask in theirs}
    assert {mask.tobytes() for mask in found.masks} <= known
    assert found.masks.predicted_iou.max() == max(ours.predicted_iou.max(), theirs.predicted_iou.max())
