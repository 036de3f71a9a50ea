"""What PyTorch itself does between the launches of a call, as launches of small kernels of this file.

Import `triton_kernels` first: it says that there is a GPU.
"""

import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode

# Of PyTorch, what makes room and what only looks at it otherwise.
MAKES = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
ZEROS = ("zeros", "zeros_like", "new_zeros", "zero_", "zero")
LOOKS = ("view", "_unsafe_view", "alias", "detach", "t", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze",
         "expand", "as_strided", "reshape", "unbind", "split", "is_same_size", "_reshape_alias")  # fmt: skip


BLOCK = 256


@triton.jit
def torch_add(a, b, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(a + at, tl.load(a + at, mask=at < n) + tl.load(b + at, mask=at < n), mask=at < n)


@triton.jit
def torch_copy(a, out, n, n1, n2, n3, n4, s0, s1, s2, s3, s4, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rest, from_ = at // n4, (at % n4) * s4
    rest, from_ = rest // n3, from_ + (rest % n3) * s3
    rest, from_ = rest // n2, from_ + (rest % n2) * s2
    rest, from_ = rest // n1, from_ + (rest % n1) * s1
    from_ += rest * s0
    tl.store(out + at, tl.load(a + from_, mask=at < n).to(out.dtype.element_ty), mask=at < n)


@triton.jit
def torch_sum(a, out, n, count, inner, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = (at // inner) * count * inner + at % inner
    total = tl.zeros((BLOCK,), tl.float32)
    for index in range(count):
        total += tl.load(a + first + index * inner, mask=at < n).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < n)


class Between(TorchDispatchMode):
    """What PyTorch does between launches."""

    def __init__(self):
        super().__init__()
        self.zeros = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ZEROS:
            self.zeros.add(key(result))
        elif name not in MAKES + LOOKS:
            self.launch(name, args, kwargs or {}, result)
        return result

    def launch(self, name, args, kwargs, result):
        """The same as a kernel of ours."""
        grid = (-(-result.numel() // BLOCK),)
        of = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
        whole = all(x.is_contiguous() for x in of)
        if name == "add_" and whole and args[1].shape == result.shape and not kwargs:
            torch_add[grid](args[0], args[1], result.numel(), BLOCK)
        elif name in ("_to_copy", "clone") and result.is_contiguous() and result.ndim <= 5:
            pad = 5 - result.ndim
            sizes, strides = [1] * pad + list(args[0].shape), [0] * pad + list(args[0].stride())
            torch_copy[grid](args[0], result, result.numel(), *sizes[1:], *strides, BLOCK)
        elif name == "sum" and whole and len(args) > 1 and len(args[1]) == 1:
            shape, axis = args[0].shape, args[1][0] % args[0].ndim
            torch_sum[grid](args[0], result, result.numel(), shape[axis], shape[axis + 1 :].numel(), BLOCK)
        else:
            raise RuntimeError(f"PyTorch does {name} between launches, which nothing here does")


def key(tensor):
    return tensor.untyped_storage()._cdata
