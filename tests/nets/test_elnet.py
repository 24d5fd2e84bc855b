"""ELNet's parts against numbers computed by hand, and what is frozen that does not move."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from terralabel.errors import ContractError, SettingsError, WeightsError
from terralabel.nets.elnet.adapters import Adapter, attach, blocks_of
from terralabel.nets.elnet.decoder import Decoder, EdgeAttention, ReceptiveField, Up
from terralabel.nets.elnet.network import LEARNS, ELNet, build_elnet, default_learns, rebuild_elnet
from terralabel.nets.elnet.trunks import make_trunk

# ------------------------------------------------------------------------------------------------------------- by hand


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("last", [True, False])
def test_adapter_by_hand(last: bool) -> None:
    rng = np.random.default_rng(0)
    adapter = Adapter(3, last, bottleneck=2)
    down, up = rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    bias_down, bias_up = rng.normal(size=2), rng.normal(size=3)
    given = {"down.weight": down, "down.bias": bias_down, "up.weight": up, "up.bias": bias_up}
    adapter.load_state_dict({key: torch.tensor(value, dtype=torch.float32) for key, value in given.items()})
    x = rng.normal(size=(2, 4, 5, 3))
    expected = x + gelu(gelu(x @ down.T + bias_down) @ up.T + bias_up)
    shaped = torch.tensor(x if last else np.moveaxis(x, -1, 1), dtype=torch.float32)
    found = adapter(shaped).detach().numpy()
    np.testing.assert_allclose(found if last else np.moveaxis(found, 1, -1), expected, rtol=1e-5, atol=1e-6)


def test_adapters_change_what_every_block_is_given() -> None:
    """block(x + adapter(x)): with adapters that add 1, three blocks that double give ((x + 1) 2 + 1) 2 ..."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weigh = nn.Linear(3, 3, bias=False)
            nn.init.eye_(self.weigh.weight)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.weigh(x)

    net = nn.Sequential(Block(), Block(), Block())
    adapters = attach(net, blocks_of(net), torch.zeros(1, 4, 3))
    assert len(adapters) == 3 and all(isinstance(a, Adapter) and a.last for a in adapters)
    for adapter in adapters:
        nn.init.zeros_(adapter.up.weight)
        nn.init.constant_(adapter.up.bias, 50.0)  # GELU(50) = 50
    found = net(torch.ones(1, 4, 3))
    torch.testing.assert_close(found, torch.full((1, 4, 3), ((2 * 51.0 + 50) * 2 + 50) * 2))


