"""Weights of one training into the network of the next: all, the backbone, or the head (arXiv 2406.10855, section 4).

"overall" is every tensor whose name and shape agree; "backbone" and "head" are those of one part (the head with its neck and the
auxiliary head). What stays at its initialisation, and what of the checkpoint found no place, is listed with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from terralabel.errors import SettingsError, WeightsError
from terralabel.nets.segmentation.network import Network

__all__ = ["PARTS", "Dropped", "TransferReport", "What", "load_parts", "part_of"]

What = Literal["overall", "backbone", "head"]
#: What can be moved -> the children of a `Network` that belong to it.
PARTS: dict[str, tuple[str, ...]] = {
    "overall": ("backbone", "neck", "head", "auxiliary"),
    "backbone": ("backbone",),
    "head": ("neck", "head", "auxiliary"),
}
_WRAPPERS = ("module.", "_orig_mod.", "network.", "model.")
#: Tensors that have one entry a class: dropped by name where `classifier` is False.
_CLASSIFIERS = (".classifier.", ".class_tokens", ".class_norm.")
_SHOWN = 8


@dataclass(frozen=True)
class Dropped:
    """A tensor of the checkpoint that was not loaded: its name, and why in a few words."""

    key: str
    reason: str


@dataclass(frozen=True)
class TransferReport:
    """What `load_parts` did.

    loaded    tensors taken over, by the network's names
    dropped   tensors of the checkpoint that were not
    fresh     tensors of the wanted parts that keep the values they had
    numbers   parameters and statistics in `loaded`, counted
    """

    what: str
    loaded: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    fresh: tuple[str, ...]
    numbers: int

    def __str__(self) -> str:
        parts = Counter(part_of(key) for key in self.loaded)
        counts = ", ".join(f"{part} {count}" for part, count in parts.items())
        lines = [f"loaded ({self.what}): {len(self.loaded)} tensors, {self.numbers / 1e6:.2f} M numbers ({counts})"]
        for reason, keys in _by_reason(self.dropped).items():
            lines.append(f"dropped, {reason}: {_some(keys)}")
        if self.fresh:
            lines.append(f"not in the checkpoint, left as initialised: {_some(self.fresh)}")
        return "\n".join(lines)


def part_of(key: str) -> str:
    """The child of a `Network` that a tensor belongs to: "backbone", "neck", "head" or "auxiliary"."""
    return key.partition(".")[0]


def load_parts(
    network: Network, state: Mapping[str, Tensor], what: What = "overall", classifier: bool = True
) -> TransferReport:
    """Copy the tensors of `state` (another network's `state_dict`) that belong to `what` and fit, in place.

    With `classifier` False what has one entry a class starts anew even where the numbers of classes agree by chance: clusters
    are no classes. Raises `SettingsError` for an unknown part and `WeightsError` when nothing fits; then nothing is changed.
    """
    if what not in PARTS:
        raise SettingsError(f"Cannot load {what!r}; expected one of {', '.join(PARTS)}.")
    own, given = network.state_dict(), _unwrapped(state, network)
    loaded: dict[str, Tensor] = {}
    dropped = []
    for key, value in given.items():
        reason = _why_not(key, value, own, PARTS[what], classifier)
        if reason:
            dropped.append(Dropped(key, reason))
        else:
            loaded[key] = value
    if not any(_learned(key) for key in loaded):
        raise _nothing_fits(network, given, what, dropped)
    fresh = tuple(key for key in own if part_of(key) in PARTS[what] and key not in loaded and _learned(key))
    network.load_state_dict(loaded, strict=False)
    return TransferReport(what, tuple(loaded), tuple(dropped), fresh, sum(value.numel() for value in loaded.values()))


def _learned(key: str) -> bool:
    """False for the counters of batch norms: they fit anything."""
    return not key.endswith("num_batches_tracked")


def _unwrapped(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Names without what torch.compile, DistributedDataParallel or a trainer puts before them."""
    given = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    children = {name for name, _ in network.named_children()}
    while given and not any(part_of(key) in children for key in given):
        prefix = next((p for p in _WRAPPERS if all(key.startswith(p) for key in given)), None)
        if prefix is None:
            break
        given = {key.removeprefix(prefix): value for key, value in given.items()}
    return given


def _why_not(key: str, value: Tensor, own: Mapping[str, Tensor], parts: tuple[str, ...], classifier: bool) -> str:
    """Why a tensor is not loaded, or "" when it is."""
    if part_of(key) in PARTS["overall"] and part_of(key) not in parts:
        return "not asked for"
    if key not in own:
        return "unknown to this network"
    if not classifier and any(mark in key for mark in _CLASSIFIERS):
        return "the classifier, which starts anew"
    if value.shape != own[key].shape:
        return f"shape {tuple(value.shape)}, expected {tuple(own[key].shape)}"
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        return "not all numbers are finite"
    return ""


def _nothing_fits(network: Network, given: Mapping[str, Tensor], what: str, dropped: list[Dropped]) -> WeightsError:
    if not given:
        return WeightsError(f"Nothing to load into {network.name}: the checkpoint has no tensors; give a trained network's.")
    first = "; ".join(f"{item.key}: {item.reason}" for item in dropped[:3])
    return WeightsError(
        f"Nothing of the checkpoint ({len(given)} tensors) fits the {what} of {network.name} ({first}); give weights of this network."
    )


def _by_reason(dropped: Iterable[Dropped]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in dropped:
        found.setdefault(item.reason, []).append(item.key)
    return found


def _some(keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
