"""Rules that compute their gates, on tensors of PyTorch: parameters and logits of `let`s are named, and learn."""

import os
import unittest
from unittest import mock

import gdn2

try:
    import torch
    import torch.nn.functional as F
    from gdn2.fla import recurrence
    from torch.library import opcheck
except ImportError:
    torch = None

from .test_fla import error

# A parameter of each grain, a logit of a `let`, a gate that is taken as it comes.
RULE = """rule mixed {
    q: l2norm; k: l2norm;
    param a_log: head; param dt_bias: channel;
    let step: scalar = softplus(x);
    decay: channel = -exp(a_log) * softplus(x + dt_bias); erase: channel; write: scalar = step * sigmoid(x);
    key_dim: 16; value_dim: 32; dtype: bf16;
}"""
NAMED = ("a_log", "dt_bias", "step")
SEED = int(os.environ.get("GDN2_SEED", int.from_bytes(os.urandom(4), "little")))


def drawn(dtype, tokens=7, heads=1):
    """Fresh inputs that require gradients: B = 2, HV = 2·H."""
    make = torch.Generator().manual_seed(SEED)
    normal = lambda *shape: torch.randn(shape, generator=make, dtype=torch.float64)  # noqa: E731
    hv = 2 * heads
    values = {
        "q": normal(2, tokens, heads, 16),
        "k": normal(2, tokens, heads, 16),
        "v": normal(2, tokens, hv, 32),
        "g": normal(2, tokens, hv, 16),
        "b": normal(2, tokens, hv, 16).sigmoid(),
        "w": normal(2, tokens, hv),
        "initial_state": 0.1 * normal(2, hv, 16, 32),
        "a_log": normal(hv) - 1,
        "dt_bias": normal(hv, 16),
        "step": normal(2, tokens, hv),
    }
    wide = ("initial_state", "a_log", "dt_bias")
    return {
        name: value.to(torch.float32 if name in wide and dtype is not torch.float64 else dtype).requires_grad_()
        for name, value in values.items()
    }


def defined(q, k, v, g, b, w, initial_state, a_log, dt_bias, step):
    """o and the final states, token by token."""
    norm = lambda x: x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()  # noqa: E731
    group = v.shape[2] // q.shape[2]
    q, k = (norm(x).repeat_interleave(group, 2) for x in (q, k))
    g, w = -a_log.exp()[:, None] * F.softplus(g + dt_bias), F.softplus(step) * w.sigmoid()
    S, rows = initial_state, []
    for t in range(v.shape[1]):
        S = S * g[:, t].exp()[..., None]
        z = w[:, t, :, None] * v[:, t] - ((b[:, t] * k[:, t])[..., None] * S).sum(-2)
        S = S + k[:, t][..., None] * z[..., None, :]
        rows.append(16**-0.5 * (q[:, t][..., None] * S).sum(-2))
    return torch.stack(rows, 1), S


def split(tensors):
    """The arguments of a call."""
    return [x for name, x in tensors.items() if name not in NAMED], {name: tensors[name] for name in NAMED}


def learnt(call, tensors):
    """o, the final states and every gradient."""
    own = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    o, state = call(own)
    grads = torch.autograd.grad(o.double().square().sum() + state.double().sum(), list(own.values()))
    return {"o": o.detach(), "state": state.detach()} | dict(zip(own, grads))


