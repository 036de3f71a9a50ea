"""flash-linear-attention's functions by name, argument and meaning, on our kernels.

Shapes are its own: q, k [B,T,H,K]; v, o [B,T,HV,V]; gates [B,T,HV] or [B,T,HV,channels]; states [N,HV,K,V], or
[N,HV,V,K] with state_v_first, float32. HV may be a multiple of H everywhere. Every function is differentiable.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from .arguments import (
    common,
    expect_chunk_size,
    expect_nothing,
    expect_safe,
    layout,
    not_served,
    per_head,
    prologue,
    run,
    run_by_chunk,
)
from .prologue import Prologue

__all__ = [
    "chunk_delta_rule",
    "chunk_gated_delta_rule",
    "chunk_gdn2",
    "chunk_gla",
    "chunk_kda",
    "chunk_simple_gla",
    "fused_recurrent_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gdn2",
    "fused_recurrent_gla",
    "fused_recurrent_kda",
    "fused_recurrent_simple_gla",
]


def chunk_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    cp_context: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
    """Gated DeltaNet-2: S ← (I − k(b⊙k)ᵀ) Diag(exp g) S + k(w⊙v)ᵀ. With return_intermediate_states, in inference mode,
    the states before each chunk are a third result."""
    name = "chunk_gdn2"
    state_v_first = layout(kwargs, state_v_first)
    expect_chunk_size(kwargs, "GDN-2", 64)
    A_log, dt_bias = kwargs.pop("A_log", None), kwargs.pop("dt_bias", None)
    expect_nothing(name, kwargs)
    not_served(cp_context=cp_context)
    expect_safe(safe_gate, use_gate_in_kernel, lower_bound)
    how = prologue(g, A_log, dt_bias, lower_bound, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel)
    shapes = {"g": (g, 4), "b": (b, 4), "w": (w, 4)}
    ran = functools.partial(run_by_chunk, 64) if return_intermediate_states else run
    return ran(
        **common(name, q, k, v, shapes, scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": b, "w": w, "tied": False, "state_v_first": state_v_first, "o_dtype": q.dtype},
    )


def fused_recurrent_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gated DeltaNet-2, for few tokens."""
    name = "fused_recurrent_gdn2"
    state_v_first = layout(kwargs, state_v_first)
    expect_nothing(name, kwargs)
    how = prologue(g, A_log, dt_bias, lower_bound, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel)
    shapes = {"g": (g, 4), "b": (b, 4), "w": (w, 4)}
    return run(
        **common(name, q, k, v, shapes, scale, initial_state, output_final_state, cu_seqlens, None),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": b, "w": w, "tied": False, "state_v_first": state_v_first, "o_dtype": v.dtype},
    )


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    cp_context: Any = None,
    use_graph: bool = False,
    max_num_seqs: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
    """Kimi Delta Attention: S ← (I − βkkᵀ) Diag(exp g) S + βkvᵀ. With return_intermediate_states, in inference mode,
    the states before each chunk are a third result."""
    name = "chunk_kda"
    state_v_first = layout(kwargs, state_v_first)
    chunk = expect_chunk_size(kwargs, "KDA", 32, 64) or 64
    A_log, dt_bias = kwargs.pop("A_log", None), kwargs.pop("dt_bias", None)
    expect_nothing(name, kwargs)
    not_served(cp_context=cp_context, use_graph=use_graph)
    expect_safe(safe_gate, use_gate_in_kernel, lower_bound)
    how = prologue(
        g, A_log, dt_bias, lower_bound, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel,
        sigmoid=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
    )  # fmt: skip
    shapes = {"g": (g, 4), "beta": (beta, 3)}
    ran = functools.partial(run_by_chunk, chunk) if return_intermediate_states else run
    return ran(
        **common(name, q, k, v, shapes, scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": beta, "w": None, "tied": True, "state_v_first": state_v_first, "o_dtype": q.dtype},
    )


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Kimi Delta Attention, for few tokens."""
    name = "fused_recurrent_kda"
    state_v_first = layout(kwargs, state_v_first)
    expect_nothing(name, kwargs)
    how = prologue(
        g, A_log, dt_bias, lower_bound, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel,
        sigmoid=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
    )  # fmt: skip
    shapes = {"g": (g, 4), "beta": (beta, 3)}
    return run(
        **common(name, q, k, v, shapes, scale, initial_state, output_final_state, cu_seqlens, None),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": beta, "w": None, "tied": True, "state_v_first": state_v_first, "o_dtype": v.dtype},
    )


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gated DeltaNet: S ← exp(g) (I − βkkᵀ) S + βkvᵀ."""
    name = "chunk_gated_delta_rule"
    state_v_first = layout(kwargs, state_v_first)
    expect_chunk_size(kwargs, "Gated Delta Rule", 16, 32, 64)
    use_gate_in_kernel = kwargs.pop("use_gate_in_kernel", False)
    A_log, dt_bias = kwargs.pop("A_log", None), kwargs.pop("dt_bias", None)
    expect_nothing(name, kwargs)
    not_served(cp_context=cp_context)
    how = prologue(
        g, A_log, dt_bias, None, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel,
        sigmoid=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
    )  # fmt: skip
    shapes = {"g": (g, 3), "beta": (beta, 3)}
    return run(
        **common(name, q, k, v, shapes, scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu),
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": beta, "w": None, "tied": True, "state_v_first": state_v_first, "o_dtype": q.dtype},
    )


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gated DeltaNet, for few tokens. g and gk may both be given: their decays multiply."""
    name = "fused_recurrent_gated_delta_rule"
    state_v_first = layout(kwargs, state_v_first)
    expect_nothing(name, kwargs)
    not_served(gv=gv)
    how = prologue(
        g, A_log, dt_bias, None, norms=use_qk_l2norm_in_kernel, decays=use_gate_in_kernel,
        sigmoid=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
    )  # fmt: skip
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    shapes = {"g": (g, 3), "gk": (gk, 4), "beta": (beta, 3)}
    shared = common(name, q, k, v, shapes, scale, initial_state, output_final_state, cu_seqlens, None)
    if gk is not None:
        # Two decays make one before the call.
        if how.decays:
            g = how.activated({"q": q, "k": k, "g": g, "b": beta, "w": None})["g"]
            how = dataclasses.replace(how, decays=False)
        g = gk if g is None else gk + g[..., None]
    return run(
        **shared,
        **{"q": q, "k": k, "prologue": how},
        **{"g": g, "b": beta, "w": None, "tied": True, "state_v_first": state_v_first, "o_dtype": v.dtype},
    )


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """DeltaNet: S ← (I − βkkᵀ) S + βkvᵀ."""
    name = "chunk_delta_rule"
    expect_chunk_size(kwargs, "DeltaNet", 16, 32, 64)
    expect_nothing(name, kwargs)
    shared = common(
        name, q, k, v, {"beta": (beta, 3)}, scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu
    )
    return run(
        **shared,
        **{"q": q, "k": k, "prologue": Prologue(norms=use_qk_l2norm_in_kernel)},
        **{"g": None, "b": beta, "w": None, "tied": True, "state_v_first": False, "o_dtype": q.dtype},
    )


def fused_recurrent_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DeltaNet, for few tokens."""
    name = "fused_recurrent_delta_rule"
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    shared = common(name, q, k, v, {"beta": (beta, 3)}, scale, initial_state, output_final_state, cu_seqlens, None)
    return run(
        **shared,
        **{"q": q, "k": k, "prologue": Prologue(norms=use_qk_l2norm_in_kernel)},
        **{"g": None, "b": beta, "w": None, "tied": True, "state_v_first": False, "o_dtype": v.dtype},
    )


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Gated Linear Attention: S ← Diag(exp g) S + kvᵀ."""
    shared = common(
        "chunk_gla", q, k, v, {"g": (g, 4)}, scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu
    )
    gates = {"g": g, "b": None, "w": None, "tied": False}
    return run(**shared, **{"q": q, "k": k, **gates, "state_v_first": state_v_first, "o_dtype": q.dtype})


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Gated Linear Attention, for few tokens."""
    name = "fused_recurrent_gla"
    state_v_first = layout(kwargs, state_v_first)
    expect_nothing(name, kwargs)
    not_served(gv=gv, reverse=reverse)
    shared = common(name, q, k, v, {"gk": (gk, 4)}, scale, initial_state, output_final_state, cu_seqlens, None)
    gates = {"g": gk, "b": None, "w": None, "tied": False}
    return run(**shared, **{"q": q, "k": k, **gates, "state_v_first": state_v_first, "o_dtype": v.dtype})


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Linear attention with a decay per head: S ← exp(g) S + kvᵀ."""
    name = "chunk_simple_gla"
    expect_chunk_size(kwargs, "simple GLA", 16, 32, 64, 128, 256)
    expect_nothing(name, kwargs)
    g = per_head(g, g_gamma, v)
    shared = common(name, q, k, v, {"g": (g, 3)}, scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu)
    gates = {"g": g, "b": None, "w": None, "tied": False}
    return run(**shared, **{"q": q, "k": k, **gates, "state_v_first": state_v_first, "o_dtype": q.dtype})


def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Linear attention with a decay per head, for few tokens."""
    name = "fused_recurrent_simple_gla"
    state_v_first = layout(kwargs, state_v_first)
    expect_nothing(name, kwargs)
    not_served(reverse=reverse)
    g = per_head(g, g_gamma, v)
    shared = common(name, q, k, v, {"g": (g, 3)}, scale, initial_state, output_final_state, cu_seqlens, None)
    gates = {"g": g, "b": None, "w": None, "tied": False}
    return run(**shared, **{"q": q, "k": k, **gates, "state_v_first": state_v_first, "o_dtype": v.dtype})
