"""The passes as operators of PyTorch: `gdn2::forward`, `gdn2::backward` and `gdn2::decode`.

torch.compile, torch.export, activation checkpointing and the profiler see each as one node. Kernels are named by their
key, a string, so that a graph can travel to another process.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional, Sequence

import torch
from torch import Tensor

from ._call import GRADIENTS, INPUTS, integers, state_shape
from ._library import Error
from .kernels import Kernels

__all__ = ["decode", "forward"]

# On the CPU a call keeps copies of its tensors in float64: one with more numbers in a tensor goes a part of its heads at
# a time.
MOST_NUMBERS = 1 << 24
_STATES = ("initial_state", "final_state", "d_initial_state", "d_final_state")


def forward(
    kernels: Kernels, tensors: dict[str, Any], cu_seqlens: Any, scale: float | None, named: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """`Kernels.forward` on tensors of PyTorch."""
    tensors, named = _ready(kernels, tensors), _named(named, tensors["v"])
    learnt = [*tensors.values(), *named.values()]
    training = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in learnt)
    offsets = None if cu_seqlens is None else _positions("cu_seqlens", cu_seqlens, torch.int64, tensors["v"])
    given = *tensors.values(), list(named.values()), offsets, scale, kernels.key, training
    o, final_state, _ = torch.ops.gdn2.forward(*given)
    return o, final_state


def decode(
    kernels: Kernels, state: Tensor, tensors: dict[str, Any], slots: Any, scale: float | None, named: dict[str, Any]
) -> Tensor:
    """`Kernels.decode` on tensors of PyTorch."""
    tensors, named = _ready(kernels, tensors), _named(named, tensors["v"])
    kernels.expect_dtype("state", state, tensors["v"])
    expect_no_gradients({"state": state, **tensors, **named})
    given = [tensors[name] for name in INPUTS[:-1]]
    table = None if slots is None else _positions("slots", slots, torch.int32, tensors["v"])
    return torch.ops.gdn2.decode(state, *given, list(named.values()), table, scale, kernels.key)


def expect_no_gradients(tensors: dict[str, Tensor | None]) -> None:
    """Refuses to decode what requires gradients, by name."""
    for name, tensor in tensors.items():
        if torch.is_grad_enabled() and tensor is not None and tensor.requires_grad:
            raise Error(
                f"{name} requires gradients and decode has none: call it under torch.no_grad(), or forward instead"
            )


def _ready(kernels: Kernels, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors as the rule stores them: converted under autocast, else refused by name where they are not."""
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise Error(f"{name} is a {type(tensor).__name__}, v a torch tensor: make all of them tensors")
        if tensor is None and name in ("q", "k", "v"):
            raise Error(f"{name} must be given, with axes [batch, tokens, heads, channels]")
    v = tensors["v"]
    if torch.is_autocast_enabled(v.device.type):
        stored = kernels.dtypes()
        tensors = {
            name: tensor if tensor is None else tensor.to(getattr(torch, stored.get(name, stored["v"])))
            for name, tensor in tensors.items()
        }
    for name, tensor in tensors.items():
        kernels.expect_dtype(name, tensor, tensors["v"])
    return tensors


def _named(named: dict[str, Any], v: Tensor) -> dict[str, Tensor]:
    """What the rule names itself, as tensors; under autocast parameters in float32, what rules store them in."""
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise Error(f"{name} is a {type(tensor).__name__}, v a torch tensor: make all of them tensors")
    if torch.is_autocast_enabled(v.device.type):
        return {name: tensor.float() if tensor.ndim <= 2 else tensor for name, tensor in named.items()}
    return named


def _positions(field: str, values: Any, dtype: torch.dtype, v: Tensor) -> Tensor:
    """Offsets or slots as a tensor where v is."""
    values = integers(field, values if isinstance(values, Tensor) else torch.as_tensor(values, device=v.device))
    return values.to(v.device, dtype).contiguous()


