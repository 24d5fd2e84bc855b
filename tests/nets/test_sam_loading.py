"""SAM weights from every place they come from, and everything that may be wrong with them. No connection is ever made."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from terralabel.errors import SettingsError, WeightsError
from terralabel.nets import weights
from terralabel.nets.checkpoints import check
from terralabel.nets.inspection import inspect
from terralabel.nets.sam.families import FAMILIES, identify, tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402

from terralabel.nets.sam.loading import build, load, write_official  # noqa: E402
from terralabel.nets.sam.official import to_official  # noqa: E402


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def models() -> dict:
    return {family: build(tiny(family)) for family in FAMILIES}


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def saved(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_official_file_safetensors_and_folder_load_to_the_same_network(tmp_path: Path, models: dict, family: str) -> None:
    model, checkpoint = models[family], tiny(family)
    write_official(model, checkpoint, tmp_path / "w.pt")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    official, tensors = load(tmp_path / "w.pt"), load(str(tmp_path / "w.safetensors"))
    folder = load(saved(model, tmp_path / "folder"))
    for loaded in (official, tensors, folder):
        assert same(loaded.model, model) and type(loaded.model) is type(model)
        assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
        assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
        assert not any(p.is_meta for p in [*loaded.model.parameters(), *loaded.model.buffers()])
        assert loaded.checkpoint.family in (family, "sam2.1") and loaded.checkpoint.image_size == checkpoint.image_size
    assert official.sha256 == hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    assert (official.checkpoint.layout, tensors.checkpoint.layout) == ("official", "transformers")
    assert folder.sha256 == load(tmp_path / "folder").sha256 != tensors.sha256


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_networks_take_images(models: dict, family: str) -> None:
    side = tiny(family).image_size
    with torch.no_grad():
        pixels = torch.randn((1, 3, side, side), generator=torch.Generator().manual_seed(0))
        point = torch.tensor([[[[side / 2, side / 2]]]])
        out = models[family](pixel_values=pixels, input_points=point, input_labels=torch.ones((1, 1, 1), dtype=torch.int64))
    assert out.pred_masks.shape[1:3] == (1, 3) and torch.isfinite(out.pred_masks).all() and out.pred_masks.std() > 1e-3


def test_building_is_repeatable_and_seeds_differ() -> None:
    first, again, other = build(tiny("sam")), build(tiny("sam")), build(tiny("sam"), seed=1)
    assert same(first, again) and not same(first, other)
    with pytest.raises(SettingsError, match="Unknown family 'sam4'"):
        tiny("sam4")


def test_half_precision_wrapped_and_sharded_files(tmp_path: Path, models: dict) -> None:
    state = to_official(models["sam"].state_dict(), tiny("sam"))
    torch.save({"state_dict": {f"module.{k}": v.half() for k, v in state.items()}, "epoch": 3}, tmp_path / "trained.pth")
    loaded = load(tmp_path / "trained.pth")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.model.state_dict(), models["sam"].state_dict(), atol=2e-3, rtol=1e-3)
    models["sam"].save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1 and same(load(tmp_path / "shards").model, models["sam"])
    shards[0].unlink()
    with pytest.raises(WeightsError, match=f"{shards[0].name} is missing from this folder"):
        load(tmp_path / "shards")


def test_video_models_of_the_hub_hold_the_image_models(tmp_path: Path, models: dict) -> None:
    """SAM 2's and SAM 3's folders on the hub are of their video models: more tensors, other prefixes, another config.json."""
    folder = saved(models["sam2.1"], tmp_path / "sam2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video", "num_maskmem": 7}))
    extra = {"memory_encoder.projection.weight": torch.zeros(4, 4), "no_object_pointer": torch.zeros(1, 32)}
    save_file(models["sam2.1"].state_dict() | extra, folder / "model.safetensors")
    assert load(folder).checkpoint.family == "sam2"  # memory without 2.1's additions
    extra["occlusion_spatial_embedding_parameter"] = torch.zeros(1, 4)
    save_file(models["sam2.1"].state_dict() | extra, folder / "model.safetensors")
    assert load(folder).checkpoint.family == "sam2.1" and same(load(folder).model, models["sam2.1"])

    folder, state = tmp_path / "sam3", {}
    tracker = json.loads((saved(models["sam3"], folder) / "config.json").read_text())
    for key, value in models["sam3"].state_dict().items():
        if key.startswith("vision_encoder.backbone."):
            state[f"detector_model.{key}"] = value
        elif key.startswith("vision_encoder.neck."):
            state[key.replace("vision_encoder.neck.", "tracker_neck.")] = value
        else:
            state[f"tracker_model.{key}"] = value
    state |= {"detector_model.text_projection.weight": torch.zeros(2, 2), "tracker_model.no_object_pointer": torch.zeros(1, 32)}
    (folder / "config.json").write_text(json.dumps({"model_type": "sam3_video", "tracker_config": tracker}))
    save_file(state, folder / "model.safetensors")
    assert same(load(folder).model, models["sam3"])


def test_what_no_shape_tells_comes_from_the_folder(tmp_path: Path) -> None:
    """Heads, windows and the image's side of a custom Hiera are in config.json only."""
    checkpoint = tiny("sam2.1")
    vision = checkpoint.config["vision_config"]
    backbone = vision["backbone_config"] | {"global_attention_blocks": [4], "num_attention_heads_per_stage": [2, 4, 4, 8]}
    changed = {**checkpoint.config, "vision_config": {**vision, "backbone_config": backbone}}
    model = build(type(checkpoint)("sam2.1", "custom", "official", changed))
    loaded = load(saved(model, tmp_path / "custom"))
    assert loaded.model.config.vision_config.backbone_config.global_attention_blocks == [4]
    pixels = torch.randn((1, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.get_image_embeddings(pixels), model.get_image_embeddings(pixels))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.target}",)


