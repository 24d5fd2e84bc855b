"""The classifier before the first step: fitted to the labelled images, with everything under it as it was loaded.

A head that was pre-trained on clusters knows regions, and not what they are called. A logistic regression on what reaches its classifier
tells that by few labels, so that the first gradients are no longer those of a random classifier, which bend what was learned before
(linear probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from terralabel.core.classes import IGNORE
from terralabel.nets.segmentation.blocks import Classifier
from terralabel.nets.segmentation.network import Network
from terralabel.train.segmentation.inference import as_input
from terralabel.train.segmentation.samples import Samples

__all__ = ["CROPS", "FittedClassifiers", "fit_classifiers"]

#: Crops that classifiers are fitted on: those of the first batches.
CROPS = 64
#: Cells of all crops together that a classifier is fitted on.
_CELLS = 32_768
#: Weight of the squared weights in the loss: few images are seen with few of the cells' directions.
_DECAY = 0.01
_ITERATIONS = 100


@dataclass(frozen=True)
class FittedClassifiers:
    """Parts of the network whose classifier was fitted, with the share of cells that are then right; `cells` they were fitted on."""

    accuracy: dict[str, float]
    cells: int

    def __str__(self) -> str:
        shares = ", ".join(f"{part} {share:.0%} right" for part, share in self.accuracy.items())
        return f"classifier fitted to {self.cells:,} labelled cells, all else as loaded ({shares})"


@dataclass
class _Seen:
    """What reached one classifier, (n, c) float64, and the share of each class in the cell, (n, K) float64."""

    inputs: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)


def fit_classifiers(network: Network, samples: Samples, device: torch.device) -> FittedClassifiers | None:
    """Fit the classifier of the head, and of the auxiliary head, in place; None where the head has none of one layer over cells.

    A function of the network, the samples and nothing else, so that every process of a team, and a training that is started again, gets
    the same. Nothing but the classifiers changes, norms' statistics neither. A class that no cell has is left with no weight and a low bias.
    """
    classifiers = dict(_classifiers(network))
    if "head" not in classifiers:
        return None
    seen = _look(network, classifiers, samples, device)
    accuracy = {}
    for part, classifier in classifiers.items():
        inputs, shares = torch.cat(seen[part].inputs), torch.cat(seen[part].shares)
        weight, bias = _logistic(inputs, shares)
        logits = classifier.get_submodule("logits")
        with torch.no_grad():
            logits.get_parameter("weight").copy_(weight[:, :, None, None])
            logits.get_parameter("bias").copy_(bias)
        right = (inputs @ weight.T + bias).argmax(1) == shares.argmax(1)
        accuracy[part] = float(right.double().mean())
    return FittedClassifiers(accuracy, len(torch.cat(seen["head"].inputs)))


def _classifiers(network: Network) -> Iterator[tuple[str, Classifier]]:
    for part in ("head", "auxiliary"):
        found = getattr(getattr(network, part), "classifier", None)
        if isinstance(found, Classifier):
            yield part, found


@torch.no_grad()
def _look(network: Network, classifiers: dict[str, Classifier], samples: Samples, device: torch.device) -> dict[str, _Seen]:
    """The crops of the first batches through the network as it predicts."""
    seen = {part: _Seen() for part in classifiers}
    heard: dict[str, Tensor] = {}
    hooks = [_listen(classifier.get_submodule("logits"), part, heard) for part, classifier in classifiers.items()]
    was_training = network.training
    network.eval()
    try:
        for number in range(CROPS):
            pixels, labels = samples.crop(*divmod(number, samples.batch_size))
            network(as_input(network, pixels[None], device), with_auxiliary=True)
            for part in classifiers:
                _add(seen[part], heard[part][0].cpu().double(), labels, network.classes, number)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return seen


def _listen(layer: nn.Module, part: str, heard: dict[str, Tensor]) -> torch.utils.hooks.RemovableHandle:
    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        heard[part] = given[0]

    return layer.register_forward_pre_hook(note)


def _add(seen: _Seen, maps: Tensor, labels: np.ndarray, classes: int, number: int) -> None:
    """Keep cells of a crop that are labelled: `maps` (c, h, w), `labels` (side, side) class indices; all, or as many as there is room for."""
    true = torch.from_numpy(labels.astype(np.int64))
    known = true != IGNORE
    height, width = maps.shape[-2:]
    each = one_hot(torch.where(known, true, 0), classes).permute(2, 0, 1).double() * known
    shares = adaptive_avg_pool2d(each, (height, width)).flatten(1).T  # (h * w, K)
    labelled = torch.nonzero(shares.sum(1) > 0)[:, 0].numpy()
    room = _CELLS // CROPS
    if len(labelled) > room:
        labelled = np.sort(np.random.default_rng(number).permutation(labelled)[:room])
    seen.inputs.append(maps.flatten(1).T[labelled])
    seen.shares.append(shares[labelled])


def _logistic(inputs: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """((K, c) weights, (K,) biases) float64 of a logistic regression of the classes' shares (n, K) on the inputs (n, c)."""
    with torch.enable_grad():
        weight = torch.zeros(shares.shape[1], inputs.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(shares.shape[1], dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-5)

        def loss() -> Tensor:
            solver.zero_grad()
            likelihood = (shares * torch.log_softmax(inputs @ weight.T + bias, 1)).sum() / shares.sum()
            value = _DECAY * weight.square().sum() - likelihood
            value.backward()
            return value

        solver.step(loss)
    return weight.detach(), bias.detach()
