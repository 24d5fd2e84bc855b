"""Mask decoders learn boxes by heart; nothing else of the network moves; what is written is read by whoever reads such weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from terralabel.core.tile import Tile  # noqa: E402
from terralabel.errors import InputError, RunError, SettingsError, WeightsError  # noqa: E402
from terralabel.imagery.datasets.instances import open_masks  # noqa: E402
from terralabel.masks.nano import make_nano  # noqa: E402
from terralabel.masks.sam import make_sam  # noqa: E402
from terralabel.nets.nano.shipped import read_network  # noqa: E402
from terralabel.nets.sam.families import FAMILIES, tiny  # noqa: E402
from terralabel.nets.sam.loading import build, load, write_official  # noqa: E402
from terralabel.recipes.refer.fit_decoder import FittedDecoder, refer_fit_decoder  # noqa: E402
from terralabel.train.referring import fit as loop  # noqa: E402
from terralabel.train.referring.decoders import Lesson, drawn_prompt  # noqa: E402
from terralabel.train.referring.losses import mask_losses, mask_overlap  # noqa: E402

_THINGS = ((10, 12, 40, 50), (60, 20, 110, 60), (30, 70, 80, 118))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two pictures of three ellipses each, and their masks as numbered instances."""
    folder = tmp_path_factory.mktemp("decoder")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    y, x = np.mgrid[:128, :128]
    for k in range(2):
        pixels = np.random.default_rng(k).integers(80, 110, (128, 128, 3)).astype(np.uint8)
        label = np.zeros((128, 128), np.uint8)
        for number, (x0, y0, x1, y1) in enumerate(_THINGS, 1):
            inside = ((2 * x - x0 - x1 + 8 * k) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
            pixels[inside], label[inside] = (200, 60 + 30 * number, 50), number
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        Image.fromarray(label).save(folder / "masks" / f"{k}.png")
    return SimpleNamespace(folder=folder, images=folder / "images", masks=folder / "masks", tiles=open_masks(folder).tiles)


def official(family: str, path: Path) -> Path:
    write_official(build(tiny(family)), tiny(family), path)
    return path


def fitted(place: SimpleNamespace, out: Path, masks: object, **values: object) -> FittedDecoder:
    settings = {"share": 1.0, "steps": 30, "batch_size": 3, "lr": 3e-3, "device": "cpu", **values}
    return refer_fit_decoder(place.folder, out, masks=str(masks), **settings)


def answered(masks: str, place: SimpleNamespace) -> float:
    """Mean IoU of the answers to the true boxes, at full size, through the door that `label` and `refer` go through."""
    promptable = make_nano(masks.removeprefix("nano:")) if masks.startswith("nano:") else make_sam(masks, device="cpu")
    found = []
    for tile in place.tiles:
        encoded = promptable.encode(Tile.from_array(np.asarray(Image.open(tile.image))))
        boxes = np.stack([Lesson(tile, k).box for k in range(len(tile.truth))])
        answer = promptable.predict(encoded, boxes=boxes, multimask=False).masks
        found += [(a & b).sum() / (a | b).sum() for a, b in zip(answer, tile.truth, strict=True)]
    return float(np.mean(found))


def test_losses_by_hand() -> None:
    share, logits = torch.zeros(2, 2), torch.zeros(1, 2, 2)
    share[0, 0] = 1.0
    focal = 0.25 * np.log(2) * (0.25 + 3 * 0.75) / 4
    assert float(mask_losses(logits, share)) == pytest.approx(20 * focal + 1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    logits[0, 0] = 1.0
    assert mask_overlap(logits, share).tolist() == [0.5]


def test_prompts_are_boxes_boxes_with_points_and_points(place: SimpleNamespace) -> None:
    lesson = Lesson(place.tiles[0], 1)
    drawn = [drawn_prompt(lesson, 0.2, np.random.default_rng(seed)) for seed in range(200)]
    kinds = {(asked.box is None, asked.point is None) for asked in drawn}
    assert kinds == {(False, True), (False, False), (True, False)}
    sides = np.array([lesson.box[2] - lesson.box[0], lesson.box[3] - lesson.box[1]] * 2)
    moved = np.array([np.abs(asked.box - lesson.box) / sides for asked in drawn if asked.box is not None])
    assert 0.15 < moved.max() <= 0.2 + 1e-6
    assert all(lesson.mask[int(asked.point[1]), int(asked.point[0])] for asked in drawn if asked.point is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_learns_and_nothing_else_moves(family: str, place: SimpleNamespace, tmp_path: Path) -> None:
    weights = official(family, tmp_path / "before.pt")
    before = answered(str(weights), place)
    learns = family == "sam2.1"
    found = fitted(place, tmp_path / "out", weights, **({"steps": 120, "lr": 1e-2, "moved": 0.1} if learns else {"steps": 3}))
    assert (found.learned, found.of, found.file.name) == (6, 6, "model.safetensors")
    first, last = load(weights).model.state_dict(), load(found.file).model.state_dict()
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert moved and all(key.startswith("mask_decoder.") and "conv_s" not in key for key in moved)
    assert load(found.file).checkpoint.layout == "official"
    if learns:
        assert answered(found.masks, place) > before + 0.15
    assert not (tmp_path / "out" / "features").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam", "sam2.1", "edgetam"])
def test_six_masks_are_learned_by_heart(family: str, place: SimpleNamespace, tmp_path: Path) -> None:
    weights = official(family, tmp_path / "before.pt")
    found = fitted(place, tmp_path / "out", weights, steps=300, lr=1e-2, moved=0.1)
    assert answered(found.masks, place) > 0.6 > 0.2 > answered(str(weights), place)


def test_segment_anything_reads_the_file(place: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("segment_anything")
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    found = fitted(place, tmp_path / "out", official("sam", tmp_path / "before.pt"), steps=3)
    decoder = MaskDecoder(
        transformer_dim=32,
        transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=32,
    )
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=16)
    state = load_file(found.file)
    for part, module in (("mask_decoder.", decoder), ("prompt_encoder.", prompts)):
        module.load_state_dict({key.removeprefix(part): value for key, value in state.items() if key.startswith(part)})
    sam = make_sam(str(found.file), device="cpu")
    network = sam._loaded[0]
    embedding = network.encode(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))[0]
    boxes = torch.tensor([[10.0, 12, 40, 50]])
    ours = network.decode(embedding, boxes=boxes, multimask=False)
    with torch.no_grad():
        sparse, dense = prompts(points=None, boxes=boxes, masks=None)
        theirs = decoder.eval()(
            image_embeddings=embedding.image.clone()[None],
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-4)


@pytest.mark.parametrize("family", ["sam", "sam2.1"])
def test_of_a_folder_of_transformers_comes_one(family: str, place: SimpleNamespace, tmp_path: Path) -> None:
    import transformers

    model = build(tiny(family))
    model.save_pretrained(tmp_path / "before")
    found = fitted(place, tmp_path / "out", tmp_path / "before", steps=3)
    theirs = type(model).from_pretrained(found.file.parent)
    assert isinstance(theirs, transformers.PreTrainedModel)
    ours = load(found.file.parent).model
    with torch.no_grad():
        pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        boxes = torch.tensor([[[10.0, 12, 40, 50]]])
        answers = [net.eval()(pixel_values=pixels, input_boxes=boxes, multimask_output=False) for net in (theirs, ours, model)]
    assert torch.equal(answers[0].pred_masks, answers[1].pred_masks)
    assert not torch.equal(answers[0].pred_masks, answers[2].pred_masks)


def test_nano_learns_and_nothing_else_moves(place: SimpleNamespace, tmp_path: Path) -> None:
    found = fitted(place, tmp_path / "out", "nano", steps=4, batch_size=2)
    assert found.masks == f"nano:{found.file}"
    first, last = (read_network(*path)[0].state_dict() for path in ((), (found.file,)))
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert moved and all(key.startswith("decoder.") and "running" not in key for key in moved)
    assert answered(found.masks, place) > 0.5
    again = fitted(place, tmp_path / "again", found.masks, steps=1)  # a fitted one goes on learning
    assert again.file.is_file()


def test_stopped_and_gone_on_is_the_same_as_never_stopped(
    place: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = official("sam", tmp_path / "before.pt")
    how = {"steps": 4, "batch_size": 2, "save_every": 2, "share": 0.5}
    whole = fitted(place, tmp_path / "a", weights, **how)
    assert (whole.learned, whole.judged) == (3, 3)
    save, saved = torch.save, []

    def killed(held: object, path: Path) -> None:
        save(held, path)
        saved.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop.torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(place, tmp_path / "b", weights, **how)
    assert saved and not (tmp_path / "b" / "model.safetensors").exists()
    gone_on = fitted(place, tmp_path / "b", weights, **how)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert (gone_on.before, gone_on.after) == (whole.before, whole.after)
    rerun = fitted(place, tmp_path / "b", weights, **how)
    assert rerun.text.replace("/b/", "/a/") == whole.text
    with pytest.raises(RunError, match="other data or with other settings"):
        fitted(place, tmp_path / "b", weights, **{**how, "seed": 1})


def test_an_image_that_is_unlike_the_others_is_left_out(place: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(place.folder, tmp_path / "set")
    for name in ("images", "masks"):
        shutil.copy(tmp_path / "set" / name / "0.png", tmp_path / "set" / name / "2.png")
    Image.fromarray(np.full((128, 128), 7, np.uint16)).save(tmp_path / "set/images/2.png")
    found = refer_fit_decoder(tmp_path / "set", tmp_path / "out", masks="nano", share=0.5, steps=1, batch_size=1)
    assert (found.learned, found.of) == (3, 6)
    assert len(found.problems) == 1 and "2.png" in found.problems[0]


def test_what_cannot_be_fitted_is_told(place: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no mask decoder that is fitted here"):
        fitted(place, tmp_path / "out", "tree")
    with pytest.raises(SettingsError, match="share is 0"):
        fitted(place, tmp_path / "out", "nano", share=0.0)
    with pytest.raises(WeightsError, match="no such file"):
        fitted(place, tmp_path / "out", tmp_path / "nowhere.pt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear reader")
    with pytest.raises(RunError, match="no mask decoder"):
        fitted(place, tmp_path / "mine", "nano")
    empty = tmp_path / "empty"
    shutil.copytree(place.folder, empty)
    for file in (empty / "masks").iterdir():
        Image.fromarray(np.zeros((128, 128), np.uint8)).save(file)
    with pytest.raises(InputError, match="no mask that could be used"):
        refer_fit_decoder(empty, tmp_path / "out", masks="nano")
