"""What flash-linear-attention's kernels compute before the recurrence: norms and gate activations.

The kernels here compute them too, by a rule's formulas. A call that has no such kernels gets them computed before it, in
float32, or in float64 where the call has that; their gradients are PyTorch's then.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Prologue"]

# Inside the square root, as flash-linear-attention and the rules have it.
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Prologue:
    """How the rows and gates of a call are made of what was given; all of it absent, they are what was given."""

    norms: bool = False
    """Whether q and k are normed over their channels."""
    decays: bool = False
    """Whether g is a logit: the log-decay is -exp(A_log)·softplus(g + dt_bias), or with a bound
    lower_bound·sigmoid(exp(A_log)·(g + dt_bias)), where an absent A_log makes the factor 1."""
    A_log: Tensor | None = None
    """A number per head."""
    dt_bias: Tensor | None = None
    """A number per head, or per head and channel where g has channels."""
    lower_bound: float | None = None
    erase: int = 0
    """The factor of the sigmoid that b is the logit of, 1 or 2; 0 where b is the gate."""
    write: int = 0
    """The same of w."""

    def __bool__(self) -> bool:
        return bool(self.norms or self.decays or self.erase or self.write)

    def statements(self, g: Tensor | None) -> str:
        """The norms and parameters that a rule states."""
        found = "q: l2norm; k: l2norm; " if self.norms else ""
        if self.decays:
            found += "param a_log: head; " if self.A_log is not None else ""
            grain = "channel" if g is not None and g.ndim == 4 else "head"
            found += f"param dt_bias: {grain}; " if self.dt_bias is not None else ""
        return found

    def formula(self, gate: str) -> str:
        """The formula of a gate as a rule states it, behind an equals sign; nothing where it is taken as given."""
        if gate == "g":
            return f" = {self._decay()}" if self.decays else ""
        factor = {"b": self.erase, "w": self.write}[gate]
        return f" = {'2 * ' if factor == 2 else ''}sigmoid(x)" if factor else ""

    def _decay(self) -> str:
        moved = "x" if self.dt_bias is None else "x + dt_bias"
        if self.lower_bound is None:
            return f"-exp(a_log) * softplus({moved})"
        inner = moved if self.A_log is None else f"exp(a_log) * ({moved})"
        return f"{float(self.lower_bound)!r} * sigmoid({inner})"

    def named(self, g: Tensor | None, more_keys: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The parameters by the rule's names, in float32, or in float64 where the call computes in that; channels padded
        by so many zeros."""
        kept = dtype if dtype is torch.float64 else torch.float32
        found = {}
        if self.decays and g is not None:
            if self.A_log is not None:
                found["a_log"] = self.A_log.to(kept).reshape(-1)
            if self.dt_bias is not None:
                bias = self.dt_bias.to(kept).reshape(g.shape[2:])
                found["dt_bias"] = F.pad(bias, (0, more_keys)) if g.ndim == 4 else bias
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def activated(self, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Those of q, k, g, b and w that are not what was given, computed."""
        found = {}
        for name in ("q", "k") if self.norms else ():
            found[name] = normed(tensors[name]).to(tensors[name].dtype)
        if self.decays:
            found["g"] = activated_decay(tensors["g"], self.A_log, self.dt_bias, self.lower_bound)
        for name, factor in (("b", self.erase), ("w", self.write)):
            if factor:
                found[name] = factor * torch.sigmoid(wide(tensors[name]))
        return found


def wide(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is that already."""
    return x if x.dtype is torch.float64 else x.float()


def normed(x: Tensor) -> Tensor:
    """x / sqrt(Σ x² + 1e-6) over channels."""
    x = wide(x)
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON)


def activated_decay(g: Tensor, A_log: Tensor | None, dt_bias: Tensor | None, lower_bound: float | None) -> Tensor:
    """The log-decay of raw gates, [B,T,HV] or [B,T,HV,K], as `Prologue` states it."""
    g = wide(g)
    if dt_bias is not None:
        g = g + wide(dt_bias).reshape(g.shape[2:])
    rate = None if A_log is None else wide(A_log).exp().reshape(g.shape[2], *([1] * (g.ndim - 3)))
    if lower_bound is not None:
        return lower_bound * torch.sigmoid(g if rate is None else rate * g)
    assert rate is not None, "held against the call before"
    return -rate * F.softplus(g)
