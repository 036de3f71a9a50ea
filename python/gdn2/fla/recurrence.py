"""One call of a flash-linear-attention function as a call of our kernels: the rule that its tensors make, the dtype it
computes in, head dims padded to what kernels have."""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops as _ops
from .._library import Error
from ..kernels import Kernels
from .prologue import Prologue

__all__ = ["Path", "Recurrence", "Unsupported", "last_path", "record"]

# Head dims are multiples of 16 up to these.
STEP, MOST_KEYS, MOST_VALUES = 16, 256, 512
# What a call is given beside its states.
GATED = ("q", "k", "v", "g", "b", "w")
# At most this many tokens of a dense call without gradients go through the kernel that decodes.
SHORT = 8


class Unsupported(Error, NotImplementedError):
    """What the kernels do not do, by the argument's name. `accelerate()` runs the original in its place."""


class Path(NamedTuple):
    """What ran a thread's last call of a function, and why."""

    function: str
    ran: str
    """"gdn2", or "original"."""
    why: str
    """What was converted or padded, or why the original ran."""


_last = threading.local()


def last_path() -> Path | None:
    """Which implementation ran this thread's last call, and why; None before any."""
    return getattr(_last, "path", None)


def record(function: str, ran: str, why: str) -> None:
    """Keeps what `last_path` says. A graph that is being compiled says nothing."""
    if not torch.compiler.is_compiling():
        _last.path = Path(function, ran, why)


