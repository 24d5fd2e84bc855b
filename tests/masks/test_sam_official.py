"""The everything-mode at full size: ViT-B in segment-anything's own class and file format, its generator against ours.

Weights are random, so both sides are given the same answers in place of the decoder's output (`conftest.Landscape`); the
encoder, the prompts' coordinates, and everything after the decoder are what they always are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
segment_anything = pytest.importorskip("segment_anything")
pytest.importorskip("transformers")

from terralabel.masks.everything import Everything  # noqa: E402
from terralabel.masks.sam import Sam  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """segment-anything's ViT-B with random weights, and its file."""
    torch.manual_seed(0)
    official = segment_anything.sam_model_registry["vit_b"]().eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("vit_b") / "sam_vit_b.pth"
    torch.save(official.state_dict(), path)
    return official, path


def test_embeddings_and_prompts(vit_b: tuple[Any, Path], painted: Any) -> None:
    """Encoder, points, boxes, multimask and not: 1e-4, at 768 x 1024."""
    official, path = vit_b
    predictor, ours, tile = segment_anything.SamPredictor(official), Sam(str(path)), painted(768, 1024)
    predictor.set_image(tile.pixels)
    encoded = ours.encode(tile)
    np.testing.assert_allclose(encoded.feature_map, predictor.features[0].permute(1, 2, 0).numpy(), atol=1e-4)
    assert encoded.covers == (48, 64)
    for multimask in (True, False):
        point, box = np.array([[400.0, 300.0]]), np.array([100.0, 80.0, 900.0, 700.0])
        masks, iou, _ = predictor.predict(point_coords=point, point_labels=np.ones(1), box=box, multimask_output=multimask)
        prompts = {"points": point[None], "point_labels": np.ones((1, 1), dtype=int), "boxes": box[None]}
        answer = ours.predict(encoded, **prompts, multimask=multimask)
        np.testing.assert_allclose(answer.masks.predicted_iou, np.clip(iou, 0, 1), atol=1e-4)
        assert max((mask != theirs).mean() for mask, theirs in zip(answer.masks, masks, strict=True)) < 1e-3


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((1024, 1024), {}),
        ((768, 1024), {"min_mask_region_area": 400}),
        ((700, 500), {}),
        ((1200, 1500), {"points_per_side": 16}),
        ((900, 1024), {"points_per_side": 12, "crop_n_layers": 1, "min_mask_region_area": 100}),
    ],
)
def test_generator(
    size: tuple, settings: dict, vit_b: tuple, painted: Any, landscape: Any, fed: Any, assert_same_masks: Any
) -> None:
    official, path = vit_b
    tile, given = painted(*size), {"points_per_side": 24, **settings}
    fed(landscape(1024, 256), official)
    expected = segment_anything.SamAutomaticMaskGenerator(official, **given).generate(tile.pixels)
    generator = Everything(Sam(str(path)), **given)
    masks = generator.generate(generator.encode(tile))
    assert len(expected) > 25
    assert_same_masks(expected, masks)
