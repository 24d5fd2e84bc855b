"""The mask decoder against transformers' and the official one, in double precision: what is rearranged must be the same sum.

In float64 the two agree to 1e-9 of the spread of the outputs or not at all; float32 and bfloat16 are then a matter of rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from terralabel.errors import SettingsError
from terralabel.nets.sam.families import FAMILIES, tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import Tensor  # noqa: E402

from terralabel.nets.sam.decoder import MaskDecoder  # noqa: E402
from terralabel.nets.sam.embedding import Embedding  # noqa: E402
from terralabel.nets.sam.loading import build  # noqa: E402
from terralabel.nets.sam.official import to_official  # noqa: E402
from terralabel.nets.sam.prompts import embed  # noqa: E402
from terralabel.nets.sam.upscaling import raster_order, to_blocks, to_raster  # noqa: E402

#: Which prompts are given together.
KINDS = ("point", "points", "box", "mask", "point+box", "point+mask", "box+mask", "points+box+mask")
PROMPTS = 4


def loud(model: Any) -> Any:
    """Weights that make masks of different prompts and tokens differ, and attention neither flat nor all on one."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, value in model.mask_decoder.named_parameters():
            if "token" in key and value.shape[-1] == model.mask_decoder.hidden_size and "attn" not in key:
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
            elif value.ndim == 2:
                value.mul_(1.5)
            elif "upscale_conv" in key and value.ndim == 4:
                value.mul_(2.0 * (value[0].numel() / value.shape[0]) ** 0.5)
        for key, value in model.prompt_encoder.named_parameters():
            if "embed" in key and value.ndim == 2 and "positional" not in key:
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return model


def full_decoder(family: str) -> Any:
    """The decoder at its released size behind an encoder of a few channels, which nobody asks."""
    small = tiny(family)
    config = {part: dict(values) for part, values in small.config.items()}
    side = 1008 if family == "sam3" else 1024
    config["prompt_encoder_config"] |= {"hidden_size": 256, "image_size": side}
    config["mask_decoder_config"] |= {"hidden_size": 256, "mlp_dim": 2048, "iou_head_hidden_dim": 256}
    if "num_pos_feats" in config["vision_config"]:
        config["vision_config"] |= {"num_pos_feats": 128}
    return build(replace(small, config=config))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """A tiny network of each family, in float64."""
    return {family: loud(build(tiny(family)).double()) for family in FAMILIES}


