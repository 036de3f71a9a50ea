"""flash-linear-attention's functions on our kernels, by its names and arguments.

    from gdn2.fla import chunk_gdn2                  # in place of fla.ops.gdn2's
    gdn2.fla.accelerate()                            # or put them where models call fla's
    gdn2.fla.last_path()                             # which implementation ran, and why

`python -m gdn2.fla` prints what becomes of each argument. Needs PyTorch; flash-linear-attention only for `accelerate`.
"""

from .accelerate import accelerate, restore
from .functions import *  # noqa: F403
from .functions import __all__ as _functions
from .recurrence import Path, Unsupported, last_path

__all__ = [*_functions, "Path", "Unsupported", "accelerate", "last_path", "restore"]
