"""References that index a tensor token by token, differentiated in a time that grows with the tokens and not their square.

PyTorch makes the gradient of `x[:, t]` as large as x, once for each t, and so it does for `o[:, t] = …`. Here x is taken
apart once, o is put together once, and the numbers are the same.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["by_token"]


def by_token(reference):
    """A function as it is, its indexing by token so."""

    @functools.wraps(reference)
    def call(*args, **kwargs):
        with ByToken():
            return reference(*args, **kwargs)

    return call


class ByToken(TorchFunctionMode):
    """Every call of PyTorch inside it."""

    def __init__(self):
        super().__init__()
        # By tensor and axis, both with the tensor, so that its id stays its own.
        self.taken, self.written = {}, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__setitem__ and (axis := token_axis(args[1])) is not None:
            self.written.setdefault((id(args[0]), axis), (args[0], {}))[1][args[1][axis]] = args[2]
            return None
        args = tuple(self.whole(x) for x in args)
        if func is Tensor.__getitem__ and args[0].requires_grad and (axis := token_axis(args[1])) is not None:
            key = id(args[0]), axis
            if key not in self.taken:
                self.taken[key] = args[0], args[0].unbind(axis)
            return self.taken[key][1][args[1][axis]]
        return func(*args, **kwargs or {})

    def whole(self, x):
        """A tensor with all that was written into it."""
        for (_, axis), (own, rows) in self.written.items():
            if own is x:
                parts = own.unbind(axis)
                return torch.stack([rows.get(t, part).to(x.dtype) for t, part in enumerate(parts)], axis)
        return x


def token_axis(index):
    """The axis of a single token in an index such as [:, :, t]; None for any other."""
    whole = isinstance(index, tuple) and all(isinstance(part, slice) and part == slice(None) for part in index[:-1])
    return len(index) - 1 if whole and isinstance(index[-1], int) else None
