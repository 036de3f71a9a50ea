"""The hybrid cell: a mixer, an MLP, attention over a sliding window, an MLP, each behind a norm, residuals around."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import Cache

__all__ = ["HybridCell", "SlidingWindowAttention", "SwiGlu"]


class SwiGlu(nn.Module):
    """down(silu(gate x) · up x)"""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,hidden] to [B,T,hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SlidingWindowAttention(nn.Module):
    """Causal attention over the last `window` tokens with rotary positions, on PyTorch's own attention."""

    def __init__(
        self, hidden_size: int, num_heads: int, window: int, layer_idx: int | None = None, theta: float = 10000.0
    ) -> None:
        super().__init__()
        if hidden_size % num_heads or hidden_size // num_heads % 2:
            raise ValueError(f"hidden_size is {hidden_size}, must be an even multiple of num_heads, {num_heads}")
        self.num_heads, self.window, self.layer_idx, self.theta = num_heads, window, layer_idx, theta
        for name in ("q", "k", "v", "o"):
            setattr(self, f"{name}_proj", nn.Linear(hidden_size, hidden_size, bias=False))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """[B,T,hidden] to [B,T,hidden]; a cache keeps the last `window` keys and values."""
        kept = {} if cache is None else cache.get(self.layer_idx or 0)
        start = kept.get("end", 0)
        q, k, v = (
            getattr(self, f"{name}_proj")(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name in ("q", "k", "v")
        )
        position = torch.arange(start, start + x.shape[1], device=x.device)
        q, k = self._rotated(q, position), self._rotated(k, position)
        if kept:
            k, v = torch.cat((kept["k"], k), 2), torch.cat((kept["v"], v), 2)
        behind = position[:, None] - torch.arange(start + x.shape[1] - k.shape[2], start + x.shape[1], device=x.device)
        seen = (behind >= 0) & (behind < self.window)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        if cache is not None:
            k, v = k[:, :, -self.window :], v[:, :, -self.window :]
            cache.put(self.layer_idx or 0, x.shape[1], k=k, v=v, end=start + x.shape[1])
        return self.o_proj(o.transpose(1, 2).flatten(2))

    def _rotated(self, x: Tensor, position: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        rate = self.theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angle = position[:, None] * rate
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half].float(), x[..., half:].float()
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class HybridCell(nn.Module):
    """mixer → MLP → sliding-window attention → MLP."""

    def __init__(
        self, mixer: nn.Module, hidden_size: int, num_heads: int, window: int, intermediate_size: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        if getattr(mixer, "layer_idx", None) is None:
            raise ValueError("mixer: give it a layer_idx, the attention takes the next one")
        self.mixer = mixer
        self.attention = SlidingWindowAttention(hidden_size, num_heads, window, mixer.layer_idx + 1)
        self.mlps = nn.ModuleList(SwiGlu(hidden_size, intermediate_size) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(hidden_size, eps=eps) for _ in range(4))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """[B,T,hidden] to [B,T,hidden]; a cache goes on from call to call."""
        x = x + self.mixer(self.norms[0](x), past_key_values=cache, use_cache=cache is not None)[0]
        x = x + self.mlps[0](self.norms[1](x))
        x = x + self.attention(self.norms[2](x), cache)
        return x + self.mlps[1](self.norms[3](x))
