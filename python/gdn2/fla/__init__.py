"""flash-linear-attention's functions on our kernels, by its names and arguments.

    from gdn2.fla import chunk_gdn2                  # in place of fla.ops.gdn2's
    gdn2.fla.accelerate()                            # or put them where models call fla's
    gdn2.fla.last_path()                             # which implementation ran, and why

`python -m gdn2.fla` prints what becomes of each argument. Needs PyTorch; flash-linear-attention only for `accelerate`.
"""

from .accelerate import accelerate, restore
from .functions import (
    chunk_delta_rule,
    chunk_gated_delta_rule,
    chunk_gdn2,
    chunk_gla,
    chunk_kda,
    chunk_simple_gla,
    fused_recurrent_delta_rule,
    fused_recurrent_gated_delta_rule,
    fused_recurrent_gdn2,
    fused_recurrent_gla,
    fused_recurrent_kda,
    fused_recurrent_simple_gla,
)
from .recurrence import Path, Unsupported, last_path
from .serving import fused_recurrent_gdn2_fwd, fused_recurrent_kda_fwd

__all__ = [
    "Path",
    "Unsupported",
    "accelerate",
    "chunk_delta_rule",
    "chunk_gated_delta_rule",
    "chunk_gdn2",
    "chunk_gla",
    "chunk_kda",
    "chunk_simple_gla",
    "fused_recurrent_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gdn2",
    "fused_recurrent_gdn2_fwd",
    "fused_recurrent_gla",
    "fused_recurrent_kda",
    "fused_recurrent_kda_fwd",
    "fused_recurrent_simple_gla",
    "last_path",
    "restore",
]