def spoiled(whole: Path, path: Path, how: str, target: Path) -> Path:
    """A bad file at `path`, made of a good one of the same kind."""
    content = whole.read_bytes()
    if how == "bomb":
        content = pickle.dumps({"w": Bomb(target)}, protocol=2)
        if path.suffix != ".safetensors":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", content)
            return path
    changed = {
        "empty": b"",
        "html": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 375042383\n",
        "truncated": content[: len(content) // 2],
        "text": b"this is not a checkpoint at all, but a text of some length\n" * 20,
        "bomb": content,
    }
    path.write_bytes(changed[how])
    return path


@pytest.mark.parametrize("how", ["empty", "html", "pointer", "truncated", "text", "bomb"])
@pytest.mark.parametrize("kind", [".pth", ".pt", ".safetensors", "folder"])
def test_bad_files_are_refused_in_one_line(tmp_path: Path, models: dict, kind: str, how: str) -> None:
    model, good = models["sam"], tmp_path / "good"
    good.mkdir()
    if kind == "folder":
        whole = saved(model, good) / "model.safetensors"
        bad, source = spoiled(whole, whole, how, tmp_path / "boom"), good
    else:
        whole = good / f"w{kind}"
        if kind == ".safetensors":
            save_file(model.state_dict(), whole)
        else:
            write_official(model, tiny("sam"), whole)
        source = bad = spoiled(whole, tmp_path / f"bad{kind}", how, tmp_path / "boom")
    for look in (load, inspect):
        with pytest.raises(WeightsError) as caught:
            look(source)
        assert "\n" not in str(caught.value) and bad.name in str(caught.value)
        assert any(
            word in str(caught.value) for word in ("fetch it again", "download", "git lfs pull", "expected", "ask for", "not")
        )
    assert not (tmp_path / "boom").exists()


def test_foreign_and_incomplete_weights_are_named(tmp_path: Path, models: dict) -> None:
    torch.save({f"layer{i}.0.conv1.weight": torch.zeros(2, 2) for i in range(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: no SAM, SAM-HQ, SAM 2, SAM 3 or EdgeTAM checkpoint"):
        load(tmp_path / "other.pth")
    torch.save(
        {
            "image_encoder.layers.0.blocks.0.conv1.c.weight": torch.zeros(2, 2),
            "mask_decoder.hf_token.weight": torch.zeros(1, 256),
        },
        tmp_path / "sam_hq_vit_tiny.pth",
    )
    with pytest.raises(WeightsError, match=r"TinyViT encoder\), not supported; of the small ones `edgetam`"):
        load(tmp_path / "sam_hq_vit_tiny.pth")
    state = to_official(models["sam"].state_dict(), tiny("sam"))
    for gone, why in (
        ("image_encoder.neck.0.weight", r"SAM \(official layout\) without image_encoder\.neck\.0\.weight"),
        (
            "image_encoder.blocks.2.norm1.bias",
            r"not a whole SAM custom \(official layout\): missing image_encoder\.blocks\.2\.norm1",
        ),
    ):
        torch.save({key: value for key, value in state.items() if key != gone}, tmp_path / "part.pth")
        for look in (load, inspect):
            with pytest.raises(WeightsError, match=why):
                look(tmp_path / "part.pth")
    for key, shape, why in (
        ("mask_decoder.iou_token.weight", (1, 31), "shapes make no network"),
        ("image_encoder.blocks.2.norm1.bias", (31,), r"norm1\.bias is \(31,\), expected \(32,\)"),
    ):
        torch.save(state | {key: torch.zeros(shape)}, tmp_path / "shape.pth")
        with pytest.raises(WeightsError, match=why) as caught:
            load(tmp_path / "shape.pth")
        assert "shape.pth" in str(caught.value)


def test_folders_that_are_no_sam(tmp_path: Path, models: dict) -> None:
    folder = saved(models["sam"], tmp_path / "f")
    config = folder / "config.json"
    whole = json.loads(config.read_text())
    for text, why in (
        (json.dumps(whole | {"model_type": "bert"}), "model_type is 'bert'; expected one of sam, "),
        (json.dumps(whole | {"model_type": "sam2"}), "config.json says SAM 2.1, the weights are SAM custom"),
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps(whole | {"vision_config": {"hidden_size": "many"}}), "damaged"),
    ):
        config.write_text(text)
        with pytest.raises(WeightsError, match=why) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    larger = {**whole, "vision_config": whole["vision_config"] | {"num_hidden_layers": 5}}
    config.write_text(json.dumps(larger))
    with pytest.raises(WeightsError, match=r"missing vision_encoder\.layers\.4"):
        load(folder)
    config.unlink()
    with pytest.raises(WeightsError, match=r"no config\.json in this folder"):
        load(folder)
    (folder / "model.safetensors").unlink()
    config.write_text(json.dumps(whole))
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        load(folder)


def test_names_that_are_not_here_say_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError) as caught:
        load("sam3")
    known = next(model for model in weights.CATALOGUE if model.name == "sam3")
    for word in (
        "sam3.pt",
        str(known.sha256),
        "accept its licence at",
        "models pull sam3 --file PATH",
        str(tmp_path / "cache"),
    ):
        assert word in str(caught.value)
    with pytest.raises(WeightsError, match=r"sam2\.1_tiny: not in the cache; it needs sam2\.1_hiera_tiny\.pt"):
        load("sam2.1_tiny")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(
        WeightsError, match=r"`terralabel models pull sam2\.1_tiny` fetches it \(sam2\.1_hiera_tiny\.pt, 156 MB\)"
    ):
        load("sam2.1_tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"config\.json of facebook/sam-vit-base is not on this machine \(offline\)"):
        load("facebook/sam-vit-base")
    for name in ("nothing.pth", "/no/such/file", "sam_vit_x", "a/b/c"):
        with pytest.raises(WeightsError, match="no such file or folder, and no name of"):
            load(name)


def test_names_load_from_the_cache(tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = weights.cache_folder()
    cache.mkdir()
    write_official(models["sam"], tiny("sam"), cache / "sam_vit_b_01ec64.pth")
    assert same(load("sam_vit_b").model, models["sam"]) and same(load("sam_vit_b_01ec64.pth").model, models["sam"])
    hub = saved(models["sam2.1"], cache / "hub" / "facebook" / "sam2.1-hiera-tiny")
    assert same(load("facebook/sam2.1-hiera-tiny").model, models["sam2.1"]) and hub.is_dir()


def test_inspection_says_what_and_whether_it_is_whole(tmp_path: Path, models: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official(models["sam2.1"], tiny("sam2.1"), tmp_path / "w.pt")
    text = inspect(tmp_path / "w.pt")
    assert "architecture: SAM 2.1 custom (official layout)" in text and "whole: every key" in text and "128 x 128" in text
    assert "not used" not in text
    state = to_official(models["sam2.1"].state_dict(), tiny("sam2.1"))
    memory = {
        "memory_encoder.out_proj.bias": torch.zeros(4),
        "no_obj_embed_spatial": torch.zeros(1, 4),
        "no_obj_ptr": torch.zeros(1, 32),
    }
    torch.save({"model": state | memory}, tmp_path / "video.pt")
    assert inspect(tmp_path / "video.pt").endswith(
        "not used for images: 3 tensors of memory_encoder, no_obj_embed_spatial, no_obj_ptr"
    )
    assert "SAM custom (transformers layout)" in inspect(saved(models["sam"], tmp_path / "folder"))
    monkeypatch.setitem(sys.modules, "terralabel.nets.sam.loading", None)  # as without torch
    assert "only torch and transformers can tell" in inspect(tmp_path / "w.pt")


def test_identifying_needs_no_torch(tmp_path: Path, models: dict) -> None:
    write_official(models["edgetam"], tiny("edgetam"), tmp_path / "w.pt")
    program = (
        "import sys; from terralabel.nets.checkpoints import check\n"
        "print(check(sys.argv[1]).architecture, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program, str(tmp_path / "w.pt")], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "EdgeTAM custom (official layout) False"
    assert identify({}) is None and identify({"image_encoder.patch_embed.proj.weight": (1,)}) is None


def test_complex_tables_of_sam_3_files_are_read_over(tmp_path: Path, models: dict) -> None:
    """The official file keeps its rotary tables as complex numbers."""
    checkpoint = tiny("sam3")
    state = to_official(models["sam3"].state_dict(), checkpoint)
    state["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"] = torch.zeros((16, 32), dtype=torch.complex64)
    torch.save({"model": state}, tmp_path / "sam3.pt")
    assert check(tmp_path / "sam3.pt").architecture == "SAM 3 custom (official layout)"
    assert same(load(tmp_path / "sam3.pt").model, models["sam3"])
