"""Official names of SAM tensors against transformers' ones: every key, both ways, and the same numbers out of both packages."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from terralabel.errors import WeightsError
from terralabel.nets.sam.families import FAMILIES, Checkpoint, identify, tiny, why_not

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from terralabel.nets.sam.keys import COPIED, RULES, dropped, fill, pattern  # noqa: E402
from terralabel.nets.sam.loading import build, check_fit, load  # noqa: E402
from terralabel.nets.sam.official import to_official, to_transformers  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
ATTENTION = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")


def linear(key: str, out: int, inner: int) -> Shapes:
    return {f"{key}.weight": (out, inner), f"{key}.bias": (out,)}


def norm(key: str, width: int) -> Shapes:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def conv(key: str, out: int, inner: int, side: int, transposed: bool = False) -> Shapes:
    return {f"{key}.weight": (inner, out, side, side) if transposed else (out, inner, side, side), f"{key}.bias": (out,)}


def mlp(key: str, *widths: int) -> Shapes:
    return {k: s for i in range(len(widths) - 1) for k, s in linear(f"{key}.layers.{i}", widths[i + 1], widths[i]).items()}


def heads(prompt: str, decoder: str, d: int, hidden: int, *, tracker: bool, lin: tuple[str, str]) -> Shapes:
    """sam/prompt_encoder.py, sam/mask_decoder.py, sam/transformer.py: the classes' attributes, in their order."""
    shapes: Shapes = {f"{prompt}.pe_layer.positional_encoding_gaussian_matrix": (2, d // 2)}
    shapes |= {f"{prompt}.point_embeddings.{i}.weight": (1, d) for i in range(4)}
    shapes |= {f"{prompt}.{name}.weight": (1, d) for name in ("not_a_point_embed", "no_mask_embed")}
    shapes |= conv(f"{prompt}.mask_downscaling.0", 4, 1, 2) | norm(f"{prompt}.mask_downscaling.1", 4)
    shapes |= conv(f"{prompt}.mask_downscaling.3", 16, 4, 2) | norm(f"{prompt}.mask_downscaling.4", 16)
    shapes |= conv(f"{prompt}.mask_downscaling.6", d, 16, 1)
    for block in (f"{decoder}.transformer.layers.{i}" for i in range(2)):
        for name in ATTENTION:
            inner = d if name == "self_attn" else d // 2
            for part in ("q_proj", "k_proj", "v_proj"):
                shapes |= linear(f"{block}.{name}.{part}", inner, d)
            shapes |= linear(f"{block}.{name}.out_proj", d, inner)
        for i in range(1, 5):
            shapes |= norm(f"{block}.norm{i}", d)
        shapes |= linear(f"{block}.mlp.{lin[0]}", hidden, d) | linear(f"{block}.mlp.{lin[1]}", d, hidden)
    for part in ("q_proj", "k_proj", "v_proj"):
        shapes |= linear(f"{decoder}.transformer.final_attn_token_to_image.{part}", d // 2, d)
    shapes |= linear(f"{decoder}.transformer.final_attn_token_to_image.out_proj", d, d // 2)
    shapes |= norm(f"{decoder}.transformer.norm_final_attn", d)
    shapes |= {f"{decoder}.iou_token.weight": (1, d), f"{decoder}.mask_tokens.weight": (4, d)}
    shapes |= conv(f"{decoder}.output_upscaling.0", d // 4, d, 2, transposed=True) | norm(
        f"{decoder}.output_upscaling.1", d // 4
    )
    shapes |= conv(f"{decoder}.output_upscaling.3", d // 8, d // 4, 2, transposed=True)
    for i in range(4):
        shapes |= mlp(f"{decoder}.output_hypernetworks_mlps.{i}", d, d, d, d // 8)
    shapes |= mlp(f"{decoder}.iou_prediction_head", d, d, d, 4)
    if tracker:
        shapes |= {f"{decoder}.obj_score_token.weight": (1, d)} | mlp(f"{decoder}.pred_obj_score_head", d, d, d, 1)
        shapes |= conv(f"{decoder}.conv_s0", d // 8, d, 1) | conv(f"{decoder}.conv_s1", d // 4, d, 1)
    return shapes


def memory(prefix: str, d: int, newer: bool) -> Shapes:
    """Some of sam2_base.py's video memory, which images do not need."""
    shapes: Shapes = {
        f"{prefix}maskmem_tpos_enc": (7, 1, 1, 64),
        f"{prefix}no_mem_pos_enc": (1, 1, d),
        f"{prefix}no_obj_ptr": (1, d),
        f"{prefix}mask_downsample.weight": (1, 1, 4, 4),
    }
    shapes |= mlp(f"{prefix}obj_ptr_proj", d, d, d, d)
    if newer:
        shapes |= {f"{prefix}no_obj_embed_spatial": (1, 64)} | linear(f"{prefix}obj_ptr_tpos_proj", 64, d)
    if not prefix:
        shapes |= linear("memory_attention.layers.0.self_attn.q_proj", d, d) | norm("memory_attention.norm", d)
        shapes |= conv("memory_encoder.out_proj", 64, d, 1) | {"memory_encoder.fuser.layers.0.gamma": (d,)}
    return shapes


def sam2(width: int, stages: tuple[int, ...], background: int, d: int = 256, hidden: int = 2048, newer: bool = True) -> Shapes:
    """hieradet.py and image_encoder.py of facebookresearch/sam2."""
    trunk = "image_encoder.trunk"
    shapes: Shapes = {f"{trunk}.pos_embed": (1, width, background, background), f"{trunk}.pos_embed_window": (1, width, 8, 8)}
    shapes |= conv(f"{trunk}.patch_embed.proj", width, 3, 7)
    before, number = width, 0
    for stage, blocks in enumerate(stages):
        out = width * 2**stage
        for _ in range(blocks):
            block = f"{trunk}.blocks.{number}"
            shapes |= norm(f"{block}.norm1", before) | norm(f"{block}.norm2", out)
            shapes |= linear(f"{block}.attn.qkv", 3 * out, before) | linear(f"{block}.attn.proj", out, out)
            shapes |= mlp(f"{block}.mlp", out, 4 * out, out)
            shapes |= linear(f"{block}.proj", out, before) if out != before else {}
            before, number = out, number + 1
    for i in range(4):
        shapes |= conv(f"image_encoder.neck.convs.{i}.conv", d, width * 2 ** (3 - i), 1)
    shapes |= {"no_mem_embed": (1, 1, d)} | memory("", d, newer)
    return shapes | heads("sam_prompt_encoder", "sam_mask_decoder", d, hidden, tracker=True, lin=("layers.0", "layers.1"))


def sam3(width: int, depth: int, inner: int, grid: int, d: int = 256, hidden: int = 2048) -> Shapes:
    """vitdet.py, necks.py and sam3_tracker_base.py of facebookresearch/sam3, and a little of the detector."""
    trunk = "detector.backbone.vision_backbone.trunk"
    shapes: Shapes = {f"{trunk}.pos_embed": (1, grid * grid + 1, width), f"{trunk}.patch_embed.proj.weight": (width, 3, 14, 14)}
    shapes |= norm(f"{trunk}.ln_pre", width)
    for block in (f"{trunk}.blocks.{i}" for i in range(depth)):
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", inner, width) | linear(f"{block}.mlp.fc2", width, inner)
        shapes |= {f"{block}.attn.freqs_cis": (grid * grid, 32)}
    for neck in ("convs", "sam2_convs"):
        level = f"detector.backbone.vision_backbone.{neck}"
        shapes |= conv(f"{level}.0.dconv_2x2_0", width // 2, width, 2, transposed=True)
        shapes |= conv(f"{level}.0.dconv_2x2_1", width // 4, width // 2, 2, transposed=True)
        shapes |= conv(f"{level}.1.dconv_2x2", width // 2, width, 2, transposed=True)
        for i, channels in enumerate((width // 4, width // 2, width, width)):
            shapes |= conv(f"{level}.{i}.conv_1x1", d, channels, 1) | conv(f"{level}.{i}.conv_3x3", d, d, 3)
    shapes |= {"detector.backbone.language_backbone.encoder.text_projection": (8, 8)} | norm(
        "detector.transformer.decoder.norm", d
    )
    shapes |= {"tracker.no_mem_embed": (1, 1, d)} | memory("tracker.", d, newer=True)
    shapes |= norm("tracker.transformer.encoder.norm", d) | conv("tracker.maskmem_backbone.out_proj", 64, d, 1)
    return shapes | heads(
        "tracker.sam_prompt_encoder", "tracker.sam_mask_decoder", d, hidden, tracker=True, lin=("lin1", "lin2")
    )


def sam_hq(
    width: int, depth: int, grid: int, d: int = 256, hidden: int = 2048, head: int = 64, window: int = 14, parts: int = 4
) -> Shapes:
    """image_encoder.py of segment-anything and mask_decoder_hq.py of SysCV/sam-hq."""
    encoder, decoder = "image_encoder", "mask_decoder"
    shapes: Shapes = {f"{encoder}.pos_embed": (1, grid, grid, width)} | conv(f"{encoder}.patch_embed.proj", width, 3, 16)
    for i in range(depth):
        block, span = f"{encoder}.blocks.{i}", grid if (i + 1) % (depth // parts) == 0 else window
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= {f"{block}.attn.rel_pos_{axis}": (2 * span - 1, head) for axis in "hw"}
        shapes |= linear(f"{block}.mlp.lin1", 4 * width, width) | linear(f"{block}.mlp.lin2", width, 4 * width)
    shapes |= {f"{encoder}.neck.0.weight": (d, width, 1, 1), f"{encoder}.neck.2.weight": (d, d, 3, 3)}
    shapes |= norm(f"{encoder}.neck.1", d) | norm(f"{encoder}.neck.3", d)
    shapes |= {f"{decoder}.hf_token.weight": (1, d)} | mlp(f"{decoder}.hf_mlp", d, d, d, d // 8)
    shapes |= conv(f"{decoder}.compress_vit_feat.0", d, width, 2, True) | norm(f"{decoder}.compress_vit_feat.1", d)
    shapes |= conv(f"{decoder}.compress_vit_feat.3", d // 8, d, 2, True)
    shapes |= conv(f"{decoder}.embedding_encoder.0", d // 4, d, 2, True) | norm(f"{decoder}.embedding_encoder.1", d // 4)
    shapes |= conv(f"{decoder}.embedding_encoder.3", d // 8, d // 4, 2, True)
    shapes |= conv(f"{decoder}.embedding_maskfeature.0", d // 4, d // 8, 3) | norm(f"{decoder}.embedding_maskfeature.1", d // 4)
    shapes |= conv(f"{decoder}.embedding_maskfeature.3", d // 8, d // 4, 3)
    return shapes | heads("prompt_encoder", decoder, d, hidden, tracker=False, lin=("lin1", "lin2"))


def edgetam(d: int = 256, hidden: int = 2048, **sizes: tuple[int, ...]) -> Shapes:
    """backbones/timm.py of facebookresearch/EdgeTAM; RepViT's own names are timm's."""
    timm = pytest.importorskip("timm")
    body = timm.create_model("repvit_m1", features_only=True, out_indices=(0, 1, 2, 3), **sizes)
    shapes: Shapes = {f"image_encoder.trunk.body.{key}": tuple(value.shape) for key, value in body.state_dict().items()}
    for i, channels in enumerate(body.feature_info.channels()[::-1]):
        shapes |= conv(f"image_encoder.neck.convs.{i}.conv", d, channels, 1)
    shapes |= {"no_mem_embed": (1, 1, d), "spatial_perceiver.latents": (256, 64)} | memory("", d, newer=False)
    return shapes | heads("sam_prompt_encoder", "sam_mask_decoder", d, hidden, tracker=True, lin=("layers.0", "layers.1"))


PUBLISHED = {
    "SAM 2.1 hiera_tiny": lambda: sam2(96, (1, 2, 7, 2), 7),
    "SAM 2.1 hiera_small": lambda: sam2(96, (1, 2, 11, 2), 7),
    "SAM 2.1 hiera_base_plus": lambda: sam2(112, (2, 3, 16, 3), 14),
    "SAM 2.1 hiera_large": lambda: sam2(144, (2, 6, 36, 4), 7),
    "SAM 2 hiera_tiny": lambda: sam2(96, (1, 2, 7, 2), 7, newer=False),
    "SAM-HQ vit_b": lambda: sam_hq(768, 12, 64),
    "SAM-HQ vit_l": lambda: sam_hq(1024, 24, 64),
    "SAM-HQ vit_h": lambda: sam_hq(1280, 32, 64, head=80),
    "SAM 3 vit_l": lambda: sam3(1024, 32, 4736, 24),
    "EdgeTAM repvit_m1": lambda: edgetam(),
}
TINY = {
    "sam_hq": lambda: sam_hq(32, 4, 8, d=32, hidden=64, head=16, window=3, parts=2),
    "sam2.1": lambda: sam2(8, (1, 2, 3, 1), 7, d=32, hidden=64),
    "edgetam": lambda: edgetam(d=32, hidden=64, embed_dim=(8, 16, 24, 32), depth=(1, 1, 2, 1)),
    "sam3": lambda: sam3(64, 8, 128, 4, d=32, hidden=64),
}


def nested(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {f"model.{key}": shape for key, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_are_known_and_fit_the_network_to_the_key(name: str) -> None:
    shapes = PUBLISHED[name]()
    for given in (shapes, nested(shapes)):
        checkpoint = identify(given)
        assert str(checkpoint) == f"{name} (official layout)"
        assert checkpoint is not None and checkpoint.image_size == (1008 if checkpoint.family == "sam3" else 1024)
    check_fit(nested(shapes), checkpoint, "file")
    lost = next(key for key in shapes if "iou_prediction_head.layers.1" in key)
    with pytest.raises(WeightsError, match=f"missing {lost}"):
        check_fit({key: shape for key, shape in shapes.items() if key != lost}, checkpoint, "file")
    with pytest.raises(WeightsError, match=f"1 keys are unknown to {name}.*: adapter.down.weight"):
        check_fit(shapes | {"adapter.down.weight": (4, 4)}, checkpoint, "file")


@pytest.mark.parametrize("family", TINY)
def test_every_tensor_survives_both_ways(family: str) -> None:
    shapes = TINY[family]()
    checkpoint = identify(shapes)
    assert checkpoint is not None and checkpoint.config == tiny(family).config
    generator = torch.Generator().manual_seed(1)
    state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    if family == "sam3":  # the class token is in the file and unused
        positions = state["detector.backbone.vision_backbone.trunk.pos_embed"]
        positions[:, 0] = 0
    new = to_transformers(state, checkpoint)
    assert new.keys() == build(checkpoint).state_dict().keys()
    back = to_official(new, checkpoint)
    kept = {key for key in state if not dropped(family, "official", key)}
    assert back.keys() == kept and 0 < len(kept) < len(state) + (family == "sam_hq")
    assert all(torch.equal(back[key], state[key]) for key in kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_built_networks_survive_both_ways_and_are_recognised(family: str) -> None:
    checkpoint = tiny(family)
    model = build(checkpoint)
    state = model.state_dict()
    official = to_official(state, checkpoint)
    back = to_transformers(official, checkpoint)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    expected = "sam2.1" if family == "sam2" else family  # they differ in their memory only, and none is left here
    found = [identify({key: tuple(value.shape) for key, value in each.items()}) for each in (official, state)]
    assert [(c.family, c.size, c.layout) for c in found if c] == [
        (expected, "custom", "official"),
        (expected, "custom", "transformers"),
    ]
    assert found[0] is not None and found[0].config == checkpoint.config


@pytest.mark.parametrize("family", RULES)
def test_rules_read_the_same_in_both_directions(family: str) -> None:
    examples = {"#": "2", "@": "self_attn", "*": "weight"}
    for official, transformers in RULES[family]:
        groups = [examples[c] for c in official if c in examples]
        assert pattern(official).fullmatch(fill(official, groups))
        assert pattern(transformers).fullmatch(fill(transformers, groups)).groups() == tuple(groups)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_spoiled_checkpoints_are_told_or_not_but_never_an_error(family: str) -> None:
    """Lost keys, other numbers, other ranks: `identify` says what it is or None, and `why_not` names what is lost."""
    checkpoint = tiny(family)
    whole = {key: tuple(value.shape) for key, value in to_official(build(checkpoint).state_dict(), checkpoint).items()}
    rng, told = random.Random(5), 0
    for _ in range(150):
        spoiled = dict(whole)
        for key in rng.sample(sorted(spoiled), rng.choice((1, 3, 40))):
            if rng.random() < 0.5:
                del spoiled[key]
            else:
                spoiled[key] = rng.choice(((), (0,), (0, 0, 0, 0), (1,), (7, 5, 3), spoiled[key][::-1]))
        found, why = identify(spoiled), why_not(spoiled)
        told += found is not None
        assert found is None or why is None
        assert found is not None or why is None or "without" in why or "do not fit" in why
    assert 10 < told < 150


def test_a_key_that_no_rule_knows_is_named() -> None:
    checkpoint = tiny("sam")
    state = to_official(build(checkpoint).state_dict(), checkpoint)
    with pytest.raises(WeightsError, match=r"1 keys are none of this architecture: image_encoder\.lora\.a"):
        to_transformers(state | {"image_encoder.lora.a": torch.zeros(2)}, checkpoint)
    with pytest.raises(WeightsError, match=r"vision\.lora has no official name"):
        to_official(build(checkpoint).state_dict() | {"vision.lora": torch.zeros(2)}, checkpoint)


def official_sam(checkpoint: Checkpoint):
    """The authors' own classes in the size of `checkpoint`, as `build_sam.py` puts them together."""
    modeling = pytest.importorskip("segment_anything.modeling")
    vision, decoder = checkpoint.config["vision_config"], checkpoint.config["mask_decoder_config"]
    d, grid = decoder["hidden_size"], vision["image_size"] // vision["patch_size"]
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=vision["image_size"],
            patch_size=vision["patch_size"],
            embed_dim=vision["hidden_size"],
            depth=vision["num_hidden_layers"],
            num_heads=vision["num_attention_heads"],
            mlp_ratio=vision["mlp_dim"] / vision["hidden_size"],
            out_chans=d,
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
            use_rel_pos=True,
            window_size=vision["window_size"],
            global_attn_indexes=vision["global_attn_indexes"],
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=d, image_embedding_size=(grid, grid), input_image_size=(grid * 16, grid * 16), mask_in_chans=16
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=d, mlp_dim=decoder["mlp_dim"], num_heads=8),
            transformer_dim=d,
            iou_head_depth=3,
            iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
        ),
    ).eval()


@torch.no_grad()
def assert_same_numbers(ours, sam, side: int) -> None:
    """Encoder; decoder for points and for points with a box and a mask."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn((1, 3, side, side), generator=generator)
    expected = sam.image_encoder(pixels)
    embedding = ours.get_image_embeddings(pixels)
    torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=1e-4)
    points = torch.tensor([[[side * 0.3, side * 0.6], [side * 0.7, side * 0.2]]])
    labels, box = torch.tensor([[1, 0]]), torch.tensor([[side * 0.1, side * 0.2, side * 0.8, side * 0.9]])
    masks = torch.randn((1, 1, side // 4, side // 4), generator=generator)
    for boxes, mask in ((None, None), (box, masks)):
        sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=boxes, masks=mask)
        logits, iou = sam.mask_decoder(
            image_embeddings=expected,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        got = ours(
            image_embeddings=expected,
            input_points=points[None],
            input_labels=labels[None],
            input_boxes=None if boxes is None else boxes[None],
            input_masks=mask,
        )
        assert logits.std() > 1e-3 and not torch.allclose(iou[:, 0], iou[:, 1])
        torch.testing.assert_close(got.pred_masks[0], logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.iou_scores[0], iou, atol=1e-4, rtol=1e-4)


def test_a_file_of_the_official_package_gives_the_same_numbers(tmp_path: Path) -> None:
    checkpoint = tiny("sam")
    sam = official_sam(checkpoint)
    state = to_official(build(checkpoint, seed=3).state_dict(), checkpoint)
    assert state.keys() == sam.state_dict().keys()
    sam.load_state_dict(state)  # the random weights of `build`: the package's own leave the positions at zero
    torch.save(sam.state_dict(), tmp_path / "tiny.pth")
    loaded = load(tmp_path / "tiny.pth")
    assert loaded.checkpoint == checkpoint and loaded.model.state_dict()[COPIED[1]].shape == (2, 16)
    assert_same_numbers(loaded.model, sam, checkpoint.image_size)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["vit_b", "vit_l"])
def test_full_size_files_of_the_official_package_give_the_same_numbers(tmp_path: Path, size: str) -> None:
    registry = pytest.importorskip("segment_anything").sam_model_registry
    sam = registry[size]()
    generator = torch.Generator().manual_seed(4)
    for key, value in sam.state_dict().items():
        if "pos" in key and value.ndim > 1 and not value.any():  # the package leaves positions at zero
            value.copy_(0.02 * torch.randn(value.shape, generator=generator))
    torch.save(sam.state_dict(), tmp_path / "full.pth")
    started = time.perf_counter()
    loaded = load(tmp_path / "full.pth")
    seconds = time.perf_counter() - started
    assert str(loaded.checkpoint) == f"SAM {size} (official layout)" and seconds < 30
    assert_same_numbers(loaded.model, sam.eval(), 1024)
