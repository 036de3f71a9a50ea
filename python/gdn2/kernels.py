"""The kernels of one rule on one device, called on numpy arrays or on tensors of PyTorch."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import pathlib
import threading
from typing import Any

from . import _library
from ._call import DTYPES, GRADIENTS, INPUTS, Call, dtype_of, empty_like, is_torch, room, scratch_bytes
from ._library import Error, checked

__all__ = ["Kernels", "load"]

# Loaded once for each rule and device, for as long as the process lives: graphs that were compiled or exported, and
# backward passes that are still to come, find them here by key.
_loaded: dict[tuple[str, str | None, str], ctypes.c_void_p] = {}
_lock = threading.Lock()


def load(rules: str | os.PathLike[str], name: str | None = None, device: Any = "cpu") -> Kernels:
    """The kernels of one rule.

    `rules` is the path of a rule file or its text, and `name` chooses among several rules. `device` is "cpu",
    "cpu:f64", "vm", "vm:ARCH" (such as "vm:sm_90a": the kernels that a GPU of that architecture would load),
    "cuda:N", or a torch.device.
    """
    text = rules if isinstance(rules, str) and "{" in rules else pathlib.Path(rules).read_text(encoding="utf-8")
    return Kernels(text, name, device_name(device))


def device_name(device: Any) -> str:
    """The library's name of a device that may be a torch.device."""
    if isinstance(device, str):
        return device
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if kind == "cpu":
        return "cpu"
    if kind == "cuda":
        if index is None:
            import torch

            index = torch.cuda.current_device()
        return f"cuda:{index}"
    raise Error(f"device {device!r}: use cpu, cpu:f64, vm, vm:ARCH, cuda:N or such a torch.device")


def _handle(text: str, name: str | None, device: str) -> ctypes.c_void_p:
    key = (text, name, device)
    with _lock:
        if key not in _loaded:
            handle = ctypes.c_void_p()
            encoded = name.encode() if name else None
            arguments = text.encode(), encoded, device.encode(), ctypes.byref(handle)
            checked(_library.library.gdn2_load(*arguments))
            _loaded[key] = handle
        return _loaded[key]


