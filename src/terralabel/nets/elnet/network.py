"""The network: a trunk of which little or nothing learns, and a decoder with three supervised outputs.

It is a `nets.segmentation.network.Network`, so that the same training loop and the same inference serve all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from terralabel.errors import ContractError, SettingsError
from terralabel.nets.elnet.adapters import attach
from terralabel.nets.elnet.decoder import WIDTH, Decoder, resize
from terralabel.nets.elnet.trunks import Trunk, empty_trunk, make_trunk
from terralabel.nets.segmentation.network import Network
from terralabel.nets.segmentation.schedules import ELNET

__all__ = ["LEARNS", "ELNet", "as_classes", "build_elnet", "default_learns", "rebuild_elnet"]

#: What of a trunk learns: nothing, adapters before its blocks, the last two of its four stages, or everything.
LEARNS = ("nothing", "adapters", "late", "everything")


class ELNet(Network):
    """`classes` K >= 2; of two, the network has one logit, that of the second: "binary".

    bands       of the pictures: the trunk's own, or one, which `normalise` repeats for a trunk of three
    backbone    the trunk; frozen but for what `learns` says
    head        the decoder
    zoom        factor that pictures are enlarged by before the trunk sees them
    width       channels in the decoder; 64 in the paper
    """

    backbone: Trunk
    head: Decoder

    def __init__(
        self,
        trunk: Trunk,
        classes: int,
        bands: int | None = None,
        *,
        learns: str = "adapters",
        edge: bool = False,
        zoom: float = 1.0,
        width: int = WIDTH,
    ) -> None:
        if classes < 2:
            raise SettingsError(f"ELNet: got {classes} class; expected two or more, one of which may be the background.")
        decoder = Decoder(trunk.channels, 1 if classes == 2 else classes, edge, width)
        facts: dict[str, Any] = {"mean": trunk.mean, "std": trunk.std, "schedule": ELNET}
        super().__init__(f"elnet:{trunk.name}", trunk, decoder, classes=classes, bands=bands or trunk.bands, **facts)
        self.origin, self.zoom, self.learns, self.width = trunk.origin, zoom, learns, width
        self.adapters = _freeze(trunk, learns)

    @property
    def edge(self) -> bool:
        """Whether it attends to edges."""
        return self.head.edges is not None

    def outputs(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """(b, bands, h, w) normalised -> three logit maps (b, 1 or K, h, w), the finest first, and edge logits (b, 1, h, w) or None."""
        expected = self.backbone.bands
        if x.ndim != 4 or x.shape[1] != expected:
            raise ContractError(f"{self.name}: got an input of shape {tuple(x.shape)}, expected (batch, {expected}, h, w).")
        size = x.shape[-2:]
        zoomed = resize(x, (round(size[0] * self.zoom), round(size[1] * self.zoom)))
        padded = self._padded(zoomed)
        logits, edge = self.head(self.backbone(padded))

        def back(found: Tensor) -> Tensor:
            return resize(resize(found, padded.shape[-2:])[..., : zoomed.shape[-2], : zoomed.shape[-1]], size)

        return [back(found) for found in logits], None if edge is None else back(edge)

    def forward(self, x: Tensor, with_auxiliary: bool = False) -> Any:
        """(b, bands, h, w) normalised -> logits (b, K, h, w) of the finest output; of two classes the first one's are 0.

        With `with_auxiliary` all that is supervised comes second: what `outputs` gives.
        """
        outputs, edge = self.outputs(x)
        logits = as_classes(outputs[0])
        return (logits, (outputs, edge)) if with_auxiliary else logits

    def train(self, mode: bool = True) -> ELNet:
        """Training mode; what is frozen stays in evaluation mode, so that the statistics of its batch norms do not move."""
        super().train(mode)
        for part in _still(self.backbone, self.learns):
            part.eval()
        return self


def as_classes(logits: Tensor) -> Tensor:
    """(b, 1, h, w) -> (b, 2, h, w), whose softmax is the sigmoid; (b, K, h, w) as it is."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def build_elnet(
    trunk: str,
    classes: int,
    bands: int = 3,
    *,
    learns: str = "auto",
    weights: str = "auto",
    edge: bool = False,
    zoom: float = 1.0,
    width: int = WIDTH,
    seed: int | None = None,
) -> ELNet:
    """The network on a trunk by name (`elnet.trunks`). `learns`: one of `LEARNS`, or "auto": see `default_learns`.

    `seed` of what begins at random; None goes on from torch's own generator. Raises as `make_trunk`.
    """
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        found = make_trunk(trunk, bands, weights)
        chosen = default_learns(found) if learns == "auto" else learns
        return ELNet(found, classes, bands, learns=chosen, edge=edge, zoom=zoom, width=width)


def rebuild_elnet(made: Mapping[str, Any]) -> ELNet:
    """The network that a checkpoint's record describes, its weights still to be loaded: no other file is asked for.

    `made` has "trunk", "learns", "bands", "classes", "edge", "zoom", "width" and "hiera", SAM 2's configuration, for such a trunk.
    """
    trunk = empty_trunk(str(made["trunk"]), int(made["bands"]), made.get("hiera"))
    how: dict[str, Any] = {"edge": bool(made["edge"]), "zoom": float(made["zoom"]), "width": int(made["width"])}
    network = ELNet(trunk, int(made["classes"]), int(made["bands"]), learns=str(made["learns"]), **how)
    network.origin = str(made["origin"])
    return network


def default_learns(trunk: Trunk) -> str:
    """Everything where the weights are random or few (a MobileNet's are), adapters elsewhere."""
    small = sum(p.numel() for p in trunk.parameters()) < 5_000_000
    return "everything" if small or not trunk.frozen else "adapters"


def _freeze(trunk: Trunk, learns: str) -> nn.ModuleList:
    """Let what `learns` says require gradients, and nothing else of the trunk; returns the adapters."""
    if learns not in LEARNS:
        raise SettingsError(f"learns: expected one of {', '.join(LEARNS)}; got {learns!r}.")
    trunk.requires_grad_(learns == "everything")
    if learns == "late":
        for block in _late(trunk):
            block.requires_grad_(True)
    if learns != "adapters":
        return nn.ModuleList()
    side = 2 * trunk.multiple
    return attach(trunk, trunk.blocks(), torch.zeros(1, trunk.bands, side, side))


def _late(trunk: Trunk) -> Sequence[nn.Module]:
    """The later half of a trunk's blocks."""
    blocks = trunk.blocks()
    if not blocks:
        raise SettingsError(f"trunk {trunk.name} has no blocks to tell early from late: let everything learn, or nothing.")
    return blocks[len(blocks) // 2 :]


def _still(trunk: Trunk, learns: str) -> Sequence[nn.Module]:
    """The parts of a trunk that stay in evaluation mode."""
    if learns == "everything":
        return []
    if learns != "late":
        return [trunk]
    moving = {id(module) for block in _late(trunk) for module in block.modules()}
    return [module for module in trunk.modules() if id(module) not in moving and not list(module.children())]
