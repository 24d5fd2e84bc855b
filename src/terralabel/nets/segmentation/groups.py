"""Parameters in groups for an optimiser: by part for the learning rate, by kind for the decay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn, optim

from terralabel.nets.segmentation.network import Network
from terralabel.nets.segmentation.schedules import Schedule

__all__ = ["make_optimizer", "parameter_groups", "set_rates"]

#: Parameters that say where, not what: never decayed under AdamW (Liu et al. 2021; Dosovitskiy et al. 2021).
_POSITIONS = ("pos_embed", "cls_token", "reg_token", "relative_position_bias_table", "class_tokens")
_NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


def parameter_groups(network: Network, schedule: Schedule) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: "name", "params", "lr", "weight_decay", and the "multiplier" that `set_rates` reads.

    The neck, the head and the auxiliary head share `head_multiplier`. Norms and position embeddings have no decay where the
    schedule exempts them. Every trainable parameter is in one group, in a fixed order; empty groups are left out.
    """
    multipliers = {"backbone": schedule.backbone_multiplier, "head": schedule.head_multiplier}
    collected: dict[str, list[nn.Parameter]] = {f"{part}{end}": [] for part in multipliers for end in ("", " without decay")}
    for part, decayed, parameter in _kinds(network, schedule.exempt):
        collected[part if decayed else f"{part} without decay"].append(parameter)
    groups = []
    for name, parameters in collected.items():
        multiplier = multipliers[name.partition(" ")[0]]
        decay = 0.0 if name.endswith("without decay") else schedule.weight_decay
        entry = {"name": name, "params": parameters, "lr": schedule.rate(0, multiplier), "weight_decay": decay}
        groups += [{**entry, "multiplier": multiplier}] if parameters else []
    return groups


def _kinds(network: Network, exempt: bool) -> Iterator[tuple[str, bool, nn.Parameter]]:
    """Every trainable parameter once, with its part and whether it is decayed."""
    seen = set()
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            path = f"{prefix}.{name}"
            spared = exempt and (isinstance(module, _NORMS) or any(mark in path for mark in _POSITIONS))
            yield ("backbone" if path.startswith("backbone.") else "head"), not spared, parameter


def make_optimizer(network: Network, schedule: Schedule) -> optim.Optimizer:
    """The schedule's optimiser over the network's groups."""
    groups = parameter_groups(network, schedule)
    if schedule.optimizer == "adamw":
        return optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.999))
    return optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum)


def set_rates(optimizer: optim.Optimizer, schedule: Schedule, step: int) -> float:
    """Set the learning rates of step 0, 1, ... in every group; returns the base one, for the log."""
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(step, group["multiplier"])
    return schedule.rate(step)
