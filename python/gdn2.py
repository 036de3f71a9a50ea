"""Delta-rule linear attention from Python, on numpy arrays or CPU tensors of PyTorch.

    import gdn2
    kda = gdn2.load("rules/kda.gdn2", device="cpu")          # or "vm", "cpu:f64", "cuda:0"
    o, final_state = kda.forward(q, k, v, g=g, b=beta)
    grads = kda.backward(d_o, q, k, v, g=g, b=beta)          # {"dq": …, "dk": …, …}
    o = kda.decode(state, q, k, v, g=g, b=beta)              # state is updated in place

On tensors of PyTorch that require gradients, `forward` is differentiable.

Shapes: q, k [B,T,H,K]; v, o [B,T,HV,V]; gates [B,T,HV] or [B,T,HV,channels]; states [N,HV,K,V], f32. The library is
looked for in GDN2_LIBRARY, beside this file and in ../target; `cargo build --release -p gdn2-capi` makes it.
"""

import ctypes
import os
import pathlib
import sys

import numpy as np

__all__ = ["Error", "Kernels", "load"]

_DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}


class Error(RuntimeError):
    """What the library said was wrong with a call."""


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
    ]


class _Call(ctypes.Structure):
    _fields_ = [(name, _Tensor) for name in ("q", "k", "v", "g", "b", "w", "initial_state")] + [
        ("cu_seqlens", ctypes.c_void_p),
        ("cu_seqlens_len", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("slots_len", ctypes.c_int64),
        ("scale", ctypes.c_float),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, _Tensor) for name in ("dq", "dk", "dv", "dg", "db", "dw", "dinitial_state")]


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("sequences", "total_tokens", "key_heads", "value_heads")]


def _open():
    name = {"darwin": "libgdn2_c.dylib", "win32": "gdn2_c.dll"}.get(sys.platform, "libgdn2_c.so")
    here = pathlib.Path(__file__).resolve().parent
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", here.parent / "target"))
    places = [here / name, target / "release" / name, target / "debug" / name]
    if "GDN2_LIBRARY" in os.environ:
        places = [pathlib.Path(os.environ["GDN2_LIBRARY"])]
    for place in places:
        if place.is_file():
            library = ctypes.CDLL(str(place))
            break
    else:
        tried = ", ".join(map(str, places))
        raise ImportError(f"{name} is in none of {tried}: run `cargo build --release -p gdn2-capi` or set GDN2_LIBRARY")
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    call, tensor = ctypes.POINTER(_Call), ctypes.POINTER(_Tensor)
    library.gdn2_load.argtypes = [text, text, text, ctypes.POINTER(pointer)]
    library.gdn2_free.argtypes = [pointer]
    library.gdn2_free.restype = None
    library.gdn2_forward.argtypes = [pointer, call, tensor, tensor]
    library.gdn2_decode.argtypes = [pointer, call, tensor, tensor]
    library.gdn2_backward.argtypes = [pointer, call, tensor, tensor, ctypes.POINTER(_Gradients)]
    library.gdn2_warmup.argtypes = [pointer, _Shape]
    library.gdn2_explain.argtypes = [pointer, _Shape]
    library.gdn2_explain.restype = text
    library.gdn2_last_error.restype = text
    return library


_library = _open()


def _checked(status):
    if status:
        raise Error(_library.gdn2_last_error().decode())


def _is_torch(array):
    return type(array).__module__.partition(".")[0] == "torch"


