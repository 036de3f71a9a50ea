"""Norms over a head's channels."""

from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GATES", "GatedRmsNorm"]

GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "silu": F.silu, "swish": F.silu}


class GatedRmsNorm(nn.Module):
    """RMS norm with a weight, then times an activated gate; computed in float32."""

    def __init__(self, channels: int, eps: float, gate: str | None) -> None:
        super().__init__()
        if gate is not None and gate not in GATES:
            raise ValueError(f"the output gate is {gate!r}, must be one of {', '.join(GATES)}")
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps, self.gate = eps, gate

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """x, and a gate of its shape where the norm has one."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()
        if self.gate is not None and gate is not None:
            y = y * GATES[self.gate](gate.float())
        return y.to(x.dtype)
