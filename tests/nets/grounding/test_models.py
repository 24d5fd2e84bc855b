"""Grounding DINO, OWLv2 and SAM 3 by words from tiny random checkpoints: our boxes and scores are transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.nets.grounding.tiny import save_grounding_dino, save_owlv2, save_sam3, save_sam3_video  # noqa: E402

from terralabel import registry  # noqa: E402
from terralabel.contracts import Locator  # noqa: E402
from terralabel.core.tile import Tile  # noqa: E402
from terralabel.errors import SettingsError, WeightsError  # noqa: E402
from terralabel.nets.grounding.models import load_grounding  # noqa: E402

_SAVED: dict[str, Callable[[Path], Path]] = {
    "grounding-dino": save_grounding_dino,
    "owlv2": save_owlv2,
    "sam3": save_sam3,
}


@pytest.fixture(scope="module", params=sorted(_SAVED))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, _SAVED[request.param](tmp_path_factory.mktemp(request.param) / "model")


def picture(height: int = 48, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def theirs(family: str, folder: Path, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores by transformers alone, as its documentation uses it."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    if family == "sam3":
        inputs = processor(images=picture(), text=text, return_tensors="pt")
        with torch.no_grad():
            out = transformers.Sam3Model.from_pretrained(folder).eval()(**inputs)
        found = processor.post_process_instance_segmentation(out, threshold=-1.0, target_sizes=[(48, 80)])[0]
        return found["boxes"].numpy(), found["scores"].numpy()
    net = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    given = [[text]] if family == "owlv2" else f"{text.lower()}."
    inputs = processor(images=picture(), text=given, return_tensors="pt")
    with torch.no_grad():
        out = net(**inputs)
    more = {"input_ids": inputs["input_ids"]} if family == "grounding-dino" else {}
    found = processor.post_process_grounded_object_detection(out, threshold=-1.0, target_sizes=[(48, 80)], **more)[0]
    return found["boxes"].numpy(), found["scores"].numpy()


def test_boxes_and_scores_are_those_of_transformers(saved: tuple[str, Path]) -> None:
    family, folder = saved
    locator = registry.create("locators", f"{family}:{folder}").on("cpu")
    assert isinstance(locator, Locator)
    boxes, scores = locator.locate(Tile.from_array(picture()), "the red house")
    expected, sure = theirs(family, folder, "the red house")
    keep = (expected[:, 2] > expected[:, 0]) & (expected[:, 3] > expected[:, 1])
    assert len(boxes) == keep.sum() > 0
    np.testing.assert_allclose(boxes, expected[keep], atol=1e-3)
    np.testing.assert_allclose(scores, sure[keep], atol=1e-5)
    assert (boxes.dtype, scores.dtype) == (np.float32, np.float32)


def test_same_weights_same_version_and_another_text_another_answer(saved: tuple[str, Path]) -> None:
    family, folder = saved
    locator = registry.create("locators", f"{family}:{folder}").on("cpu")
    assert locator.version == registry.create("locators", f"{family}:{folder}").version
    tile = Tile.from_array(picture())
    one, other = (locator.locate(tile, text)[1] for text in ("red house", "car of the river"))
    assert one.shape != other.shape or np.abs(one - other).max() > 1e-7


def test_too_long_a_text_is_refused_and_any_script_is_read(saved: tuple[str, Path]) -> None:
    family, folder = saved
    model = load_grounding(family, str(folder), "cpu")
    with pytest.raises(SettingsError, match=r"tokens; .* reads \d+ at most"):
        model.find(picture(), "house " * 2000)
    boxes, scores = model.find(picture(), "Δ 家")
    assert np.isfinite(boxes).all() and np.isfinite(scores).all()


def test_wrong_weights_are_told(saved: tuple[str, Path], tmp_path: Path) -> None:
    family, folder = saved
    other = "owlv2" if family != "owlv2" else "grounding-dino"
    with pytest.raises(WeightsError, match=f"{other} expects"):
        load_grounding(other, str(folder), "cpu")
    with pytest.raises(WeightsError, match="no such folder"):
        load_grounding(family, str(tmp_path / "nowhere"), "cpu")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_grounding(family, str(tmp_path), "cpu")


def test_sam3_is_read_as_it_is_released(tmp_path: Path) -> None:
    """Its repository holds the video model, in which the detector of words is one part."""
    alone, released = save_sam3(tmp_path / "alone"), save_sam3_video(tmp_path / "released")
    assert json.loads((released / "config.json").read_text())["model_type"] == "sam3_video"
    answers = [load_grounding("sam3", str(folder), "cpu").find(picture(), "house") for folder in (alone, released)]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)
