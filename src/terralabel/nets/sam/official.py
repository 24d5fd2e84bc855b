"""A state dict in the authors' names <-> in transformers' names, tensor by tensor, from the one table in `keys`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from terralabel.errors import WeightsError
from terralabel.nets.pickles import printable
from terralabel.nets.sam.families import Checkpoint
from terralabel.nets.sam.keys import COPIED, JOINED, dropped, fill, pattern, to_official_key, to_transformers_key

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["to_official", "to_transformers"]

_SAM3_POSITIONS = "vision_encoder.backbone.embeddings.position_embeddings"
_Groups = list[tuple[tuple[str, ...], tuple[str, ...]]]


def to_transformers(state: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """An official state dict in transformers' names and shapes.

    Left out is what images do not need (SAM 2's memory, SAM 3's detector of words). Raises `WeightsError` naming the first
    keys that no rule fits.
    """
    family = checkpoint.family
    kept = {key: value for key, value in state.items() if not dropped(family, "official", key)}
    new = _regroup(kept, _groups(family, kept, 0))
    renamed = {to_transformers_key(family, key): key for key in kept if key not in new.used}
    if None in renamed:
        strange = [key for key in kept if key not in new.used and to_transformers_key(family, key) is None]
        raise WeightsError(
            f"{checkpoint}: {len(strange)} keys are none of this architecture: {printable(', '.join(strange[:3]))}; "
            "expected the authors' own names."
        )
    result = new.made | {str(name): kept[key] for name, key in renamed.items()}
    if COPIED[0] in result:
        result[COPIED[1]] = result[COPIED[0]].clone()
    if family == "sam3" and _SAM3_POSITIONS in result:
        result[_SAM3_POSITIONS] = _without_class_token(result[_SAM3_POSITIONS])
    return result


def to_official(state: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The reverse of `to_transformers`, of what it kept; SAM 3's unused class token comes back as zeros."""
    family = checkpoint.family
    kept = {key: value for key, value in state.items() if key != COPIED[1] and not dropped(family, "transformers", key)}
    new = _regroup(kept, [(theirs, ours) for ours, theirs in _groups(family, kept, 1)])
    result = dict(new.made)
    for key, value in kept.items():
        if key in new.used:
            continue
        name = to_official_key(family, key)
        if name is None:
            raise WeightsError(f"{checkpoint}: {printable(key)} has no official name; expected transformers' own names.")
        if key == _SAM3_POSITIONS:
            value = _with_class_token(value)
        result[name] = value
    return result


class _Regrouped:
    """Tensors made by joining or cutting, and the keys they were made of."""

    def __init__(self) -> None:
        self.made: dict[str, Tensor] = {}
        self.used: set[str] = set()


def _regroup(state: Mapping[str, Tensor], groups: _Groups) -> _Regrouped:
    """For each (sources, targets): join the sources along the first axis, or cut the one source into equal parts."""
    import torch

    result = _Regrouped()
    for sources, targets in groups:
        whole = torch.cat([state[key] for key in sources]) if len(sources) > 1 else state[sources[0]]
        result.made.update(zip(targets, whole.chunk(len(targets)), strict=True))
        result.used.update(sources)
    return result


def _groups(family: str, state: Mapping[str, Tensor], side: int) -> _Groups:
    """(official keys, transformers' keys) of every group whose keys on `side` (0 official, 1 transformers) are all there."""
    found: _Groups = []
    for sides in JOINED[family]:
        leader = pattern(sides[side][0])
        for match in filter(None, map(leader.fullmatch, state)):
            official, transformers = (tuple(fill(t, match.groups()) for t in templates) for templates in sides)
            if all(key in state for key in (official, transformers)[side]):
                found.append((official, transformers))
    return found


def _without_class_token(positions: Tensor) -> Tensor:
    """(1, 1 + n * n, d) -> (1, n * n, d); without one, as it is."""
    tokens = positions.shape[1]
    return positions[:, 1:] if int(tokens**0.5) ** 2 != tokens else positions


def _with_class_token(positions: Tensor) -> Tensor:
    import torch

    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
