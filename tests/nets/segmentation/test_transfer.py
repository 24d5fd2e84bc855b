"""Weights of one training into the next network: what is taken, what is left, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from terralabel.errors import SettingsError, WeightsError

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from terralabel.nets.segmentation.building import build  # noqa: E402
from terralabel.nets.segmentation.groups import parameter_groups  # noqa: E402
from terralabel.nets.segmentation.network import Network  # noqa: E402
from terralabel.nets.segmentation.schedules import CONVOLUTIONAL, SEGFORMER  # noqa: E402
from terralabel.nets.segmentation.transfer import load_parts  # noqa: E402


@pytest.fixture
def network() -> Network:
    return build("segformer-mit-b0", 4, seed=0)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return build("segformer-mit-b0", 4, seed=1).state_dict()


def test_everything_moves_where_everything_fits(network: Network, trained: dict[str, Any]) -> None:
    report = load_parts(network, trained)
    assert set(report.loaded) == set(trained) and report.dropped == report.fresh == ()
    assert report.numbers == sum(value.numel() for value in trained.values())
    assert str(report).startswith(f"loaded (overall): {len(trained)} tensors, 3.72 M numbers (backbone ")


def test_names_behind_wrappers_are_found(network: Network, trained: dict[str, Any]) -> None:
    wrapped = {f"module._orig_mod.{key}": value for key, value in trained.items()}
    assert set(load_parts(network, wrapped).loaded) == set(trained)


def test_clusters_are_no_classes(network: Network, trained: dict[str, Any]) -> None:
    before = network.state_dict()["head.classifier.logits.weight"].clone()
    report = load_parts(network, trained, "head", classifier=False)
    assert torch.equal(network.state_dict()["head.classifier.logits.weight"], before)
    assert set(report.fresh) == {"head.classifier.logits.weight", "head.classifier.logits.bias"}
    assert {item.reason for item in report.dropped} == {"not asked for", "the classifier, which starts anew"}


def test_the_segmenter_starts_its_class_tokens_anew() -> None:
    network, state = (build("segmenter-vit-ti", 3, seed=seed) for seed in (0, 1))
    report = load_parts(network, state.state_dict(), "head", classifier=False)
    assert set(report.fresh) == {"head.class_tokens", "head.class_norm.weight", "head.class_norm.bias"}


def test_the_report_says_why(network: Network, trained: dict[str, Any]) -> None:
    state = dict(trained)
    state["head.classifier.logits.weight"] = torch.zeros(7, 256, 1, 1)
    state["backbone.norm4.weight"] = torch.full_like(state["backbone.norm4.weight"], float("nan"))
    state["backbone.other"] = torch.zeros(2)
    del state["head.mix.conv.weight"]
    report = load_parts(network, state)
    assert {item.key: item.reason for item in report.dropped} == {
        "head.classifier.logits.weight": "shape (7, 256, 1, 1), expected (4, 256, 1, 1)",
        "backbone.norm4.weight": "not all numbers are finite",
        "backbone.other": "unknown to this network",
    }
    assert set(report.fresh) == {"head.classifier.logits.weight", "backbone.norm4.weight", "head.mix.conv.weight"}
    assert "dropped, shape (7, 256, 1, 1), expected (4, 256, 1, 1): head.classifier.logits.weight" in str(report)


def test_other_bands_lose_the_first_convolution_only(trained: dict[str, Any]) -> None:
    report = load_parts(build("segformer-mit-b0", 4, bands=5), trained, "backbone")
    assert report.fresh == ("backbone.patch_embed1.proj.weight",)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "has no tensors"),
        ({"epoch": 3}, "has no tensors"),
        ({"conv1.weight": "tensor"}, "conv1.weight: unknown to this network"),
        ({"head.mix.norm.num_batches_tracked": "tensor"}, "Nothing of the checkpoint"),
    ],
)
def test_nothing_that_fits_is_refused_and_changes_nothing(network: Network, state: dict[str, Any], said: str) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    given = {key: torch.tensor(5) if value == "tensor" else value for key, value in state.items()}
    with pytest.raises(WeightsError, match=said):
        load_parts(network, given)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_head_alone_has_no_backbone(network: Network, trained: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="fits the backbone"):
        load_parts(network, {key: value for key, value in trained.items() if key.startswith("head.")}, "backbone")


def test_another_part_is_refused(network: Network, trained: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected one of overall, backbone, head"):
        load_parts(network, trained, "neck")  # type: ignore[arg-type]


def test_groups_spare_norms_and_speed_up_the_head(network: Network) -> None:
    groups = {group["name"]: group for group in parameter_groups(network, SEGFORMER)}
    assert set(groups) == {"backbone", "backbone without decay", "head", "head without decay"}
    assert [groups[name]["weight_decay"] for name in ("backbone", "backbone without decay")] == [0.01, 0]
    assert groups["head"]["lr"] == pytest.approx(10 * groups["backbone"]["lr"]) and groups["head"]["multiplier"] == 10
    names = {id(p): name for name, p in network.named_parameters()}
    spared = {names[id(p)] for name, group in groups.items() if name.endswith("decay") for p in group["params"]}
    assert all("norm" in name for name in spared) and len(spared) == sum("norm" in name for name in names.values())


def test_groups_spare_positions_of_vision_transformers() -> None:
    network = build("segmenter-vit-ti", 3)
    groups = parameter_groups(network, SEGFORMER)
    names = {id(p): name for name, p in network.named_parameters()}
    spared = {names[id(p)] for group in groups if group["name"].endswith("decay") for p in group["params"]}
    assert {"backbone.net.pos_embed", "backbone.net.cls_token", "head.class_tokens"} <= spared
    assert [group["name"] for group in parameter_groups(network, CONVOLUTIONAL)] == ["backbone", "head"], "SGD decays all"


def test_frozen_parameters_are_in_no_group(network: Network) -> None:
    network.backbone.requires_grad_(False)
    assert {group["name"] for group in parameter_groups(network, SEGFORMER)} == {"head", "head without decay"}
