"""What `masks nano` is trained to do: boxes at a point, the mask in a window, and how good that mask is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate

from terralabel.nets.nano.network import STRIDE, NanoNet, prompt_channels
from terralabel.nets.nano.windows import around, cell_centres
from terralabel.train.contrast import contrast
from terralabel.train.prompts import BOX, MASK, POINT, Batch

__all__ = ["Losses", "box_iou", "losses", "true_grid"]

#: Weight of an instance that is only the hierarchy's guess: of its mask, its box, its fit; and how sure of a guessed box the decoder is told to be.
_GUESSED, _GUESSED_BOX, _GUESSED_FIT, SURE_OF_GUESS = 0.4, 0.25, 0.6, 0.5
#: Of the point prompts, how many are answered from any guess, not the best: so that the expected IoU learns to tell them apart.
_ANY_GUESS = 0.5
#: Weight of a prompt's point beside a cell of the map; of a cell where no instance is known; what a guessed instance counts in choosing.
_POINT_WEIGHT, _NOTHING, _TRUST = 8.0, 0.3, 0.8
#: IoU of a guessed box with the instance's from which its window shows enough of the instance.
_USABLE = 0.3


@dataclass(frozen=True)
class Losses:
    """`total` to go down; the rest to be logged: means over prompts, and the IoU of masks by kind of prompt (NaN: none)."""

    total: Tensor
    parts: dict[str, float]


def losses(net: NanoNet, batch: Batch, grid: int, seed: int, contrasted: float = 0.0) -> Losses:
    """All losses of one batch; `seed` decides how rough masks are made rough, and the second view that features are contrasted with,
    where that loss has a weight."""
    t = {key: torch.from_numpy(value) for key, value in vars(batch).items()}
    seen = net.encode(t["pixels"].contiguous(memory_format=torch.channels_last))
    points = t["points"][:, :, 0]
    at_points, at_cells = _around(t, points), _around(t, _cells(t))
    guesses, fits = net.guess(net.features_at(seen, points), points)
    everywhere, their_fits = net.guess(seen.deep.flatten(2).transpose(1, 2), _cells(t))
    guess_loss, fit_loss = _guess_losses(
        torch.cat([guesses, everywhere], 1),
        torch.cat([fits, their_fits], 1),
        torch.cat([at_points.boxes, at_cells.boxes], 1),
        torch.cat([at_points.weight * _POINT_WEIGHT, at_cells.weight], 1),
        t["sure_layers"],
    )
    asked = t
    boxes, sure, aimed, t = _window_boxes(guesses.detach(), t, at_points, seed)
    windows = around(boxes)
    target, missing = true_grid(t["ids"], windows, t["layer"], t["number"], t["area"], grid)
    rough = _roughened(target, seed) * (t["kind"] == MASK).flatten()[:, None, None]
    prompts = _channels(windows, grid, t, boxes, sure, rough)
    logits, expected = net.decode(seen, windows, prompts)
    weight = torch.where(t["true"], 1.0, _GUESSED).flatten()
    picture = prompts[:, 4]
    mask_loss = _mask_loss(logits, target, picture)
    overlap = _overlap(logits, target, picture, missing)
    judged = binary_cross_entropy_with_logits(expected, overlap, reduction="none")
    total = ((mask_loss * aimed.flatten() + 0.5 * judged) * weight).sum() / weight.sum() + 0.5 * guess_loss + 0.5 * fit_loss
    kinds = t["kind"].flatten()
    parts = {
        f"iou_{name}": float(overlap[kinds == kind].mean()) for name, kind in (("box", BOX), ("point", POINT), ("mask", MASK))
    }
    parts |= {"mask": float(mask_loss.detach().mean()), "guess": float(guess_loss.detach()), "fit": float(fit_loss.detach())}
    parts["off"] = float((expected.detach().sigmoid() - overlap).abs().mean())
    if contrasted:
        apart = contrast(net, seen, asked, seed)
        total, parts["contrast"] = total + contrasted * apart, float(apart.detach())
    return Losses(total, parts)


def box_iou(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019, arXiv 1902.09630) of boxes (..., 4) xyxy."""
    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])).prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - shared
    iou = shared / union.clamp(min=1e-3)
    return iou, iou - (hull - union) / hull.clamp(min=1e-3)