def an_embedding(model: Any, seed: int = 1) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    decoder, (g, _) = model.mask_decoder, model.prompt_encoder.image_embedding_size
    d, dtype = decoder.hidden_size, decoder.iou_token.weight.dtype

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    if hasattr(decoder, "conv_s0"):
        return Embedding(noise(d, g, g), (noise(d // 8, 4 * g, 4 * g), noise(d // 4, 2 * g, 2 * g)))
    if hasattr(decoder, "hq_token"):
        return Embedding(noise(d, g, g), (), (noise(g, g, decoder.compress_vit_conv1.weight.shape[0]),))
    return Embedding(noise(d, g, g))


def some_prompts(model: Any, kind: str, n: int = PROMPTS, seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    side, m = model.prompt_encoder.input_image_size, 4 * model.prompt_encoder.image_embedding_size[0]
    dtype = model.mask_decoder.iou_token.weight.dtype
    points = torch.rand(n, 3, 2, generator=generator, dtype=dtype) * side
    labels = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, -1]]).repeat(-(-n // 4), 1)[:n]
    boxes = torch.rand(n, 4, generator=generator, dtype=dtype) * side
    masks = torch.randn(n, 1, m, m, generator=generator, dtype=dtype) * 5
    count = 3 if "points" in kind else 1
    given = {"points": points[:, :count], "labels": labels[:, :count]} if "point" in kind else {}
    return given | ({"boxes": boxes} if "box" in kind else {}) | ({"mask_inputs": masks} if "mask" in kind else {})


def ours(decoder: MaskDecoder, model: Any, e: Embedding, given: dict[str, Tensor], multimask: bool) -> tuple[Tensor, Tensor]:
    prompts = embed(model.prompt_encoder, model.config.model_type, **given)
    tokens = decoder.with_own_tokens(prompts.tokens)
    logits, iou = [], []
    for rows in [slice(None)] if prompts.dense is None else [slice(i, i + 1) for i in range(len(tokens))]:
        prepared = decoder.prepare(e, None if prompts.dense is None else prompts.dense[rows][0])
        answers = decoder.answer(prepared, tokens[rows], decoder.begin(prepared, tokens[rows]), multimask=multimask)
        for column, values in zip((logits, iou), decoder.masks(prepared, answers, multimask=multimask), strict=True):
            column.append(values)
    return torch.cat(logits), torch.cat(iou)


def theirs(model: Any, e: Embedding, given: dict[str, Tensor], multimask: bool) -> tuple[Tensor, Tensor]:
    """transformers' own forward, one prompt after the other."""
    if hasattr(model.mask_decoder, "hq_token"):
        return released_hq(model, e, given, multimask)
    image = e.image[None]
    rows = [
        model(
            image_embeddings=[*(level[None] for level in e.high_res), image] if e.high_res else image,
            input_points=given["points"][i : i + 1, None] if "points" in given else None,
            input_labels=given["labels"][i : i + 1, None] if "labels" in given else None,
            input_boxes=given["boxes"][i : i + 1, None] if "boxes" in given else None,
            input_masks=given["mask_inputs"][i : i + 1] if "mask_inputs" in given else None,
            multimask_output=multimask,
        )
        for i in range(len(next(iter(given.values()))))
    ]
    return torch.cat([row.pred_masks[:, 0] for row in rows]), torch.cat([row.iou_scores[:, 0] for row in rows])


def released_hq(model: Any, e: Embedding, given: dict[str, Tensor], multimask: bool) -> tuple[Tensor, Tensor]:
    """SAM-HQ as released, from transformers' modules (whose own forward upscales the wrong tensor)."""
    d, prompts = model.mask_decoder, embed(model.prompt_encoder, model.config.model_type, **given)
    b, (c, h, w) = len(prompts.tokens), e.image.shape
    dense = model.prompt_encoder.no_mask_embed.weight.view(1, c, 1, 1) if prompts.dense is None else prompts.dense
    own = torch.cat([d.iou_token.weight, d.mask_tokens.weight, d.hq_token.weight]).expand(b, -1, -1)
    tokens, image = d.transformer(
        point_embeddings=torch.cat([own, prompts.tokens], 1)[:, None],
        image_embeddings=(e.image + dense).expand(b, -1, -1, -1),
        image_positional_embeddings=model.get_image_wide_positional_embeddings(),
        attention_similarity=None,
    )
    tokens, image = tokens[:, 0], image[:, 0].transpose(1, 2).reshape(b, c, h, w)
    upscaled = d.activation(d.upscale_conv2(d.activation(d.upscale_layer_norm(d.upscale_conv1(image)))))
    early = d.compress_vit_conv1(e.extra[0].permute(2, 0, 1)[None])
    features = d.compress_vit_conv2(d.activation(d.compress_vit_norm(early)))
    features = features + d.encoder_conv2(d.activation(d.encoder_norm(d.encoder_conv1(e.image[None]))))
    fine = d.mask_conv2(d.activation(d.mask_norm(d.mask_conv1(upscaled)))) + features
    hyper = torch.stack([network(tokens[:, 1 + i]) for i, network in enumerate(d.output_hypernetworks_mlps)], 1)
    masks = torch.einsum("bkc,bchw->bkhw", hyper, upscaled)
    hq = torch.einsum("bc,bchw->bhw", d.hq_mask_mlp(tokens[:, 5]), fine)[:, None]
    iou = d.iou_prediction_head(tokens[:, 0])
    if not multimask:
        return masks[:, :1] + hq, iou[:, :1]
    iou, order = iou[:, 1:].sort(1, descending=True)
    return torch.stack([rows[1:][places] for rows, places in zip(masks, order, strict=True)]) + hq, iou


def assert_same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], tolerance: float) -> None:
    """Equal to `tolerance` of the spread; and the spread is real: across prompts, and across masks where there are several."""
    for values, name in zip(wanted, ("logits", "iou"), strict=True):
        assert values.std(0).mean() > 0.03 * values.std(), f"{name} hardly depend on the prompt"
        if values.shape[1] > 1:
            assert values.std(1).mean() > 0.1 * values.std(), f"{name} hardly depend on the mask"
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= tolerance * want.std()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_prompt_of_every_family_is_answered_as_by_the_reference(models: dict[str, Any], family: str, kind: str) -> None:
    model = models[family]
    e, given = an_embedding(model), some_prompts(model, kind)
    with torch.inference_mode():
        decoder = MaskDecoder(model, torch.float64)
        for multimask in (True, False):
            found, wanted = ours(decoder, model, e, given, multimask), theirs(model, e, given, multimask)
            assert found[0].shape[1] == (3 if multimask else 1)
            assert_same(found, wanted, 1e-9)


def test_transformers_sam_hq_has_the_same_predicted_iou(models: dict[str, Any]) -> None:
    model = models["sam_hq"]
    e, given = an_embedding(model), some_prompts(model, "points")
    with torch.inference_mode():
        _, iou = ours(MaskDecoder(model, torch.float64), model, e, given, True)
        output = model(
            image_embeddings=e.image[None],
            intermediate_embeddings=[e.extra[0][None]],
            input_points=given["points"][None],
            input_labels=given["labels"][None],
        )
    assert torch.allclose(output.iou_scores[0], iou, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_sam_gives_the_same_masks(models: dict[str, Any], kind: str) -> None:
    model = models["sam"]
    official = official_decoder(model, tiny("sam"), side=128, d=32, mlp=64)
    e, given = an_embedding(model), some_prompts(model, kind)
    with torch.inference_mode():
        decoder = MaskDecoder(model, torch.float64)
        for multimask in (True, False):
            wanted = ask_official(official, e, given, multimask)
            # its layer norms add 1e-5 to the variance, transformers' 1e-6
            assert_same(ours(decoder, model, e, given, multimask), wanted, 2e-4)


def official_decoder(model: Any, checkpoint: Any, side: int, d: int, mlp: int) -> tuple[Any, Any]:
    """The official package's prompt encoder and mask decoder with the same weights."""
    modeling = pytest.importorskip("segment_anything.modeling")
    grid = (side // 16, side // 16)
    prompt = modeling.PromptEncoder(embed_dim=d, image_embedding_size=grid, input_image_size=(side, side), mask_in_chans=16)
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=d, mlp_dim=mlp, num_heads=8)
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=d, iou_head_depth=3, iou_head_hidden_dim=d
    )
    state = {key: value.float() for key, value in to_official(model.state_dict(), checkpoint).items()}
    for name, module in (("prompt_encoder", prompt), ("mask_decoder", decoder)):
        part = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        module.load_state_dict(part)
        module.eval().requires_grad_(False)
    return prompt, decoder.to(model.dtype)  # its prompt encoder knows float32 only


def ask_official(official: tuple[Any, Any], e: Embedding, given: dict[str, Tensor], multimask: bool) -> tuple[Tensor, Tensor]:
    prompt, decoder = official
    single = {kind: values.float() if values.is_floating_point() else values for kind, values in given.items()}
    points = (single["points"], single["labels"]) if "points" in given else None
    sparse, dense = prompt(points=points, boxes=single.get("boxes"), masks=single.get("mask_inputs"))
    return decoder(
        image_embeddings=e.image[None],
        image_pe=prompt.get_dense_pe().to(e.image.dtype),
        sparse_prompt_embeddings=sparse.to(e.image.dtype),
        dense_prompt_embeddings=dense.to(e.image.dtype),
        multimask_output=multimask,
    )


def test_what_is_wrong_by_a_percent_is_found(models: dict[str, Any]) -> None:
    model = models["sam2"]
    e, given = an_embedding(model), some_prompts(model, "points")
    with torch.inference_mode():
        wanted = theirs(model, e, given, True)
        for damage in DAMAGES:
            decoder = MaskDecoder(model, torch.float64)
            damage(decoder)
            with pytest.raises(AssertionError):
                assert_same(ours(decoder, model, e, given, True), wanted, 1e-6)


def _scale(*path: str | int) -> Any:
    """Multiplies one of the folded tensors by 1.01."""

    def damage(decoder: MaskDecoder) -> None:
        part: Any = decoder
        for name in path[:-1]:
            part = part[name] if isinstance(name, int) else getattr(part, name)
        last = path[-1]
        if isinstance(last, int):
            part[last] = part[last] * 1.01
        else:
            setattr(part, last, getattr(part, last) * 1.01)

    return damage


DAMAGES = (
    _scale("two_way", "first", 0, "scaling"),
    _scale("two_way", "first", 1, "scaling"),
    _scale("two_way", "norms", "outputs", 0, 0),
    _scale("two_way", "norms", "outputs", 1, 0),
    _scale("two_way", "norms", "outputs", 1, 1),
    _scale("two_way", "norms", "constants", 1, 0),
    _scale("two_way", "norms", "weights", 0),
    _scale("two_way", "norms", "first_bias"),
    _scale("two_way", "reads", 0, "positions"),
    _scale("two_way", "reads", 0, "value_weight"),
    _scale("two_way", "writes", 0, "positions"),
    _scale("two_way", "writes", 0, "query_weight"),
    _scale("two_way", "final", "key_weight"),
    _scale("two_way", "final", "value_bias"),
    _scale("upscaling", "first"),
    _scale("upscaling", "constant"),
    _scale("upscaling", "second", "bias"),
    _scale("no_mask"),
)


def test_a_single_mask_gives_way_where_it_is_not_stable(models: dict[str, Any]) -> None:
    model = models["sam2.1"]
    e, given = an_embedding(model), some_prompts(model, "point", n=16)
    decoder = model.mask_decoder
    before = decoder.dynamic_multimask_stability_thresh, decoder.dynamic_multimask_stability_delta
    try:
        decoder.dynamic_multimask_via_stability = False
        with torch.inference_mode():
            zero, _ = theirs(model, e, given, False)
            decoder.dynamic_multimask_via_stability = True
            stability = (zero > 0.5).sum((1, 2, 3)) / (zero > -0.5).sum((1, 2, 3))
            decoder.dynamic_multimask_stability_delta = 0.5
            decoder.dynamic_multimask_stability_thresh = float(stability.median())
            found = ours(MaskDecoder(model, torch.float64), model, e, given, False)
            assert_same(found, theirs(model, e, given, False), 1e-9)
    finally:
        decoder.dynamic_multimask_stability_thresh, decoder.dynamic_multimask_stability_delta = before
    kept = ((found[0] - zero).abs().amax((1, 2, 3)) < 1e-6).sum()
    assert 4 <= kept <= 12


def test_blocked_order_is_that_of_successive_transposed_convolutions() -> None:
    maps = torch.arange(3 * 8 * 12).view(3, 8, 12)
    blocks = to_blocks(maps, 1)
    assert blocks.shape == (24, 12)
    assert blocks[13].view(2, 2, 3)[1, 0].tolist() == maps[:, 2 * 2 + 1, 2 * 1].tolist()  # position (2, 1), row 1, column 0
    square = torch.randn(2, 16, 16)
    assert torch.equal(to_raster(to_blocks(square, 2).view(-1, 2).T.contiguous(), raster_order(4)), square)


def test_prompts_that_make_no_sense_are_refused(models: dict[str, Any]) -> None:
    model = models["sam"]
    given = some_prompts(model, "points+box+mask")
    cases = [
        ({}, "none of them"),
        ({"labels": given["labels"]}, "none of them"),
        ({"points": given["points"]}, "labels"),
        ({"boxes": given["boxes"], "labels": given["labels"]}, "labels"),
        ({"points": given["points"], "labels": given["labels"], "boxes": given["boxes"][:2]}, "2 boxes"),
        ({"mask_inputs": given["mask_inputs"][..., :16]}, r"\(b, 1, 32, 32\)"),
    ]
    for case, told in cases:
        with pytest.raises(SettingsError, match=told):
            embed(model.prompt_encoder, model.config.model_type, **case)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_size_rounding_is_all_that_differs(family: str) -> None:
    model = loud(full_decoder(family))
    e, given = an_embedding(model), some_prompts(model, "points", n=2)
    with torch.inference_mode():
        found, wanted = ours(MaskDecoder(model), model, e, given, True), theirs(model, e, given, True)
        assert_same(found, wanted, 2e-3)
        double, exact = model.double(), an_embedding(model)
        e64 = Embedding(
            e.image.double(), tuple(level.double() for level in e.high_res), tuple(level.double() for level in e.extra)
        )
        assert exact.image.shape == e64.image.shape
        given64 = {kind: values.double() if values.is_floating_point() else values for kind, values in given.items()}
        truth = theirs(double, e64, given64, True)
    for ours32, theirs32, exactly in zip(found, wanted, truth, strict=True):
        assert (ours32 - exactly).abs().mean() <= 2 * (theirs32 - exactly).abs().mean() + 1e-7


@pytest.mark.slow
def test_the_official_decoder_at_full_size() -> None:
    model = loud(full_decoder("sam"))
    official = official_decoder(model, tiny("sam"), side=1024, d=256, mlp=2048)
    e, given = an_embedding(model), some_prompts(model, "point", n=3)
    with torch.inference_mode():
        assert_same(ours(MaskDecoder(model), model, e, given, True), ask_official(official, e, given, True), 2e-3)
