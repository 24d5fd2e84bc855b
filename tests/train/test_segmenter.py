"""Training of the small network: what it reads, what it draws, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

torch = pytest.importorskip("torch")

from terralabel.imagery.collage import paint_collage  # noqa: E402
from terralabel.nets.mobilenet import MobileNetV2  # noqa: E402
from terralabel.nets.nano.shipped import SHIPPED, read_network  # noqa: E402
from terralabel.train import sources as module  # noqa: E402
from terralabel.train.losses import _around, _cells, _window_boxes, box_iou, true_grid  # noqa: E402
from terralabel.train.pictures import BUILDING, GENERATED, Picture, flood, held_out, labelled, mosaic, scenes, waters  # noqa: E402
from terralabel.train.prompts import BOX, POINT, Batch, draw  # noqa: E402
from terralabel.train.segmenter import Plan, Training, train  # noqa: E402
from terralabel.train.sources import read_sources  # noqa: E402

PLAN = Plan(steps=3, side=64, prompts=3, collages=3, thaw=0.3, thaw_from=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the real sets, painted."""
    root = tmp_path_factory.mktemp("sets")
    for folder in ("oam-buildings", "oam-buildings-multi/area1", "fields", "boxes-aerial", "coarse-s2"):
        for part in ("images", "masks"):
            (root / folder / part).mkdir(parents=True)
        for k in range(6):
            pixels, ids = paint_collage(np.random.default_rng([k, len(folder)]), 160)
            cv2.imwrite(str(root / folder / "images" / f"tile{k}.png"), pixels[..., ::-1])
            cv2.imwrite(str(root / folder / "masks" / f"tile{k}.png"), ids[0].astype(np.uint16))
    _write_flood(root / "sen1floods11")
    return root


def _write_flood(folder: Path) -> None:
    """A chip named as the real one, with NaN where the radar saw nothing and a lake."""
    folder.mkdir()
    profile = {"driver": "GTiff", "width": 128, "height": 128, "dtype": "float32", "transform": from_origin(0, 128, 1, 1)}
    rng = np.random.default_rng(8)
    lake = np.zeros((128, 128), bool)
    lake[40:90, 20:70] = True
    radar = np.where(lake, -22, -9) + rng.normal(0, 2, (2, 128, 128))
    radar[:, :4] = np.nan
    optical = np.where(lake, 300, 1500) + rng.normal(0, 40, (13, 128, 128))
    for name, bands in (("S1Hand", radar), ("S2Hand", optical), ("LabelHand", np.where(lake, 1, 0)[None])):
        with rasterio.open(folder / f"Spain_7370579_{name}.tif", "w", count=len(bands), **profile) as file:
            file.write(bands.astype(np.float32))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the encoder's format."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.npz"
    np.savez(path, **{key: value.numpy() for key, value in MobileNetV2().state_dict().items()})
    return path


