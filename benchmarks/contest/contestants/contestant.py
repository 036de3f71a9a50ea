"""What every contestant is."""

import importlib.metadata
import os

# Plain flash-linear-attention: without these it hands calls to whatever other package is installed. What its autotuner
# finds while trials run side by side must not be kept for the timing.
PLAIN = {"FLA_TILELANG": "0", "FLA_FLASH_QLA": "0", "FLA_FLASH_KDA": "0", "FLA_CACHE_RESULTS": "0"}


class Prepared:
    """A call ready to be timed; how its result reads as tensors by name in our layouts, outside the timing; and what
    else is to be known of it, if anything."""

    def __init__(self, call, read, kernels=None):
        self.call, self.read, self.kernels = call, read, kernels


class Contestant:
    """One implementation. `prepare` may raise whatever its package raises: that is its refusal."""

    name = ""
    package = ""
    environment = PLAIN
    note = None

    def version(self):
        return importlib.metadata.version(self.package)

    def enter(self):
        os.environ.update(self.environment)

    def refuses(self, row):
        """Why it has nothing for the row, None if it may have."""
        return None

    def prepare(self, row, tensors):
        raise NotImplementedError


def gradient_names(tensors):
    """Inputs with a gradient, by the name of the tensor; gates come without a prologue here."""
    named = {"q": tensors.q, "k": tensors.k, "v": tensors.v, "g": tensors.g, "b": tensors.b, "w": tensors.w}
    return {name: value for name, value in named.items() if value is not None}


def with_autograd(row, tensors, run, read):
    """A forward, backward or training call of a package that works through autograd.

    `run(**inputs)` gives (o, final_state); `read` puts a final state into our layout.
    """
    import torch

    if row.passing in ("forward", "decode"):
        def forward():
            with torch.no_grad():
                return run()

        return Prepared(forward, lambda outputs: {"o": outputs[0], "final_state": read(outputs[1])})

    if row.prologue:
        raise NotImplementedError("gradients through a prologue are not compared")
    leaves = {name: value.detach().requires_grad_() for name, value in gradient_names(tensors).items()}

    def gradients(o):
        return torch.autograd.grad(o, list(leaves.values()), tensors.d_o, retain_graph=row.passing == "backward")

    if row.passing == "training":
        def training():
            o = run(**leaves)[0]
            return o, gradients(o)

        call = training
    else:
        o = run(**leaves)[0]

        def call():
            return o, gradients(o)

    def named(outputs):
        return {"o": outputs[0].detach()} | {f"d{name}": grad for name, grad in zip(leaves, outputs[1])}

    return Prepared(call, named)


def unread(state):
    return state


def swapped(state):
    """A state of [N,H,V,K] as [N,H,K,V]."""
    return None if state is None else state.transpose(-1, -2)
