"""Pictures and words in one space: the same numbers as transformers', from tiny random weights in the official formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra terralabel[torch]")
transformers = pytest.importorskip("transformers", reason="needs the extra terralabel[torch]")

from tests.nets.tiny_words import save_clip, save_siglip  # noqa: E402

from terralabel.errors import WeightsError  # noqa: E402
from terralabel.nets.wording import load_words  # noqa: E402

PICTURES = [np.random.default_rng(k).integers(0, 256, (40 + 9 * k, 52, 3)).astype(np.uint8) for k in range(3)]
TEXTS = ["an aerial photo of a house", "an aerial photo of water", "a road", "tree"]


@pytest.mark.parametrize("save, model", [(save_clip, "CLIPModel"), (save_siglip, "SiglipModel")])
def test_likeness_is_that_of_transformers(save: Any, model: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "net")
    ours = load_words(str(folder), "cpu")
    found = ours.likeness(ours.pictures(PICTURES), ours.words(TEXTS))
    net = getattr(transformers, model).from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 32} if model == "SiglipModel" else {"padding": True, "max_length": 32}
    with torch.inference_mode():
        inputs = processor(images=PICTURES, text=TEXTS, return_tensors="pt", truncation=True, **padding)
        theirs = net(**inputs).logits_per_image.numpy()
    assert found.shape == (3, 4) and np.ptp(theirs) > 1e-3
    np.testing.assert_allclose(found, theirs, atol=2e-5)


def test_what_is_no_text_encoder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match=r"google/siglip-base-patch16-224.*offline.*--text-encoder FOLDER"):
        load_words()
    with pytest.raises(WeightsError, match="no such folder"):
        load_words(str(tmp_path / "nothing"))
    folder = save_clip(tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(WeightsError, match="model_type is 'bert'; a text encoder is expected to be clip or siglip"):
        load_words(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="damaged"):
        load_words(str(folder))
