"""Parameters and FLOPs of full-size networks against published ones, on the meta device.

Papers count a multiplication with its addition once, and so do we. Rows whose network is not among the eight as published (deeper
ResNets, the authors' wider SegFormer head) are made from the same parts with that one thing changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from terralabel.errors import SettingsError
from terralabel.nets.segmentation.catalogue import Auxiliary, find

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from terralabel.nets.segmentation.backbones import timm_backbone  # noqa: E402
from terralabel.nets.segmentation.building import assemble, build  # noqa: E402
from terralabel.nets.segmentation.counting import cost, count, networks_table  # noqa: E402

#: network, what is changed, classes, height and width, published M parameters and G FLOPs, allowed relative difference of each
PUBLISHED: list[Any] = [
    # Liu et al. 2021 (Swin), table 3: ADE20K, 512 x 2048
    ("upernet-swin-b", {}, 150, (512, 2048), 121, 1188, 0.005, 0.002),
    pytest.param(
        ("upernet-swin-t", {"width": 512, "auxiliary": Auxiliary(2)}, 150, (512, 2048), 60, 945, 0.005, 0.002),
        marks=pytest.mark.slow,
    ),
    ("upernet-r50", {"backbone": "resnet101c"}, 150, (512, 2048), 86, 1029, 0.006, 0.002),
    # Xie et al. 2021 (SegFormer), table 2: ADE20K, 512 x 512, B5 640 x 640
    ("pspnet-r50", {"backbone": "resnet101c"}, 150, (512, 512), 68.1, 256.4, 0.001, 0.002),
    ("deeplabv3plus-r50", {"backbone": "resnet101c"}, 150, (512, 512), 62.7, 255.1, 0.001, 0.002),
    ("segformer-mit-b0", {}, 150, (512, 512), 3.8, 8.4, 0.02, 0.01),
    pytest.param(("segformer-mit-b5", {"width": 768}, 150, (640, 640), 84.7, 183.3, 0.001, 0.002), marks=pytest.mark.slow),
    # Wang et al. 2020 (HRNet), table 3: Cityscapes, 1024 x 2048. Its FLOPs are 7 % below ours; its parameters agree.
    pytest.param(("fcn-hrnet-w48", {}, 19, (1024, 2048), 65.9, 696.2, 0.001, 0.08), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]}{'*' if row[1] else ''}")
def test_published_parameters_and_flops(row: Any) -> None:
    name, changed, classes, size, parameters, flops, parameters_off, flops_off = row
    with torch.device("meta"):
        found = count(assemble(replace(find(name), **changed), classes), size)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=parameters_off)
    assert found.flops / 1e9 == pytest.approx(flops, rel=flops_off)


def test_segmenter_has_its_parts() -> None:
    """The authors' page says 106 M; ViT-B/16 and two layers of width 768 cannot have more than 102.5 (mmsegmentation's neither)."""
    with torch.device("meta"):
        network = build("segmenter-vit-b", 150)
    parts = {name: sum(p.numel() for p in child.parameters()) / 1e6 for name, child in network.named_children()}
    layer = (4 * 768 * 768 + 4 * 768 + 8 * 768 * 768 + 5 * 768 + 4 * 768) / 1e6
    tokens = (3 * 768 * 768 + 768 + 150 * 768 + 2 * 768 + 2 * 150) / 1e6
    assert parts["head"] == pytest.approx(2 * layer + tokens, rel=1e-6)
    assert parts["backbone"] == pytest.approx(86.57 - 0.769 + (32 * 32 - 14 * 14) * 768 / 1e6, abs=0.01), (
        "ViT-B: 86.57 M at 224"
    )


def test_a_shallower_resnet_saves_what_it_should() -> None:
    """ResNet-101 has 17 blocks of 1.117 M more than ResNet-50: the r50 networks differ from the published r101 ones by that."""
    with torch.device("meta"):
        nets = [timm_backbone(name, 3, stride=8) for name in ("resnet50c", "resnet101c")]
    shallow, deep = (sum(p.numel() for p in net.parameters()) for net in nets)
    difference = (deep - shallow) / 1e6
    assert difference == pytest.approx(17 * 1.117, rel=2e-3)


def test_flops_are_those_of_hand_for_one_layer() -> None:
    """All-MLP head of MiT-B0 at 64 px: linear layers at strides 4 to 32, the mixing and the classifier at stride 4."""
    with torch.device("meta"):
        network = build("segformer-mit-b0", 5)
    whole = count(network, (64, 64)).flops
    linear = sum(cells * channels * 256 for cells, channels in zip((256, 64, 16, 4), (32, 64, 160, 256), strict=True))
    by_hand = linear + 256 * (4 * 256 * 256 + 256 * 5)
    network.head = torch.nn.Identity()
    network.head.forward = lambda maps: maps[0]  # type: ignore[method-assign]
    assert whole - count(network, (64, 64)).flops == by_hand


def test_the_auxiliary_head_is_counted_apart() -> None:
    with torch.device("meta"):
        bare = count(build("upernet-r18", 16, auxiliary=False))
    found = cost("upernet-r18")
    assert found.parameters - found.auxiliary == bare.parameters
    assert found.flops == bare.flops


def test_counting_changes_nothing() -> None:
    network = build("pspnet-r18", 2).train()
    before = network.state_dict()["backbone.net.bn1.running_mean"].clone()
    with pytest.raises((RuntimeError, NotImplementedError)):
        count(network)  # not on the meta device
    with torch.device("meta"):
        there = build("pspnet-r18", 2).train()
    count(there)
    assert there.training and torch.equal(network.state_dict()["backbone.net.bn1.running_mean"], before)


def test_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(SettingsError, match="0 x 5 pixels"):
        cost("pspnet-r18", size=(0, 5))


def test_the_table_says_the_same() -> None:
    lines = list(networks_table(["segformer-mit-b0"], classes=150))
    assert len(lines) == 3 and lines[0].split()[:3] == ["name", "parameters", "FLOPs"]
    found = cost("segformer-mit-b0", 150)
    assert lines[1].split()[:3] == ["segformer-mit-b0", f"{found.parameters / 1e6:.2f}", f"{found.flops / 1e9:.1f}"]
    with pytest.raises(SettingsError):
        next(networks_table(["nothing"]))