@dataclass(frozen=True)
class _Around:
    """Instances at points: number, area (b, m, LAYERS), boxes (b, m, LAYERS, 4), NaN where none; weight (b, m), 0 off the picture."""

    number: Tensor
    area: Tensor
    boxes: Tensor
    weight: Tensor


def _cells(t: dict[str, Tensor]) -> Tensor:
    """The centres (b, m, 2) xy of the map's cells."""
    b, _, _, side = t["ids"].shape
    centres = (torch.arange(side // STRIDE) + 0.5) * STRIDE
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1).expand(b, -1, -1)


def _around(t: dict[str, Tensor], xy: Tensor) -> _Around:
    """What is at points (b, m, 2). A point of a large instance, of which there are many, weighs less."""
    b, layers = t["ids"].shape[:2]
    which, layer = torch.arange(b)[:, None, None], torch.arange(layers)
    x, y = xy.long().unbind(-1)
    number = t["ids"][which, layer, y[..., None], x[..., None]].long()
    area = t["areas"][which, layer, number]
    inside = (x < t["sizes"][:, 1:]) & (y < t["sizes"][:, :1])
    smallest = torch.where(area > 0, area, torch.inf).amin(-1)
    weight = torch.where(smallest < torch.inf, (smallest / STRIDE**2).clamp(min=1).rsqrt(), _NOTHING) * inside
    return _Around(number, area, t["boxes"][which, layer, number], weight)


def _guess_losses(guesses: Tensor, fits: Tensor, others: Tensor, weight: Tensor, sure_layers: Tensor) -> tuple[Tensor, Tensor]:
    """Every instance at a point wants one good guess; every guess should know how well it fits the best of them.

    What only the hierarchy takes for an instance counts for less in both; where there is none no guess fits.
    """
    sure = torch.arange(others.shape[2]) < sure_layers[:, None, None]  # (b, 1, layers)
    there = ~others[..., 0].isnan()  # (b, m, layers)
    boxes = torch.where(there[..., None], others, torch.zeros_like(others))
    iou, generalised = box_iou(guesses[:, :, None], boxes[:, :, :, None])  # (b, m, layers, slots)
    cost = 1 - generalised
    cost = cost.amin(-1) + 0.05 * cost.mean(-1)
    wanted = there.float() * torch.where(sure, 1.0, _GUESSED_BOX) * weight[..., None]
    reached = (iou.detach() * there[..., None] * torch.where(sure, 1.0, _GUESSED_FIT)[..., None]).amax(2)
    fit = binary_cross_entropy_with_logits(fits, reached, reduction="none").mean(-1)
    return (cost * wanted).sum() / wanted.sum().clamp(min=1), (fit * weight).sum() / weight.sum()


def _window_boxes(
    guesses: Tensor, t: dict[str, Tensor], there: _Around, seed: int
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """The box (b, n, 4) that each prompt comes down to: given, guessed at the point, of a mask; how sure it is (b, n);
    whether its mask can be learned from it (b, n); and the prompts again.

    A point is answered from the guess that fits its instance best, or from any guess: then its instance is the one at the point that
    this guess fits best, as it is where all guesses are decoded. A best guess that misses its instance is replaced by a box that
    does not, or there would be nothing to learn from.
    """
    generator = torch.Generator().manual_seed(seed)
    iou = box_iou(guesses, t["box"][:, :, None])[0]
    point = t["kind"] == POINT
    anyone = point & (torch.rand(point.shape, generator=generator) < _ANY_GUESS)
    slot = torch.where(anyone, torch.randint(guesses.shape[2], point.shape, generator=generator), iou.argmax(-1))[..., None]
    guessed = guesses.gather(2, slot[..., None].expand(*slot.shape, 4))[:, :, 0]
    t = t | _meant(guessed, anyone, t, there)
    hits = box_iou(guessed, t["box"])[0] > _USABLE
    boxes = torch.where((point & (hits | anyone))[..., None], guessed, t["given"])
    sure = torch.where(point, SURE_OF_GUESS, torch.where(t["kind"] == MASK, 0.0, 1.0))
    return boxes, sure, (~anyone | hits).float(), t


def _meant(guessed: Tensor, anyone: Tensor, t: dict[str, Tensor], there: _Around) -> dict[str, Tensor]:
    """The columns of the batch that say which instance a prompt means, those of `anyone` set to what its guess fits best."""
    known = ~there.boxes[..., 0].isnan()
    others = torch.where(known[..., None], there.boxes, torch.zeros_like(there.boxes))
    sure = torch.arange(known.shape[-1]) < t["sure_layers"][:, None, None]
    fit = box_iou(guessed[:, :, None], others)[0] * torch.where(sure, 1.0, _TRUST)
    layer = torch.where(known, fit, -torch.ones_like(fit)).argmax(-1)
    at = layer[..., None]
    found = {
        "layer": layer, "number": there.number.gather(2, at)[..., 0], "area": there.area.gather(2, at)[..., 0],
        "true": layer < t["sure_layers"][:, None], "box": others.gather(2, at[..., None].expand(*at.shape, 4))[:, :, 0],
    }  # fmt: skip
    return {
        key: torch.where(anyone[..., None] if key == "box" else anyone, value.to(t[key].dtype), t[key])
        for key, value in found.items()
    }


def true_grid(ids: Tensor, windows: Tensor, layer: Tensor, number: Tensor, area: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """The instance in its window's cells (b * n, g, g) float32, and how many cells of it lie outside the window (b * n,)."""
    b, n = layer.shape
    x, y = (axis.floor().long() for axis in cell_centres(windows, grid))
    inside = ((y >= 0) & (y < ids.shape[2]))[..., :, None] & ((x >= 0) & (x < ids.shape[3]))[..., None, :]
    rows, columns = y.clamp(0, ids.shape[2] - 1)[..., :, None], x.clamp(0, ids.shape[3] - 1)[..., None, :]
    which = torch.arange(b)[:, None, None, None]
    found = ids[which, layer[..., None, None], rows, columns]
    target = ((found == number[..., None, None]) & inside).float().reshape(b * n, grid, grid)
    cell = (windows[..., 2:] - windows[..., :2]).prod(-1).flatten() / grid**2
    missing = (area.flatten() / cell - target.sum((1, 2))).clamp(min=0)
    return target, missing


def _channels(windows: Tensor, grid: int, t: dict[str, Tensor], boxes: Tensor, sure: Tensor, rough: Tensor) -> Tensor:
    n = windows.shape[1]
    parts = []
    for k, (height, width) in enumerate(t["sizes"].tolist()):
        part = slice(k * n, (k + 1) * n)
        parts.append(
            prompt_channels(windows[k], grid, (height, width), boxes[k], sure[k], t["points"][k], t["labels"][k], rough[part])
        )
    return torch.cat(parts)


def _roughened(target: Tensor, seed: int) -> Tensor:
    """Masks in [-1, 1] as a person or an older labelling would give them: coarse, uneven, a little beside the object."""
    generator = torch.Generator().manual_seed(seed)
    coarse = avg_pool2d(target[:, None], 4)
    coarse = coarse + 0.35 * torch.randn(coarse.shape, generator=generator)
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    again = interpolate(coarse, size=target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return (again.roll(shift, (1, 2)) > 0.5).float() * 2 - 1


def _mask_loss(logits: Tensor, target: Tensor, picture: Tensor) -> Tensor:
    """Cross entropy and Dice (n,) over the cells that are picture."""
    cross = binary_cross_entropy_with_logits(logits, target, reduction="none") * picture
    share = logits.sigmoid() * picture
    dice = 1 - (2 * (share * target).sum((1, 2)) + 1) / (share.sum((1, 2)) + target.sum((1, 2)) + 1)
    return 1.5 * cross.sum((1, 2)) / picture.sum((1, 2)).clamp(min=1) + dice


def _overlap(logits: Tensor, target: Tensor, picture: Tensor, missing: Tensor) -> Tensor:
    """True IoU (n,) of what the logits say."""
    said, true = (logits.detach() > 0) & (picture > 0), target > 0
    return (said & true).sum((1, 2)) / ((said | true).sum((1, 2)) + missing).clamp(min=1)