@dataclasses.dataclass
class Recurrence:
    """The tensors of a call, and the prologue that makes its rows and gates of them. Absent gates are None; `tied` says
    that b is w too."""

    function: str
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    b: Tensor | None
    w: Tensor | None
    tied: bool
    scale: float | None
    initial_state: Tensor | None
    output_final_state: bool
    state_v_first: bool
    cu_seqlens: Tensor | None
    o_dtype: torch.dtype
    prologue: Prologue = Prologue()

    def __post_init__(self) -> None:
        for name, size, most in (("K", self.q.shape[-1], MOST_KEYS), ("V", self.v.shape[-1], MOST_VALUES)):
            if size > most:
                raise Unsupported(f"head dims: {name} = {size}, at most {most}")
        if self.scale is None:
            self.scale = self.q.shape[-1] ** -0.5

    def run(self) -> tuple[Tensor, Tensor | None]:
        """o, and the final states where they are asked for."""
        keys, values = self.q.shape[-1], self.v.shape[-1]
        notes: list[str] = []
        dtype, device = self.computed_in(notes)
        more_keys, more_values = -keys % STEP, -values % STEP
        if more_keys or more_values:
            notes.append(f"head dims padded from {keys} and {values} to {keys + more_keys} and {values + more_values}")
        tensors, named = self.tensors(dtype, more_keys, more_values), self.prologue.named(self.g, more_keys, dtype)
        state, key = self.initial_state, f"{device}\n\n{self.rule(tensors)}"
        if self.prologue and not has_kernels(key, self.learning(tensors, named) and self.v.is_cuda):
            return self.activated().run()
        if state is not None:
            if not state.dtype.is_floating_point:
                raise ValueError(f"initial_state is {state.dtype}, must be float32")
            inner = (more_keys, more_values) if self.state_v_first else (more_values, more_keys)
            state = F.pad(state, (0, inner[0], 0, inner[1])) if any(inner) else state
            state = state.to(_kept_in(dtype))
        o, final = self.called(tensors, named, state, key)
        o = o[..., :values] if more_values else o
        if final is not None and (more_keys or more_values):
            rows, columns = (values, keys) if self.state_v_first else (keys, values)
            final = final[..., :rows, :columns]
        if final is not None and self.v.dtype is not torch.float64:
            final = final.float()
        record(self.function, "gdn2", "; ".join(notes) or "as given")
        return o.to(self.o_dtype), final if self.output_final_state else None

    def decoded(self, slots: Tensor | None) -> Tensor:
        """o of a token or a few for each sequence; `initial_state` is a pool whose states are updated in place."""
        keys, values, pool = self.q.shape[-1], self.v.shape[-1], self.initial_state
        notes: list[str] = []
        dtype, device = self.computed_in(notes)
        if keys % STEP or values % STEP:
            raise Unsupported(f"head dims {keys} and {values}: states in place need multiples of {STEP}")
        if pool is None or pool.dtype is not torch.float32 or not pool.is_contiguous():
            raise Unsupported("initial_state must be contiguous and float32 where it is updated in place")
        tensors, named = self.tensors(dtype, 0, 0), self.prologue.named(self.g, 0, dtype)
        _ops.expect_no_gradients({"initial_state": pool, **tensors, **named})
        key = f"{device}\n\n{self.rule(tensors)}"
        if self.prologue and not has_kernels(key, False):
            return self.activated().decoded(slots)
        expect_kernels(key, False)
        given = [*(tensors[name] for name in GATED), list(named.values())]
        if dtype is torch.float64:
            wide = pool.double()
            o = torch.ops.gdn2.decode(wide, *given, slots, self.scale, key)
            pool.copy_(wide)
        else:
            o = torch.ops.gdn2.decode(pool, *given, slots, self.scale, key)
        record(self.function, "gdn2", "; ".join(notes) or "as given")
        return o.to(self.o_dtype)

    def activated(self) -> Recurrence:
        """The same call with what the prologue makes computed before it."""
        given = {name: getattr(self, name) for name in GATED}
        return dataclasses.replace(self, **self.prologue.activated(given), prologue=Prologue())

    def tensors(self, dtype: torch.dtype, more_keys: int, more_values: int) -> dict[str, Tensor | None]:
        """What a call is given, in what it computes in, head dims padded by so many channels."""
        more = {"q": more_keys, "k": more_keys, "v": more_values, "g": more_keys, "b": more_keys, "w": more_values}
        tensors: dict[str, Tensor | None] = {}
        for name in GATED:
            x = getattr(self, name)
            if name in ("q", "k", "v"):
                tensors[name] = _padded(x, more[name]).to(dtype)
            else:
                tensors[name] = None if x is None else self.gate(name, x, more[name], dtype)
        return tensors

    def computed_in(self, notes: list[str]) -> tuple[torch.dtype, str]:
        """The dtype of q, k, v and o, and the device by the library's name."""
        device = self.v.device
        if device.type not in ("cpu", "cuda"):
            raise Unsupported(f"device {device}: kernels run on the CPU and on CUDA")
        given = {"q": self.q.dtype, "k": self.k.dtype, "v": self.v.dtype}
        halves = [dtype for dtype in given.values() if dtype in (torch.bfloat16, torch.float16)]
        if len(set(halves)) == 2:
            raise ValueError(f"q, k and v are {given}: give all three in one dtype")
        dtype = halves[0] if halves and self.v.dtype in (*halves, torch.float32) else self.v.dtype
        if dtype in (torch.bfloat16, torch.float16):
            if self.grows():
                notes.append("a decay above 0, computed in float64")
                return torch.float64, "cpu:f64"
            others = [name for name, own in given.items() if own is not dtype]
            notes += [f"{', '.join(others)} converted to {_word(dtype)}"] if others else []
            return dtype, "cpu" if device.type == "cpu" else _cuda(device)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"v is {_word(dtype)}, must be bfloat16, float16, float32 or float64")
        if device.type == "cpu":
            if dtype is torch.float32:
                notes.append("float32 computed in float64")
            return torch.float64, "cpu:f64"
        notes.append(f"{_word(dtype)} converted to bfloat16, what the kernels multiply in")
        return torch.bfloat16, _cuda(device)

    def grows(self) -> bool:
        """Whether a decay on the CPU is above 0, which rules do not have and the definition in float64 does. On a GPU
        that is not looked for, and a graph that is being compiled finds out when it runs."""
        if self.g is None or self.prologue.decays or not self.g.is_cpu or self.g.numel() == 0:
            return False
        if torch.compiler.is_compiling():
            return False
        return bool(self.g.detach().amax() > 0)

    def gate(self, name: str, gate: Tensor, more: int, dtype: torch.dtype) -> Tensor:
        """A gate in what rules store gates in: what it is in where they do, else float32."""
        gate = _padded(gate, more) if gate.ndim == 4 else gate
        if dtype is torch.float64:
            return gate.double()
        own = (torch.bfloat16, torch.float16) if dtype is torch.float16 and name != "g" else (torch.bfloat16,)
        return gate if gate.dtype in own else gate.float()

    def rule(self, tensors: dict[str, Tensor | None]) -> str:
        """The text of the rule that has these tensors."""

        def gate(name: str) -> str:
            x = tensors[name]
            if x is None:
                return "none"
            # What an f16 rule stores its gates in where it does not say.
            storage = {torch.bfloat16: " as bf16", torch.float16: ""}.get(x.dtype, " as f32")
            return f"{'scalar' if x.ndim == 3 else 'channel'}{storage}{self.prologue.formula(name)}"

        dtype = "f16" if tensors["v"].dtype is torch.float16 else "bf16"
        write = "erase" if self.tied else gate("w")
        state = " state: vk;" if self.state_v_first else ""
        return (
            f"rule fla {{ {self.prologue.statements(self.g)}"
            f"decay: {gate('g')}; erase: {gate('b')}; write: {write}; "
            f"key_dim: {tensors['q'].shape[-1]}; value_dim: {tensors['v'].shape[-1]}; dtype: {dtype};{state} }}"
        )

    def learning(self, tensors: dict[str, Tensor | None], named: dict[str, Tensor]) -> bool:
        """Whether gradients are asked for."""
        given = (*tensors.values(), *named.values(), self.initial_state)
        return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)

    def called(
        self, tensors: dict[str, Tensor | None], named: dict[str, Tensor], state: Tensor | None, key: str
    ) -> tuple[Tensor, Tensor]:
        """The call itself, of the kernels of a key."""
        given, own = [tensors[name] for name in GATED], list(named.values())
        learning, v = self.learning(tensors, named), tensors["v"]
        expect_kernels(key, learning and v.is_cuda)
        if self.cu_seqlens is None and not learning and v.shape[1] <= SHORT:
            wanted = self.states(v.shape[0], tensors)
            if state is None:
                state = torch.zeros(wanted, dtype=_kept_in(v.dtype), device=v.device)
            elif tuple(state.shape) != wanted:
                raise ValueError(f"initial_state: shape {tuple(state.shape)}, must be {wanted}, head dims padded")
            else:
                state = state.clone(memory_format=torch.contiguous_format)
            return torch.ops.gdn2.decode(state, *given, own, None, self.scale, key), state
        offsets = None if self.cu_seqlens is None else self.cu_seqlens.to(v.device, torch.int64).contiguous()
        state = None if state is None else state.contiguous()
        return torch.ops.gdn2.forward(*given, state, own, offsets, self.scale, key, learning)[:2]

    def states(self, sequences: int, tensors: dict[str, Tensor | None]) -> tuple[int, ...]:
        """The shape of the states."""
        inner = (tensors["q"].shape[-1], tensors["v"].shape[-1])
        return (sequences, tensors["v"].shape[2], *(inner[::-1] if self.state_v_first else inner))


