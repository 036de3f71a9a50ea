"""Layers of delta-rule linear attention for PyTorch.

GatedDeltaNet2, GatedDeltaNet and KimiDeltaAttention have the parameters of flash-linear-attention's layers of these
names: state dicts go from one to the other. `Cache` carries states from call to call, and `HybridCell` puts one of them
beside attention.
"""

from .cache import Cache
from .hybrid import HybridCell, SlidingWindowAttention, SwiGlu
from .mixers import GatedDeltaNet, GatedDeltaNet2, KimiDeltaAttention

__all__ = [
    "Cache",
    "GatedDeltaNet",
    "GatedDeltaNet2",
    "HybridCell",
    "KimiDeltaAttention",
    "SlidingWindowAttention",
    "SwiGlu",
]
