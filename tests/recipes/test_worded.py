"""Names for clusters by likeness to words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import SettingsError
from terralabel.recipes.worded import PROMPT, WORDS, parsed_words


def test_words_of_a_person(tmp_path: Path) -> None:
    assert parsed_words(" ") == WORDS and len(set(WORDS)) == len(WORDS) >= 60
    assert parsed_words("building,  paved  road, building, water") == ("building", "paved road", "water")
    (tmp_path / "words.txt").write_text("rice\nwheat\n\nmaize\n")
    assert parsed_words(str(tmp_path / "words.txt")) == ("rice", "wheat", "maize")
    for bad, told in (
        ("water", "got 1"),
        ("a,\x00b", "printable"),
        ("a," + "b" * 101, "at most 100"),
        ("no/such.txt", "cannot be read"),
    ):
        with pytest.raises(SettingsError, match=told):
            parsed_words(bad)


def test_names_follow_transformers_own_numbers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra terralabel[torch]")
    transformers = pytest.importorskip("transformers", reason="needs the extra terralabel[torch]")
    import terralabel as tl
    from terralabel.export.cards import crop_window
    from terralabel.imagery.painter import write_demo
    from terralabel.nets.wording import load_words
    from terralabel.recipes.survey import survey_clusters
    from terralabel.recipes.worded import word_shares
    from tests.nets.tiny_words import save_clip

    write_demo(tmp_path, seed=3, scenes=1, size=160)
    run = tl.label(tmp_path / "images", tmp_path / "run", clusters=3, workers=0)
    survey, words = survey_clusters(run), ("water", "road", "house")
    folder = save_clip(tmp_path / "clip")
    told = word_shares(run, survey, load_words(str(folder), "cpu"), words)
    net, processor = transformers.CLIPModel.from_pretrained(folder).eval(), transformers.AutoProcessor.from_pretrained(folder)
    for cluster, card in survey.cards.items():
        pictures = [run.read_rgb(i.scene, crop_window(i, run.scenes[0]), 256) for i in card.typical[:6]]
        with torch.inference_mode():
            texts = [PROMPT.format(word=w) for w in words]
            given = processor(images=pictures, text=texts, return_tensors="pt", padding=True, truncation=True, max_length=32)
            theirs = net(**given).logits_per_image.mean(dim=0).softmax(dim=0).tolist()
        order = np.argsort([-v for v in theirs])
        assert [name for name, _ in told[cluster]] == [words[k] for k in order]
        np.testing.assert_allclose([share for _, share in told[cluster]], [theirs[k] for k in order], atol=1e-5)
    (kept,) = (run.path / "review" / "cache").glob("places-*.parquet")
    blind = load_words(str(folder), "cpu")
    object.__setattr__(blind, "pictures", None)  # the places are in the cache: no picture is looked at again
    assert word_shares(run, survey, blind, words) == told and kept.is_file()
    kept.write_bytes(b"damaged")
    assert word_shares(run, survey, load_words(str(folder), "cpu"), words) == told