def _describe(array, name):
    """The C description of an array or tensor; the array must stay alive while it is used."""
    if array is None:
        return _Tensor()
    if _is_torch(array):
        if array.device.type != "cpu":
            raise Error(f"{name} is on {array.device}: move it to the CPU")
        dtype, strides, data = str(array.dtype).removeprefix("torch."), array.stride(), array.data_ptr()
    else:
        if not isinstance(array, np.ndarray):
            raise Error(f"{name} is a {type(array).__name__}, must be a numpy array or a torch tensor")
        dtype, data = array.dtype.name, array.ctypes.data
        if any(step % array.itemsize or step < 0 for step in array.strides):
            raise Error(f"{name}: strides {array.strides} are not whole, ascending elements: copy the array")
        strides = [step // array.itemsize for step in array.strides]
    if dtype not in _DTYPES:
        raise Error(f"{name} is {dtype}, must be float32, bfloat16 or float16")
    if not 1 <= array.ndim <= 4:
        raise Error(f"{name} has {array.ndim} axes, must have 1 to 4")
    pad = (0,) * (4 - array.ndim)
    # An empty tensor may have no address, which would mean that it is absent.
    return _Tensor(data or 1, _DTYPES[dtype], array.ndim, (*array.shape, *pad), (*strides, *pad))


def _like(array, shape, dtype=None):
    if _is_torch(array):
        import torch

        return torch.empty(shape, dtype=torch.float32 if dtype else array.dtype)
    return np.empty(shape, dtype=dtype or array.dtype)


def load(rules, name=None, device="cpu"):
    """The kernels of one rule: `rules` is the path of a rule file or its text, `name` chooses among several rules."""
    text = rules if isinstance(rules, str) and "{" in rules else pathlib.Path(rules).read_text()
    handle = ctypes.c_void_p()
    encoded = name.encode() if name else None
    _checked(_library.gdn2_load(text.encode(), encoded, device.encode(), ctypes.byref(handle)))
    return Kernels(handle)


class Kernels:
    """A rule's kernels on one device. Calls from several threads are fine."""

    def __init__(self, handle):
        self._handle = handle

    def __del__(self, free=_library.gdn2_free):
        if getattr(self, "_handle", None):
            free(self._handle)

    def forward(self, q, k, v, g=None, b=None, w=None, initial_state=None, cu_seqlens=None, scale=None):
        """The chunked forward pass: o in v's dtype, and the final states in float32. `b` is beta where tied."""
        inputs = (q, k, v, g, b, w, initial_state)
        if _is_torch(v) and any(array is not None and array.requires_grad for array in inputs):
            return _function().apply(self, cu_seqlens, scale, *inputs)
        return self._forward(*inputs, cu_seqlens, scale)

    def _forward(self, q, k, v, g, b, w, initial_state, cu_seqlens, scale):
        call, keep = _call(q, k, v, g, b, w, initial_state, cu_seqlens, None, scale)
        sequences = len(keep[0]) - 1 if cu_seqlens is not None else v.shape[0]
        o = _like(v, v.shape)
        final_state = _like(v, (sequences, v.shape[2], *self._state_dims(q, v, initial_state)), "float32")
        outputs = ctypes.byref(_describe(o, "o")), ctypes.byref(_describe(final_state, "final_state"))
        _checked(_library.gdn2_forward(self._handle, ctypes.byref(call), *outputs))
        return o, final_state

    def backward(
        self, d_o, q, k, v, g=None, b=None, w=None, initial_state=None, cu_seqlens=None, scale=None, d_final_state=None
    ):
        """Gradients of sum(o·d_o) + sum(final_state·d_final_state), by name: dq, dk, dv, and dg, db, dw and
        dinitial_state where the call has what they are gradients of."""
        tensors = dict(q=q, k=k, v=v, g=g, b=b, w=w, initial_state=initial_state)
        call, keep = _call(*tensors.values(), cu_seqlens, None, scale)
        grads = {f"d{name}": _like(array, array.shape) for name, array in tensors.items() if array is not None}
        places = _Gradients(**{name: _describe(grad, name) for name, grad in grads.items()})
        given = ctypes.byref(_describe(d_o, "d_o")), ctypes.byref(_describe(d_final_state, "d_final_state"))
        _checked(_library.gdn2_backward(self._handle, ctypes.byref(call), *given, ctypes.byref(places)))
        del keep
        return grads

    def decode(self, state, q, k, v, g=None, b=None, w=None, slots=None, scale=None):
        """One token, or a short run of tokens, per sequence; `state` is float32 and updated in place. Gives o."""
        call, keep = _call(q, k, v, g, b, w, None, None, slots, scale)
        o = _like(v, v.shape)
        places = ctypes.byref(_describe(state, "state")), ctypes.byref(_describe(o, "o"))
        _checked(_library.gdn2_decode(self._handle, ctypes.byref(call), *places))
        del keep
        return o

    def warmup(self, sequences, total_tokens, key_heads, value_heads):
        """Makes ready every kernel that calls of a shape get: none of them compiles anything after it."""
        _checked(_library.gdn2_warmup(self._handle, _Shape(sequences, total_tokens, key_heads, value_heads)))

    def explain(self, sequences, total_tokens, key_heads, value_heads):
        """Which kernel each pass of a shape gets, and why, a line each; nothing on the CPU, which needs none."""
        text = _library.gdn2_explain(self._handle, _Shape(sequences, total_tokens, key_heads, value_heads))
        _checked(text is None)
        return text.decode()

    @staticmethod
    def _state_dims(q, v, initial_state):
        return initial_state.shape[2:] if initial_state is not None else (q.shape[-1], v.shape[-1])


def _call(q, k, v, g, b, w, initial_state, cu_seqlens, slots, scale):
    tensors = dict(q=q, k=k, v=v, g=g, b=b, w=w, initial_state=initial_state)
    call = _Call(**{name: _describe(array, name) for name, array in tensors.items()})
    keep = []
    for field, values, dtype in (("cu_seqlens", cu_seqlens, np.int64), ("slots", slots, np.int32)):
        if values is not None:
            values = np.ascontiguousarray(values, dtype=dtype)
            keep.append(values)
            setattr(call, field, values.ctypes.data)
            setattr(call, f"{field}_len", values.size)
    call.scale = scale or 0.0
    return call, keep


_FUNCTION = None


def _function():
    """The torch.autograd.Function of a call, made when torch is first met."""
    global _FUNCTION
    if _FUNCTION is not None:
        return _FUNCTION
    import torch

    class Delta(torch.autograd.Function):
        @staticmethod
        def forward(ctx, kernels, cu_seqlens, scale, *inputs):
            ctx.kernels, ctx.cu_seqlens, ctx.scale = kernels, cu_seqlens, scale
            ctx.save_for_backward(*inputs)
            plain = [array if array is None else array.detach() for array in inputs]
            return kernels._forward(*plain, cu_seqlens, scale)

        @staticmethod
        def backward(ctx, d_o, d_final_state):
            inputs = ctx.saved_tensors
            grads = ctx.kernels.backward(
                d_o.contiguous(),
                *[array if array is None else array.detach() for array in inputs],
                cu_seqlens=ctx.cu_seqlens,
                scale=ctx.scale,
                d_final_state=d_final_state.contiguous(),
            )
            names = ("dq", "dk", "dv", "dg", "db", "dw", "dinitial_state")
            return None, None, None, *[grads.get(name) for name in names]

    _FUNCTION = Delta
    return Delta
