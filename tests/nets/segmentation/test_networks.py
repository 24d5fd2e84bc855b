"""What holds for every network: one class, inherited once a network, on inputs that a laptop does not notice."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from terralabel.errors import ContractError, SettingsError
from terralabel.nets.segmentation.catalogue import DESIGNS, find, names

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch.nn.functional import cross_entropy, pad  # noqa: E402

from terralabel.nets.segmentation.building import HEADS, build  # noqa: E402
from terralabel.nets.segmentation.groups import make_optimizer, parameter_groups, set_rates  # noqa: E402
from terralabel.nets.segmentation.network import Network  # noqa: E402
from terralabel.nets.segmentation.transfer import load_parts, part_of  # noqa: E402

CLASSES = 5
#: What is asked for -> the parts that it moves.
MOVED: dict[Any, set[str]] = {
    "overall": {"backbone", "neck", "head", "auxiliary"},
    "backbone": {"backbone"},
    "head": {"neck", "head", "auxiliary"},
}


@cache
def made(name: str, classes: int = CLASSES, seed: int = 0) -> Network:
    """A network in evaluation mode; whoever changes it works on a copy of its state."""
    return build(name, classes, seed=seed).eval()


def picture(height: int, width: int, batch: int = 1, seed: int = 0) -> Any:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def values(network: Network) -> dict[str, Any]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class NetworkContract:
    """Every network keeps this."""

    name: ClassVar[str]
    auxiliary: ClassVar[bool] = True
    rate: ClassVar[float] = 0.01

    @pytest.fixture
    def network(self) -> Network:
        return made(self.name)

    @pytest.fixture
    def changing(self) -> Any:
        """The network for a test that changes it; put right afterwards."""
        net = made(self.name)
        before = values(net)
        yield net
        net.load_state_dict(before)
        net.zero_grad()
        net.eval()

    @pytest.mark.parametrize("size", [(65, 47), (1, 1)])
    def test_logits_have_the_size_of_the_input(self, network: Network, size: tuple[int, int]) -> None:
        with torch.no_grad():
            logits = network(picture(*size))
        assert logits.shape == (1, CLASSES, *size)
        assert torch.isfinite(logits).all()

    def test_odd_sizes_are_padded_by_their_edge_and_cut_again(self, network: Network) -> None:
        image = picture(65, 47)
        side = lambda n: max(-(-n // network.multiple) * network.multiple, 64 if 64 % network.multiple == 0 else 70)  # noqa: E731
        padded = pad(image, (0, side(47) - 47, 0, side(65) - 65), mode="replicate")
        with torch.no_grad():
            assert torch.equal(network(image), network(padded)[..., :65, :47])

    def test_one_image_trains_every_parameter(self, changing: Network) -> None:
        torch.manual_seed(0)
        image = picture(65, 47)
        target = (image[:, 0] > 0).long()
        schedule, losses = changing.schedule.shortened(3), []
        optimizer = make_optimizer(changing.train(), schedule)
        for step in range(3):
            set_rates(optimizer, schedule, step)
            for group in optimizer.param_groups:
                group["lr"] = self.rate * group["multiplier"]
            optimizer.zero_grad()
            logits, extra = changing(image, with_auxiliary=True)
            assert (extra is not None) == self.auxiliary == (changing.auxiliary is not None)
            loss = cross_entropy(logits, target)
            losses.append(float(loss.detach()))
            if extra is not None:
                assert extra.shape == logits.shape == (1, CLASSES, 65, 47)
                loss = loss + changing.auxiliary_weight * cross_entropy(extra, target)
            loss.backward()
            optimizer.step()
        idle = [key for key, p in changing.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert idle == [], "DistributedDataParallel waits for these for ever"
        assert losses[-1] < 0.97 * losses[0], losses

    def test_saved_and_loaded_it_says_the_same(self, changing: Network, tmp_path: Path) -> None:
        image = picture(64, 64)
        with torch.no_grad():
            said = changing(image)
            save_file({key: value.contiguous() for key, value in changing.state_dict().items()}, tmp_path / "w.safetensors")
            for parameter in changing.parameters():
                parameter.mul_(1.5)
            assert not torch.equal(changing(image), said)
            changing.load_state_dict(load_file(tmp_path / "w.safetensors"))
            assert torch.equal(changing(image), said)

    def test_half_precision_says_nearly_the_same(self, network: Network) -> None:
        image = picture(64, 64)
        with torch.no_grad():
            whole = network(image)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = network(image)
        assert (whole - half).abs().max() < 0.05 * whole.abs().max()

    def test_every_tensor_belongs_to_a_named_part(self, network: Network) -> None:
        parts = {part_of(key) for key in network.state_dict()}
        assert {"backbone", "head"} <= parts <= {"backbone", "neck", "head", "auxiliary"}

    def test_groups_hold_every_parameter_once(self, network: Network) -> None:
        groups = parameter_groups(network, network.schedule)
        found = [id(p) for group in groups for p in group["params"]]
        assert sorted(found) == sorted(id(p) for p in network.parameters())
        assert {group["name"].split()[0] for group in groups} == {"backbone", "head"}

    def test_weights_move_by_parts(self, changing: Network) -> None:
        other = made(self.name, 3, 1).state_dict()
        own = values(changing)
        for what, asked in MOVED.items():
            changing.load_state_dict(own)
            report = load_parts(changing, other, what)
            assert {part_of(key) for key in report.loaded} == asked & {part_of(key) for key in own}
            for key, value in changing.state_dict().items():
                assert torch.equal(value, other[key] if key in report.loaded else own[key]), key
            misfits = {item.key for item in report.dropped if item.reason.startswith("shape")}
            expected = {key for key in own if part_of(key) in asked and other[key].shape != own[key].shape}
            assert misfits == expected == set(report.fresh)
            assert bool(expected) == (what != "backbone"), "the classifier has another number of classes"


class TestUPerNetResNet(NetworkContract):
    name = "upernet-r18"


class TestPSPNet(NetworkContract):
    name = "pspnet-r18"


class TestHRNet(NetworkContract):
    name, auxiliary = "fcn-hrnet-w18", False


class TestDeepLab(NetworkContract):
    name = "deeplabv3plus-r18"


class TestUPerNetViT(NetworkContract):
    name, rate = "upernet-vit-ti", 1e-3


class TestUPerNetSwin(NetworkContract):
    name, rate = "upernet-swin-t", 1e-3


class TestSegmenter(NetworkContract):
    name, auxiliary, rate = "segmenter-vit-ti", False, 1e-2


class TestSegFormer(NetworkContract):
    name, auxiliary, rate = "segformer-mit-b0", False, 1e-4


class TestTimm(NetworkContract):
    name = "timm:mobilenetv3_small_050:all-mlp"


class TestSmp(NetworkContract):
    name = "smp:unet:mobilenet_v2"

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("segmentation_models_pytorch")


def test_every_small_network_is_under_the_contract() -> None:
    tested = {case.name for case in NetworkContract.__subclasses__()}
    assert {name for name, design in DESIGNS.items() if design.small} <= tested


def test_the_names_of_the_study_are_understood() -> None:
    study = "UperNet-r50 PSPNet-r50 FCN-HRNet-w48 DeepLabv3+-r50 UperNet-ViT-B UperNet-Swin-B Segmenter-ViT-B SegFormer-MiT-B5"
    assert [find(name).name for name in study.split()] == names()[:8]
    assert sum(design.small for design in DESIGNS.values()) == len(DESIGNS) - 8 == 8


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("upernet-r51", "Did you mean upernet-r50"),
        ("timm:resnet19", "Near: cspresnet50"),
        ("timm:resnet18.nothing", "known: a1_in1k"),
        ("timm:resnet18:unet", "unknown head 'unet'"),
        ("timm:resnet18:mask-transformer", "wants a vision transformer"),
        ("timm:maxvit_tiny_tf_224", "one size only"),
        ("smp:unet:resnet19", "near: resnet1"),
        ("smp:vnet", "Wrong architecture"),
        ("smp:dpt:tu-vit_tiny_patch16_224", "not supported"),
    ],
)
def test_unknown_names_are_refused_with_the_way_out(name: str, said: str) -> None:
    if name.startswith("smp:"):
        pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(SettingsError, match=said):
        build(name, 2)


def test_numbers_that_make_no_network_are_refused() -> None:
    for classes, bands in ((0, 3), (2, 0)):
        with pytest.raises(SettingsError, match="expected 1 or more"):
            build("upernet-r18", classes, bands)


def test_another_number_of_bands_is_refused_by_its_shape() -> None:
    with pytest.raises(ContractError, match=r"got an input of shape \(1, 4, 8, 8\)"):
        made("pspnet-r18")(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("name", ["pspnet-r18", "segformer-mit-b0"])
@pytest.mark.parametrize("bands", [1, 6])
def test_any_number_of_bands(name: str, bands: int) -> None:
    with torch.device("meta"):
        network = build(name, 2, bands)
        assert network(torch.empty(1, bands, 64, 64)).shape == (1, 2, 64, 64)
    assert len(network.mean) == len(network.std) == bands


@pytest.mark.parametrize("head", HEADS)
def test_every_head_by_name(head: str) -> None:
    model = "vit_tiny_patch16_224" if head == "mask-transformer" else "resnet18"
    with torch.device("meta"):
        network = build(f"timm:{model}:{head}", 3)
        logits, extra = network(torch.empty(2, 3, 70, 90), with_auxiliary=True)
    assert logits.shape == (2, 3, 70, 90)
    assert (extra is None) == (head == "mask-transformer")
    assert network.schedule.optimizer == ("adamw" if head == "mask-transformer" else "sgd")


def test_without_the_auxiliary_head() -> None:
    network = build("pspnet-r18", 2, auxiliary=False)
    assert network.auxiliary is None
    assert network(picture(64, 64), with_auxiliary=True)[1] is None


def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(7)
    first = torch.rand(3)
    torch.manual_seed(7)
    one, other = build("pspnet-r18", 2, seed=3), build("pspnet-r18", 2, seed=4)
    assert torch.equal(torch.rand(3), first)
    again = build("pspnet-r18", 2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_pixels_are_normalised_as_stated() -> None:
    network = made("pspnet-r18")
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 2, 2)
    found = network.normalise(pixels)[0, :, 0, 0]
    expected = [(value - mean) / std for value, mean, std in zip((0, 1, 0.2), network.mean, network.std, strict=True)]
    assert torch.allclose(found, torch.tensor(expected))
    assert torch.allclose(network.normalise(pixels / 255), network.normalise(pixels))
    assert made("segmenter-vit-ti").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["pspnet-r18", "deeplabv3plus-r18"])
def test_output_stride_eight(name: str) -> None:
    with torch.device("meta"):
        maps = build(name, 2).backbone(torch.empty(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [16, 8, 8, 8]
