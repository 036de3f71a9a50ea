"""Our kernels through the C interface: the raw calls on a GPU, the host calls of the Python package in a rehearsal."""

import ctypes
import os
import pathlib
import re
import sys

from .contestant import Contestant, Prepared, gradient_names

PYTHON = pathlib.Path(__file__).resolve().parents[3] / "python"


class View(ctypes.Structure):
    """gdn2_view."""

    _fields_ = [("address", ctypes.c_uint64)] + [(name, ctypes.c_int64) for name in ("batch", "token", "head")]


class Gradients(ctypes.Structure):
    """gdn2_arguments.gradients."""

    _fields_ = [(name, View) for name in ("d_o", "dq", "dk", "dv", "dg", "db", "dw")] + [
        ("d_final_state", ctypes.c_uint64),
        ("d_initial_state", ctypes.c_uint64),
    ]


class Arguments(ctypes.Structure):
    """gdn2_arguments."""

    _fields_ = (
        [(name, View) for name in ("q", "k", "v", "g", "b", "w", "o")]
        + [(name, ctypes.c_uint64)
           for name in ("initial_state", "final_state", "initial_slots", "final_slots", "cu_seqlens")]
        + [(name, ctypes.c_int32)
           for name in ("cu_seqlens_is_64", "sequences", "tokens", "key_heads", "value_heads")]
        + [("scale", ctypes.c_float), ("gradients", Gradients)]
    )  # fmt: skip


class Shape(ctypes.Structure):
    """gdn2_shape."""

    _fields_ = [(name, ctypes.c_int64) for name in ("sequences", "total_tokens", "key_heads", "value_heads")]


def view(x):
    """A tensor [B,T,H] or [B,T,H,channels]; absent if None."""
    return View() if x is None else View(x.data_ptr(), *x.stride()[:3])


def address(x):
    return 0 if x is None else x.data_ptr()


