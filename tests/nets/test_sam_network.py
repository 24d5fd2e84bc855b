"""A network of every family as the mask stage sees it: embeddings, prompts, masks past a predicted IoU, and memory that runs out."""

from __future__ import annotations

import gc
import weakref
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from terralabel.errors import SettingsError
from terralabel.nets.sam.families import FAMILIES, tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import Tensor  # noqa: E402

from terralabel.nets.sam.embedding import Embedding  # noqa: E402
from terralabel.nets.sam.loading import build  # noqa: E402
from terralabel.nets.sam.network import SamNetwork, make_network  # noqa: E402

SIDES = {family: 168 if family == "sam3" else 128 for family in FAMILIES}


def network(family: str, precision: str = "fp32") -> SamNetwork:
    model = build(tiny(family))
    with torch.no_grad():  # so that masks differ and predicted IoU lies on both sides of a threshold
        model.mask_decoder.mask_tokens.weight.mul_(3)
        model.mask_decoder.iou_prediction_head.proj_in.weight.mul_(3)
    return make_network(SimpleNamespace(model=model, checkpoint=tiny(family)), precision=precision)


@pytest.fixture(scope="module")
def networks() -> dict[str, SamNetwork]:
    return {family: network(family) for family in FAMILIES}


def encoded(net: SamNetwork, seed: int = 0) -> Embedding:
    pixels = torch.randn(1, 3, net.image_size, net.image_size, generator=torch.Generator().manual_seed(seed))
    return net.encode(pixels)[0]


def some_points(net: SamNetwork, n: int) -> Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(5)) * net.image_size


def asked(net: SamNetwork, e: Embedding, points: Tensor) -> tuple[Tensor, Tensor]:
    return net.decode(e, points=points[:, None], labels=torch.ones(len(points), 1), multimask=True)


