from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from terralabel.core.grid import Window
from terralabel.imagery.raster import open_raster
from terralabel.recipes.curate import change_clusters, name_shares
from terralabel.recipes.run import Run
from terralabel.recipes.survey import survey_clusters


def test_a_survey_counts_every_object_once(run: Run) -> None:
    survey = survey_clusters(run)
    assert sum(card.objects for card in survey.cards.values()) == run.object_count()
    for card in survey.cards.values():
        assert card.sizes.sum() == card.objects and 0 <= card.certainty <= 1 and card.spread > 0
        assert [s.score for s in card.typical[:3]] == sorted((s.score for s in card.typical[:3]), reverse=True)
        assert {s.cluster_id for s in (*card.typical, *card.uncertain)} == {card.cluster}
    assert all(0 < share <= 1 and a < b for (a, b), share in survey.touching.items()) and survey.touching
    ids, apart = survey.distances
    assert ids == sorted(survey.cards) and np.allclose(apart, apart.T) and np.isinf(np.diag(apart)).all() and apart.min() > 0
    a, b = survey.cards[ids[0]], survey.cards[ids[1]]
    assert apart[0, 1] == pytest.approx(np.linalg.norm(a.centre - b.centre) / (a.spread + b.spread), rel=1e-5)


def test_the_cache_gives_the_same_back(run: Run) -> None:
    first, second = survey_clusters(run), survey_clusters(run)
    assert first.touching == second.touching and list(first.cards) == list(second.cards)
    for k, card in first.cards.items():
        again = second.cards[k]
        assert np.array_equal(card.centre, again.centre) and np.array_equal(card.sizes, again.sizes)
        for ours, theirs in zip([*card.typical, *card.uncertain], [*again.typical, *again.uncertain], strict=True):
            assert (ours.scene, ours.id, ours.bbox, ours.score) == (theirs.scene, theirs.id, theirs.bbox, theirs.score)
            assert np.array_equal(ours.mask, theirs.mask)


def test_after_a_split_only_its_parts_are_looked_at(run: Run) -> None:
    before = survey_clusters(run)
    change_clusters(run, "split", ["0"])
    after = survey_clusters(run, known=before, wanted=[0, 6])
    assert after.cards[0].objects + after.cards[6].objects == before.cards[0].objects
    assert after.cards[1] is before.cards[1]


def test_names_are_suggested_from_labelled_images(run: Run, painted: Path) -> None:
    shares = name_shares(run, painted / "truth", "0=ground")
    assert set(shares) <= set(range(6)) and shares
    for found in shares.values():
        assert sum(share for _, share in found) == pytest.approx(1) and found[0][1] == max(s for _, s in found)


def test_a_window_is_read_shrunk(run: Run) -> None:
    with open_raster(run.source_path("scene_1")) as raster:
        whole, valid = raster.read(Window(0, 0, 160, 160))
        small, small_valid = raster.read_shrunk(Window(0, 0, 160, 160), 40, 40)
    assert small.shape == (40, 40, whole.shape[2]) and small_valid.shape == (40, 40) and valid.all() and small_valid.all()
    assert abs(small.astype(float).mean() - whole.mean()) < 6
