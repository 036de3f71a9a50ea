"""Arguments of flash-linear-attention's functions, held against one another: errors name the argument and the fix."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .prologue import Prologue
from .recurrence import Recurrence, Unsupported


def run(**call: Any) -> tuple[Tensor, Tensor | None]:
    """The call itself."""
    return Recurrence(**call).run()


def run_by_chunk(size: int, **call: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """The call, a chunk of tokens at a time, and the states before each chunk, [B,NT,HV,K,V] in k's dtype."""
    if not torch.is_inference_mode_enabled():
        raise ValueError("return_intermediate_states=True needs torch.inference_mode()")
    offsets, initial, tokens = call["cu_seqlens"], call["initial_state"], call["v"].shape[1]
    bounds = [0, tokens] if offsets is None else offsets.tolist()
    rows, before, last = [], [], []
    for sequence, (start, end) in enumerate(zip(bounds[:-1], bounds[1:])):
        whole = offsets is None or initial is None
        state = initial if whole else initial[sequence : sequence + 1]
        for at in range(start, max(end, start + 1), size):
            part = slice(at, min(at + size, end))
            sliced = {
                name: None if call[name] is None else call[name][:, part] for name in ("q", "k", "v", "g", "b", "w")
            }
            ends = {"initial_state": state, "cu_seqlens": None, "output_final_state": True}
            o, after = Recurrence(**{**call, **sliced, **ends}).run()
            if part.stop > part.start:
                before.append(torch.zeros_like(after) if state is None else state)
            rows, state = [*rows, o], after
        last.append(state)
    states = torch.stack(before, 1).to(call["k"].dtype) if before else last[0].new_zeros(1, 0, *last[0].shape[1:])
    return torch.cat(rows, 1), torch.cat(last) if call["output_final_state"] else None, states


