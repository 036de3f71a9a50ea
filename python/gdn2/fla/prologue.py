"""What flash-linear-attention's kernels compute before the recurrence, in PyTorch: norms and gate activations.

The kernels here take keys that are normed and gates that are activated, so these run before the call, in float32, or in
float64 where the call has that. Their gradients are PyTorch's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["activated_beta", "activated_decay", "normed"]

# Inside the square root, as flash-linear-attention has it.
EPSILON = 1e-6


def wide(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is that already."""
    return x if x.dtype is torch.float64 else x.float()


def normed(x: Tensor) -> Tensor:
    """x / sqrt(Σ x² + 1e-6) over channels."""
    x = wide(x)
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON)


def activated_decay(g: Tensor, A_log: Tensor | None, dt_bias: Tensor | None, lower_bound: float | None) -> Tensor:
    """The log-decay of raw gates, [B,T,HV] or [B,T,HV,K].

    Without a bound, -exp(A_log)·softplus(g + dt_bias); with one, lower_bound·sigmoid(exp(A_log)·(g + dt_bias)), where
    an absent A_log makes the factor 1. A_log has a number per head, dt_bias one per head or per head and channel.
    """
    g = wide(g)
    heads, channels = g.shape[2], g.ndim == 4
    if dt_bias is not None:
        bias = wide(dt_bias)
        g = g + (bias.reshape(heads, -1) if channels else bias.reshape(heads))
    rate = None
    if A_log is not None:
        rate = wide(A_log).exp().reshape(heads, 1) if channels else wide(A_log).exp().reshape(heads)
    if lower_bound is not None:
        return lower_bound * torch.sigmoid(g if rate is None else rate * g)
    assert rate is not None, "held against the call before"
    return -rate * F.softplus(g)


def activated_beta(beta: Tensor, allow_neg_eigval: bool) -> Tensor:
    """sigmoid(beta), and twice that where the state's eigenvalues may be negative."""
    gate = torch.sigmoid(wide(beta))
    return 2 * gate if allow_neg_eigval else gate
