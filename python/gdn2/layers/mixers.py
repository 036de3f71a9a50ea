"""The three token mixers: projections, short convolutions, a delta rule, a gated norm, a projection back."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fla import chunk_gated_delta_rule, chunk_kda
from ..fla.arguments import common, run
from ..fla.prologue import Prologue
from .cache import Cache
from .norm import GatedRmsNorm
from .packing import Packed, ShortConvolution

__all__ = ["GatedDeltaNet", "GatedDeltaNet2", "KimiDeltaAttention"]

# What flash-linear-attention's layers may be told. Here it changes nothing: kernels follow from the number of tokens.
MODES = ("chunk", "fused_recurrent")


class Mixer(nn.Module):
    """What the mixers have in common. Subclasses make the gates and call their rule."""

    def __init__(
        self,
        hidden_size: int,
        expand_v: float,
        head_dim: int,
        num_heads: int,
        num_v_heads: int | None,
        mode: str,
        use_short_conv: bool,
        allow_neg_eigval: bool,
        conv_size: int,
        conv_bias: bool,
        layer_idx: int | None,
        norm_eps: float,
        output_gate: str | None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, must be one of {', '.join(MODES)}")
        self.mode = mode
        self.num_heads, self.num_v_heads = num_heads, num_v_heads if num_v_heads is not None else num_heads
        if self.num_v_heads < num_heads or self.num_v_heads % num_heads:
            raise ValueError(f"num_v_heads is {num_v_heads}, must be a multiple of num_heads, {num_heads}")
        self.head_k_dim, self.head_v_dim = head_dim, int(head_dim * expand_v)
        if not math.isclose(head_dim * expand_v, self.head_v_dim, rel_tol=1e-5):
            raise ValueError(f"expand_v is {expand_v}: times head_dim, {head_dim}, it must be a whole number")
        self.key_dim, self.value_dim = num_heads * head_dim, self.num_v_heads * self.head_v_dim
        self.use_short_conv, self.allow_neg_eigval, self.layer_idx = use_short_conv, allow_neg_eigval, layer_idx
        self.hidden_size, self.norm_eps, self.output_gate = hidden_size, norm_eps, output_gate
        widths = {"q": self.key_dim, "k": self.key_dim, "v": self.value_dim}
        for name, width in widths.items():
            setattr(self, f"{name}_proj", nn.Linear(hidden_size, width, bias=False))
        if use_short_conv:
            for name, width in widths.items():
                setattr(self, f"{name}_conv1d", ShortConvolution(width, conv_size, conv_bias))

    def _finish(self) -> None:
        """The parameters behind the rule."""
        self.o_norm = GatedRmsNorm(self.head_v_dim, self.norm_eps, self.output_gate)
        self.o_proj = nn.Linear(self.value_dim, self.hidden_size, bias=False)

    def _low_rank(self, width: int, bias: bool) -> nn.Sequential:
        """A projection through as many channels as a value head has."""
        first = nn.Linear(self.hidden_size, self.head_v_dim, bias=False)
        return nn.Sequential(first, nn.Linear(self.head_v_dim, width, bias=bias))

    def _decays(self, rates: Tensor, steps: int) -> None:
        """A_log of these rates, and a bias per step that softplus makes log-uniform from 0.001 to 0.1."""
        self.A_log = nn.Parameter(rates.log())
        low, high = math.log(0.001), math.log(0.1)
        step = torch.exp(low + (high - low) * torch.rand(steps)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        for parameter in (self.A_log, self.dt_bias):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, None, Cache | None]:
        """[B,T,hidden] to [B,T,hidden]; then None, and the cache.

        `attention_mask` [B,T] marks padding with zeros. With `use_cache` the layer's state is kept in
        `past_key_values`, a `Cache`, and the next call goes on from there.
        """
        if output_attentions:
            raise ValueError("output_attentions: a delta rule has no attention weights")
        if use_cache and past_key_values is None:
            raise ValueError("use_cache=True needs a cache: past_key_values=gdn2.layers.Cache()")
        packed = Packed.of(hidden_states, attention_mask, cu_seqlens)
        kept = {} if past_key_values is None else past_key_values.get(self._index())
        hidden, states = packed.hidden, {}
        mixed = {}
        for name, heads, size in (
            ("q", self.num_heads, self.head_k_dim),
            ("k", self.num_heads, self.head_k_dim),
            ("v", self.num_v_heads, self.head_v_dim),
        ):
            x = getattr(self, f"{name}_proj")(hidden)
            if self.use_short_conv:
                x, states[name] = getattr(self, f"{name}_conv1d")(x, kept.get(name), packed.cu_seqlens)
            else:
                x = F.silu(x)
            mixed[name] = x.unflatten(-1, (heads, size))
        o, state = self._rule(
            hidden, **mixed, initial_state=kept.get("state"), output_final_state=use_cache, cu_seqlens=packed.cu_seqlens
        )
        if use_cache and past_key_values is not None:
            past_key_values.put(self._index(), hidden_states.shape[1], state=state, **states)
        gate = self._gate(hidden)
        o = self.o_norm(o.to(hidden.dtype), None if gate is None else gate.unflatten(-1, (-1, self.head_v_dim)))
        return packed.unpacked(self.o_proj(o.flatten(2).to(hidden.dtype))), None, past_key_values

    def _index(self) -> int:
        return self.layer_idx if self.layer_idx is not None else 0

    def _gate(self, hidden: Tensor) -> Tensor | None:
        return self.g_proj(hidden)

    def _rule(self, hidden: Tensor, **call: Any) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}/{self.num_v_heads}, K={self.head_k_dim}, V={self.head_v_dim}"


class GatedDeltaNet2(Mixer):
    """Gated DeltaNet-2: decay, erase and write gates for every channel.

    `output_gate` is the activation of the gate on the output: sigmoid as in flash-linear-attention's layer, silu as in
    the official one.
    """

    def __init__(
        self,
        hidden_size: int = 2048,
        expand_v: float = 1.0,
        head_dim: int = 128,
        num_heads: int = 16,
        num_v_heads: int | None = None,
        mode: str = "chunk",
        use_short_conv: bool = True,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        layer_idx: int | None = None,
        norm_eps: float = 1e-5,
        output_gate: str = "sigmoid",
    ) -> None:
        super().__init__(
            hidden_size, expand_v, head_dim, num_heads, num_v_heads, mode, use_short_conv, allow_neg_eigval,
            conv_size, conv_bias, layer_idx, norm_eps, output_gate,
        )  # fmt: skip
        self.f_proj = self._low_rank(self.key_dim, bias=False)
        self.b_proj = nn.Linear(hidden_size, self.key_dim, bias=False)
        self.w_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
        self._decays(torch.empty(num_heads).uniform_(1, 16), self.key_dim)
        self.g_proj = self._low_rank(self.value_dim, bias=True)
        self._finish()

    def _rule(self, hidden: Tensor, **call: Any) -> tuple[Tensor, Tensor | None]:
        by_head = (-1, self.head_k_dim)
        g, b = self.f_proj(hidden).unflatten(-1, by_head), self.b_proj(hidden).unflatten(-1, by_head)
        w = self.w_proj(hidden).unflatten(-1, (-1, self.head_v_dim))
        rates, steps = self.A_log, self.dt_bias.unflatten(0, by_head)
        # Gates are per value head; q and k are shared by the kernels.
        group = self.num_v_heads // self.num_heads
        if group > 1:
            g, b = g.repeat_interleave(group, 2), b.repeat_interleave(group, 2)
            rates, steps = rates.repeat_interleave(group), steps.repeat_interleave(group, 0)
        made = Prologue(True, True, rates, steps, None, erase=2 if self.allow_neg_eigval else 1, write=1)
        q, k, v, initial = (call[name] for name in ("q", "k", "v", "initial_state"))
        gates = {"g": (g, 4), "b": (b, 4), "w": (w, 4)}
        wanted, offsets = call["output_final_state"], call["cu_seqlens"]
        return run(
            **common("GatedDeltaNet2", q, k, v, gates, None, initial, wanted, offsets, None),
            **{"q": q, "k": k, "g": g, "b": b, "w": w, "prologue": made},
            **{"tied": False, "state_v_first": False, "o_dtype": q.dtype},
        )


class KimiDeltaAttention(Mixer):
    """Kimi Delta Attention: a decay for every key channel, one gate for erasing and writing.

    With `lower_bound` the decay is a sigmoid above that bound, without a softplus.
    """

    def __init__(
        self,
        hidden_size: int = 2048,
        expand_v: float = 1.0,
        head_dim: int = 128,
        num_heads: int = 16,
        num_v_heads: int | None = None,
        mode: str = "chunk",
        use_short_conv: bool = True,
        allow_neg_eigval: bool = False,
        safe_gate: bool = False,
        lower_bound: float | None = None,
        conv_size: int = 4,
        conv_bias: bool = False,
        layer_idx: int | None = None,
        norm_eps: float = 1e-5,
        output_gate: str = "sigmoid",
    ) -> None:
        super().__init__(
            hidden_size, expand_v, head_dim, num_heads, num_v_heads, mode, use_short_conv, allow_neg_eigval,
            conv_size, conv_bias, layer_idx, norm_eps, output_gate,
        )  # fmt: skip
        self.safe_gate, self.lower_bound = safe_gate, lower_bound
        steps = self.num_v_heads * self.head_k_dim
        self.f_proj = self._low_rank(steps, bias=False)
        self.b_proj = nn.Linear(hidden_size, self.num_v_heads, bias=False)
        rates = torch.ones(self.num_v_heads) if safe_gate else torch.empty(self.num_v_heads).uniform_(1, 16)
        self._decays(rates, steps)
        self.g_proj = self._low_rank(self.value_dim, bias=True)
        self._finish()

    def _rule(self, hidden: Tensor, **call: Any) -> tuple[Tensor, Tensor | None]:
        return chunk_kda(
            g=self.f_proj(hidden).unflatten(-1, (-1, self.head_k_dim)),
            beta=self.b_proj(hidden),
            A_log=self.A_log,
            dt_bias=self.dt_bias,
            use_qk_l2norm_in_kernel=True,
            use_gate_in_kernel=True,
            use_beta_sigmoid_in_kernel=True,
            allow_neg_eigval=self.allow_neg_eigval,
            safe_gate=self.safe_gate,
            lower_bound=self.lower_bound,
            state_v_first=True,
            **call,
        )


class GatedDeltaNet(Mixer):
    """Gated DeltaNet: one decay and one gate per head."""

    def __init__(
        self,
        hidden_size: int = 2048,
        expand_v: float = 2.0,
        head_dim: int = 256,
        num_heads: int = 6,
        num_v_heads: int | None = None,
        mode: str = "chunk",
        use_gate: bool = True,
        use_short_conv: bool = True,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        layer_idx: int | None = None,
        norm_eps: float = 1e-5,
        output_gate_activation: str = "swish",
    ) -> None:
        super().__init__(
            hidden_size, expand_v, head_dim, num_heads, num_v_heads, mode, use_short_conv, allow_neg_eigval,
            conv_size, conv_bias, layer_idx, norm_eps, output_gate_activation if use_gate else None,
        )  # fmt: skip
        self.a_proj = nn.Linear(hidden_size, self.num_v_heads, bias=False)
        self.b_proj = nn.Linear(hidden_size, self.num_v_heads, bias=False)
        self._decays(torch.empty(self.num_v_heads).uniform_(1e-6, 16), self.num_v_heads)
        if use_gate:
            self.g_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
        self._finish()

    def _gate(self, hidden: Tensor) -> Tensor | None:
        return self.g_proj(hidden) if self.output_gate is not None else None

    def _rule(self, hidden: Tensor, **call: Any) -> tuple[Tensor, Tensor | None]:
        return chunk_gated_delta_rule(
            g=self.a_proj(hidden),
            beta=self.b_proj(hidden),
            A_log=self.A_log,
            dt_bias=self.dt_bias,
            use_qk_l2norm_in_kernel=True,
            use_gate_in_kernel=True,
            use_beta_sigmoid_in_kernel=True,
            allow_neg_eigval=self.allow_neg_eigval,
            state_v_first=True,
            **call,
        )