# No postponed annotations here: the schema is read from them.
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    b: Optional[Tensor],
    w: Optional[Tensor],
    initial_state: Optional[Tensor],
    named: Sequence[Tensor],
    cu_seqlens: Optional[Tensor],
    scale: Optional[float],
    kernels: str,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """o, the final states, and what backward reads on a GPU."""
    loaded = Kernels.of(kernels)
    tensors = dict(zip(INPUTS, map(_plain, (q, k, v, g, b, w, initial_state))))
    nothing = torch.empty(0, dtype=torch.uint8, device=v.device)
    outputs = []
    own = dict(zip(loaded.names, map(_plain, named), strict=True))
    for part in _parts(tensors):
        call = loaded.call(part(tensors), cu_seqlens, None, scale, part(own))
        o, final_state, scratch = loaded.run_forward(call, training)
        outputs.append((o, final_state))
    o, final_state = _joined(("o", "final_state"), outputs)
    return o, final_state, scratch if scratch is not None and training else nothing


def _backward(
    d_o: Tensor,
    d_final_state: Optional[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    b: Optional[Tensor],
    w: Optional[Tensor],
    initial_state: Optional[Tensor],
    named: Sequence[Tensor],
    cu_seqlens: Optional[Tensor],
    scratch: Tensor,
    scale: Optional[float],
    kernels: str,
    wanted: str,
) -> list[Tensor]:
    """The gradients that `wanted` names, in its order."""
    loaded = Kernels.of(kernels)
    tensors = dict(zip(INPUTS, map(_plain, (q, k, v, g, b, w, initial_state))))
    upstream = {"d_o": d_o, "d_final_state": d_final_state}
    own = dict(zip(loaded.names, map(_plain, named), strict=True))
    names, outputs = wanted.split(), []
    for part in _parts(tensors):
        call = loaded.call(part(tensors), cu_seqlens, None, scale, part(own))
        given = {name: None if x is None else x.contiguous() for name, x in part(upstream).items()}
        outputs.append(loaded.run_backward(call, scratch if call.gpu else None, *given.values(), names))
    return _joined(names, outputs)


def _decode(
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    b: Optional[Tensor],
    w: Optional[Tensor],
    named: Sequence[Tensor],
    slots: Optional[Tensor],
    scale: Optional[float],
    kernels: str,
) -> Tensor:
    """o; the states are updated in place."""
    loaded = Kernels.of(kernels)
    tensors = dict(zip(INPUTS, (*map(_plain, (q, k, v, g, b, w)), None)))
    own = dict(zip(loaded.names, map(_plain, named), strict=True))
    return loaded.run_decode(loaded.call(tensors, None, slots, scale, own), state.detach())


def _parts(tensors: dict[str, Tensor]) -> list[Callable[[dict[str, Tensor | None]], dict[str, Tensor | None]]]:
    """Functions that take a call's tensors to those of a part of its heads: all of them where they are few, or on a GPU."""
    q, v = tensors["q"], tensors["v"]
    if q.ndim != 4 or v.ndim != 4 or v.is_cuda or 0 in q.shape[:3] or v.shape[2] % q.shape[2]:
        return [lambda given: given]
    heads, group = q.shape[2], v.shape[2] // q.shape[2]
    each = max(1, heads * MOST_NUMBERS // max(group * q.numel(), v.numel(), 1))
    if each >= heads:
        return [lambda given: given]

    def part(first: int, given: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        own = slice(first, first + each), slice(first * group, (first + each) * group)
        return {
            name: None if x is None else x[(slice(None),) * _head_axis(name, x) + (own[name not in ("q", "k")],)]
            for name, x in given.items()
        }

    return [functools.partial(part, first) for first in range(0, heads, each)]


def _joined(names: Sequence[str], outputs: list[Sequence[Tensor]]) -> list[Tensor]:
    """What the parts of a call gave, over all heads."""
    if len(outputs) == 1:
        return list(outputs[0])
    return [torch.cat(parts, _head_axis(name, parts[0])) for name, parts in zip(names, zip(*outputs))]


def _head_axis(name: str, x: Tensor) -> int:
    """The axis of heads: states have it behind sequences, parameters first, what is per token third."""
    return 1 if name in _STATES else 0 if x.ndim <= 2 else 2


def _plain(tensor: Tensor | None) -> Tensor | None:
    """A tensor whose last axis is contiguous, without its history."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    ascending = all(step >= 0 for step in tensor.stride())
    return tensor if ascending and (tensor.stride(-1) == 1 or tensor.shape[-1] <= 1) else tensor.contiguous()


_SCHEMA_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? g, Tensor? b, Tensor? w"
forward_op = torch.library.custom_op(
    "gdn2::forward",
    _forward,
    mutates_args=(),
    schema=f"({_SCHEMA_INPUTS}, Tensor? initial_state, Tensor[] named, Tensor? cu_seqlens, float? scale, str kernels,"
    " bool training) -> (Tensor, Tensor, Tensor)",
)
backward_op = torch.library.custom_op(
    "gdn2::backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor d_o, Tensor? d_final_state, {_SCHEMA_INPUTS}, Tensor? initial_state, Tensor[] named,"
    " Tensor? cu_seqlens, Tensor scratch, float? scale, str kernels, str wanted) -> Tensor[]",
)
decode_op = torch.library.custom_op(
    "gdn2::decode",
    _decode,
    mutates_args=("state",),
    schema=f"(Tensor(a!) state, {_SCHEMA_INPUTS}, Tensor[] named, Tensor? slots, float? scale, str kernels) -> Tensor",
)


def _states_dtype(v: Tensor) -> torch.dtype:
    return torch.float64 if v.dtype is torch.float64 else torch.float32


@forward_op.register_fake
def _(q, k, v, g, b, w, initial_state, named, cu_seqlens, scale, kernels, training):
    loaded = Kernels.of(kernels)
    sequences = v.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    states = state_shape(loaded._rule, sequences, v.shape[2])
    size = 0
    if training and v.device.type == "cuda":
        sizes = (sequences, q.shape[0] * q.shape[1], q.shape[2], v.shape[2])
        known = all(isinstance(size, int) for size in sizes)
        size = max(loaded.training_bytes(sizes), 16) if known else torch.library.get_ctx().new_dynamic_size()
    return (
        v.new_empty(v.shape),
        v.new_empty(states, dtype=_states_dtype(v)),
        v.new_empty(size, dtype=torch.uint8),
    )


@backward_op.register_fake
def _(d_o, d_final_state, q, k, v, g, b, w, initial_state, named, cu_seqlens, scratch, scale, kernels, wanted):
    names = *GRADIENTS, *(f"d{name}" for name in Kernels.of(kernels).names)
    inputs = dict(zip(names, (q, k, v, g, b, w, initial_state, *named)))
    return [inputs[name].new_empty(inputs[name].shape) for name in wanted.split()]


@decode_op.register_fake
def _(state, q, k, v, g, b, w, named, slots, scale, kernels):
    return v.new_empty(v.shape)


def _save(ctx, inputs, output) -> None:
    *tensors, named, offsets, ctx.scale, ctx.kernels, _ = inputs
    ctx.save_for_backward(*tensors, offsets, output[2], *named)


def _differentiate(ctx, d_o, d_final_state, _):
    every = ctx.saved_tensors
    tensors, (offsets, scratch, *named) = every[: len(INPUTS)], every[len(INPUTS) :]
    own = [f"d{name}" for name in Kernels.of(ctx.kernels).names]
    needed = [*ctx.needs_input_grad[: len(INPUTS)], *ctx.needs_input_grad[len(INPUTS)]]
    wanted = [name for name, need in zip((*GRADIENTS, *own), needed) if need]
    given = d_o, d_final_state, *tensors, named, offsets, scratch, ctx.scale, ctx.kernels, " ".join(wanted)
    grads = dict(zip(wanted, torch.ops.gdn2.backward(*given)))
    return *map(grads.get, GRADIENTS), [grads.get(name) for name in own], None, None, None, None


forward_op.register_autograd(_differentiate, setup_context=_save)


def _no_second(ctx, *_):
    raise Error("gradients of gradients are not computed: call backward without create_graph")


backward_op.register_autograd(_no_second)
