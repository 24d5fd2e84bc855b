"""Backbone weights from files and from the hub's cache. Nothing here touches a network; the weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from terralabel.errors import WeightsError
from terralabel.nets.segmentation.catalogue import DESIGNS

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from safetensors.torch import save_file  # noqa: E402

from terralabel.nets.segmentation.building import build  # noqa: E402


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def written(state: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def resnet() -> dict[str, Any]:
    torch.manual_seed(3)
    return timm.create_model("resnet18d").state_dict()


def test_a_file_of_timm_loads(resnet: dict[str, Any], tmp_path: Path) -> None:
    path = written(resnet, tmp_path / "resnet.safetensors")
    network = build("pspnet-r18", 2, weights=path, seed=0)
    assert network.origin == str(path)
    own = network.backbone.net.state_dict()
    assert all(torch.equal(value, resnet[key]) for key, value in own.items()) and len(own) == len(resnet) - 2
    assert torch.equal(network.head.pyramid.merge.conv.weight, build("pspnet-r18", 2, seed=0).head.pyramid.merge.conv.weight)


def test_names_of_mmsegmentation_load(resnet: dict[str, Any], tmp_path: Path) -> None:
    back = {"conv1.0": "0", "conv1.1": "1", "conv1.3": "3", "conv1.4": "4", "conv1.6": "6", "bn1": "7"}
    named = {}
    for key, value in resnet.items():
        stem = next((new for new in back if key.startswith(f"{new}.")), None)
        named["backbone." + (f"stem.{back[stem]}.{key.removeprefix(f'{stem}.')}" if stem else key)] = value
    path = tmp_path / "r18.pth"
    torch.save({"state_dict": named, "meta": {"epoch": 1}}, path)
    own = build("pspnet-r18", 2, auxiliary=False, weights=path).backbone.net.state_dict()
    assert all(torch.equal(value, resnet[key]) for key, value in own.items())


def test_the_hub_by_name_from_its_cache(resnet: dict[str, Any], tmp_path: Path) -> None:
    hub = DESIGNS["pspnet-r18"].hub
    written(resnet, tmp_path / "cache" / "hub" / hub / "model.safetensors")
    network = build("pspnet-r18", 2, weights="imagenet")
    assert network.origin == f"ImageNet, {hub}"
    assert torch.equal(network.backbone.net.conv1[0].weight, resnet["conv1.0.weight"])


def test_offline_is_said_in_one_line() -> None:
    with pytest.raises(WeightsError, match=r"resnet18d.*\(offline\): fetch"):
        build("pspnet-r18", 2, weights="imagenet")
    origin = build("pspnet-r18", 2, weights="auto").origin
    assert origin.startswith("random weights (model.safetensors of timm/resnet18d") and "\n" not in origin
    assert build("pspnet-r18", 2).origin == "random weights"


@pytest.mark.parametrize("bands", [1, 4])
def test_other_bands_share_the_first_convolution(resnet: dict[str, Any], tmp_path: Path, bands: int) -> None:
    network = build("pspnet-r18", 2, bands, weights=written(resnet, tmp_path / "r.safetensors"))
    given, own = resnet["conv1.0.weight"], network.backbone.net.conv1[0].weight
    grey = torch.rand(1, 1, 9, 9)
    seen = torch.nn.functional.conv2d(grey.expand(1, bands, 9, 9), own)
    expected = torch.nn.functional.conv2d(grey.expand(1, 3, 9, 9), given)
    if bands == 1:
        assert torch.allclose(seen, expected, atol=1e-6), "a grey image looks as it did"
    else:
        assert torch.equal(own[:, 3], own[:, 0]) and torch.allclose(own[:, 1], given[:, 1] * 3 / 4)


def test_position_embeddings_of_another_size_are_interpolated(tmp_path: Path) -> None:
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    network = build("upernet-vit-ti", 2, weights=written(state, tmp_path / "vit.safetensors"))
    own = network.backbone.net.pos_embed
    assert state["pos_embed"].shape[1] == 1 + 14**2 and own.shape[1] == 1 + 32**2
    assert torch.equal(own[:, 0], state["pos_embed"][:, 0])
    corner = own[0, 1:].reshape(32, 32, -1)[16, 16]
    before = state["pos_embed"][0, 1:].reshape(14, 14, -1)[6:8, 6:8].reshape(4, -1)
    assert torch.nn.functional.cosine_similarity(corner[None], before).max() > 0.7
    assert torch.equal(network.backbone.net.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])


def test_swin_of_another_image_size(tmp_path: Path) -> None:
    state = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    network = build("upernet-swin-t", 2, weights=written(state, tmp_path / "swin.safetensors"))
    key = "layers.2.blocks.5.attn.relative_position_bias_table"
    assert torch.equal(network.backbone.net.state_dict()[key], state[key])


def test_the_authors_mix_transformer(tmp_path: Path) -> None:
    state = build("segformer-mit-b0", 2, seed=5).backbone.state_dict()
    path = written({**state, "head.weight": torch.zeros(1000, 256)}, tmp_path / "mit.safetensors")
    own = build("segformer-mit-b0", 7, seed=6, weights=path).backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in own.items())


@pytest.mark.parametrize("name", ["segmenter-vit-ti", "segformer-mit-b0"])
def test_another_architecture_is_refused(resnet: dict[str, Any], tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="the weights are of another architecture"):
        build(name, 2, weights=written(resnet, tmp_path / "r.safetensors"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        build("pspnet-r18", 2, weights=tmp_path / "nothing.pth")


@pytest.mark.parametrize("design", DESIGNS.values(), ids=lambda design: design.name)
def test_the_repositories_are_those_that_timm_knows(design: Any) -> None:
    if design.backbone.startswith("mit_"):
        smp = pytest.importorskip("segmentation_models_pytorch")
        known = smp.encoders.encoders[design.backbone]["pretrained_settings"]["imagenet"]["repo_id"]
    else:
        known = timm.get_pretrained_cfg(design.hub.removeprefix("timm/")).hf_hub_id
    assert known == design.hub
