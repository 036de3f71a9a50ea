import os
from typing import Any, TypeVar

import numpy
import torch

from ._call import Call
from ._library import Rule

__all__ = ["Kernels", "load"]

Array = TypeVar("Array", numpy.ndarray[Any, Any], torch.Tensor)
Positions = numpy.ndarray[Any, Any] | torch.Tensor | list[int] | tuple[int, ...]

def load(rules: str | os.PathLike[str], name: str | None = None, device: str | torch.device = "cpu") -> Kernels: ...
def device_name(device: str | torch.device) -> str: ...

class Kernels:
    text: str
    name: str | None
    device: str
    names: list[str]
    _rule: Rule
    def __init__(self, text: str, name: str | None = None, device: str = "cpu") -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    @property
    def key(self) -> str: ...
    @staticmethod
    def of(key: str) -> Kernels: ...
    def dtypes(self) -> dict[str, str]: ...
    def forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        g: Array | None = None,
        b: Array | None = None,
        w: Array | None = None,
        initial_state: Array | None = None,
        cu_seqlens: Positions | None = None,
        scale: float | None = None,
        named: dict[str, Array] | None = None,
    ) -> tuple[Array, Array]: ...
    def backward(
        self,
        d_o: Array,
        q: Array,
        k: Array,
        v: Array,
        g: Array | None = None,
        b: Array | None = None,
        w: Array | None = None,
        initial_state: Array | None = None,
        cu_seqlens: Positions | None = None,
        scale: float | None = None,
        d_final_state: Array | None = None,
        named: dict[str, Array] | None = None,
    ) -> dict[str, Array]: ...
    def decode(
        self,
        state: Array,
        q: Array,
        k: Array,
        v: Array,
        g: Array | None = None,
        b: Array | None = None,
        w: Array | None = None,
        slots: Positions | None = None,
        scale: float | None = None,
        named: dict[str, Array] | None = None,
    ) -> Array: ...
    def warmup(self, sequences: int, total_tokens: int, key_heads: int, value_heads: int) -> None: ...
    def explain(self, sequences: int, total_tokens: int, key_heads: int, value_heads: int) -> str: ...
    def watch_shapes(self) -> None: ...
    def seen_shapes(self) -> str: ...
    def call(
        self,
        tensors: dict[str, Any],
        cu_seqlens: Any,
        slots: Any,
        scale: float | None,
        named: dict[str, Any] | None = None,
    ) -> Call: ...
    def expect_dtype(self, name: str, tensor: Any, v: Any) -> None: ...
    def run_forward(self, call: Call, training: bool) -> tuple[Any, Any, Any]: ...
    def run_backward(self, call: Call, scratch: Any, d_o: Any, d_final_state: Any, wanted: list[str]) -> list[Any]: ...
    def run_decode(self, call: Call, state: Any) -> Any: ...
    def training_bytes(self, shape: tuple[int, int, int, int]) -> int: ...
