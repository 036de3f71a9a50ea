"""Delta-rule linear attention from Python, on numpy arrays or tensors of PyTorch.

    import gdn2
    kda = gdn2.load("rules/kda.gdn2", device="cpu")          # or "vm", "cpu:f64", "cuda:0"
    o, final_state = kda.forward(q, k, v, g=g, b=beta)
    grads = kda.backward(d_o, q, k, v, g=g, b=beta)          # {"dq": …, "dk": …, …}
    o = kda.decode(state, q, k, v, g=g, b=beta)              # state is updated in place

On tensors of PyTorch that require gradients, `forward` is differentiable. Tensors on a GPU stay there: kernels go on
the current stream, nothing is copied or waited for, and every tensor must have the dtype that the rule stores it in.

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
    stream, scratch = [pointer, pointer], [ctypes.c_uint64, ctypes.c_int64]
    library.gdn2_forward_on.argtypes = [*stream, call, tensor, tensor, *scratch]
    library.gdn2_decode_on.argtypes = [*stream, call, tensor, tensor]
    library.gdn2_forward_for_backward_on.argtypes = [*stream, call, tensor, tensor, *scratch]
    library.gdn2_backward_on.argtypes = [*stream, call, tensor, tensor, ctypes.POINTER(_Gradients), *scratch]
    library.gdn2_forward_scratch.argtypes = [pointer, _Shape, ctypes.POINTER(ctypes.c_int64)]
    library.gdn2_training_scratch.argtypes = [pointer, _Shape, ctypes.POINTER(ctypes.c_int64)]
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


def _gpu(array):
    """The GPU that a tensor is on; None for the CPU."""
    if not _is_torch(array) or array.device.type == "cpu":
        return None
    if array.device.type != "cuda":
        raise Error(f"a tensor is on {array.device}: move it to the CPU or to a CUDA device")
    return array.device


def _describe(array, name, gpu):
    """The C description of an array or tensor, which must be where v is and stay alive while it is used."""
    if array is None:
        return _Tensor()
    if _is_torch(array):
        dtype, strides, data = str(array.dtype).removeprefix("torch."), array.stride(), array.data_ptr()
    else:
        if not isinstance(array, np.ndarray):
            raise Error(f"{name} is a {type(array).__name__}, must be a numpy array or a torch tensor")
        dtype, data = array.dtype.name, array.ctypes.data
        if any(step % array.itemsize or step < 0 for step in array.strides):
            raise Error(f"{name}: strides {array.strides} are not whole, ascending elements: copy the array")
        strides = [step // array.itemsize for step in array.strides]
    if _gpu(array) != gpu:
        raise Error(f"{name} is on {_gpu(array) or 'the CPU'}, v on {gpu or 'the CPU'}: move it there")
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

        return torch.empty(shape, dtype=torch.float32 if dtype else array.dtype, device=array.device)
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
        tensors = (q, k, v, g, b, w, initial_state)
        if _is_torch(v) and any(getattr(array, "requires_grad", False) for array in tensors):
            return _function().apply(self, cu_seqlens, scale, *tensors)
        call = _Prepared(*tensors, cu_seqlens, None, scale)
        o, final_state = call.outputs()
        places = call.describe(o, "o"), call.describe(final_state, "final_state")
        call.run("forward", self._handle, *places, *_room(call.scratch("forward", self._handle)))
        return o, final_state

    def _forward_for_backward(self, call):
        """Forward's outputs and, on a GPU, the scratch memory in which it leaves what backward reads."""
        o, final_state = call.outputs()
        scratch = call.scratch("training", self._handle)
        name = "forward" if scratch is None else "forward_for_backward"
        places = call.describe(o, "o"), call.describe(final_state, "final_state")
        call.run(name, self._handle, *places, *_room(scratch))
        return o, final_state, scratch

    def backward(
        self, d_o, q, k, v, g=None, b=None, w=None, initial_state=None, cu_seqlens=None, scale=None, d_final_state=None
    ):
        """Gradients of sum(o·d_o) + sum(final_state·d_final_state), by name: dq, dk, dv, and dg, db, dw and
        dinitial_state where the call has what they are gradients of. It runs forward first."""
        call = _Prepared(q, k, v, g, b, w, initial_state, cu_seqlens, None, scale)
        scratch = self._forward_for_backward(call)[2] if call.gpu else None
        return self._backward(call, scratch, d_o, d_final_state)

    def _backward(self, call, scratch, d_o, d_final_state):
        grads = {f"d{name}": _like(array, array.shape) for name, array in call.tensors.items() if array is not None}
        places = _Gradients(**{name: call.describe(grad, name) for name, grad in grads.items()})
        given = call.describe(d_o, "d_o"), call.describe(d_final_state, "d_final_state")
        call.run("backward", self._handle, *given, places, *_room(scratch))
        return grads

    def decode(self, state, q, k, v, g=None, b=None, w=None, slots=None, scale=None):
        """One token, or a short run of tokens, per sequence; `state` is float32 and updated in place. Gives o."""
        call = _Prepared(q, k, v, g, b, w, None, None, slots, scale)
        o = _like(v, v.shape)
        call.run("decode", self._handle, call.describe(state, "state"), call.describe(o, "o"))
        return o

    def warmup(self, sequences, total_tokens, key_heads, value_heads):
        """Makes ready every kernel that calls of a shape get: none of them compiles anything after it."""
        _checked(_library.gdn2_warmup(self._handle, _Shape(sequences, total_tokens, key_heads, value_heads)))

    def explain(self, sequences, total_tokens, key_heads, value_heads):
        """Which kernel each pass of a shape gets, and why, a line each; nothing on the CPU, which needs none."""
        text = _library.gdn2_explain(self._handle, _Shape(sequences, total_tokens, key_heads, value_heads))
        _checked(text is None)
        return text.decode()


