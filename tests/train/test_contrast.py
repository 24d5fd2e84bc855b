"""Contrast of features: what is drawn together, what apart, and that a second view shows the same things."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from terralabel.nets.nano.network import NanoNet  # noqa: E402
from terralabel.train.contrast import contrast, pair_weights, second_view, supervised_contrast  # noqa: E402
from terralabel.train.pictures import GENERATED, WATER  # noqa: E402


def squares(*places: tuple[int, int, int], side: int = 128) -> torch.Tensor:
    """(m, side, side) masks of squares given as (x, y, length)."""
    masks = torch.zeros(len(places), side, side)
    for mask, (x, y, length) in zip(masks, places, strict=True):
        mask[y : y + length, x : x + length] = 1
    return masks


@pytest.mark.parametrize("seed", range(6))
def test_a_second_view_shows_the_same_things_otherwise(seed: int) -> None:
    masks = squares((16, 24, 32), (80, 64, 40))
    pixels = (masks[:1] * 1.2 - 0.6).expand(3, -1, -1).repeat(2, 1, 1, 1).reshape(2, 3, 128, 128).clone()
    pixels[1] = masks[1] * 1.2 - 0.6
    pixels[1, :, :, :8] = 0  # off the picture
    view, turned = second_view(pixels, masks, seed)
    again, _ = second_view(pixels, masks, seed)
    assert torch.equal(view, again)
    assert view.shape[-1] in (64, 128) and view.shape[-1] == turned.shape[-1]
    assert not torch.equal(view, pixels)
    share = view.shape[-1] ** 2 / 128**2
    torch.testing.assert_close(turned.sum((1, 2)), masks.sum((1, 2)) * share)
    for k in range(2):
        inside, there = view[k].mean(0)[turned[k] == 1], (view[k] != 0).any(0)
        outside = view[k].mean(0)[(turned[k] == 0) & there]
        assert inside.mean() > outside.mean() + 0.5
    assert (view[1] == 0).all(0).float().mean() == pytest.approx(8 / 128, abs=0.01)
    assert (view.amax(1) - view.amin(1)).max() > 0 or view.std() > 0


def test_a_grey_picture_stays_grey() -> None:
    grey = torch.rand(1, 1, 64, 64).mul(0.8).add(0.1).expand(-1, 3, -1, -1)
    for seed in range(4):
        view, _ = second_view(grey, torch.ones(1, 64, 64), seed)
        torch.testing.assert_close(view[:, :1].expand_as(view), view)


def test_who_is_drawn_to_whom() -> None:
    """Two generated waters of one picture, a real one of another, a thing unknown, and a part of it."""
    masks = squares((0, 0, 32), (64, 0, 32), (0, 0, 64), (64, 64, 40), (70, 70, 12))
    pictures = torch.tensor([0, 0, 1, 1, 1])
    kinds = torch.tensor([GENERATED + WATER, GENERATED + WATER, WATER, 0, 0])
    drawn, repelled = pair_weights(masks, pictures, kinds)
    assert drawn.shape == repelled.shape == (10, 10)
    torch.testing.assert_close(drawn.sum(1), torch.ones(10))
    assert drawn[0].tolist() == pytest.approx([0, 0.25, 0, 0, 0, 0.5, 0.25, 0, 0, 0])
    assert drawn[2].tolist() == pytest.approx([0] * 7 + [1, 0, 0])  # its kind is generated elsewhere: only its own other view
    assert drawn[3].tolist() == pytest.approx([0] * 8 + [1, 0])
    for pair in ((0, 1), (0, 2), (3, 4), (3, 3)):  # alike, alike but generated, a part, itself
        assert repelled[pair] == repelled[pair[0], pair[1] + 5] == 0
    assert 0 < repelled[0, 3] == repelled[2, 4] < 1
    kinds[2] = WATER + 1
    assert pair_weights(masks, pictures, kinds)[1][0, 2] == 1


def test_the_loss_is_low_where_like_is_near_like() -> None:
    masks, pictures = squares((0, 0, 32), (64, 64, 32)), torch.tensor([0, 1])
    weights = pair_weights(masks, pictures, torch.tensor([1, 2]))
    good = torch.eye(2).repeat(2, 1)
    bad = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    even = torch.tensor([[1.0, 0]]).repeat(4, 1)
    losses = [float(supervised_contrast(vectors, *weights)) for vectors in (good, even, bad)]
    # drawn to one at likeness 1 / .1, repelled by two
    expected = [torch.log1p(2 * torch.tensor(distance / 0.1).exp()) for distance in (-1.0, 0.0)]
    assert losses[:2] == pytest.approx([float(e) for e in expected], rel=1e-4, abs=1e-6)
    assert losses[0] < losses[1] < losses[2]


def test_learning_from_it_brings_views_together() -> None:
    torch.manual_seed(0)
    net = NanoNet()
    ids = torch.zeros(2, 1, 64, 64, dtype=torch.int32)
    ids[:, 0, 8:32, 8:32], ids[:, 0, 36:60, 32:56] = 1, 2
    t = {
        "pixels": torch.rand(2, 3, 64, 64) - 0.5, "ids": ids, "layer": torch.zeros(2, 4, dtype=torch.int64),
        "number": torch.tensor([[1, 2, 2, 1]] * 2), "what": torch.tensor([[1, 2, 2, 1]] * 2),
    }  # fmt: skip
    t["pixels"][:, 0] += (ids[:, 0] == 1) * 0.5
    optimiser = torch.optim.AdamW(net.encoder.parameters(), 2e-3)
    found = []
    for _ in range(4):
        loss = contrast(net, net.encode(t["pixels"]), t, 3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    assert found[-1] < found[0] - 0.1
    assert all(p.grad is None for p in net.decoder.parameters())
