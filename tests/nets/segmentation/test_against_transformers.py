"""Our Mix Transformer and UPerNet head against those of transformers, number by number, on equal random weights."""

from __future__ import annotations

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from terralabel.nets.segmentation.fcn import AuxiliaryHead  # noqa: E402
from terralabel.nets.segmentation.mit import MixTransformer, MixTransformerSize  # noqa: E402
from terralabel.nets.segmentation.upernet import UPerHead  # noqa: E402

#: Our names -> those of transformers 5.
_MIT = [
    (r"^patch_embed(\d)\.proj", r"stages.\1.patch_embeddings.proj"),
    (r"^patch_embed(\d)\.norm", r"stages.\1.patch_embeddings.layer_norm"),
    (r"^norm(\d)\.", r"stages.\1.layer_norm."),
    (r"^block(\d)\.", r"stages.\1.blocks."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attn\.norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.q\.", ".attention.q_proj."),
    (r"\.attn\.", ".attention."),
]
_UPERNET = [
    (r"^pyramid\.pools\.", "psp_modules."),
    (r"^pyramid\.merge\.", "bottleneck."),
    (r"^lateral\.", "lateral_convs."),
    (r"^smooth\.", "fpn_convs."),
    (r"^merge\.", "fpn_bottleneck."),
    (r"^mix\.", "convs.0."),
    (r"\.norm\.", ".batch_norm."),
    (r"^classifier\.logits\.", "classifier."),
]


def renamed(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return re.sub(r"^stages\.(\d)", lambda m: f"stages.{int(m[1]) - 1}", key)


def scattered(module: Any, seed: int) -> Any:
    """The module with weights and statistics that no two of its tensors share."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator).abs() + 0.05)
            value.mul_(torch.randn(value.shape, generator=generator).sign() if value.ndim > 1 else 1)
    return module.eval()


def test_the_mix_transformer() -> None:
    size = MixTransformerSize((1, 2, 1, 1), (32, 64, 160, 256))
    ours = scattered(MixTransformer(size, bands=4), 0)
    config = transformers.SegformerConfig(num_channels=4, depths=list(size.depths), hidden_sizes=list(size.channels))
    theirs = transformers.SegformerModel(config).eval()
    state = {}
    for key, value in ours.state_dict().items():
        name = renamed(key, _MIT)
        if ".attention.kv." in name:
            for part, half in zip(("k_proj", "v_proj"), value.chunk(2), strict=True):
                state[name.replace(".kv.", f".{part}.")] = half
        else:
            state[name] = value
    theirs.load_state_dict(state)
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6  # the authors' own; transformers has 1e-5
    image = torch.randn(1, 4, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(image, output_hidden_states=True).hidden_states, ours(image)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max())), float((a - b).abs().max())


@pytest.mark.parametrize("part", ["head", "auxiliary"])
def test_the_upernet_heads(part: str) -> None:
    module = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    channels = (8, 12, 16, 20)
    config = transformers.UperNetConfig(
        hidden_size=24, num_labels=5, auxiliary_channels=10, auxiliary_num_convs=1, auxiliary_in_channels=16
    )
    if part == "head":
        ours, theirs = UPerHead(channels, 24, 5), module.UperNetHead(config, list(channels))
    else:
        ours, theirs = AuxiliaryHead(16, 2, 10, 5), module.UperNetFCNHead(config, list(channels))
    scattered(ours, 2)
    theirs.load_state_dict({renamed(key, _UPERNET): value for key, value in ours.state_dict().items()})
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, c, s, s + 1, generator=generator) for c, s in zip(channels, (24, 12, 6, 3), strict=True)]
    with torch.no_grad():
        assert torch.allclose(ours(maps), theirs.eval()(list(maps)), rtol=1e-4, atol=1e-4)
