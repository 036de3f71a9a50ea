"""Puts our functions in the place of flash-linear-attention's, and of the official GDN-2 repository's."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, Callable, Iterable

from torch import Tensor

from . import table
from .recurrence import Unsupported, record

__all__ = ["accelerate", "restore"]

# Where each function is defined. Whatever module of the packages below holds the same object gets ours too.
HOMES = {
    "chunk_gdn2": ("fla.ops.gdn2.chunk", "lit_gpt.gdn2_ops"),
    "fused_recurrent_gdn2": ("fla.ops.gdn2.fused_recurrent", "lit_gpt.gdn2_ops"),
    "chunk_kda": ("fla.ops.kda.chunk",),
    "fused_recurrent_kda": ("fla.ops.kda.fused_recurrent",),
    "fused_recurrent_gdn2_fwd": ("fla.ops.gdn2.fused_recurrent",),
    "fused_recurrent_kda_fwd": ("fla.ops.kda.fused_recurrent",),
    "chunk_gated_delta_rule": ("fla.ops.gated_delta_rule.chunk",),
    "fused_recurrent_gated_delta_rule": ("fla.ops.gated_delta_rule.fused_recurrent",),
    "chunk_delta_rule": ("fla.ops.delta_rule.chunk",),
    "fused_recurrent_delta_rule": ("fla.ops.delta_rule.fused_recurrent",),
    "chunk_gla": ("fla.ops.gla.chunk",),
    "fused_recurrent_gla": ("fla.ops.gla.fused_recurrent",),
    "chunk_simple_gla": ("fla.ops.simple_gla.chunk",),
    "fused_recurrent_simple_gla": ("fla.ops.simple_gla.fused_recurrent",),
}
PACKAGES = ("fla", "lit_gpt")

# (module, attribute) to what stood there.
_replaced: dict[tuple[str, str], Callable[..., Any]] = {}
# The original of each of ours that is in place.
_originals: dict[Callable[..., Any], Callable[..., Any]] = {}


def accelerate(names: Iterable[str] | None = None) -> list[str]:
    """Puts our functions in place of the originals of these names, of all without; says where, as module.attribute.

    Calls that ours do not serve run the original, and `last_path()` says why. Called again, it sees to modules that
    were imported since. `restore()` undoes it.
    """
    chosen = list(HOMES if names is None else names)
    if unknown := [name for name in chosen if name not in HOMES]:
        raise ValueError(f"{', '.join(unknown)}: not served, there are {', '.join(HOMES)}")
    # All of them are found before any is replaced.
    found = {name: homes for name in chosen if (homes := [original for original in _homes(name)])}
    if not found:
        raise ImportError("neither flash-linear-attention nor the official GDN-2 repository can be imported")
    places = []
    for name, originals in found.items():
        for original in originals:
            ours = next((ours for ours, theirs in _originals.items() if theirs is original), None)
            if ours is None:
                ours = _instead(name, original)
                _originals[ours] = original
            places += _put(original, ours)
    return places


def restore() -> None:
    """Puts everything back."""
    for (module, attribute), original in _replaced.items():
        if module in sys.modules and getattr(sys.modules[module], attribute, None) in _originals:
            setattr(sys.modules[module], attribute, original)
    _replaced.clear()
    _originals.clear()


def _homes(name: str) -> Iterable[Callable[..., Any]]:
    for home in HOMES[name]:
        if home not in sys.modules and home.partition(".")[0] not in sys.modules and home.startswith("lit_gpt"):
            # Nothing is imported that nobody asked for, but flash-linear-attention.
            continue
        try:
            function = getattr(importlib.import_module(home), name, None)
        except ImportError:
            continue
        if function is not None:
            yield _originals.get(function, function)


def _put(original: Callable[..., Any], ours: Callable[..., Any]) -> list[str]:
    places = []
    for module_name, module in list(sys.modules.items()):
        if module is None or module_name.partition(".")[0] not in PACKAGES:
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                _replaced[module_name, attribute] = original
                setattr(module, attribute, ours)
            if value is original or value is ours:
                places.append(f"{module_name}.{attribute}")
    return places


def _instead(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    ours = table.function(name)

    # Not what the original is marked with: torch.compile is kept out of it, and goes through ours.
    @functools.wraps(original, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return ours(*args, **kwargs)
        except (Unsupported, TypeError) as refusal:
            why = str(refusal)
            record(name, "original", why)
        try:
            return original(*args, **kwargs)
        except (RuntimeError, ValueError) as failure:
            # Without a GPU Triton finds no driver; with one it says of memory on the host that it cannot read it.
            of_host = isinstance(failure, RuntimeError) or "cpu tensor" in str(failure)
            if not of_host or any(isinstance(x, Tensor) and not x.is_cpu for x in (*args, *kwargs.values())):
                raise
            text = f"{name}: {why}; the original, which runs in such a case, needs tensors on a GPU: {failure}"
            raise Unsupported(text) from failure

    return call
