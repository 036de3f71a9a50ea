"""Delta-rule linear attention, on numpy arrays or tensors of PyTorch.

    import gdn2
    kda = gdn2.load("rules/kda.gdn2", device="cpu")          # or "vm", "vm:sm_90a", "cpu:f64", "cuda:0"
    o, final_state = kda.forward(q, k, v, g=g, b=beta)
    grads = kda.backward(d_o, q, k, v, g=g, b=beta)          # {"dq": …, "dk": …, …}
    o = kda.decode(state, q, k, v, g=g, b=beta)              # state is updated in place

On tensors of PyTorch `forward` is differentiable, and a node of its own for torch.compile and torch.export. Tensors on
a GPU stay there: kernels go on the current stream, nothing is copied or waited for. Every tensor must have the dtype
that the rule stores it in; arrays of numpy, which has no bfloat16, may be float32 in its place.

Shapes: q, k [B,T,H,K]; v, o [B,T,HV,V]; gates [B,T,HV] or [B,T,HV,channels]; states [N,HV,K,V], float32. On the device
cpu:f64 every tensor of a call may be float64, states included: nothing is rounded.

`gdn2.fla` has the functions of flash-linear-attention, `gdn2.layers` the layers built on them; both need PyTorch.
"""

from ._library import Error, library
from .kernels import Kernels, load

__all__ = ["Error", "Kernels", "load"]
__version__ = library.gdn2_version().decode()
