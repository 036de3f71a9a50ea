"""One call of the library: arrays and tensors held against what a rule takes, and described."""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

from . import _library
from ._library import Error, checked

INPUTS = ("q", "k", "v", "g", "b", "w", "initial_state")
GRADIENTS = ("dq", "dk", "dv", "dg", "db", "dw", "d_initial_state")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def is_torch(array: Any) -> bool:
    """Whether it is a tensor of PyTorch, which need not be installed."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_numpy(array: Any) -> bool:
    """Whether it is an array of numpy, which need not be installed."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(array, numpy.ndarray)


def gpu_of(array: Any) -> Any:
    """The GPU that a tensor is on; None for the CPU."""
    if not is_torch(array) or array.device.type == "cpu":
        return None
    if array.device.type != "cuda":
        raise Error(f"a tensor is on {array.device}: move it to the CPU or to a CUDA device")
    return array.device


def dtype_of(array: Any) -> str:
    """Its dtype in words."""
    return str(array.dtype).removeprefix("torch.")


def describe(array: Any, name: str, gpu: Any) -> _library.Tensor:
    """The C description of an array or tensor, which must be where v is and stay alive while it is used."""
    if array is None:
        return _library.Tensor()
    if is_torch(array):
        if array.layout is not sys.modules["torch"].strided:
            raise Error(f"{name} is {array.layout}, must be dense: use {name}.to_dense()")
        strides, data = array.stride(), array.data_ptr()
    elif is_numpy(array):
        data = array.ctypes.data
        if any(step % array.itemsize or step < 0 for step in array.strides):
            raise Error(f"{name}: strides {array.strides} are not whole, ascending elements: copy the array")
        strides = [step // array.itemsize for step in array.strides]
    else:
        raise Error(f"{name} is a {type(array).__name__}, must be a numpy array or a torch tensor")
    if gpu_of(array) != gpu:
        raise Error(f"{name} is on {gpu_of(array) or 'the CPU'}, v on {gpu or 'the CPU'}: move it there")
    dtype = dtype_of(array)
    if dtype not in DTYPES:
        raise Error(f"{name} is {dtype}, must be float32, bfloat16 or float16")
    if not 1 <= array.ndim <= 4:
        raise Error(f"{name} has {array.ndim} axes, must have 1 to 4")
    if 0 in array.shape:
        # What holds nothing lies anyhow.
        strides = [math.prod(max(size, 1) for size in array.shape[axis + 1 :]) for axis in range(array.ndim)]
    if strides[-1] != 1 and array.shape[-1] > 1:
        raise Error(f"{name}: the last axis has stride {strides[-1]}, must be contiguous: copy the array")
    # An axis of one element has any stride.
    strides = [*strides[:-1], 1]
    pad = (0,) * (4 - array.ndim)
    # An empty tensor may have no address, which would mean that it is absent.
    return _library.Tensor(data or 64, DTYPES.index(dtype), array.ndim, (*array.shape, *pad), (*strides, *pad))


def empty_like(array: Any, shape: tuple[int, ...], dtype: str | None = None) -> Any:
    """Room of a shape where an array is, of its dtype unless another is named."""
    if is_torch(array):
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype) if dtype else array.dtype, device=array.device)
    import numpy

    return numpy.empty(shape, dtype=dtype or array.dtype)


def integers(field: str, values: Any) -> Any:
    """Offsets or slots as they came, refused by name where they are no row of integers."""
    if is_torch(values):
        if values.requires_grad:
            raise Error(f"{field} requires gradients: positions have none, use {field}.detach()")
        whole = not (values.dtype.is_floating_point or values.dtype.is_complex or dtype_of(values) == "bool")
    else:
        if not is_numpy(values):
            import numpy

            values = numpy.asarray(values)
        whole = values.dtype.kind in "iu"
    if values.ndim != 1:
        raise Error(f"{field} has {values.ndim} axes, must have one")
    if field == "cu_seqlens" and len(values) == 0:
        raise Error("cu_seqlens: none at all, must be N + 1 offsets from 0 to T")
    # An empty list says nothing of its kind.
    if not whole and len(values) > 0:
        raise Error(f"{field} is {dtype_of(values)}, must be int32 or int64")
    return values