def common(
    function: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: dict[str, tuple[Tensor | None, int]],
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    cu_seqlens_cpu: Tensor | None,
) -> dict[str, Any]:
    """What every function has, held against one another by name."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, must be a tensor")
        if x.ndim != 4:
            raise ValueError(f"{name}: shape {tuple(x.shape)}, must be [batch, tokens, heads, channels]")
    if q.shape != k.shape:
        raise ValueError(f"k: shape {tuple(k.shape)}, must be q's, {tuple(q.shape)}")
    (batch, tokens, heads, keys), value_heads = q.shape, v.shape[2]
    if v.shape[:2] != q.shape[:2] or heads == 0 or value_heads % heads:
        want = f"[{batch}, {tokens}, a multiple of {heads}, V]"
        raise ValueError(f"v: shape {tuple(v.shape)}, must be {want}")
    for name, (gate, axes) in gates.items():
        if gate is None:
            continue
        channels = (v.shape[3] if name == "w" else keys,) if axes == 4 else ()
        want = (batch, tokens, value_heads, *channels)
        if name == "beta" and gate.ndim == 4:
            raise Unsupported(f"beta: shape {tuple(gate.shape)}, a gate per value channel; kernels take {want}")
        if tuple(gate.shape) != want:
            raise ValueError(f"{name}: shape {tuple(gate.shape)}, must be {want}")
    offsets = cu_seqlens if cu_seqlens is not None else cu_seqlens_cpu
    if offsets is not None:
        if offsets.dtype not in (torch.int32, torch.int64) or offsets.ndim != 1 or offsets.shape[0] == 0:
            raise ValueError(
                f"cu_seqlens is {offsets.dtype} of shape {tuple(offsets.shape)}, must be int32 or int64 of [N + 1]"
            )
        if batch != 1:
            raise ValueError(f"cu_seqlens: the batch size is {batch}, must be 1: flatten sequences before packing")
        count = offsets.shape[0] - 1
        if initial_state is not None and initial_state.shape[0] != count:
            raise ValueError(f"initial_state: {initial_state.shape[0]} states for {count} sequences")
    return {
        "function": function,
        "v": v,
        "scale": scale,
        "initial_state": initial_state,
        "output_final_state": output_final_state,
        "cu_seqlens": offsets,
    }


def prologue(
    g: Tensor | None,
    A_log: Tensor | None,
    dt_bias: Tensor | None,
    lower_bound: float | None,
    *,
    norms: bool,
    decays: bool,
    sigmoid: bool = False,
    allow_neg_eigval: bool = False,
) -> Prologue:
    """What the call leaves to the kernel, its arguments held against one another."""
    if allow_neg_eigval and not sigmoid:
        raise ValueError("allow_neg_eigval=True requires use_beta_sigmoid_in_kernel=True")
    erase = (2 if allow_neg_eigval else 1) if sigmoid else 0
    if not decays:
        for name, given in (("A_log", A_log), ("dt_bias", dt_bias)):
            if given is not None:
                raise ValueError(f"{name} is given, which needs use_gate_in_kernel=True")
        return Prologue(norms=norms, erase=erase)
    if g is None:
        raise ValueError("g, raw, must be given with use_gate_in_kernel=True")
    if A_log is None and lower_bound is None:
        raise ValueError("A_log must be given with use_gate_in_kernel=True, unless lower_bound is")
    heads, each = g.shape[2], g.shape[2] * (g.shape[3] if g.ndim == 4 else 1)
    for name, given, want in (("A_log", A_log, heads), ("dt_bias", dt_bias, each)):
        if given is not None and given.numel() != want:
            raise ValueError(f"{name} has {given.numel()} elements, must have {want}")
    return Prologue(norms, True, A_log, dt_bias, lower_bound, erase)


def per_head(g: Tensor | None, g_gamma: Tensor | None, v: Tensor) -> Tensor | None:
    """The decay per head: per token, or the same for all."""
    if g_gamma is None:
        return g
    if g is not None:
        raise ValueError("g and g_gamma: give one of them")
    if tuple(g_gamma.shape) != (v.shape[2],):
        raise ValueError(f"g_gamma: shape {tuple(g_gamma.shape)}, must be ({v.shape[2]},)")
    return g_gamma.expand(v.shape[:3])


def expect_safe(safe_gate: bool, in_kernel: bool, lower_bound: float | None) -> None:
    """Holds a bound to the range that `safe_gate` promises."""
    if not (safe_gate and in_kernel):
        return
    if lower_bound is None:
        raise ValueError("lower_bound must be given with safe_gate=True and use_gate_in_kernel=True")
    if not -5 <= lower_bound < 0:
        raise ValueError(f"lower_bound is {lower_bound}, must be in the safe range [-5, 0)")


def layout(kwargs: dict[str, Any], state_v_first: bool) -> bool:
    """The layout of states, under the name it once had too."""
    if "transpose_state_layout" not in kwargs:
        return state_v_first
    if state_v_first:
        raise ValueError("state_v_first and transpose_state_layout, its old name: give one of them")
    text = "`transpose_state_layout` is deprecated and renamed to `state_v_first`."
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return bool(kwargs.pop("transpose_state_layout"))


def expect_chunk_size(kwargs: dict[str, Any], rule: str, *sizes: int) -> int | None:
    """Holds a chunk size to the sizes that the original takes."""
    size = kwargs.pop("chunk_size", None)
    if size is not None and size not in sizes:
        *others, last = map(str, sizes)
        want = (
            last
            if not others
            else f"either {others[0]} or {last}"
            if len(others) == 1
            else f"{', '.join(others)}, or {last}"
        )
        raise ValueError(f"`chunk_size` must be {want} for {rule}, got {size}.")
    return size


def expect_nothing(function: str, kwargs: dict[str, Any]) -> None:
    """Refuses keywords that nothing here knows."""
    if kwargs:
        names = ", ".join(sorted(kwargs))
        raise TypeError(f"{function}() got an unexpected keyword argument: {names}")


def not_served(**given: Any) -> None:
    """Refuses what kernels do not do, by name."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise Unsupported(f"{name} is given, which the kernels do not do")