class _Prepared:
    """The inputs of a call, described. It keeps what the description points to."""

    def __init__(self, q, k, v, g, b, w, initial_state, cu_seqlens, slots, scale):
        self.tensors = dict(q=q, k=k, v=v, g=g, b=b, w=w, initial_state=initial_state)
        self.gpu = _gpu(v)
        self.struct = _Call(**{name: self.describe(array, name) for name, array in self.tensors.items()})
        for name in ("q", "k", "v"):
            if self.tensors[name] is None or self.tensors[name].ndim != 4:
                raise Error(f"{name} must be given, with axes [batch, tokens, heads, channels]")
        self.sequences = v.shape[0]
        if cu_seqlens is not None:
            self.cu_seqlens = self._table("cu_seqlens", cu_seqlens, "int64")
            self.sequences = len(self.cu_seqlens) - 1
        if slots is not None:
            self.slots = self._table("slots", slots, "int32")
        self.struct.scale = scale or 0.0

    def describe(self, array, name):
        return _describe(array, name, self.gpu)

    def _table(self, field, values, dtype):
        """Integers of a field where the call's tensors are."""
        if self.gpu is None:
            values = np.ascontiguousarray(values, dtype=dtype)
            address = values.ctypes.data
        else:
            import torch

            values = torch.as_tensor(values, dtype=getattr(torch, dtype), device=self.gpu).contiguous()
            address = values.data_ptr()
        setattr(self.struct, field, address)
        setattr(self.struct, f"{field}_len", len(values))
        return values

    def shape(self):
        batch, tokens, heads, _ = self.tensors["q"].shape
        return _Shape(self.sequences, batch * tokens, heads, self.tensors["v"].shape[2])

    def outputs(self):
        """Room for o and the final states."""
        q, v, initial_state = (self.tensors[name] for name in ("q", "v", "initial_state"))
        state = initial_state.shape[2:] if initial_state is not None else (q.shape[-1], v.shape[-1])
        return _like(v, v.shape), _like(v, (self.sequences, v.shape[2], *state), "float32")

    def scratch(self, name, handle):
        """Memory for the kernels of a call on a GPU."""
        if self.gpu is None:
            return None
        import torch

        size = ctypes.c_int64()
        _checked(getattr(_library, f"gdn2_{name}_scratch")(handle, self.shape(), ctypes.byref(size)))
        # Where they need none, there is an address all the same.
        return torch.empty(max(size.value, 16), dtype=torch.uint8, device=self.gpu)

    def run(self, name, handle, *arguments):
        """The library's call of a name; on a GPU the one that goes on the current stream."""
        if self.gpu is None:
            _checked(getattr(_library, f"gdn2_{name}")(handle, self.struct, *arguments))
            return
        import torch

        with torch.cuda.device(self.gpu):
            stream = torch.cuda.current_stream(self.gpu).cuda_stream
            _checked(getattr(_library, f"gdn2_{name}_on")(handle, stream, self.struct, *arguments))


def _room(scratch):
    """The arguments that say where scratch memory is; calls on the host have none."""
    return () if scratch is None else (scratch.data_ptr(), scratch.numel())


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
            ctx.save_for_backward(*inputs)
            plain = [array if array is None else array.detach() for array in inputs]
            call = _Prepared(*plain, cu_seqlens, None, scale)
            o, final_state, scratch = kernels._forward_for_backward(call)
            ctx.kernels, ctx.scratch, ctx.rest = kernels, scratch, (cu_seqlens, None, scale)
            return o, final_state

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, d_o, d_final_state):
            plain = [array if array is None else array.detach() for array in ctx.saved_tensors]
            call = _Prepared(*plain, *ctx.rest)
            grads = ctx.kernels._backward(call, ctx.scratch, d_o.contiguous(), d_final_state.contiguous())
            names = ("dq", "dk", "dv", "dg", "db", "dw", "dinitial_state")
            return None, None, None, *[grads.get(name) for name in names]

    _FUNCTION = Delta
    return Delta