class Call:
    """The inputs of a call, described. It keeps what the description points to."""

    def __init__(
        self,
        tensors: dict[str, Any],
        cu_seqlens: Any,
        slots: Any,
        scale: float | None,
        named: dict[str, Any] | None = None,
    ) -> None:
        for name in ("q", "k", "v"):
            if tensors[name] is None:
                raise Error(f"{name} must be given, with axes [batch, tokens, heads, channels]")
        self.tensors = tensors
        self.gpu = gpu_of(tensors["v"])
        self.struct = _library.Call(**{name: self.describe(array, name) for name, array in tensors.items()})
        for name in ("q", "k", "v"):
            if tensors[name].ndim != 4:
                raise Error(f"{name} has {tensors[name].ndim} axes, must be [batch, tokens, heads, channels]")
        self.named = named or {}
        if self.named:
            self.own = self.described(self.named)
            self.struct.named, self.struct.named_len = self.own, len(self.own)
        self.sequences = tensors["v"].shape[0]
        if cu_seqlens is not None:
            self.cu_seqlens = self._table("cu_seqlens", cu_seqlens, "int64")
            self.sequences = len(self.cu_seqlens) - 1
        if slots is not None:
            self.slots = self._table("slots", slots, "int32")
        if scale is not None:
            self.struct.scale, self.struct.scale_given = scale, 1

    def describe(self, array: Any, name: str) -> _library.Tensor:
        """The C description of an array of this call."""
        return describe(array, name, self.gpu)

    def described(self, arrays: dict[str, Any]) -> Any:
        """The C descriptions of arrays, one after the other."""
        return (_library.Tensor * len(arrays))(*(self.describe(array, name) for name, array in arrays.items()))

    def _table(self, field: str, values: Any, dtype: str) -> Any:
        """Integers of a field where the call's tensors are."""
        values = integers(field, values)
        if self.gpu is None:
            values, address = _host_integers(values, dtype)
        else:
            import torch

            values = torch.as_tensor(values, dtype=getattr(torch, dtype), device=self.gpu).contiguous()
            address = values.data_ptr()
        setattr(self.struct, field, address)
        setattr(self.struct, f"{field}_len", len(values))
        return values

    def shape(self) -> _library.Shape:
        """The sizes by which kernels are chosen."""
        batch, tokens, heads, _ = self.tensors["q"].shape
        return _library.Shape(self.sequences, batch * tokens, heads, self.tensors["v"].shape[2])

    def states_dtype(self) -> str:
        """What states are kept in: float32, and float64 where everything is."""
        return "float64" if dtype_of(self.tensors["v"]) == "float64" else "float32"

    def outputs(self, rule: _library.Rule) -> tuple[Any, Any]:
        """Room for o and the final states."""
        v = self.tensors["v"]
        return empty_like(v, v.shape), empty_like(v, state_shape(rule, self.sequences, v.shape[2]), self.states_dtype())

    def scratch(self, name: str, handle: Any) -> Any:
        """Memory for the kernels of a call on a GPU; None on the host."""
        if self.gpu is None:
            return None
        import torch

        # Where they need none, there is an address all the same.
        return torch.empty(max(scratch_bytes(name, handle, self.shape()), 16), dtype=torch.uint8, device=self.gpu)

    def run(self, name: str, handle: Any, *arguments: Any) -> None:
        """The library's call of a name; on a GPU the one that goes on the current stream."""
        if self.gpu is None:
            checked(getattr(_library.library, f"gdn2_{name}")(handle, self.struct, *arguments))
            return
        import torch

        with torch.cuda.device(self.gpu):
            stream = torch.cuda.current_stream(self.gpu).cuda_stream
            checked(getattr(_library.library, f"gdn2_{name}_on")(handle, stream, self.struct, *arguments))


def state_shape(rule: _library.Rule, sequences: Any, heads: Any) -> tuple[Any, ...]:
    """The shape of a rule's states."""
    inner = (rule.value_dim, rule.key_dim) if rule.state_vk else (rule.key_dim, rule.value_dim)
    return (sequences, heads, *inner)


def scratch_bytes(name: str, handle: Any, shape: _library.Shape) -> int:
    """Bytes of scratch memory that `forward` or `training` takes for a shape."""
    size = ctypes.c_int64()
    checked(getattr(_library.library, f"gdn2_{name}_scratch")(handle, shape, ctypes.byref(size)))
    return size.value


def room(scratch: Any) -> tuple[int, ...]:
    """The arguments that say where scratch memory is; calls on the host have none."""
    return () if scratch is None else (scratch.data_ptr(), scratch.numel())


def _host_integers(values: Any, dtype: str) -> tuple[Any, int]:
    """A C array of integers in host memory, and its address."""
    ctype = {"int64": ctypes.c_int64, "int32": ctypes.c_int32}[dtype]
    array = (ctype * len(values))(*values.tolist())
    return array, ctypes.addressof(array)
