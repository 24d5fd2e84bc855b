"""Many processes as one training (`torchrun`): each has its share of every batch, and all have the same weights.

Sums over the whole batch are what is exchanged: of labelled pixels, gradients, and the moments of batch norms. So the
result is that of one process but for rounding, whatever their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from terralabel.errors import SettingsError
from terralabel.nets.backbones import choose_device

__all__ = ["Team", "device_of", "join", "shared"]

#: Gradients travel in pieces of about this many numbers.
_PIECE = 8_000_000


@dataclass(frozen=True)
class Team:
    """The processes of a training; `rank` is this one's number, 0 the one that writes files."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's places of `count` (a multiple of `size`)."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def sum_(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Every gradient becomes the sum over all processes; one that a process has not got counts as 0."""
        if self.size == 1:
            return
        waiting: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(parameter.grad)
            if sum(gradient.numel() for gradient in waiting) >= _PIECE:
                _sum_together(waiting)
                waiting = []
        if waiting:
            _sum_together(waiting)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """The training is over."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _sum_together(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def join(device: str) -> tuple[Team, torch.device]:
    """The team that `torchrun` made (one process without it), and this process's device.

    "auto": this process's GPU if there is one, else the CPU. NCCL joins GPUs, gloo CPUs.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    where = device_of(device, local)
    if size > 1 and not dist.is_initialized():
        if where.type == "cuda":
            torch.cuda.set_device(where)
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return Team(rank, size), where


def device_of(name: str, local: int = 0) -> torch.device:
    """The device of a --device flag for the process of this number on its machine; `SettingsError` when it is not there."""
    try:
        found = torch.device(choose_device(name))
        if found.type == "cuda" and found.index is None:
            found = torch.device("cuda", local % max(torch.cuda.device_count(), 1))
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"--device {name}: {str(error).splitlines()[0]} Expected auto, cpu, cuda, cuda:1 or mps."
        ) from error
    return found


class _Summed(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, also on CPUs (torch's own `SyncBatchNorm` needs GPUs)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) as `nn.BatchNorm2d`, in training with the moments of all processes' images."""
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        count = x.new_tensor([x.numel() / x.shape[1]])
        total = _Summed.apply(torch.cat([x.sum((0, 2, 3)), count]))
        pixels, mean = total[-1].detach(), total[:-1] / total[-1].detach()
        centred = x - mean[:, None, None]
        variance = _Summed.apply(centred.square().sum((0, 2, 3))) / pixels
        self._follow(mean.detach(), variance.detach() * pixels / (pixels - 1).clamp(min=1))
        out = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _SharedMask:
    """Dropout whose mask is drawn for the whole batch in every process, of which each takes its images' part.

    So what is dropped depends on the step and the image, not on the number of processes. Before each step, all processes seed
    torch's generator alike.
    """

    team: Team
    training: bool

    def kept(self, x: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
        """(b, *shape) of 0 and 1: what this process keeps of its b images."""
        images = x.shape[0]
        whole = torch.rand((images * self.team.size, *shape), device=x.device) >= p
        return whole[self.team.rank * images :][:images].to(x.dtype)


class SharedDropout(_SharedMask, nn.Dropout):
    """Single numbers."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Dropout`."""
        if not self.training or not self.p:
            return input
        return input * self.kept(input, tuple(input.shape[1:]), self.p) / (1 - self.p)


class SharedDropout2d(_SharedMask, nn.Dropout2d):
    """Whole channels."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Dropout2d`."""
        if not self.training or not self.p:
            return input
        return input * self.kept(input, (input.shape[1], 1, 1), self.p) / (1 - self.p)


class SharedDropPath(_SharedMask, DropPath):
    """Whole branches of an image (timm's DropPath)."""

    def forward(self, x: Tensor) -> Tensor:
        """As `timm.layers.DropPath`."""
        if not self.training or not self.drop_prob:
            return x
        kept = self.kept(x, (1,) * (x.ndim - 1), self.drop_prob)
        return x * kept / (1 - self.drop_prob) if self.scale_by_keep and self.drop_prob < 1 else x * kept


_SHARED: dict[type, type] = {nn.Dropout: SharedDropout, nn.Dropout2d: SharedDropout2d, DropPath: SharedDropPath}


def shared(network: nn.Module, team: Team) -> nn.Module:
    """The network with dropout, and with batch norms where there are several processes, that see the whole batch.

    Modules keep their parameters, buffers and names; only their class is another.
    """
    for module in network.modules():
        if type(module) in _SHARED:
            module.__class__ = _SHARED[type(module)]
            module.team = team  # type: ignore[assignment]
    if team.size == 1:
        return network
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm
    return network
