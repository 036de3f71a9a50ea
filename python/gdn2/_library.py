"""The shared library: where it is, its structs, its functions."""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys

__all__ = ["Error", "library"]

HERE = pathlib.Path(__file__).resolve().parent
NAME = {"darwin": "libgdn2_c.dylib", "win32": "gdn2_c.dll"}.get(sys.platform, "libgdn2_c.so")


class Error(RuntimeError):
    """What was wrong with a call: the argument, what it is, what it must be."""


class Tensor(ctypes.Structure):
    """`gdn2_tensor`."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
    ]


class Call(ctypes.Structure):
    """`gdn2_call`."""

    _fields_ = [(name, Tensor) for name in ("q", "k", "v", "g", "b", "w", "initial_state")] + [
        ("cu_seqlens", ctypes.c_void_p),
        ("cu_seqlens_len", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("slots_len", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("scale_given", ctypes.c_int32),
        ("named", ctypes.POINTER(Tensor)),
        ("named_len", ctypes.c_int64),
    ]


class Gradients(ctypes.Structure):
    """`gdn2_gradients`."""

    _fields_ = [(name, Tensor) for name in ("dq", "dk", "dv", "dg", "db", "dw", "d_initial_state")] + [
        ("named", ctypes.POINTER(Tensor)),
        ("named_len", ctypes.c_int64),
    ]


class Shape(ctypes.Structure):
    """`gdn2_shape`."""

    _fields_ = [(name, ctypes.c_int64) for name in ("sequences", "total_tokens", "key_heads", "value_heads")]


class Rule(ctypes.Structure):
    """`gdn2_rule`."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("key_dim", "value_dim", "dtype", "decay", "decay_dtype"),
            *("erase", "erase_dtype", "write", "write_dtype", "state_vk"),
        )
    ]


def places() -> list[pathlib.Path]:
    """Where the library is looked for: what GDN2_LIBRARY names, or in the package, or in a clone's target folder."""
    if "GDN2_LIBRARY" in os.environ:
        return [pathlib.Path(os.environ["GDN2_LIBRARY"])]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
    return [HERE / NAME, target / "release" / NAME, target / "debug" / NAME]


def opened() -> ctypes.CDLL:
    """The library, its functions typed."""
    found = next((place for place in places() if place.is_file()), None)
    if found is None:
        tried = ", ".join(map(str, places()))
        raise ImportError(f"{NAME} is in none of {tried}: run `cargo build --release -p gdn2-capi` or set GDN2_LIBRARY")
    lib = ctypes.CDLL(str(found))
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    call, tensor, size = ctypes.POINTER(Call), ctypes.POINTER(Tensor), ctypes.POINTER(ctypes.c_int64)
    stream, scratch = [pointer, pointer], [ctypes.c_uint64, ctypes.c_int64]
    for function, arguments in {
        "load": [text, text, text, ctypes.POINTER(pointer)],
        "rule_of": [pointer, ctypes.POINTER(Rule)],
        "forward": [pointer, call, tensor, tensor],
        "decode": [pointer, call, tensor, tensor],
        "backward": [pointer, call, tensor, tensor, ctypes.POINTER(Gradients)],
        "forward_on": [*stream, call, tensor, tensor, *scratch],
        "decode_on": [*stream, call, tensor, tensor],
        "forward_for_backward_on": [*stream, call, tensor, tensor, *scratch],
        "backward_on": [*stream, call, tensor, tensor, ctypes.POINTER(Gradients), *scratch],
        "forward_scratch": [pointer, Shape, size],
        "training_scratch": [pointer, Shape, size],
        "warmup": [pointer, Shape],
    }.items():
        getattr(lib, f"gdn2_{function}").argtypes = arguments
    lib.gdn2_explain.argtypes, lib.gdn2_explain.restype = [pointer, Shape], text
    lib.gdn2_watch_shapes.argtypes, lib.gdn2_watch_shapes.restype = [pointer], ctypes.c_int
    lib.gdn2_seen_shapes.argtypes, lib.gdn2_seen_shapes.restype = [pointer], text
    lib.gdn2_named.argtypes, lib.gdn2_named.restype = [pointer, ctypes.c_int32], text
    lib.gdn2_last_error.restype = text
    lib.gdn2_version.restype = text
    return lib


library = opened()


def checked(status: bool | int) -> None:
    """Raises what the library says was wrong with this thread's last call."""
    if status:
        raise Error(library.gdn2_last_error().decode())
