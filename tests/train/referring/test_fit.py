"""A locator learns triplets; its losses by hand; a fit that was stopped goes on to the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from terralabel.core.files import TEMPORARY_PREFIX  # noqa: E402
from terralabel.core.tile import Tile  # noqa: E402
from terralabel.core.triplets import Triplet  # noqa: E402
from terralabel.errors import RunError, WeightsError  # noqa: E402
from terralabel.nets.grounding.locators import fitted  # noqa: E402
from terralabel.nets.grounding.models import load_grounding  # noqa: E402
from terralabel.train.referring.fit import fit  # noqa: E402
from terralabel.train.referring.losses import focal, generalised_iou, locator_loss, matched  # noqa: E402
from terralabel.train.referring.pupils import ReleasedPupil, SmallPupil  # noqa: E402
from terralabel.train.referring.settings import FitSettings  # noqa: E402
from terralabel.train.segmentation.logs import read_log  # noqa: E402

_COLOURS = {"red": (200, 40, 40), "blue": (40, 60, 200), "green": (40, 170, 60), "white": (240, 240, 240)}


def triplets(pictures: int) -> tuple[dict[Path, np.ndarray], list[Triplet]]:
    """Two coloured rectangles on grey in each picture, and the sentence that tells which."""
    rng = np.random.default_rng(0)
    painted, items = {}, []
    for k in range(pictures):
        pixels = np.clip(110 + rng.integers(-12, 12, (160, 200, 3)), 0, 255).astype(np.uint8)
        for side, name in enumerate(rng.permutation(list(_COLOURS))[:2]):
            width, height = rng.integers(25, 60, 2).tolist()
            x, y = int(rng.integers(0, 95 - width)) + 100 * side, int(rng.integers(0, 160 - height))
            pixels[y : y + height, x : x + width] = _COLOURS[name]
            items.append(Triplet(f"{k}-{side}", Path(f"/{k}"), f"the {name} building", (x, y, x + width, y + height)))
        painted[Path(f"/{k}")] = pixels
    return painted, items


def test_losses_by_hand() -> None:
    there = focal(torch.zeros(1), torch.ones(1)), focal(torch.zeros(1), torch.zeros(1))
    assert [float(v) for v in there] == pytest.approx([0.25 * 0.25 * np.log(2), 0.75 * 0.25 * np.log(2)])
    one, other = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert float(generalised_iou(one, other)) == pytest.approx(1 / 7 - 2 / 9)
    assert float(generalised_iou(one, one)) == pytest.approx(1.0)
    boxes = torch.tensor([[[0.0, 0, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9], [0.0, 0, 1, 1]]])
    truth, logits = torch.tensor([[0.4, 0.4, 0.9, 0.9]]), torch.zeros(1, 3)
    assert matched(logits, boxes, truth, 1).tolist() == [[1]]
    sure = (0.25 + 2 * 0.75) * 0.25 * np.log(2)
    assert float(locator_loss(logits, boxes, truth)) == pytest.approx(2 * sure, abs=1e-6)


@pytest.mark.slow
def test_twenty_triplets_are_learned_by_heart(tmp_path: Path) -> None:
    """Mean IoU of the surest box over .8 on what it was fitted to: training works."""
    painted, items = triplets(10)
    assert len(items) == 20
    fit(SmallPupil(painted.__getitem__, 0, "cpu"), items, tmp_path, FitSettings(steps=500), {})
    locator, found = fitted(str(tmp_path)), []
    for item in items:
        boxes, scores = locator.locate(Tile.from_array(painted[item.image]), item.text)
        best, truth = torch.from_numpy(boxes[scores.argmax()]), torch.tensor(item.xyxy)
        common = (torch.minimum(best[2:], truth[2:]) - torch.maximum(best[:2], truth[:2])).clamp(min=0).prod()
        found.append(float(common / ((best[2:] - best[:2]).prod() + (truth[2:] - truth[:2]).prod() - common)))
    assert np.mean(found) > 0.8, found


def test_stopped_and_gone_on_is_the_same_as_never_stopped(tmp_path: Path) -> None:
    painted, items = triplets(2)
    settings = FitSettings(steps=4, batch_size=2, save_every=2)
    whole = fit(SmallPupil(painted.__getitem__, 0, "cpu"), items, tmp_path / "a", settings, {"set": "x"})

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(SmallPupil(painted.__getitem__, 0, "cpu"), items, tmp_path / "b", settings, {"set": "x"}, advance=stop)
    fit(SmallPupil(painted.__getitem__, 0, "cpu"), items, tmp_path / "b", settings, {"set": "x"})
    weights = [(tmp_path / name / "locator.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert np.isfinite(whole)
    with pytest.raises(RunError, match="other data"):
        fit(SmallPupil(painted.__getitem__, 0, "cpu"), items, tmp_path / "b", settings, {"set": "y"})


def test_a_fitted_folder_is_a_locator_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    painted, items = triplets(1)
    fit(SmallPupil(painted.__getitem__, 0, "cpu"), items, tmp_path, FitSettings(steps=1, batch_size=1), {})
    locator = fitted(str(tmp_path)).on("cpu")
    boxes, scores = locator.locate(Tile.from_array(painted[items[0].image]), "the red building")
    assert boxes.shape == (len(scores), 4)
    assert boxes[:, 2].max() <= 200
    assert boxes[:, 3].max() <= 160
    weights = tmp_path / "locator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(WeightsError):
        _ = fitted(str(tmp_path)).version
    with pytest.raises(WeightsError, match="no locator there"):
        fitted(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("family", ["grounding-dino", "owlv2"])
def test_models_of_transformers_go_on_learning(family: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.nets.grounding.tiny import save_grounding_dino, save_owlv2

    saved = {"grounding-dino": save_grounding_dino, "owlv2": save_owlv2}[family](tmp_path / "model")
    painted, items = triplets(1)
    items = [replace(item, text=item.text.split()[1]) for item in items]  # the tiny tokenizer reads letter by letter
    pupil = ReleasedPupil(painted.__getitem__, load_grounding(family, str(saved), "cpu"))
    before = float(pupil.loss(items).detach())
    cut_off = tmp_path / "out" / f"{TEMPORARY_PREFIX}saved"  # as a kill leaves it
    cut_off.mkdir(parents=True)
    (cut_off / "model.safetensors").write_bytes(b"half a fi")
    fit(pupil, items, tmp_path / "out", FitSettings(steps=8, batch_size=2, lr=3e-3), {})
    assert not list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*")) and not list(tmp_path.glob(".*"))
    assert [row["step"] for row in read_log(tmp_path / "out" / "log.csv")] == [8]
    assert float(pupil.loss(items).detach()) < before
    locator = fitted(str(tmp_path / "out")).on("cpu")
    boxes, scores = locator.locate(Tile.from_array(painted[items[0].image]), items[0].text)
    expected = load_grounding(family, str(saved), "cpu")
    assert len(boxes) == len(scores) > 0
    assert locator.model.sha256 != expected.sha256