class Ours(Contestant):
    """`library`, `rules` and `device` are set before the first call."""

    name = "gdn2"
    library = rules = device = None

    def __init__(self):
        self.loaded, self.handles = None, {}

    def version(self):
        return f"{pathlib.Path(self.library).name}, {os.path.getsize(self.library)} bytes"

    def text(self, row):
        """The rule's file with this row's sizes, storages and bound."""
        text = (pathlib.Path(self.rules) / f"{row.rule}.gdn2").read_text()
        bound = " in [-5, 0]" if row.bounded else ""
        changes = [(r"(key_dim|value_dim): \d+", rf"\1: {row.d}"),
                   (r"decay: (\w+)[^;]*", rf"decay: \1{bound} as {row.gate}")]  # fmt: skip
        if row.rule != "gdn2":
            changes.append((r"erase: (\w+)[^;]*", rf"erase: \1 as {row.gate}"))
        for pattern, replacement in changes:
            text = re.sub(pattern, replacement, text)
        return text

    def prepare(self, row, tensors):
        if str(self.device) == "cpu":
            return self.on_host(row, tensors)
        return self.raw(row, tensors)

    def c(self):
        if self.loaded is None:
            library = ctypes.CDLL(self.library)
            library.gdn2_last_error.restype = ctypes.c_char_p
            self.loaded = library
        return self.loaded

    def checked(self, status):
        if status:
            raise RuntimeError(self.c().gdn2_last_error().decode())

    def kernels(self, row):
        text = self.text(row)
        if text not in self.handles:
            handle = ctypes.c_void_p()
            device = str(self.device).encode()
            self.checked(self.c().gdn2_load(text.encode(), None, device, ctypes.byref(handle)))
            self.handles[text] = handle
        return self.handles[text]

    def raw(self, row, tensors):
        import torch

        library, handle = self.c(), self.kernels(row)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        o = torch.full_like(tensors.v, float("nan"))
        final = None
        if row.passing == "decode":
            final = tensors.initial.clone()
        elif row.states:
            final = torch.full_like(tensors.initial, float("nan"))
        initial = final if row.passing == "decode" else tensors.initial
        call = Arguments(
            v=view(tensors.v), w=view(tensors.w), o=view(o), initial_state=address(initial),
            final_state=address(final), cu_seqlens=address(tensors.cu64), cu_seqlens_is_64=1, sequences=tensors.count,
            tokens=row.t, key_heads=row.h, value_heads=row.h, scale=tensors.scale,
        )  # fmt: skip
        keep = []

        def give():
            # `keep` holds what the call's addresses point to.
            keep[:] = tensors.activated()
            call.q, call.k, call.g, call.b = map(view, keep)

        give()
        reference = ctypes.byref(call)
        shape = Shape(tensors.count, row.b * row.t, row.h, row.h)
        if row.passing in ("backward", "training"):
            return self.training(row, tensors, call, handle, stream, shape, (o, keep))
        given = [handle, stream, reference]
        run, scratch = library.gdn2_decode_raw, None
        if row.passing != "decode":
            run = library.gdn2_forward_with_scratch_raw
            scratch = self.scratch(library.gdn2_forward_scratch, handle, shape, tensors.device)
            given.append(ctypes.c_uint64(scratch.data_ptr()))

        def forward():
            if row.prologue:
                give()
            self.checked(run(*given))
            return o, final, keep, scratch

        read = lambda outputs: {"o": outputs[0], "final_state": outputs[1]}  # noqa: E731
        return Prepared(forward, read, self.explained(handle, shape))

    def scratch(self, says, handle, shape, device):
        import torch

        size = ctypes.c_int64()
        self.checked(says(handle, shape, ctypes.byref(size)))
        return torch.empty(max(size.value, 1), dtype=torch.uint8, device=device)

    def training(self, row, tensors, call, handle, stream, shape, keep):
        import torch

        library = self.c()
        if not hasattr(library, "gdn2_backward_raw"):
            raise NotImplementedError("this library has no raw backward call")
        grads = {f"d{name}": torch.full_like(x, float("nan")) for name, x in gradient_names(tensors).items()}
        call.gradients.d_o = view(tensors.d_o)
        for name, grad in grads.items():
            setattr(call.gradients, name, view(grad))
        scratch = self.scratch(library.gdn2_training_scratch, handle, shape, tensors.device)
        given = handle, stream, ctypes.byref(call), ctypes.c_uint64(scratch.data_ptr())

        def backward():
            self.checked(library.gdn2_backward_raw(*given))
            return grads, scratch, call, keep

        def training():
            self.checked(library.gdn2_forward_for_backward_raw(*given))
            return backward()

        training()
        run = training if row.passing == "training" else backward
        return Prepared(run, lambda outputs: {"o": keep[0]} | outputs[0], self.explained(handle, shape))

    def explained(self, handle, shape):
        """Which kernels the shape gets, all of them made ready; nothing where the library cannot say."""
        library = self.c()
        if not hasattr(library, "gdn2_explain"):
            return None
        self.checked(library.gdn2_warmup(handle, shape))
        library.gdn2_explain.restype = ctypes.c_char_p
        text = library.gdn2_explain(handle, shape)
        return text and text.decode().strip()

    def on_host(self, row, tensors):
        os.environ["GDN2_LIBRARY"] = os.path.abspath(self.library)
        if str(PYTHON) not in sys.path:
            sys.path.insert(0, str(PYTHON))
        import gdn2

        kernels = gdn2.load(self.text(row), device="cpu")
        cu = None if tensors.cu_cpu is None else tensors.cu_cpu.numpy()

        def inputs():
            q, k, g, b = (x.contiguous() for x in tensors.activated())
            return {"q": q, "k": k, "v": tensors.v, "g": g, "b": b, "w": tensors.w}

        def decode():
            state = tensors.initial.clone()
            return {"o": kernels.decode(state, **inputs(), scale=tensors.scale), "final_state": state}

        def forward():
            out = kernels.forward(**inputs(), initial_state=tensors.initial, cu_seqlens=cu, scale=tensors.scale)
            return dict(zip(("o", "final_state"), out))

        def backward():
            found = kernels.backward(tensors.d_o, **inputs(), cu_seqlens=cu, scale=tensors.scale)
            return {f"d{name}": found[f"d{name}"] for name in gradient_names(tensors)}

        def training():
            return forward() | backward()

        call = {"forward": forward, "decode": decode, "backward": backward, "training": training}[row.passing]
        return Prepared(call, lambda outputs: outputs)