def convolve(x: np.ndarray, weight: np.ndarray, dilation: int = 1) -> np.ndarray:
    """(c, h, w) by (o, c, kh, kw), padded so that the size stays, as a sum written out."""
    kh, kw = weight.shape[2:]
    ph, pw = dilation * (kh // 2), dilation * (kw // 2)
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for i in range(kh):
        for j in range(kw):
            part = padded[:, i * dilation : i * dilation + x.shape[1], j * dilation : j * dilation + x.shape[2]]
            out += np.einsum("oc,chw->ohw", weight[:, :, i, j], part)
    return out


def normed(sequence: nn.Module, x: np.ndarray, dilation: int = 1) -> np.ndarray:
    """A convolution and its batch norm in evaluation mode, from their numbers."""
    convolution, norm = sequence[0], sequence[1]  # type: ignore[index]
    y = convolve(x, convolution.weight.detach().double().numpy(), dilation)
    mean, variance, scale, shift = (
        t.detach().double().numpy()[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (y - mean) / np.sqrt(variance + norm.eps) * scale + shift


def shaken(module: nn.Module) -> nn.Module:
    """With batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low in ((norm.running_mean, -1.0), (norm.bias, -1.0), (norm.running_var, 0.5), (norm.weight, 0.5)):
            tensor.data = low + torch.rand(tensor.shape, generator=generator)  # type: ignore[union-attr]
    return module.eval()


def test_receptive_field_by_hand() -> None:
    torch.manual_seed(0)
    field = shaken(ReceptiveField(3, 4))
    x = np.random.default_rng(0).normal(size=(3, 17, 13))
    branches = [normed(field.branches[0], x)]  # type: ignore[index]
    for k, branch in zip((3, 5, 7), list(field.branches)[1:], strict=True):  # type: ignore[call-overload]
        assert branch[1][0].kernel_size == (1, k) and branch[2][0].kernel_size == (k, 1) and branch[3][0].dilation == (k, k)
        y = normed(branch[0], x)
        branches.append(normed(branch[3], normed(branch[2], normed(branch[1], y)), dilation=k))
    joined = normed(field.joined, np.concatenate(branches))  # type: ignore[arg-type]
    expected = np.maximum(joined + normed(field.straight, x), 0)  # type: ignore[arg-type]
    found = field(torch.tensor(x[None], dtype=torch.float32))[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected > 0).any() and (expected == 0).any()


def test_up_takes_the_skip_first_and_twice_the_size() -> None:
    torch.manual_seed(0)
    up = shaken(Up(2))
    coarse, skip = torch.full((1, 2, 2, 2), 3.0), torch.randn(1, 2, 4, 4)
    whole = np.concatenate([skip[0].numpy(), np.full((2, 4, 4), 3.0)])
    first = np.maximum(normed(nn.Sequential(*up.convolutions[0]), whole), 0)  # type: ignore[index]
    expected = np.maximum(normed(nn.Sequential(*up.convolutions[2]), first), 0)  # type: ignore[index]
    np.testing.assert_allclose(up(coarse, skip)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_edge_attention_by_hand() -> None:
    torch.manual_seed(0)
    attention = shaken(EdgeAttention(4))
    u = torch.randn(1, 4, 6, 6)
    out, logits = attention(u)
    torch.testing.assert_close(out, u * (1 + torch.sigmoid(logits)))
    hidden = np.maximum(normed(attention.features[0], u[0].numpy()), 0)  # type: ignore[index]
    weight, bias = attention.logit.weight.detach().numpy(), attention.logit.bias.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(logits[0].detach().numpy(), convolve(hidden, weight) + bias[:, None, None], rtol=1e-3, atol=1e-5)


def test_decoder_gives_three_outputs_the_finest_first() -> None:
    maps = [torch.randn(2, c, 32 // s, 48 // s) for c, s in zip((8, 12, 16, 20), (1, 2, 4, 8), strict=True)]
    logits, edge = Decoder((8, 12, 16, 20), 3, edge=True, width=8)(maps)
    assert [tuple(x.shape) for x in logits] == [(2, 3, 32, 48), (2, 3, 16, 24), (2, 3, 8, 12)]
    assert edge is not None and tuple(edge.shape) == (2, 1, 32, 48)
    assert Decoder((8, 12, 16, 20), 1, width=8)(maps)[1] is None


# ------------------------------------------------------------------------------------------------------------- network


def small(classes: int = 2, **how: object) -> ELNet:
    return build_elnet("scratch", classes, seed=0, width=8, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 64), (50, 83), (7, 5)])
@pytest.mark.parametrize("classes", [2, 4])
def test_any_size_and_number_of_classes(size: tuple[int, int], classes: int) -> None:
    network = small(classes).eval()
    x = network.normalise(torch.zeros(2, 3, *size, dtype=torch.uint8))
    logits, (outputs, edge) = network(x, with_auxiliary=True)
    assert logits.shape == (2, classes, *size) and edge is None
    assert [o.shape[1] for o in outputs] == [1 if classes == 2 else classes] * 3
    assert all(o.shape[-2:] == size for o in outputs)


def test_binary_softmax_is_the_sigmoid_of_its_logit() -> None:
    network = small().eval()
    x = torch.randn(1, 3, 64, 64)
    logits, (outputs, _) = network(x, with_auxiliary=True)
    torch.testing.assert_close(logits.softmax(1)[:, 1], outputs[0][:, 0].sigmoid())


def test_zoom_gives_logits_of_the_same_size() -> None:
    assert small(zoom=1.5).eval()(torch.randn(1, 3, 40, 56)).shape == (1, 2, 40, 56)


def test_one_band_is_grey_for_a_trunk_of_three() -> None:
    network = build_elnet("nano", 2, 1, seed=0, width=8).eval()
    grey = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(network.normalise(grey), network.normalise(grey.expand(-1, 3, -1, -1)))
    assert network(network.normalise(grey)).shape == (1, 2, 64, 64)
    with pytest.raises(SettingsError, match="takes 1 or 3 bands, the images have 4"):
        build_elnet("nano", 2, 4)


def test_wrong_shapes_and_settings_are_told() -> None:
    with pytest.raises(ContractError, match="expected \\(batch, 3, h, w\\)"):
        small()(torch.zeros(1, 2, 64, 64))
    with pytest.raises(SettingsError, match="two or more"):
        small(1)
    with pytest.raises(SettingsError, match="expected one of nothing"):
        small(learns="some")
    with pytest.raises(SettingsError, match="expected auto, nano"):
        make_trunk("resnet")
    with pytest.raises(SettingsError, match="other strides"):
        make_trunk("timm:vit_tiny_patch16_224", weights="none")


# ---------------------------------------------------------------------------------------------------- what does not move

TRUNKS = ["nano", "timm:resnet18", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224"]


@pytest.mark.parametrize("learns", LEARNS)
def test_what_is_frozen_stays_and_the_rest_moves(learns: str) -> None:
    """Two steps in training mode: parameters and the statistics of batch norms, bit for bit."""
    network = build_elnet("timm:resnet18", 2, weights="none", learns=learns, seed=0, width=8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.01)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        logits, (outputs, _) = network(torch.randn(4, 3, 64, 64), with_auxiliary=True)
        sum(o.square().mean() + o.mean() for o in outputs).backward()
        optimizer.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    trunk = {key for key in before if key.startswith("backbone.")}
    statistics = {key for key in trunk if "running_" in key or "num_batches" in key}
    assert learned <= moved and not {key for key in moved if key not in learned and "running" not in key and "num_b" not in key}
    assert any(key.startswith("head.") and "running_mean" in key for key in moved)
    if learns in ("nothing", "adapters"):
        assert not moved & trunk
        assert bool(network.adapters) == (learns == "adapters")
    if learns == "late":
        assert moved & trunk and all("layer3" in key or "layer4" in key for key in moved & trunk)
    if learns == "everything":
        assert statistics <= moved


@pytest.mark.parametrize("name", TRUNKS)
def test_adapters_stand_before_the_blocks_of_every_trunk(name: str) -> None:
    network = build_elnet(name, 2, weights="none", learns="adapters", seed=0, width=8)
    assert len(network.adapters) == {"nano": 17, "timm:resnet18": 8}.get(name, 12)
    assert not any(p.requires_grad for p in network.backbone.parameters())
    logits = network.eval()(torch.randn(1, 3, 64, 64))
    for adapter in network.adapters:
        nn.init.constant_(adapter.up.bias, 1.0)  # type: ignore[union-attr, arg-type]
    assert not torch.allclose(logits, network(torch.randn(1, 3, 64, 64)))


def test_adapters_get_gradients_through_the_frozen_trunk() -> None:
    network = build_elnet("nano", 2, learns="adapters", seed=0, width=8).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.adapters[0].parameters())
    assert all(p.grad is None for p in network.backbone.parameters())


def test_a_trunk_without_blocks_has_no_adapters() -> None:
    with pytest.raises(SettingsError, match="no blocks"):
        attach(nn.Conv2d(3, 3, 1), [], torch.zeros(1, 3, 8, 8))


def test_random_trunks_learn_wholly_and_large_ones_by_adapters() -> None:
    assert default_learns(make_trunk("scratch")) == "everything"
    assert default_learns(make_trunk("timm:resnet50", weights="none")) == "everything"
    large = make_trunk("timm:resnet50", weights="none")
    large.origin = "ImageNet"
    assert default_learns(large) == "adapters"


@pytest.mark.parametrize("learns", ["adapters", "everything"])
def test_a_checkpoint_alone_rebuilds_the_network(learns: str) -> None:
    network = build_elnet("nano", 3, learns=learns, edge=True, zoom=1.25, seed=3, width=8).eval()
    made = {"trunk": "nano", "learns": learns, "bands": 3, "classes": 3, "edge": True, "zoom": 1.25, "width": 8, "origin": "x"}
    again = rebuild_elnet(made).eval()
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(x), network(x))


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, other = (build_elnet("scratch", 2, seed=seed, width=8).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_weights_of_no_sam2_are_refused(tmp_path) -> None:
    path = tmp_path / "some.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(WeightsError):
        make_trunk(str(path))
