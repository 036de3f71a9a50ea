"""The tensors of a row, the same for every contestant, and what float64 says about them."""

import torch
import torch.nn.functional as F

from . import recurrence
from .rows import lengths

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
EPSILON = 1e-6  # of the l2 norm


class Tensors:
    """Inputs of a row. Gates stand as the rule has them: g [B,T,H] or [B,T,H,D], b as g, w [B,T,H,D] or None where b is
    both. With a prologue `raw` holds what arrives: q, k, g, b before norm and activation, `a_log` and `dt_bias`."""

    def __init__(self, row, device, seed=1):
        draw = torch.Generator(device="cpu").manual_seed(seed)
        if torch.device(device).type == "cuda":
            draw = torch.Generator(device=device).manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=draw, device=device)

        def uniform(*shape):
            return torch.rand(shape, generator=draw, device=device)

        b, t, h, d = row.b, row.t, row.h, row.d
        channels = (d,) if row.rule != "gdn" else ()
        stored = DTYPES[row.gate]
        self.row, self.device, self.scale = row, device, d**-0.5
        self.starts, self.lengths = lengths(row)
        self.cu32 = self.cu64 = self.cu_cpu = None
        if row.sequences:
            ends = torch.tensor([*self.starts, t], dtype=torch.int64)
            self.cu_cpu, self.cu64, self.cu32 = ends, ends.to(device), ends.to(device, torch.int32)
        self.count = row.sequences or b

        q, k = normal(b, t, h, d).bfloat16(), normal(b, t, h, d).bfloat16()
        self.v = normal(b, t, h, d).bfloat16()
        g = {
            "strong": lambda: -0.1 - 4.9 * uniform(b, t, h, *channels),
            "mid": lambda: torch.full((b, t, h, *channels), -0.05, device=device),
            "none": lambda: torch.zeros((b, t, h, *channels), device=device),
        }[row.regime]().to(stored)
        self.raw = None
        self.w = uniform(b, t, h, d).bfloat16() if row.rule == "gdn2" else None
        if row.prologue:
            a_log, dt_bias = torch.zeros(h, device=device), torch.zeros((h, *channels), device=device)
            # softplus of this is the drawn decay.
            before = torch.log(torch.expm1(-g.float().clamp(max=-1e-6)))
            beta = normal(b, t, h) if row.rule != "gdn2" else None
            self.raw = {"q": q, "k": k, "g": before.to(stored), "b": beta, "a_log": a_log, "dt_bias": dt_bias}
            self.b = uniform(b, t, h, d).bfloat16() if beta is None else None
            self.q = self.k = self.g = None
        else:
            self.q, self.k, self.g = unit(q).bfloat16(), unit(k).bfloat16(), g
            self.b = uniform(b, t, h, d).bfloat16() if row.rule == "gdn2" else uniform(b, t, h).to(stored)
        given = row.states or row.passing == "decode"
        self.initial = 0.1 * normal(self.count, h, d, d) if given else None
        trains = row.passing in ("backward", "training")
        self.d_o = normal(b, t, h, d).bfloat16() if trains else None

    def activated(self):
        """q, k, g, b as the rule stores them: the prologue as PyTorch's own operations, where there is one."""
        if self.raw is None:
            return self.q, self.k, self.g, self.b
        raw = self.raw
        beta = self.b if raw["b"] is None else torch.sigmoid(raw["b"])
        return unit(raw["q"]), unit(raw["k"]), self.decay(), beta

    def decay(self):
        raw = self.raw
        amplitude = raw["a_log"].exp().view(-1, *(1,) * (raw["g"].dim() - 3))
        return -amplitude * F.softplus(raw["g"].float() + raw["dt_bias"])


def unit(x):
    return (x * torch.rsqrt((x.float() ** 2).sum(-1, keepdim=True) + EPSILON)).to(x.dtype)


class Exact:
    """The row's results in float64 for some heads of some batch rows: all of them would take too long."""

    def __init__(self, tensors, gradients=False):
        row = tensors.row
        self.packed = row.sequences > 0
        self.pairs = sorted({(0, 0), (0, row.h - 1), (row.b - 1, 0), (row.b - 1, row.h - 1)})
        q, k, g, b = wide(tensors)
        w = tensors.w.double() if tensors.w is not None else b
        inputs = {"q": q, "k": k, "v": tensors.v.double(), "g": g, "b": b}
        inputs |= {"w": w} if tensors.w is not None else {}
        leaves = {name: self.heads(value) for name, value in inputs.items()}
        if gradients:
            leaves = {name: value.requires_grad_() for name, value in leaves.items()}
        initial = torch.zeros(tensors.count, row.h, row.d, row.d, dtype=torch.float64, device=tensors.device)
        if tensors.initial is not None:
            initial = tensors.initial.double()
        o, finals = recurrence.recurrence(
            torch, *(leaves[name] for name in ("q", "k", "v", "g", "b")), leaves.get("w", leaves["b"]), tensors.scale,
            self.states(initial), tensors.starts,
        )  # fmt: skip
        self.exact = {"o": o, "final_state": finals}
        if gradients:
            found = torch.autograd.grad(o, list(leaves.values()), self.heads(tensors.d_o.double()))
            self.exact = {"o": o.detach()} | {f"d{name}": value for name, value in zip(leaves, found)}

    def heads(self, x):
        """[B,T,H,…] as [T,P,…], one number per token as one channel."""
        chosen = torch.stack([x[batch, :, head] for batch, head in self.pairs], dim=1)
        return chosen if chosen.dim() == 3 else chosen[..., None]

    def states(self, x):
        """[N,H,K,V] as [N,P,K,V] for packed sequences, as [1,P,K,V] for dense rows."""
        if self.packed:
            return torch.stack([x[:, head] for _, head in self.pairs], dim=1)
        return torch.stack([x[batch, head] for batch, head in self.pairs])[None]

    def errors(self, outputs):
        """Errors of the outputs that are given, by name."""
        found = {}
        for name, want in self.exact.items():
            if outputs.get(name) is not None:
                choose = self.states if name == "final_state" else self.heads
                got = choose(outputs[name].double())
                found[name] = recurrence.error(got, want) if got.shape == want.shape else float("inf")
        return found


def wide(tensors):
    """q, k, g, b in float64; a prologue is computed there too."""
    if tensors.raw is None:
        return tuple(x.double() for x in (tensors.q, tensors.k, tensors.g, tensors.b))
    raw = {name: value.double() for name, value in tensors.raw.items() if value is not None}
    norm = {name: raw[name] * torch.rsqrt((raw[name] ** 2).sum(-1, keepdim=True) + EPSILON) for name in "qk"}
    amplitude = raw["a_log"].exp().view(-1, *(1,) * (raw["g"].dim() - 3))
    g = -amplitude * F.softplus(raw["g"] + raw["dt_bias"])
    return norm["q"], norm["k"], g, torch.sigmoid(raw["b"]) if "b" in raw else tensors.b.double()


def finite(outputs):
    return all(bool(torch.isfinite(value).all()) for value in outputs.values() if value is not None)
