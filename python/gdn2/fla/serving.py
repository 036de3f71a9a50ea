"""Decoding from a pool of states, as serving engines call it: flash-linear-attention's inner functions by name.

They update `initial_state` in place where `inplace_final_state` says so: a pool [slots,HV,K,V], or [slots,HV,V,K] with
state_v_first, of which `ssm_state_indices` [N] names each sequence's state. Every sequence has as many tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .arguments import common, expect_nothing, not_served, prologue
from .recurrence import Recurrence, Unsupported

__all__ = ["fused_recurrent_gdn2_fwd", "fused_recurrent_kda_fwd"]


def fused_recurrent_gdn2_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    scale: float | None = None,
    output_final_state: bool = False,
    inplace_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    lower_bound: float | None = None,
    out: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gated DeltaNet-2 from a pool of states."""
    name = "fused_recurrent_gdn2_fwd"
    expect_nothing(name, kwargs)
    not_served(num_accepted_tokens=num_accepted_tokens)
    how = prologue(g, A_log, dt_bias, lower_bound, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel)
    shapes = {"g": (g, 4), "b": (b, 4), "w": (w, 4)}
    call = Recurrence(
        **common(name, q, k, v, shapes, scale, None, output_final_state, cu_seqlens, None),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": b, "w": w, "tied": False, "state_v_first": state_v_first, "o_dtype": v.dtype},
    )
    return _run(call, initial_state, inplace_final_state, ssm_state_indices, out)


def fused_recurrent_kda_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    scale: float | None = None,
    output_final_state: bool = False,
    inplace_final_state: bool = True,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    out: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Kimi Delta Attention from a pool of states."""
    name = "fused_recurrent_kda_fwd"
    expect_nothing(name, kwargs)
    not_served(num_accepted_tokens=num_accepted_tokens)
    how = prologue(
        g, A_log, dt_bias, lower_bound, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel,
        sigmoid=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
    )  # fmt: skip
    shapes = {"g": (g, 4), "beta": (beta, 3)}
    call = Recurrence(
        **common(name, q, k, v, shapes, scale, None, output_final_state, cu_seqlens, None),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": beta, "w": None, "tied": True, "state_v_first": state_v_first, "o_dtype": v.dtype},
    )
    return _run(call, initial_state, inplace_final_state, ssm_state_indices, out)


def _run(
    call: Recurrence, pool: Tensor | None, in_place: bool, slots: Tensor | None, out: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A call, its states in place or not."""
    call.initial_state = pool
    if not in_place:
        if slots is not None:
            raise Unsupported("ssm_state_indices is given without inplace_final_state: give each sequence its state")
        o, final = call.run()
    else:
        if pool is None:
            raise ValueError("initial_state, the pool of states, must be given with inplace_final_state=True")
        if slots is not None and slots.ndim != 1:
            raise Unsupported(f"ssm_state_indices: shape {tuple(slots.shape)}, a state per token; kernels take [N]")
        o, final = _in_place(call, slots), pool
    return (o if out is None else out.copy_(o)), final


def _in_place(call: Recurrence, slots: Tensor | None) -> Tensor:
    """o, packed as the call is; states are updated."""
    shape, offsets = call.v.shape, call.cu_seqlens
    if offsets is not None:
        sequences = offsets.shape[0] - 1
        if sequences == 0 or shape[1] % sequences:
            raise Unsupported(f"cu_seqlens: {shape[1]} tokens of {sequences} sequences, which must have as many each")
        each = shape[1] // sequences
        even = (offsets.diff() == each).all()
        if not offsets.is_cpu:
            # Nothing waits for the answer.
            torch._assert_async(even, "cu_seqlens: sequences that are decoded in place must have as many tokens each")
        elif not even:
            raise Unsupported(f"cu_seqlens {offsets.tolist()}: sequences in place must have as many tokens each")
        for name in ("q", "k", "v", "g", "b", "w"):
            x = getattr(call, name)
            setattr(call, name, None if x is None else x.reshape(sequences, each, *x.shape[2:]))
        call.cu_seqlens = None
    table = None if slots is None else slots.to(call.v.device, torch.int32).contiguous()
    return call.decoded(table).reshape(shape)