@unittest.skipIf(torch is None, "torch is not installed")
class Formulas(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}: GDN2_SEED={SEED} python3 -m unittest {self.id()}")

    def called(self, device, tensors):
        kernels = gdn2.load(RULE, device=device)

        def call(own):
            rows, named = split(own)
            return kernels.forward(*rows, named=named)

        return learnt(call, tensors)

    def test_values_and_gradients_are_the_definitions(self):
        # On the virtual machine it is the kernels themselves that run, on both paths.
        for device in ("cpu:f64", "cpu", "vm", "vm:sm_90a"):
            exact = device == "cpu:f64"
            bar, wide = (1e-7, 1e-6) if exact else (0.01, 0.03)
            tensors = drawn(torch.float64 if exact else torch.bfloat16)
            want = learnt(lambda own: defined(**own), {name: x.double() for name, x in tensors.items()})
            for name, got in self.called(device, tensors).items():
                most = bar if name in ("o", "state") else wide
                self.assertLessEqual(error(got, want[name]), most, f"{name} on {device}")

    def test_opcheck_and_gradcheck(self):
        tensors = drawn(torch.bfloat16)
        rows, named = split(tensors)
        kernels = gdn2.load(RULE)
        own = [named[name] for name in kernels.names]
        opcheck(torch.ops.gdn2.forward, (*rows, own, None, None, kernels.key, True))
        plain, own = [x.detach() for x in rows], [x.detach() for x in own]
        o, state, scratch = torch.ops.gdn2.forward(*plain, own, None, 0.5, kernels.key, True)
        given = o, state, *plain, own, None, scratch, 0.5, kernels.key, "dq dg da_log dstep"
        opcheck(torch.ops.gdn2.backward, given)
        token = [x[:, :1] for x in plain[:-1]]
        steps = [x[:, :1] if x.ndim == 3 else x for x in own]
        opcheck(torch.ops.gdn2.decode, (plain[-1].clone(), *token, steps, None, None, kernels.key))
        exact = gdn2.load(RULE, device="cpu:f64")
        small = drawn(torch.float64, tokens=2)

        def call(*values):
            rows, named = split(dict(zip(small, values)))
            return exact.forward(*rows, named=named)

        self.assertTrue(torch.autograd.gradcheck(call, tuple(small.values()), fast_mode=True))

    def test_a_compiled_call_is_one_graph_and_gives_the_same_bits(self):
        tensors, kernels = drawn(torch.bfloat16), gdn2.load(RULE)

        def call(own):
            rows, named = split(own)
            return kernels.forward(*rows, named=named)

        want = learnt(call, tensors)
        got = learnt(torch.compile(call, fullgraph=True, backend="aot_eager"), tensors)
        for name, x in want.items():
            self.assertTrue(torch.equal(got[name], x), name)

    def test_a_large_call_goes_a_part_of_its_heads_at_a_time(self):
        from gdn2 import ops

        tensors = drawn(torch.bfloat16, heads=3)
        want = self.called("cpu", tensors)
        with mock.patch.object(ops, "MOST_NUMBERS", 1):
            got = self.called("cpu", tensors)
        for name, x in want.items():
            self.assertTrue(torch.equal(got[name], x), name)

    def test_decoding_goes_on_where_forward_ended(self):
        tensors = {name: x.detach() for name, x in drawn(torch.bfloat16).items()}
        want_o, want = defined(**{name: x.double() for name, x in tensors.items()})
        kernels, state = gdn2.load(RULE), tensors["initial_state"].clone()
        for t in range(7):
            at = {name: x[:, t : t + 1] for name, x in tensors.items() if x.ndim >= 3 and name != "initial_state"}
            rows = [at[name] for name in ("q", "k", "v", "g", "b", "w")]
            named = {"a_log": tensors["a_log"], "dt_bias": tensors["dt_bias"], "step": at["step"]}
            self.assertLessEqual(error(kernels.decode(state, *rows, named=named), want_o[:, t : t + 1]), 0.02, t)
        self.assertLessEqual(error(state, want), 1e-3)

    def test_autocast_and_what_is_missing(self):
        tensors, kernels = drawn(torch.bfloat16), gdn2.load(RULE)
        rows, named = split(tensors)
        with torch.autocast("cpu", torch.bfloat16):
            o, _ = kernels.forward(*rows, named=named | {"a_log": named["a_log"].bfloat16()})
        o.float().sum().backward()
        self.assertEqual(tensors["a_log"].grad.dtype, torch.float32)
        names = r"named holds \['a_log'\], the rule names \['a_log', 'dt_bias', 'step'\]"
        with self.assertRaisesRegex(gdn2.Error, names):
            kernels.forward(*rows, named={"a_log": named["a_log"]})
        with self.assertRaisesRegex(gdn2.Error, "a_log is a list, v a torch tensor"):
            kernels.forward(*rows, named=named | {"a_log": [1.0, 2.0]})
        with self.assertRaisesRegex(gdn2.Error, "dt_bias requires gradients and decode has none"):
            token = [x.detach()[:, :1] for x in rows[:-1]]
            step = {"step": named["step"].detach()[:, :1], "a_log": named["a_log"].detach()}
            kernels.decode(rows[-1].detach(), *token, named=named | step)


@unittest.skipIf(torch is None, "torch is not installed")
class InTheKernel(unittest.TestCase):
    """flash-linear-attention's flags: computed by the rule where there are kernels, else before the call."""

    def setUp(self):
        print(f"seed {SEED}: GDN2_SEED={SEED} python3 -m unittest {self.id()}")
        make = torch.Generator().manual_seed(SEED)
        normal = lambda *shape: torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_()  # noqa: E731
        self.given = {"q": normal(2, 9, 1, 20), "k": normal(2, 9, 1, 20), "v": normal(2, 9, 2, 36)}
        self.given |= {"g": normal(2, 9, 2, 20), "beta": normal(2, 9, 2), "A_log": normal(2), "dt_bias": normal(40)}
        self.flags = {"use_qk_l2norm_in_kernel": True, "use_gate_in_kernel": True, "use_beta_sigmoid_in_kernel": True}

    def called(self, **more):
        o, _ = gdn2.fla.chunk_kda(**self.given, **self.flags, **more)
        return [o, *torch.autograd.grad(o.square().sum(), list(self.given.values()))]

    def keys(self):
        """What is loaded from here on."""
        found, load = [], recurrence.Kernels.of

        def of(key):
            found.append(key)
            return load(key)

        return found, mock.patch.object(recurrence.Kernels, "of", of)

    def test_flags_become_formulas_of_the_rule(self):
        for bound in (None, -4.5):
            keys, watched = self.keys()
            with watched:
                inside = self.called(lower_bound=bound)
            plain, bounded = "-exp(a_log) * softplus(x + dt_bias)", "-4.5 * sigmoid(exp(a_log) * (x + dt_bias))"
            decay = plain if bound is None else bounded
            wanted = ("q: l2norm; k: l2norm;", "param dt_bias: channel;", f"= {decay};", "= sigmoid(x); write: erase;")
            for text in wanted:
                self.assertTrue(any(text in key for key in keys), (text, keys))
            with mock.patch.object(recurrence, "has_kernels", lambda *_: False):
                before = self.called(lower_bound=bound)
            for a, b in zip(inside, before):
                self.assertLessEqual(error(a, b), 1e-7)

    def test_what_no_rule_can_promise_is_computed_before_the_call(self):
        # A decay above 0 is no rule's; the definition in float64 has it all the same.
        with torch.no_grad():
            o, _ = gdn2.fla.chunk_kda(**self.given, **self.flags, lower_bound=0.01)
        self.assertEqual(gdn2.fla.last_path().ran, "gdn2")
        self.assertTrue(o.isfinite().all())


if __name__ == "__main__":
    unittest.main()