def expect_kernels(key: str, learning: bool) -> None:
    """Refuses a call that has no kernels: a GPU of an architecture that none is made for, no driver, head dims that no
    backward kernel has room for. A graph that is being compiled finds out when it runs."""
    if not torch.compiler.is_compiling() and (refusal := _refusal(key, learning)):
        raise Unsupported(f"no kernels: {refusal}")


# A graph that is being compiled keeps the answer.
@torch.compiler.assume_constant_result
def has_kernels(key: str, learning: bool) -> bool:
    """Whether a call has kernels. What was found once is not looked for again."""
    return _found(key, learning) is None


def _refusal(key: str, learning: bool) -> str | None:
    """Why a call has no kernels, if it has none."""
    try:
        kernels = Kernels.of(key)
        if learning:
            kernels.training_bytes((1, 1, 1, 1))
    except Error as refusal:
        return str(refusal)
    return None


_found = functools.cache(_refusal)


def _padded(x: Tensor, more: int) -> Tensor:
    return F.pad(x, (0, more)) if more else x


def _kept_in(dtype: torch.dtype) -> torch.dtype:
    """What states are kept in where calls compute in a dtype."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cuda(device: torch.device) -> str:
    index = torch.cuda.current_device() if device.index is None else device.index
    return f"cuda:{index}"
