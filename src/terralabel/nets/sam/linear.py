"""Linear layers of an encoder that only infers: weights cast once and, on CPU, laid out once for the machine's GEMM."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Linear", "can_pack"]


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN's packed product (about a tenth faster than the plain one on CPU) can take this (out, in) weight."""
    operations = getattr(torch.ops, "mkldnn", None)
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(operations, "_reorder_linear_weight")
        and hasattr(operations, "_linear_pointwise")
    )


class Linear:
    """y = x W^T + b, then the exact (erf) GELU where asked for.

    weight (out, in) and bias (out,) are copied in the given dtype; no reference to the module they come from is kept.
    Input (..., in) of any float dtype; output (..., out) in the layer's dtype.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, gelu: bool = False) -> None:
        self.dtype, self.gelu = dtype, gelu
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        plain = weight.detach().to(dtype).contiguous()
        self.packed = can_pack(plain)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(plain) if self.packed else plain.clone()

    @classmethod
    def of(cls, layer: Any, dtype: torch.dtype, *, gelu: bool = False) -> Linear:
        """The same as a `torch.nn.Linear`."""
        return cls(layer.weight, layer.bias, dtype, gelu=gelu)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.packed:
            kind, variant = ("gelu", "none") if self.gelu else ("none", "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, kind, [], variant)
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y