class Kernels:
    """A rule's kernels on one device.

    Calls from several threads are fine. Copies, pickles and other processes get the rule's text and load it there.
    """

    def __init__(self, text: str, name: str | None = None, device: str = "cpu") -> None:
        self.text, self.name, self.device = text, name, device
        self._handle = _handle(text, name, device)
        self._rule = _library.Rule()
        checked(_library.library.gdn2_rule_of(self._handle, self._rule))
        # The parameters and logits that the rule names itself, in its order. Found here: torch.compile sees no call of C.
        named = (_library.library.gdn2_named(self._handle, place) for place in itertools.count())
        self.names = [name.decode() for name in itertools.takewhile(lambda name: name is not None, named)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernels, (self.text, self.name, self.device)

    def __repr__(self) -> str:
        rule = self._rule
        return f"Kernels(K={rule.key_dim}, V={rule.value_dim}, {self.dtypes()['q']}, device={self.device!r})"

    @property
    def key(self) -> str:
        """What names these kernels in a graph of PyTorch: from it they are found, or loaded again."""
        return f"{self.device}\n{self.name or ''}\n{self.text}"

    @staticmethod
    @functools.cache
    def of(key: str) -> Kernels:
        """The kernels of a key."""
        device, name, text = key.split("\n", 2)
        return Kernels(text, name or None, device)

    def dtypes(self) -> dict[str, str]:
        """What the rule stores each tensor in, by name; gates that it does not have are left out."""
        rule = self._rule
        stored = {name: DTYPES[rule.dtype] for name in ("q", "k", "v")}
        gates = {"g": (rule.decay, rule.decay_dtype), "b": (rule.erase, rule.erase_dtype)}
        gates["w"] = (rule.write % 3, rule.write_dtype)
        stored |= {name: DTYPES[dtype] for name, (grain, dtype) in gates.items() if grain}
        return stored | {"initial_state": "float32"}

    def forward(
        self,
        q: Any,
        k: Any,
        v: Any,
        g: Any = None,
        b: Any = None,
        w: Any = None,
        initial_state: Any = None,
        cu_seqlens: Any = None,
        scale: float | None = None,
        named: dict[str, Any] | None = None,
    ) -> tuple[Any, Any]:
        """The chunked forward pass: o in v's dtype, and the final states in float32. `b` is beta where tied; `named` are
        the parameters and logits that the rule names itself, by those names.

        On tensors of PyTorch it is differentiable; under autocast they are converted to what the rule stores.
        """
        tensors = dict(zip(INPUTS, (q, k, v, g, b, w, initial_state)))
        if is_torch(v):
            from . import ops

            return ops.forward(self, tensors, cu_seqlens, scale, self._own(named))
        call = self.call(tensors, cu_seqlens, None, scale, named)
        return self.run_forward(call, False)[:2]

    def backward(
        self,
        d_o: Any,
        q: Any,
        k: Any,
        v: Any,
        g: Any = None,
        b: Any = None,
        w: Any = None,
        initial_state: Any = None,
        cu_seqlens: Any = None,
        scale: float | None = None,
        d_final_state: Any = None,
        named: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Gradients of sum(o·d_o) + sum(final_state·d_final_state), by name: dq, dk, dv, and dg, db, dw and
        d_initial_state where the call has what they are gradients of; `d` before the names of `named`. It runs forward
        first."""
        tensors = dict(zip(INPUTS, (q, k, v, g, b, w, initial_state)))
        plain = lambda array: array.detach() if is_torch(array) else array  # noqa: E731
        tensors = {name: plain(array) for name, array in tensors.items()}
        named = {name: plain(array) for name, array in (named or {}).items()}
        call = self.call(tensors, cu_seqlens, None, scale, named)
        wanted = [name for name, array in zip(GRADIENTS, tensors.values()) if array is not None]
        scratch = self.run_forward(call, True)[2] if call.gpu else None
        wanted += [f"d{name}" for name in self.names]
        return dict(zip(wanted, self.run_backward(call, scratch, d_o, d_final_state, wanted)))

    def decode(
        self,
        state: Any,
        q: Any,
        k: Any,
        v: Any,
        g: Any = None,
        b: Any = None,
        w: Any = None,
        slots: Any = None,
        scale: float | None = None,
        named: dict[str, Any] | None = None,
    ) -> Any:
        """One token, or a short run of tokens, per sequence; `state` is float32 and updated in place. Gives o.

        `slots` names each sequence's state in a pool, negative skips the sequence; without it state n is sequence n's.
        """
        tensors = dict(zip(INPUTS, (q, k, v, g, b, w, None)))
        if is_torch(v):
            from . import ops

            return ops.decode(self, state, tensors, slots, scale, self._own(named))
        call = self.call(tensors, None, slots, scale, named)
        return self.run_decode(call, state)

    def warmup(self, sequences: int, total_tokens: int, key_heads: int, value_heads: int) -> None:
        """Makes ready every kernel that calls of a shape get: none of them compiles anything after it."""
        shape = _library.Shape(sequences, total_tokens, key_heads, value_heads)
        checked(_library.library.gdn2_warmup(self._handle, shape))

    def explain(self, sequences: int, total_tokens: int, key_heads: int, value_heads: int) -> str:
        """Which kernel each pass of a shape gets, and why, a line each; nothing on the CPU, which needs none."""
        shape = _library.Shape(sequences, total_tokens, key_heads, value_heads)
        text = _library.library.gdn2_explain(self._handle, shape)
        checked(text is None)
        return text.decode()

    def watch_shapes(self) -> None:
        """Counts every call from now on, by pass and shape, up to 256 different ones."""
        checked(_library.library.gdn2_watch_shapes(self._handle))

    def seen_shapes(self) -> str:
        """The calls since `watch_shapes`, a line each: written to a file, what `gdn2 tune --seen` tunes for."""
        text = _library.library.gdn2_seen_shapes(self._handle)
        checked(text is None)
        return text.decode()

    # What follows is for gdn2.ops: calls whose outputs are the caller's to wrap.

    def _own(self, named: dict[str, Any] | None) -> dict[str, Any]:
        """What the rule names itself, in its order."""
        given = named or {}
        if set(given) != set(self.names):
            raise Error(f"named holds {sorted(given)}, the rule names {self.names}")
        return {name: given[name] for name in self.names}

    def call(
        self,
        tensors: dict[str, Any],
        cu_seqlens: Any,
        slots: Any,
        scale: float | None,
        named: dict[str, Any] | None = None,
    ) -> Call:
        """The inputs of a call, held against the rule."""
        for name, array in tensors.items():
            self.expect_dtype(name, array, tensors["v"])
        call = Call(tensors, cu_seqlens, slots, scale, self._own(named))
        if call.gpu is not None and not self.device.startswith("cuda"):
            raise Error(f"v is on {call.gpu}, these kernels on {self.device}: load them with device={str(call.gpu)!r}")
        return call

    def expect_dtype(self, name: str, tensor: Any, v: Any) -> None:
        """Refuses a tensor of PyTorch that the rule stores otherwise, on every device alike."""
        if not is_torch(tensor):
            return
        stored = self.dtypes()
        # A tensor that the rule does not have is refused as such later.
        want, got = stored.get(name.removeprefix("d_"), stored["v"]), dtype_of(tensor)
        if name in ("d_final_state", "state"):
            want = "float32"
        if name == "d_o":
            want = stored["v"]
        if self.device == "cpu:f64" and is_torch(v) and dtype_of(v) == "float64":
            want = "float64"
        if got != want:
            raise Error(f"{name} is {got}, the rule stores it as {want}: use {name}.to(torch.{want})")

    def run_forward(self, call: Call, training: bool) -> tuple[Any, Any, Any]:
        """o, the final states and, on a GPU, the scratch memory, in which training leaves what backward reads."""
        o, final_state = call.outputs(self._rule)
        scratch = call.scratch("training" if training else "forward", self._handle)
        name = "forward_for_backward" if training and scratch is not None else "forward"
        places = call.describe(o, "o"), call.describe(final_state, "final_state")
        call.run(name, self._handle, *places, *room(scratch))
        return o, final_state, scratch

    def run_backward(self, call: Call, scratch: Any, d_o: Any, d_final_state: Any, wanted: list[str]) -> list[Any]:
        """The gradients that are wanted, in order."""
        v = call.tensors["v"]
        for name, array in (("d_o", d_o), ("d_final_state", d_final_state)):
            self.expect_dtype(name, array, v)
        if d_o is None or tuple(d_o.shape) != tuple(v.shape):
            raise Error(f"d_o: shape {None if d_o is None else tuple(d_o.shape)}, must be o's, {tuple(v.shape)}")
        own = {f"d{name}": array for name, array in call.named.items()}
        inputs = [own[name] if name in own else call.tensors[INPUTS[GRADIENTS.index(name)]] for name in wanted]
        grads = dict(zip(wanted, (empty_like(array, array.shape) for array in inputs)))
        places = _library.Gradients(**{name: call.describe(grads[name], name) for name in wanted if name not in own})
        if own:
            described = call.described({name: grads.get(name) for name in own})
            places.named, places.named_len = described, len(described)
        given = call.describe(d_o, "d_o"), call.describe(d_final_state, "d_final_state")
        call.run("backward", self._handle, *given, places, *room(scratch))
        return list(grads.values())

    def run_decode(self, call: Call, state: Any) -> Any:
        """o; the states are updated in place."""
        v = call.tensors["v"]
        self.expect_dtype("state", state, v)
        if state is None:
            raise Error("state must be given: float32 zeros of [N,HV,K,V] before the first token")
        o = empty_like(v, v.shape)
        call.run("decode", self._handle, call.describe(state, "state"), call.describe(o, "o"))
        return o

    def training_bytes(self, shape: tuple[int, int, int, int]) -> int:
        """Bytes of scratch memory that training takes for a shape on a GPU."""
        return scratch_bytes("training", self._handle, _library.Shape(*shape))
