"""The benchmark of SAM: what it feeds, compares and prints; its sides run tiny in one process."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("segment_anything")

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The modules sam and sam_sides, as their folder names them."""
    sys.path.insert(0, str(_FOLDER))
    try:
        yield importlib.import_module("sam"), importlib.import_module("sam_sides")
    finally:
        sys.path.remove(str(_FOLDER))


def test_agreement_counts_identical_and_near_masks(scripts: Any) -> None:
    sam, _ = scripts
    one, near, other = (np.zeros(1000, bool) for _ in range(3))
    one[:200], near[:198], other[500:600] = True, True, True
    bits = [np.packbits(mask) for mask in (one, near, other)]
    found = sam.agreement(np.stack([bits[0], bits[2]]), np.stack([bits[1], bits[2]]))
    assert found.identical == 0.5 and found.above == 1.0 and found.worst == pytest.approx(0.99)
    assert sam.agreement(np.stack(bits[:1]), np.zeros((0, 125), np.uint8)).identical == 0.0


def test_what_is_fed_depends_on_the_point_alone_and_passes_in_part(scripts: Any) -> None:
    _, sides = scripts
    answers = sides.answers(True)
    xy = np.random.default_rng(0).random((300, 2)) * 128
    logits, iou = answers.of(xy)
    assert logits.shape == (300, 3, 32, 32) and 0.1 < float((iou > 0.88).float().mean()) < 0.7
    again, _ = answers.of(xy[17:18])
    assert (again[0] == logits[17]).all() and bool((logits[17].amax((1, 2)) > 0).all())


def test_official_and_ours_find_the_same_masks_tiny(scripts: Any, tmp_path: Path) -> None:
    sam, sides = scripts
    sides.prepare(tmp_path, True, 1)
    theirs = sides.SIDES["official"](tmp_path, True)
    ours = sides.SIDES["fp32"](tmp_path, True)
    assert theirs["masks"] == ours["masks"] > 0
    assert sam.agreements(tmp_path)["fp32"].identical == 1.0
    assert 0 < ours["past"]["stability"] <= ours["past"]["predicted_iou"] < 1


def test_the_table_goes_between_its_marks(scripts: Any, tmp_path: Path) -> None:
    sam, _ = scripts
    runs = {"official": [{"seconds": 8.0, "peak_gib": 1.0, "masks": 4}], "thp": [], "alps": []}
    runs["fp32"] = [
        {"seconds": s, "peak_gib": 0.5, "masks": 4, "encoder": 1.0, "past": {"predicted_iou": 0.4, "stability": 0.2}}
        for s in (1.0, 2.0, 9.0)
    ]
    (tmp_path / "results.json").write_text(json.dumps(runs))
    lines = sam.table(tmp_path)
    assert any("| fp32 | 2 [1..9] | official | 4x | >= 4x | 0.50 GiB |" in line for line in lines)
    page = f"before\n{sam.MARKS[0]}\nold\n{sam.MARKS[1]}\nafter"
    new = sam.with_table(page, lines)
    assert "old" not in new and lines[0] in new and new.startswith("before") and new.endswith("after")
    assert sam.with_table(new, lines) == new


def test_the_sizes_are_the_published_ones(scripts: Any, tmp_path: Path) -> None:
    from terralabel.nets.sam import loading
    from terralabel.nets.sam.families import Checkpoint, identify
    from terralabel.nets.sam.official import to_official

    models = importlib.import_module("sam_models")
    sizes = {}
    for name, case in models.MODELS.items():
        parts = {"vision_config": case.vision, "prompt_encoder_config": {"image_size": 1024}, "mask_decoder_config": {}}
        checkpoint = Checkpoint(case.family, name, "official", parts)
        state = loading._empty(checkpoint).state_dict()  # no storage, so no time
        found = identify({key: tuple(value.shape) for key, value in to_official(state, checkpoint).items()})
        assert found is not None and found.family == case.family
        assert found.image_size == 1024
        sizes[name] = found.size
    assert sizes == {
        "sam_vit_b": "vit_b",
        "sam_vit_l": "vit_l",
        "sam_hq_vit_b": "vit_b",
        "sam2.1_tiny": "hiera_tiny",
        "sam2.1_small": "hiera_small",
        "sam2.1_base_plus": "hiera_base_plus",
        "sam2.1_large": "hiera_large",
        "edgetam": "repvit_m1",
    }


def test_the_table_of_sizes(scripts: Any, tmp_path: Path) -> None:
    models = importlib.import_module("sam_models")
    one, other = np.packbits([[1, 1, 0, 0, 0, 0, 0, 0]], axis=1), np.packbits([[1, 0, 0, 0, 0, 0, 0, 1]], axis=1)
    assert models._agreement(one, one) == {"mean": 1, "least": 1, "pixels": 1}
    near = models._agreement(one, other)
    assert near == {"mean": pytest.approx(1 / 3), "least": pytest.approx(1 / 3), "pixels": 0.75}
    side = {"encoder": 1.0, "prompt": 0.01, "peak_gib": 2.0}
    kept = {"edgetam": {"ours": side, "reference": {**side, "prompt": 0.1}, "size": 10**6, "points": 9, "agreement": near}}
    (tmp_path / "models.json").write_text(json.dumps(kept))
    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", *scripts[0].MODEL_MARKS, "after"]))
    scripts[0].main(["--models", "--table", "--work", str(tmp_path), "--docs", str(page)])
    written = page.read_text()
    assert "| edgetam | 1 MB | 1.00 s | 1.00 s | 10.0 ms | 100 ms | 9.2x |" in written and written.endswith("after")
