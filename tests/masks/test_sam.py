"""SAM behind the contract: tiny networks of every family, against the official package number by number."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terralabel import registry
from terralabel.contracts import Promptable
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, SettingsError, WeightsError
from terralabel.testing import check_mask_generator, check_promptable

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from terralabel.masks.everything import Everything  # noqa: E402
from terralabel.masks.sam import Sam, make_sam  # noqa: E402
from terralabel.masks.sam_input import network_input  # noqa: E402

#: Square and not, smaller and larger than the network's 128 pixels.
SIZES = [(128, 128), (96, 128), (128, 77), (75, 60), (200, 170)]


_SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("sam_hq", "sam2", "edgetam", "sam3")]


@pytest.mark.parametrize("family", ["sam", "sam2.1", *_SLOW])
def test_families_keep_the_contract(family: str, tiny_weights: Callable[[str], Path]) -> None:
    backend = make_sam(str(tiny_weights(family)), threads=1)
    assert isinstance(backend, Promptable) and backend.makes_features
    check_promptable(backend, exact=False)
    check_mask_generator(Everything(backend, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0))


def test_input_is_the_official_predictors(tiny_weights: Callable[[str], Path], official_sam: Any, painted: Any) -> None:
    from segment_anything.utils.transforms import ResizeLongestSide

    path = tiny_weights("sam")
    official, net = official_sam(path), Sam(str(path))._loaded[0]
    for size in SIZES:
        tile = painted(*size)
        resized = ResizeLongestSide(128).apply_image(tile.pixels)
        expected = official.preprocess(torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None])[0]
        frame = Sam(str(path)).encode(tile).state.frame
        assert frame.input_size == resized.shape[:2]
        torch.testing.assert_close(network_input(net, tile, frame), expected, atol=0, rtol=0)
        points = np.random.default_rng(0).random((7, 2)) * size[::-1]
        np.testing.assert_allclose(frame.to_input(points), ResizeLongestSide(128).apply_coords(points, size), rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "mean", "std"), [("sam2.1", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ("sam3", [0.5] * 3, [0.5] * 3)]
)
def test_input_is_sam2s_transform(family: str, mean: list, std: list, tiny_weights: Any, painted: Any) -> None:
    from torchvision.transforms import Normalize, Resize, ToTensor

    backend = Sam(str(tiny_weights(family)))
    net = backend._loaded[0]
    for size in SIZES:
        tile = painted(*size)
        expected = Normalize(mean, std)(Resize((net.image_size, net.image_size))(ToTensor()(tile.pixels)))
        frame = backend.encode(tile).state.frame
        torch.testing.assert_close(network_input(net, tile, frame), expected, atol=1e-6, rtol=1e-6)
        assert frame.to_input(np.array(size[::-1])).tolist() == [net.image_size] * 2


@pytest.mark.parametrize("size", SIZES)
def test_prompts_are_answered_as_by_the_official_predictor(
    size: tuple[int, int], tiny_weights: Any, official_sam: Any, painted: Any
) -> None:
    from segment_anything import SamPredictor

    path, tile = tiny_weights("sam"), painted(*size)
    theirs, ours = SamPredictor(official_sam(path)), Sam(str(path))
    theirs.set_image(tile.pixels)
    encoded = ours.encode(tile)
    assert encoded.feature_map is not None and encoded.covers is not None
    np.testing.assert_allclose(encoded.feature_map, theirs.features[0].permute(1, 2, 0).numpy(), atol=1e-4)
    np.testing.assert_allclose(encoded.covers, np.array(theirs.input_size) / 16)
    points = np.array([[0.3, 0.6], [0.8, 0.2]]) * size[::-1]
    box = np.array([0.1, 0.2, 0.7, 0.9]) * (size[::-1] * 2)
    for given in ({"point_coords": points, "point_labels": np.array([1, 0])}, {"box": box}):
        for multimask in (True, False):
            expected, iou, _ = theirs.predict(**given, multimask_output=multimask)
            prompts = {"boxes": box[None]} if "box" in given else {"points": points[None], "point_labels": np.array([[1, 0]])}
            answer = ours.predict(encoded, **prompts, multimask=multimask)
            assert answer.alternatives == len(expected) == (3 if multimask else 1)
            for k, mask in enumerate(expected):
                assert (answer.masks.array(k) != mask).mean() < 2e-3
            np.testing.assert_allclose(answer.masks.predicted_iou, np.clip(iou, 0, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((128, 128), {}),
        ((96, 128), {}),
        ((110, 84), {"min_mask_region_area": 30}),
        ((200, 170), {"box_nms_thresh": 0.8, "stability_score_thresh": 0.9}),
        ((150, 190), {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2}),
        ((150, 190), {"crop_n_layers": 1, "min_mask_region_area": 60}),
    ],
)
def test_everything_is_the_official_generators(
    size: tuple,
    settings: dict,
    tiny_weights: Any,
    official_sam: Any,
    painted: Any,
    landscape: Any,
    fed: Any,
    assert_same_masks: Any,
) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    path, tile = tiny_weights("sam"), painted(*size)
    official = official_sam(path)
    fed(landscape(128, 32), official)
    given = {"points_per_side": 18, "points_per_batch": 50, **settings}
    expected = SamAutomaticMaskGenerator(official, **given).generate(tile.pixels)
    generator = Everything(Sam(str(path)), **given)
    masks = generator.generate(generator.encode(tile))
    assert len(expected) > 10
    assert_same_masks(expected, masks)
    steps = list(generator.counts.values())
    assert steps == sorted(steps, reverse=True) and steps[0] >= 3 * 18**2 and steps[-1] == len(masks) < steps[2] < steps[1]


@pytest.mark.parametrize("size", [(90, 128), (150, 110)])
def test_candidates_are_what_predict_and_the_thresholds_give(size: tuple[int, int], tiny_weights: Any, painted: Any) -> None:
    backend, tile = Sam(str(tiny_weights("sam2.1")), threads=1), painted(*size)
    encoded = backend.encode(tile)
    points = (np.random.default_rng(1).random((20, 2)) * size[::-1]).astype(np.float32)
    answer = backend.predict(encoded, points=points[:, None], point_labels=np.ones((20, 1), dtype=int)).masks
    iou, stability = np.median(answer.predicted_iou), np.median(answer.stability_score)
    want = np.flatnonzero((answer.predicted_iou > iou) & (answer.stability_score >= stability))
    thresholds = {"pred_iou_thresh": float(iou), "stability_score_thresh": float(stability)}
    found = backend.candidates(encoded, points, **thresholds, points_per_batch=7)
    assert 0 < len(want) < 60 and abs(len(found) - len(want)) <= 2
    assert found.counts["prompted"] == 60 and found.counts["stability_score"] == len(found)
    both = [i for i in range(len(found)) if np.isin(found.point_coords[i], points[want // 3]).all()]
    masks = found.masks(np.array(both))
    for i, mask in zip(both, masks, strict=True):
        twins = [answer.array(j) for j in want if np.allclose(points[j // 3], found.point_coords[i])]
        assert max((mask & t).sum() / max((mask | t).sum(), 1) for t in twins) > 0.99
    np.testing.assert_array_equal(masks.area, found.area[both])
    np.testing.assert_array_equal(masks.bbox, found.bbox[both])


def test_invalid_pixels_are_in_no_mask(tiny_weights: Any, painted: Any, landscape: Any, fed: Any) -> None:
    whole = painted(128, 128)
    valid = np.ones((128, 128), dtype=bool)
    valid[:, :40] = False
    tile = replace(whole, pixels=np.where(valid[..., None], whole.pixels, 0).astype(np.uint8), valid=valid)
    fed(landscape(128, 32))
    generator = Everything(Sam(str(tiny_weights("sam"))), points_per_side=12, min_mask_region_area=20)
    masks = generator.generate(generator.encode(tile))
    assert len(masks) > 5 and generator.counts["prompted"] < 3 * 144
    assert not masks.sums(~valid[..., None]).any() and (masks.area > 0).all()
    rough = Masks.from_arrays([np.ones((128, 128), dtype=bool)])
    answer = generator.promptable.predict(generator.encode(tile), masks=rough).masks
    assert not answer.sums(~valid[..., None]).any()


def test_adaptive_grid_asks_less_and_says_so(tiny_weights: Any, painted: Any, landscape: Any, fed: Any) -> None:
    tile = painted(128, 128)
    fed(landscape(128, 32))
    found = {}
    for grid in ("full", "adaptive"):
        generator = Everything(Sam(str(tiny_weights("sam"))), points_per_side=16, grid=grid)
        found[grid] = generator.generate(generator.encode(tile)), generator.counts["prompted"], generator.version
    assert found["full"][2] + "-adaptive" == found["adaptive"][2]
    assert 3 * 64 <= found["adaptive"][1] < found["full"][1] == 3 * 256
    assert 0 < len(found["adaptive"][0]) <= 1.2 * len(found["full"][0])
    with pytest.raises(SettingsError, match="give 'full' or 'adaptive'"):
        Everything(Sam("x"), grid="half")


def test_settings_bands_and_states_are_checked(tiny_weights: Any, painted: Any) -> None:
    path = tiny_weights("sam")
    backend, tile = Sam(str(path)), painted(40, 40)
    four = Tile.from_array(np.concatenate([tile.pixels, tile.pixels[..., :1]], axis=2))
    one = Tile.from_array(tile.pixels[..., 0])
    np.testing.assert_array_equal(backend.encode(four).feature_map, backend.encode(tile).feature_map)
    assert backend.encode(one).feature_map.shape == (8, 8, 32)
    with pytest.raises(SettingsError, match="2 bands: this encoder takes one or three"):
        backend.encode(Tile.from_array(tile.pixels[..., :2]))
    with pytest.raises(SettingsError, match="SAR with 3 bands"):
        backend.encode(Tile.from_array(tile.pixels, sensor="sar"))
    with pytest.raises(SettingsError, match="give 'fp32' or 'bf16'"):
        Sam(str(path), precision="fp8")
    with pytest.raises(ContractError, match="points, boxes or masks"):
        backend.predict(backend.encode(tile))
    with pytest.raises(ContractError, match=r"point_labels must be \(b, p\)"):
        backend.predict(backend.encode(tile), points=np.zeros((2, 1, 2)), point_labels=np.ones((1, 1)))
    with pytest.raises(ContractError, match=r"made by Sam\.encode"):
        backend.predict(replace(backend.encode(tile), state=None), boxes=np.ones((1, 4)))


def test_damaged_weights_are_refused(tmp_path: Path, tiny_weights: Any, painted: Any) -> None:
    """Numbers that are none, in the encoder and in the decoder: an error in one line, never a run without masks."""
    for key in (
        "image_encoder.neck.0.weight",
        "mask_decoder.output_upscaling.0.weight",
        "mask_decoder.iou_prediction_head.layers.0.weight",
    ):
        state = torch.load(tiny_weights("sam"), weights_only=True)
        state[key].view(-1)[3] = float("nan")
        torch.save(state, tmp_path / "damaged.pth")
        backend = Sam(str(tmp_path / "damaged.pth"))
        with pytest.raises(WeightsError, match=r"damaged"):
            generator = Everything(backend, points_per_side=3, pred_iou_thresh=0)
            generator.generate(generator.encode(painted(64, 64)))
    with pytest.raises(WeightsError, match="no such file"):
        _ = Sam(str(tmp_path / "absent.pth")).version


def test_a_file_replaced_under_its_name_is_another_network(tmp_path: Path, tiny_weights: Any, painted: Any) -> None:
    path, tile = tmp_path / "weights.pth", painted(40, 40)
    path.write_bytes(tiny_weights("sam").read_bytes())
    old = Sam(str(path))
    version, seen = old.version, old.encode(tile)
    assert Sam(str(path))._loaded[0] is old._loaded[0]
    state = torch.load(path, weights_only=True)
    state["image_encoder.pos_embed"] += 1
    torch.save(state, path)
    new = Sam(str(path))
    assert new.version != version and new._loaded[0] is not None
    assert not np.allclose(new.encode(tile).feature_map, seen.feature_map)
    for kept in (old, pickle.loads(pickle.dumps(old))):  # half of its work would be the other network's
        with pytest.raises(WeightsError, match="replaced or removed while in use"):
            kept.predict(seen, boxes=np.ones((1, 4)))
    path.unlink()
    with pytest.raises(WeightsError, match="replaced or removed"):
        _ = new.version


def test_small_to_send_and_named_by_its_weights(tmp_path: Path, tiny_weights: Any, painted: Any) -> None:
    path = tiny_weights("sam")
    backend = make_sam(str(path), threads=1)
    assert backend.name == "sam:sam.pth"
    other = tmp_path / "sam.pth"
    other.write_bytes(path.read_bytes())
    assert Sam(str(other)).version == backend.version != Sam(str(path), precision="bf16").version
    packed = pickle.dumps(backend)
    assert len(packed) < 2000
    tile = painted(50, 60)
    box = np.array([[5, 5, 40, 40]])
    copy = pickle.loads(packed)
    np.testing.assert_array_equal(
        copy.predict(copy.encode(tile), boxes=box).masks.runs, backend.predict(backend.encode(tile), boxes=box).masks.runs
    )
    together = backend.encode_batch([tile, painted(33, 60)])
    np.testing.assert_allclose(together[0].feature_map, backend.encode(tile).feature_map, atol=1e-5)
    assert [e.tile.size for e in together] == [(50, 60), (33, 60)]


def test_the_registry_knows_it_by_every_name(tiny_weights: Any) -> None:
    assert registry.create("masks", f"sam:{tiny_weights('sam')}", device="cpu").device == "cpu"
    assert registry.create("masks", "sam_vit_b").source == "sam_vit_b"
    assert registry.create("masks", "sam2.1_tiny", precision="bf16").source == "sam2.1_tiny"
    assert registry.create("masks", "sam:facebook/sam-vit-base").source == "facebook/sam-vit-base"
    with pytest.raises(SettingsError, match="sam:ARGUMENT"):
        registry.create("masks", "sam")


def test_every_promptable_of_the_catalogue_is_a_name() -> None:
    from terralabel.nets.weights import CATALOGUE

    promptable = [model.name for model in CATALOGUE if model.name.startswith(("sam", "edgetam"))]
    assert {"sam_vit_b", "sam_vit_h", "sam2.1_large"} <= set(promptable)
    assert [registry.create("masks", name).source for name in promptable] == promptable
