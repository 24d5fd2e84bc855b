"""Train the network behind `masks nano`, from an ImageNet encoder to the file that ships.

    python -m terralabel.train.segmenter --data DIR --encoder mobilenet_v2_imagenet.npz --out DIR --steps N [--start FILE]

Every batch is a function of the seed and its step alone, so a run that was stopped goes on as if it had not been.
`OUT/log.jsonl` has a line every few steps, `OUT/checkpoint.pt` all that is needed to go on, `OUT/nano.safetensors` the network.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from terralabel.core.files import atomic_path
from terralabel.nets.mobilenet import load_mobilenet_v2
from terralabel.nets.nano.network import NanoNet
from terralabel.nets.nano.shipped import read_network, write_network
from terralabel.train.losses import losses
from terralabel.train.pictures import Picture
from terralabel.train.prompts import draw
from terralabel.train.sources import chosen, read_sources

__all__ = ["Plan", "main", "train"]

#: Step by step, the decoder's grid.
_GRIDS = (32, 32, 24, 32, 32, 48)


@dataclass(frozen=True)
class Plan:
    """How to train.

    steps      batches in all
    seed       decides pictures, views, prompts and the start
    rate       learning rate; falls to nothing over the last `cooling` of the steps
    thaw       the share of the steps after which the encoder's blocks from `thaw_from` on learn, too, at a tenth of the rate
    side       pixels of a view, multiple of 64
    prompts    prompts a picture
    collages   generated pictures to draw from; half as many waters and a quarter as many painted scenes
    contrast   weight of the loss that makes features of like things alike
    """

    steps: int = 4300
    seed: int = 0
    rate: float = 2e-3
    cooling: float = 0.7
    thaw: float = 0.25
    thaw_from: int = 7
    side: int = 256
    prompts: int = 12
    collages: int = 800
    contrast: float = 0.1

    def rate_at(self, step: int) -> float:
        """Up over 50 steps, level, then down along a cosine."""
        left = (self.steps - step) / max(self.cooling * self.steps, 1)
        cooled = 0.5 - 0.5 * math.cos(math.pi * min(max(left, 0.01), 1.0))
        return self.rate * min(1.0, (step + 1) / 50) * cooled


class Training:
    """The network, its optimiser and its slow average, at some step."""

    def __init__(self, plan: Plan, encoder: Path, start: Path | None = None) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.step, self.cpu = plan, 0, 0.0
        self.net = NanoNet()
        self.net.encoder.load_state_dict({k.removeprefix("features."): v for k, v in load_mobilenet_v2(encoder).state_dict().items()
                                          if k.startswith("features.") and int(k.split(".")[1]) < len(self.net.encoder)})  # fmt: skip
        if start is not None:
            self.net = read_network(start)[0]
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        heads = [p for name, p in self.net.named_parameters() if not name.startswith("encoder.")]
        late = [p for block in self.net.encoder[plan.thaw_from :] for p in block.parameters()]
        self.net.encoder.requires_grad_(False)
        self.optimiser = torch.optim.AdamW([{"params": heads}, {"params": late}], lr=plan.rate, weight_decay=1e-3)
        self.average = {key: value.clone() for key, value in self.net.state_dict().items()}

    def advance(self, sources: dict[str, list[Picture]]) -> dict[str, float]:
        """One batch; returns what to log."""
        plan, rng = self.plan, np.random.default_rng([self.plan.seed, self.step])
        if self.step >= plan.thaw * plan.steps:
            self.net.encoder[plan.thaw_from :].requires_grad_(True)
        pictures = chosen(sources, self.step, rng)
        batch = draw(pictures, plan.side, plan.prompts, rng)
        for group, factor in zip(self.optimiser.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = plan.rate_at(self.step) * factor
        self.net.train()
        found = losses(self.net, batch, _GRIDS[self.step % len(_GRIDS)], self.step, plan.contrast)
        self.optimiser.zero_grad(set_to_none=True)
        found.total.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        if bool(norm.isfinite()):
            self.optimiser.step()
        self._follow()
        self.step += 1
        return {"loss": float(found.total.detach()), "norm": float(norm), **found.parts}

    @torch.no_grad()
    def _follow(self) -> None:
        """The slow average takes a small step towards the network."""
        share = max(0.005, 1 / (self.step + 2))
        for key, value in self.net.state_dict().items():
            slow = self.average[key]
            slow.lerp_(value, share) if slow.is_floating_point() else slow.copy_(value)

    def state(self) -> dict[str, object]:
        """All that `restore` needs."""
        return {
            "step": self.step, "cpu": self.cpu, "net": self.net.state_dict(), "average": self.average,
            "optimiser": self.optimiser.state_dict(), "plan": asdict(self.plan),
        }  # fmt: skip

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint; the plan's number of steps may differ, all else is as it was."""
        stored = torch.load(path, weights_only=True)
        self.step, self.cpu, self.average = stored["step"], stored["cpu"], stored["average"]
        self.net.load_state_dict(stored["net"])
        self.optimiser.load_state_dict(stored["optimiser"])

    def averaged(self) -> dict[str, Tensor]:
        """The state dict that ships."""
        return dict(self.average)


def train(
    data: Path, encoder: Path, out: Path, plan: Plan, *, start: Path | None = None, save_every: int = 50, log_every: int = 10
) -> Path:
    """Train to the plan's last step, going on from `out`'s checkpoint where there is one, or else from the network's file `start`,
    whose own stable masks are learned from, too; returns the network's file."""
    out.mkdir(parents=True, exist_ok=True)
    sources = read_sources(data, out, plan.collages, plan.seed, start)
    training, checkpoint, network = Training(plan, encoder, start), out / "checkpoint.pt", out / "nano.safetensors"
    if checkpoint.exists():
        training.restore(checkpoint)
    began, cpu, before = time.time(), time.process_time(), training.cpu
    seen: list[dict[str, float]] = []
    while training.step < plan.steps:
        seen.append(training.advance(sources))
        training.cpu = before + time.process_time() - cpu
        if training.step % log_every == 0 or training.step == plan.steps:
            means = {key: round(float(np.nanmean([row[key] for row in seen])), 4) for key in seen[0]}
            line = {"step": training.step, "wall": round(time.time() - began), "cpu": round(training.cpu), **means}
            with open(out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            seen = []
        if training.step % save_every == 0 or training.step == plan.steps:
            with atomic_path(checkpoint) as temporary:
                torch.save(training.state(), temporary)
            write_network(training.averaged(), network)
    return network


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--encoder", type=Path, required=True, help="ImageNet weights of MobileNetV2 (npz)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an unfinished one is gone on with")
    parser.add_argument("--start", type=Path, help="a trained network's file to begin with, and to take stable masks from")
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    plan = Plan(**{name: getattr(options, name) for name in asdict(Plan())})
    print(train(options.data, options.encoder, options.out, plan, start=options.start))


if __name__ == "__main__":
    main()
