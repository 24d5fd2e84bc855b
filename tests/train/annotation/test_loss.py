"""The structure loss against sums written out, with its weights acting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from terralabel.core.classes import IGNORE
from terralabel.train.annotation.loss import border_weights, boundary_band, edge_loss, structure_loss, supervised_loss
from terralabel.train.annotation.objective import Structure


def averaged(y: np.ndarray) -> np.ndarray:
    """(h, w): the mean over 31 x 31 pixels, 0 beyond the image, one pixel at a time."""
    padded = np.pad(y.astype(np.float64), 15)
    return np.array([[padded[i : i + 31, j : j + 31].mean() for j in range(y.shape[1])] for i in range(y.shape[0])])


def by_hand(logits: np.ndarray, y: np.ndarray, known: np.ndarray | None = None) -> float:
    """The specification's formulas for one image and one class, in float64."""
    known = np.ones(y.shape) if known is None else known
    w = (1 + 5 * np.abs(averaged(y) - y)) * known
    s = 1 / (1 + np.exp(-logits))
    bce = -(y * np.log(s) + (1 - y) * np.log(1 - s))
    l_bce = (w * bce).sum() / w.sum()
    l_iou = 1 - ((w * s * y).sum() + 1) / ((w * (s + y)).sum() - (w * s * y).sum() + 1)
    return l_bce + l_iou


def picture(seed: int = 0, size: tuple[int, int] = (40, 37)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.zeros(size)
    y[8:25, 5:20] = 1
    return rng.normal(size=size), y


def test_binary_by_hand() -> None:
    pairs = [picture(seed) for seed in (0, 1)]
    logits = torch.tensor(np.stack([p[0] for p in pairs])[:, None], dtype=torch.float32)
    labels = torch.tensor(np.stack([p[1] for p in pairs]), dtype=torch.int64)
    expected = [by_hand(*pair) for pair in pairs]
    np.testing.assert_allclose(structure_loss(logits, labels).numpy(), expected, rtol=1e-5)


def test_the_weights_act() -> None:
    """An error at the border costs more than one of equal size far inside; in the public code both cost the same."""
    _, y = picture(size=(64, 64))
    labels = torch.tensor(y[None], dtype=torch.int64)
    right = torch.tensor(np.where(y > 0, 6.0, -6.0), dtype=torch.float32)
    at_border, far_away = right.clone(), right.clone()
    at_border[24, 5:20] = -6.0  # the object's lowest row
    far_away[60, 40:55] = 6.0
    losses = [float(structure_loss(x[None, None], labels)[0]) for x in (at_border, far_away)]
    w = border_weights(labels[:, None].float(), torch.ones(1, 1, 64, 64))[0, 0]
    assert w[24, 12] > 3 and float(w[60, 50]) == 1.0
    assert losses[0] > 1.5 * losses[1]


def test_pixels_without_label_weigh_nothing() -> None:
    logits, y = picture()
    known = np.ones(y.shape)
    known[:, 30:] = 0
    labels = np.where(known > 0, y, IGNORE).astype(np.int64)
    given = torch.tensor(logits[None, None], dtype=torch.float32)
    found = structure_loss(given, torch.tensor(labels[None]))
    np.testing.assert_allclose(found.numpy(), [by_hand(logits, y * known, known)], rtol=1e-5)
    given[..., 30:] = 100.0
    torch.testing.assert_close(structure_loss(given, torch.tensor(labels[None])), found)


def test_an_image_without_any_label_costs_nothing_and_gives_no_gradient() -> None:
    logits = torch.randn(1, 1, 33, 33, requires_grad=True)
    loss = structure_loss(logits, torch.full((1, 33, 33), IGNORE)).sum()
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_an_empty_mask_is_learned_from() -> None:
    """No target: the loss falls as the network says "nothing" more surely; nothing is divided by nothing."""
    labels = torch.zeros(1, 40, 40, dtype=torch.int64)
    losses = [float(structure_loss(torch.full((1, 1, 40, 40), value), labels)[0]) for value in (2.0, -2.0, -20.0)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 1e-4
    np.testing.assert_allclose(losses[0], by_hand(np.full((40, 40), 2.0), np.zeros((40, 40))), rtol=1e-5)


def test_many_classes_by_hand() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 37), dtype=np.int64)
    labels[8:25, 5:20], labels[28:, :] = 1, 3  # class 2 is not there
    labels[:4] = IGNORE
    logits = rng.normal(size=(4, 40, 37))
    soft = np.exp(logits) / np.exp(logits).sum(axis=0)
    known, weights, ious = labels != IGNORE, {}, []
    for k in (0, 1, 2, 3):
        y = (labels == k).astype(float)
        weights[k] = (1 + 5 * np.abs(averaged(y) - y)) * known
        if k != 2:
            both = (weights[k] * soft[k] * y).sum()
            ious.append(1 - (both + 1) / ((weights[k] * (soft[k] + y)).sum() - both + 1))
    own = sum(weights[k] * (labels == k) for k in range(4))
    entropy = -np.log(sum(soft[k] * (labels == k) for k in range(4)) + ~known)
    expected = (own * entropy * known).sum() / own.sum() + np.mean(ious)
    found = structure_loss(torch.tensor(logits[None], dtype=torch.float32), torch.tensor(labels[None]))
    np.testing.assert_allclose(found.numpy(), [expected], rtol=1e-5)


def test_three_outputs_and_edges_add_up() -> None:
    logits, y = picture()
    given, labels = torch.tensor(logits[None, None], dtype=torch.float32), torch.tensor(y[None], dtype=torch.int64)
    one = float(structure_loss(given, labels).sum())
    edge = torch.zeros(1, 1, *y.shape)
    np.testing.assert_allclose(float(supervised_loss([given] * 3, None, labels)), 3 * one, rtol=1e-6)
    np.testing.assert_allclose(float(supervised_loss([given] * 3, None, labels, 0.5)), 2 * one, rtol=1e-6)
    np.testing.assert_allclose(
        float(supervised_loss([given] * 3, edge, labels, 0.0)), one + float(edge_loss(edge, labels).sum()), rtol=1e-6
    )


def test_boundary_band_is_where_classes_meet_and_not_where_labels_end() -> None:
    labels = torch.zeros(1, 6, 8, dtype=torch.int64)
    labels[0, :, 4:] = 1
    labels[0, 4:] = IGNORE
    band = boundary_band(labels)[0, 0]
    assert band[:4, 3:5].all() and band.sum() == 8


def test_edges_weigh_as_much_as_the_rest() -> None:
    """Logits of 0 cost log 2 whatever the share of edges; the few edge pixels weigh as much as all others."""
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[0, :, 16:] = 1
    assert float(edge_loss(torch.zeros(1, 1, 32, 32), labels)[0]) == pytest.approx(np.log(2), rel=1e-5)
    band = boundary_band(labels)
    missed, false = (
        float(edge_loss(10 * sign * (2 * band - 1) * mask, labels)[0]) for sign, mask in ((-1, band), (-1, 1 - band))
    )
    assert missed == pytest.approx(false, rel=1e-3)


def test_what_a_batch_is_divided_by() -> None:
    labels = np.zeros((3, 8, 8), dtype=np.uint8)
    labels[1] = IGNORE
    assert Structure().weigh(labels) == 2.0