@pytest.fixture(scope="module")
def sources(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """All pictures to learn from."""
    return read_sources(data, tmp_path_factory.mktemp("cache"), PLAN.collages, PLAN.seed)


def test_a_third_is_held_out_and_never_read(data: Path) -> None:
    names = [f"OAM-{k}" for k in range(3000)]
    assert 0.3 < np.mean([held_out(name) for name in names]) < 0.37
    kept = [k for k in range(6) if not held_out(f"tile{k}")]
    assert 0 < len(kept) < 6
    assert len(list(labelled(data / "oam-buildings"))) == len(kept)


def batch_of(sources: dict, seed: int = 0) -> Batch:
    pictures = [(sources[name][0], 0.5, 1.5) for name in ("buildings", "collages", "unlabelled")]
    return draw(pictures, 64, 8, np.random.default_rng(seed))


def test_prompts_belong_to_their_instances(sources: dict) -> None:
    batch = batch_of(sources)
    for b in range(3):
        for n in range(8):
            mask = batch.ids[b, batch.layer[b, n]] == batch.number[b, n]
            rows, columns = np.nonzero(mask)
            np.testing.assert_array_equal(batch.box[b, n], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert batch.area[b, n] == mask.sum()
            for (x, y), label in zip(batch.points[b, n], batch.labels[b, n], strict=True):
                if label == 1:
                    assert mask[int(y), int(x)]
            assert (batch.labels[b, n, 0] == 1) == (batch.kind[b, n] not in (BOX, 3))


def test_truth_in_a_window_is_the_instance() -> None:
    ids = torch.zeros(1, 2, 64, 64, dtype=torch.int32)
    ids[0, 1, 16:48, 8:40] = 7
    window = torch.tensor([[[0.0, 0.0, 32.0, 64.0]]])
    number, layer = torch.tensor([[7]]), torch.tensor([[1]])
    grid, missing = true_grid(ids, window, layer, number, torch.tensor([[32.0 * 32]]), 16)
    expected = torch.zeros(16, 16)
    expected[4:12, 4:] = 1
    assert torch.equal(grid[0], expected)
    assert missing.tolist() == [32.0]  # a quarter of 128 cells of 2 x 4 pixels lies to the right


def test_the_flood_is_seen_four_ways_with_its_lake(data: Path) -> None:
    assert not held_out("Spain_7370579")
    views = list(flood(data / "sen1floods11"))
    assert len(views) == 4
    for pixels, ids in views:
        assert pixels.shape == (128, 128, 3) and pixels.dtype == np.uint8
        assert ids[60, 40] == 1 and ids[10, 100] == 0
        assert pixels[50:80, 30:60].mean() < pixels[100:, 80:].mean()


def test_every_cell_knows_its_instances(sources: dict) -> None:
    batch = batch_of(sources)
    t = {key: torch.from_numpy(value) for key, value in vars(batch).items()}
    found = _around(t, _cells(t))
    assert found.boxes.shape == (3, 64, 4, 4)
    for b, cell in ((0, 27), (1, 9), (2, 50)):
        x, y = 8 * (cell % 8) + 4, 8 * (cell // 8) + 4
        outside = x >= batch.sizes[b, 1] or y >= batch.sizes[b, 0]
        assert (found.weight[b, cell] == 0) == outside
        for layer in range(4):
            number = batch.ids[b, layer, y, x]
            assert found.number[b, cell, layer] == number
            rows, columns = np.nonzero(batch.ids[b, layer] == number)
            if number:
                expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_array_equal(found.boxes[b, cell, layer], expected)
                assert found.area[b, cell, layer] == len(rows)
            else:
                assert found.boxes[b, cell, layer].isnan().all()


def test_any_guess_means_what_it_fits_best(sources: dict) -> None:
    batch = batch_of(sources)
    t = {key: torch.from_numpy(value) for key, value in vars(batch).items()}
    there = _around(t, t["points"][:, :, 0])
    known = ~there.boxes[..., 0].isnan()
    largest = torch.where(known, there.area, torch.zeros(())).argmax(-1)
    whole = there.boxes.gather(2, largest[..., None, None].expand(*largest.shape, 1, 4))
    guesses = torch.where(known.any(-1)[..., None, None], whole, t["box"][:, :, None]).expand(-1, -1, 3, -1)
    t["kind"] = torch.full_like(t["kind"], POINT)
    boxes, sure, aimed, meant = _window_boxes(guesses.contiguous(), t, there, 3)
    moved = (meant["area"] != t["area"]) & known.any(-1)
    assert moved.any()
    assert (meant["area"] >= t["area"])[known.any(-1)].float().mean() > 0.9
    iou = box_iou(boxes, meant["box"])[0]
    assert (
        (iou[moved] > 0.9).all() and (aimed[moved] == 1).all() and (sure == 0.5).all()
    )  # what is no guess is preferred, if alike


def test_box_iou() -> None:
    iou, generalised = box_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([[0.0, 0.0, 2.0, 2.0], [4.0, 0.0, 6.0, 2.0]]))
    torch.testing.assert_close(iou, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1.0, -1 / 3]))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(data: Path, encoder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    straight = train(data, encoder, whole, PLAN, save_every=1)
    interrupted = Training(PLAN, encoder)
    parts.mkdir()
    for name in ("pictures.npz", "collages.npz"):
        shutil.copy(whole / name, parts / name)
    sources = read_sources(data, parts, PLAN.collages, PLAN.seed)
    interrupted.advance(sources)
    torch.save(interrupted.state(), parts / "checkpoint.pt")
    resumed = train(data, encoder, parts, PLAN, save_every=1)
    assert straight.read_bytes() == resumed.read_bytes()
    assert (whole / "log.jsonl").read_text().count("\n") == 1


def test_the_encoder_learns_late_and_the_heads_at_once(sources: dict, encoder: Path) -> None:
    training = Training(replace(PLAN, thaw=0.5), encoder)
    before = {key: value.clone() for key, value in training.net.state_dict().items()}
    moved = []
    for _ in range(3):
        training.advance(sources)
        now = training.net.state_dict()
        moved.append(
            [
                bool((now[key] != before[key]).any())
                for key in ("shallow.weight", "encoder.17.conv.2.weight", "encoder.4.conv.2.weight")
            ]
        )
    assert moved == [[True, False, False], [True, False, False], [True, True, False]]


def test_training_goes_on_from_a_network_and_its_own_masks(
    data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def with_something(picture: Picture, weights: Path) -> Picture:
        asked.append(weights)
        return replace(picture, ids=np.concatenate([picture.ids[:1], np.ones_like(picture.ids[1:])]))

    monkeypatch.setattr(module, "with_own_masks", with_something)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    straight = train(data, encoder, whole, PLAN, start=SHIPPED, save_every=1)
    shipped, learned = (read_network(path)[0].state_dict() for path in (SHIPPED, straight))
    moved = [float((learned[key] - value).abs().max()) for key, value in shipped.items() if key.endswith("weight")]
    assert 0 < max(moved) < 0.1  # three small steps from where it began, not from the encoder's
    shutil.copytree(whole, parts, ignore=lambda *_: ["checkpoint.pt", "nano.safetensors"])
    begun, sources = Training(PLAN, encoder, SHIPPED), read_sources(data, parts, PLAN.collages, PLAN.seed, SHIPPED)
    assert len(asked) == sum(len(sources[name]) for name in ("buildings", "fields", "unlabelled", "flood"))
    assert (sources["unlabelled"][0].ids[1:] == 1).all()
    begun.advance(sources)
    torch.save(begun.state(), parts / "checkpoint.pt")
    assert train(data, encoder, parts, PLAN, start=SHIPPED, save_every=1).read_bytes() == straight.read_bytes()


def test_generated_things_have_kinds(sources: dict, tmp_path: Path) -> None:
    assert all(picture.kinds == (BUILDING,) for picture in sources["buildings"])
    pictures = scenes(3, 0, tmp_path / "scenes.npz", side=96)
    assert [picture.finished for picture in pictures] == [False, False, True]
    for picture in pictures:
        assert len(picture.kinds) == picture.ids[0].max() + 1 and picture.true == 1
        assert {GENERATED + k for k in range(1, 7)} >= set(picture.kinds[1:])
        for number in range(1, len(picture.kinds)):
            assert (picture.ids[0] == number).sum() >= 64 and picture.shows(0, number) == picture.kinds[number]
        assert picture.shows(1, 1) == 0
    assert (pictures[2].pixels == pictures[2].pixels[..., :1]).all()
    again = scenes(3, 0, tmp_path / "scenes.npz", side=96)
    np.testing.assert_array_equal(again[1].ids, pictures[1].ids)
    assert [p.kinds for p in waters(2, 0, tmp_path / "waters.npz")] == [(GENERATED + 3,)] * 2


def test_a_view_of_a_finished_picture_keeps_its_values(tmp_path: Path) -> None:
    picture = waters(1, 0, tmp_path / "waters.npz")[0]
    batch = draw([(picture, 1.0, 1.0)], 128, 4, np.random.default_rng(5))
    assert (batch.pixels[0] == batch.pixels[0][:1]).all()
    assert (batch.what == GENERATED + 3).all()


def test_a_mosaic_is_four_pictures_with_all_their_instances(sources: dict) -> None:
    four = [sources["buildings"][k % len(sources["buildings"])] for k in range(4)]
    whole = mosaic(four, np.random.default_rng(1))
    height, width = four[0].ids.shape[1:]
    assert whole.pixels.shape == (2 * height, 2 * width, 3) and whole.kinds == four[0].kinds
    counts = [len(np.unique(picture.ids[picture.ids > 0])) for picture in four]
    assert len(np.unique(whole.ids[whole.ids > 0])) == sum(counts)
    corner = whole.ids[0, :height, :width]
    turned = [np.rot90(four[0].pixels, k) for k in range(4)]
    assert any((whole.pixels[:height, :width] == one).all() for one in turned)
    assert (corner > 0).sum() == (four[0].ids[0] > 0).sum()