def passing(net: SamNetwork, e: Embedding, points: Tensor, thresh: float, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    found = list(net.decode_passing(e, points, pred_iou_thresh=thresh, batch=batch))
    return torch.cat([x.index for x in found]), torch.cat([x.iou for x in found]), torch.cat([x.logits for x in found])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_is(networks: dict[str, SamNetwork], family: str) -> None:
    net, side = networks[family], SIDES[family]
    assert (net.family, net.image_size, net.alternatives, net.device) == (family, side, 3, "cpu")
    assert net.mask_size == (4 * side // 14 if family == "sam3" else side // 4)
    assert net.pads == (family in ("sam", "sam_hq"))
    assert np.allclose(net.mean, 0.5 if family == "sam3" else (123.675 / 255, 116.28 / 255, 103.53 / 255), atol=1e-4)
    assert np.allclose(net.std, 0.5 if family == "sam3" else (58.395 / 255, 57.12 / 255, 57.375 / 255), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_past_the_threshold_are_those_that_decode_gives(networks: dict[str, SamNetwork], family: str) -> None:
    net = networks[family]
    e, points = encoded(net), some_points(net, 21)
    logits, iou = asked(net, e, points)
    assert logits.shape == (21, 3, net.mask_size, net.mask_size)
    assert (logits.dtype, iou.dtype, iou.shape) == (torch.float32, torch.float32, (21, 3))
    middle = iou.flatten().sort().values[iou.numel() // 2 :][:2]
    thresh = float(middle.mean())  # not one of them: their last bits depend on how many are asked for at once
    index, found, masks = passing(net, e, points, thresh, batch=8)
    assert index.tolist() == (iou > thresh).flatten().nonzero()[:, 0].tolist()
    assert 0 < len(index) < iou.numel()
    assert torch.allclose(found, iou.flatten()[index], atol=1e-5)
    assert (masks - logits.flatten(0, 1)[index]).abs().max() < 1e-4 * logits.std()


def test_the_batch_changes_no_bit_on_a_cpu(networks: dict[str, SamNetwork]) -> None:
    net = networks["sam"]
    e, points = encoded(net), some_points(net, 37)
    thresh = float(asked(net, e, points)[1].median())
    whole = passing(net, e, points, thresh, batch=64)
    for batch in (1, 5, 16, 17, 32):
        assert all(torch.equal(a, b) for a, b in zip(whole, passing(net, e, points, thresh, batch), strict=True))


@pytest.mark.parametrize("family", ["sam", "sam_hq", "sam3"])
def test_the_number_of_threads_changes_no_bit_on_a_cpu(networks: dict[str, SamNetwork], family: str) -> None:
    net = networks[family]
    e, points = encoded(net), some_points(net, 53)
    thresh = float(asked(net, e, points)[1].median())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        net._last = None
        one = passing(net, e, points, thresh, batch=64)
        torch.set_num_threads(3)
        three = passing(net, e, points, thresh, batch=64)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert 0 < len(one[0]) < 159
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_nothing_passes_and_everything_passes(networks: dict[str, SamNetwork]) -> None:
    net = networks["sam2"]
    e, points = encoded(net), some_points(net, 3)
    index, iou, logits = passing(net, e, points, 2.0, batch=64)
    assert (index.shape, iou.shape, logits.shape) == ((0,), (0,), (0, net.mask_size, net.mask_size))
    assert passing(net, e, points, -1.0, batch=64)[0].tolist() == list(range(9))
    assert list(net.decode_passing(e, points[:0], pred_iou_thresh=0.0, batch=64)) == []


@pytest.mark.parametrize("family", ["sam", "sam2.1"])
def test_every_kind_of_prompt(networks: dict[str, SamNetwork], family: str) -> None:
    net = networks[family]
    e, m = encoded(net), net.mask_size
    boxes = torch.tensor([[10.0, 12, 90, 80], [5, 5, 60, 70]])
    masks = torch.randn(2, 1, m, m, generator=torch.Generator().manual_seed(1)) * 5
    points = {"points": some_points(net, 4).view(2, 2, 2), "labels": torch.tensor([[1, 0], [1, 1]])}
    answers = []
    for given in (points, {"boxes": boxes}, {"mask_inputs": masks}, {**points, "boxes": boxes, "mask_inputs": masks}):
        logits, iou = net.decode(e, **given, multimask=False)
        assert (logits.shape, iou.shape) == ((2, 1, m, m), (2, 1))
        alone = [net.decode(e, **{k: v[i : i + 1] for k, v in given.items()}, multimask=False) for i in range(2)]
        assert (torch.cat([x for x, _ in alone]) - logits).abs().max() < 1e-4
        answers.append(logits)
    for i, one in enumerate(answers):
        assert all((one - other).abs().max() > 0.01 for other in answers[i + 1 :])


def test_one_image_is_not_taken_for_another(networks: dict[str, SamNetwork]) -> None:
    net = networks["sam"]
    first, second = encoded(net, 0), encoded(net, 1)
    points = some_points(net, 2)
    one = asked(net, first, points)[0]
    assert (asked(net, second, points)[0] - one).abs().max() > 0.1
    assert torch.equal(asked(net, first, points)[0], one)


def test_feature_map(networks: dict[str, SamNetwork]) -> None:
    net = networks["edgetam"]
    e = encoded(net)
    features = net.feature_map(e)
    assert (features.shape, features.dtype, features.flags.c_contiguous) == ((8, 8, 32), np.float32, True)
    assert features[3, 5, 7] == e.image[7, 3, 5]


class Scarce:
    """A decoder on a machine whose memory holds `most` prompts at once."""

    def __init__(self, decoder: Any, most: int, error: RuntimeError) -> None:
        self.decoder, self.most, self.error = decoder, most, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def begin(self, prepared: Any, tokens: Tensor) -> Any:
        if len(tokens) > self.most:
            raise self.error
        return self.decoder.begin(prepared, tokens)


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_where_memory_runs_out_the_batch_is_halved(error: RuntimeError) -> None:
    net = network("sam")
    e, points = encoded(net), some_points(net, 40)
    wanted = passing(net, e, points, -9.0, batch=32)
    assert net.batch_used == 32
    net.decoder = Scarce(net.decoder, 5, error)  # type: ignore[assignment]
    found = passing(net, e, points, -9.0, batch=32)
    assert net.batch_used == 4
    assert found[0].tolist() == wanted[0].tolist()
    assert (found[2] - wanted[2]).abs().max() < 1e-4 * wanted[2].std()
    assert (asked(net, e, points)[1].flatten() - wanted[1]).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["sam2.1", "sam3"])
def test_on_a_gpu_devices_and_shapes_go_together(family: str, precision: str) -> None:
    """On tensors that claim to lie on a GPU and hold nothing: the ways that only a GPU goes, as far as no value is needed.

    SAM's and EdgeTAM's decoder and backbone make constants that torch's pretence cannot.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = build(tiny(family)).requires_grad_(False)
    with FakeTensorMode() as mode:
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for name, value in kind.items():
                    if value is not None:
                        fake = mode.from_tensor(value).to("cuda").detach()
                        kind[name] = torch.nn.Parameter(fake, requires_grad=False) if kind is module._parameters else fake
        loaded = SimpleNamespace(model=model, checkpoint=tiny(family))
        net = make_network(loaded, device="cuda", precision=precision)
        embeddings = net.encode(torch.empty(3, 3, net.image_size, net.image_size))
        assert len(embeddings) == 3 and net.images_at_once > 3
        prompts: list[dict[str, Any]] = [
            {"points": torch.empty(5, 1, 2), "labels": torch.ones(5, 1)},
            {"boxes": torch.empty(5, 4)},
            {"mask_inputs": torch.empty(5, 1, net.mask_size, net.mask_size)},
        ]
        for prompt, multimask in product(prompts, (True, False)):
            logits, iou = net.decode(embeddings[1], **prompt, multimask=multimask)
            assert logits.device.type == iou.device.type == "cuda" and logits.dtype == iou.dtype == torch.float32
            assert logits.shape == (5, 3 if multimask else 1, net.mask_size, net.mask_size) and iou.shape == logits.shape[:2]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_where_memory_runs_out_images_are_encoded_fewer_at_once(error: RuntimeError) -> None:
    net = network("sam")
    encode, sizes = net._encode, []

    def scarce(pixels: Tensor) -> list[Embedding]:
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise error
        return encode(pixels)

    pixels, most = torch.randn(7, 3, 128, 128, generator=torch.Generator().manual_seed(0)), 3
    assert net.images_at_once == 1  # on a CPU
    alone = [net.encode(pixels[i : i + 1])[0] for i in range(7)]
    net.images_at_once, net._encode = 99, scarce
    together = net.encode(pixels)
    assert sizes == [7, 3, 3, 1] and net.images_at_once == 3
    assert all(torch.equal(a.image, b.image) for a, b in zip(alone, together, strict=True))
    most = 0
    with pytest.raises(torch.OutOfMemoryError, match="single image"):
        net.encode(pixels)
    error_of_another_kind = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    net._encode = lambda pixels: (_ for _ in ()).throw(error_of_another_kind)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        net.encode(pixels)


def test_memory_for_not_even_one_prompt_is_told(networks: dict[str, SamNetwork]) -> None:
    net = network("sam")
    e, points = encoded(net), some_points(net, 3)
    net.decoder = Scarce(net.decoder, 0, OUT_OF_MEMORY[1])  # type: ignore[assignment]
    with pytest.raises(torch.OutOfMemoryError, match="single prompt"):
        passing(net, e, points, 0.0, batch=64)
    with pytest.raises(torch.OutOfMemoryError, match="single prompt"):
        asked(net, e, points)


def test_another_error_is_not_taken_for_memory() -> None:
    net = network("sam")
    e = encoded(net)
    net.decoder = Scarce(net.decoder, 0, RuntimeError("a size that does not fit"))  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="does not fit"):
        passing(net, e, some_points(net, 3), 0.0, batch=64)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near(networks: dict[str, SamNetwork], family: str) -> None:
    exact, fast = networks[family], network(family, "bf16")
    e, points = encoded(exact), some_points(exact, 6)
    (logits, iou), (near, near_iou) = asked(exact, e, points), asked(fast, e, points)
    assert near.dtype == near_iou.dtype == torch.float32
    assert 1e-5 * logits.std() < (near - logits).abs().mean() < 0.03 * logits.std()
    assert (near_iou - iou).abs().max() < 0.05


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(SettingsError, match="fp16"):
        SamNetwork(build(tiny("sam")), "sam", precision="fp16")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_keeps_no_second_copy_of_the_encoder(family: str) -> None:
    model = build(tiny(family))
    held, net = weakref.ref(model.vision_encoder), make_network(SimpleNamespace(model=model, checkpoint=tiny(family)))
    del model
    gc.collect()
    assert held() is None
    assert encoded(net).image.shape[1] * 4 == net.mask_size
