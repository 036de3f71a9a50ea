"""flash-linear-attention's functions on our kernels, against the recurrence token by token in float64, written here."""

import os
import sys
import types
import unittest
import warnings
from unittest import mock

try:
    import gdn2.fla
    import torch
    import torch.nn.functional as F
    from gdn2.fla import table
except ImportError:
    torch = None

SEED = int(os.environ.get("GDN2_SEED", int.from_bytes(os.urandom(4), "little")))


def recurrence(q, k, v, g=None, b=None, w=None, scale=None, state=None, offsets=None):
    """o and the final states. Gates are [B,T,HV] or [B,T,HV,channels]; states [N,HV,K,V]."""
    if offsets is not None:
        rows = [
            recurrence(
                *(x if x is None else x[:, s:e] for x in (q, k, v, g, b, w)),
                scale,
                None if state is None else state[n : n + 1],
            )
            for n, (s, e) in enumerate(zip(offsets[:-1], offsets[1:]))
        ]
        return torch.cat([o for o, _ in rows], 1), torch.cat([last for _, last in rows])
    group = v.shape[2] // q.shape[2]
    q, k = q.repeat_interleave(group, 2), k.repeat_interleave(group, 2)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wide = lambda x: x if x is None or x.ndim == 4 else x[..., None]  # noqa: E731
    g, b, w = wide(g), wide(b), wide(w)
    S = torch.zeros(*v.shape[:1], *v.shape[2:3], k.shape[-1], v.shape[-1], dtype=v.dtype) if state is None else state
    rows = []
    for t in range(v.shape[1]):
        if g is not None:
            S = S * g[:, t].exp()[..., None]
        z = v[:, t] if w is None else w[:, t] * v[:, t]
        if b is not None:
            z = z - ((b[:, t] * k[:, t])[..., None] * S).sum(-2)
        S = S + k[:, t][..., None] * z[..., None, :]
        rows.append(scale * (q[:, t][..., None] * S).sum(-2))
    return (torch.stack(rows, 1) if rows else torch.zeros_like(v)), S


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return ((got - want).square().mean().sqrt() / (want.square().mean().sqrt() + 1e-12)).item()


class Draw:
    """Fresh tensors of B rows of T tokens."""

    def __init__(self, B=2, T=21, H=1, HV=2, K=20, V=36):
        self.make = torch.Generator().manual_seed(SEED)
        self.q, self.k = (F.normalize(self.normal(B, T, H, K), dim=-1) for _ in range(2))
        self.v = self.normal(B, T, HV, V)
        self.scalar, self.channel = -self.uniform(B, T, HV), -self.uniform(B, T, HV, K)
        self.beta, self.b, self.w = self.uniform(B, T, HV), self.uniform(B, T, HV, K), self.uniform(B, T, HV, V)
        self.state = 0.1 * self.normal(B, HV, K, V)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.make, dtype=torch.float64)

    def uniform(self, *shape):
        return torch.rand(shape, generator=self.make, dtype=torch.float64)


# By rule: the arguments of its functions beside q, k and v, and those of the recurrence, from a draw.
RULES = {
    "gdn2": (lambda d: {"g": d.channel, "b": d.b, "w": d.w}, lambda d: {"g": d.channel, "b": d.b, "w": d.w}),
    "kda": (lambda d: {"g": d.channel, "beta": d.beta}, lambda d: {"g": d.channel, "b": d.beta, "w": d.beta}),
    "gated_delta_rule": (
        lambda d: {"g": d.scalar, "beta": d.beta},
        lambda d: {"g": d.scalar, "b": d.beta, "w": d.beta},
    ),
    "delta_rule": (lambda d: {"beta": d.beta}, lambda d: {"b": d.beta, "w": d.beta}),
    "gla": (lambda d: {"g": d.channel}, lambda d: {"g": d.channel}),
    "simple_gla": (lambda d: {"g": d.scalar}, lambda d: {"g": d.scalar}),
}
ALIASES = {"chunk_gdn", "fused_recurrent_gdn"}
# Largest error by the dtype of q, k and v.
BARS = {"float64": 1e-7, "float32": 2e-6, "bfloat16": 0.01, "float16": 0.002}


@unittest.skipIf(torch is None, "torch is not installed")
class Functions(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}: GDN2_SEED={SEED} python3 -m unittest {self.id()}")

    def agree(self, got, want, bar, what):
        self.assertLessEqual(error(got, want), bar, what)

    def called(self, name, d, dtype, **more):
        given = {
            argument: x.to(dtype)
            for argument, x in RULES[name.removeprefix("chunk_").removeprefix("fused_recurrent_")][0](d).items()
        }
        if name == "fused_recurrent_gla":
            given["gk"] = given.pop("g")
        return getattr(gdn2.fla, name)(
            *(x.to(dtype) for x in (d.q, d.k, d.v)), **given, output_final_state=True, **more
        )

    def test_every_function_in_every_dtype_gives_the_recurrence(self):
        for rule, (_, gates) in RULES.items():
            for kind in ("chunk", "fused_recurrent"):
                for dtype, bar in BARS.items():
                    # Few tokens go through the kernel that decodes.
                    d = Draw(T=21 if kind == "chunk" else 5)
                    dtype = getattr(torch, dtype)
                    o, last = self.called(f"{kind}_{rule}", d, dtype, initial_state=d.state.float())
                    want_o, want_last = recurrence(d.q, d.k, d.v, **gates(d), state=d.state)
                    what = f"{kind}_{rule} in {dtype}"
                    self.agree(o, want_o, bar, what)
                    self.agree(last, want_last, bar, what)
                    self.assertEqual(o.dtype, dtype, what)
                    self.assertEqual(last.dtype, torch.float64 if dtype is torch.float64 else torch.float32, what)
                    path = gdn2.fla.last_path()
                    self.assertEqual(path[:2], (f"{kind}_{rule}", "gdn2"))
                    self.assertIn("head dims padded from 20 and 36 to 32 and 48", path.why)
                    self.assertEqual("float32 computed in float64" in path.why, dtype is torch.float32)

    def test_packed_sequences_states_turned_and_a_scale(self):
        for rule, (_, gates) in RULES.items():
            d = Draw(B=1, T=23)
            states = 0.1 * d.normal(3, 2, 20, 36)
            want_o, want_last = recurrence(d.q, d.k, d.v, **gates(d), scale=0.3, state=states, offsets=[0, 4, 4, 23])
            for dtype in (torch.int32, torch.int64):
                offsets = torch.tensor([0, 4, 4, 23], dtype=dtype)
                turned = {} if rule == "delta_rule" else {"state_v_first": True}
                start = states.transpose(2, 3).float() if turned else states.float()
                more = {
                    "scale": 0.3,
                    "cu_seqlens": offsets,
                    "cu_seqlens_cpu": offsets,
                    "initial_state": start,
                    **turned,
                }
                o, last = self.called(f"chunk_{rule}", d, torch.float32, **more)
                self.agree(o, want_o, 2e-6, rule)
                self.agree(last.transpose(2, 3) if turned else last, want_last, 2e-6, rule)

    def test_gates_norms_and_sigmoids_in_the_kernel_and_their_gradients(self):
        for lower_bound in (None, -4.0):
            d = Draw(T=9)
            raw = {"q": d.normal(2, 9, 1, 20), "k": d.normal(2, 9, 1, 20), "v": d.v, "g": d.normal(2, 9, 2, 20)}
            raw |= {"beta": d.normal(2, 9, 2), "A_log": d.normal(2), "dt_bias": d.normal(40)}
            given = {name: x.clone().requires_grad_() for name, x in raw.items()}
            o, _ = gdn2.fla.chunk_kda(
                **given, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True,
                allow_neg_eigval=True, lower_bound=lower_bound, safe_gate=lower_bound is not None,
            )  # fmt: skip
            o.square().sum().backward()
            plain = {name: x.clone().requires_grad_() for name, x in raw.items()}
            norm = lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()  # noqa: E731
            moved, rate = plain["g"] + plain["dt_bias"].view(2, 20), plain["A_log"].exp()[:, None]
            g = -rate * F.softplus(moved) if lower_bound is None else lower_bound * torch.sigmoid(rate * moved)
            beta = 2 * plain["beta"].sigmoid()
            want, _ = recurrence(norm(plain["q"]), norm(plain["k"]), plain["v"], g, beta, beta)
            want.square().sum().backward()
            self.agree(o, want, 1e-7, "o")
            for name, x in given.items():
                self.agree(x.grad, plain[name].grad, 1e-6, f"gradient of {name}")

    def test_a_bound_alone_needs_no_rate(self):
        d = Draw()
        raw = d.normal(2, 21, 2, 20)
        o, _ = gdn2.fla.chunk_gdn2(d.q, d.k, d.v, raw, d.b, d.w, use_gate_in_kernel=True, lower_bound=-3.0)
        self.agree(o, recurrence(d.q, d.k, d.v, -3 * raw.sigmoid(), d.b, d.w)[0], 1e-7, "o")

    def test_scalar_gates_in_the_kernel_and_decays_that_multiply(self):
        d = Draw()
        raw, rate, bias = d.normal(2, 21, 2), d.normal(2), d.normal(2)
        o, _ = gdn2.fla.chunk_gated_delta_rule(
            d.q, d.k, d.v, raw, d.beta, use_gate_in_kernel=True, A_log=rate, dt_bias=bias
        )
        want = recurrence(d.q, d.k, d.v, -rate.exp() * F.softplus(raw + bias), d.beta, d.beta)[0]
        self.agree(o, want, 1e-7, "gate in kernel")
        o, _ = gdn2.fla.fused_recurrent_gated_delta_rule(d.q, d.k, d.v, g=d.scalar, gk=d.channel, beta=d.beta)
        want = recurrence(d.q, d.k, d.v, d.scalar[..., None] + d.channel, d.beta, d.beta)[0]
        self.agree(o, want, 1e-7, "g and gk")
        o, _ = gdn2.fla.fused_recurrent_gated_delta_rule(d.q, d.k, d.v)
        ones = torch.ones_like(d.beta)
        self.agree(o, recurrence(d.q, d.k, d.v, None, ones, ones)[0], 1e-7, "no gate at all")
        gamma = -d.uniform(2)
        o, _ = gdn2.fla.chunk_simple_gla(d.q, d.k, d.v, g_gamma=gamma)
        self.agree(o, recurrence(d.q, d.k, d.v, gamma.expand(2, 21, 2))[0], 1e-7, "g_gamma")

    def test_the_states_before_each_chunk(self):
        d = Draw(B=1, T=75)
        given = d.q, d.k, d.v, d.channel, d.beta
        with self.assertRaisesRegex(ValueError, "needs torch.inference_mode"):
            gdn2.fla.chunk_kda(*given, return_intermediate_states=True)
        states = 0.1 * d.normal(2, 2, 20, 36)
        for size, ends in ((64, [3, 67, 75]), (32, [3, 35, 67, 75])):
            with torch.inference_mode():
                more = {"initial_state": states, "cu_seqlens": torch.tensor([0, 3, 75]), "output_final_state": True}
                o, last, h = gdn2.fla.chunk_kda(*given, return_intermediate_states=True, chunk_size=size, **more)
            rule = {"g": d.channel, "b": d.beta, "w": d.beta}
            want_o, want_last = recurrence(d.q, d.k, d.v, **rule, state=states, offsets=[0, 3, 75])
            self.agree(o, want_o, 1e-7, "o")
            self.agree(last, want_last, 1e-7, "final states")
            self.assertEqual(h.shape, (1, len(ends), 2, 20, 36))
            self.agree(h[:, :2], states[None], 1e-7, "before the first chunk of each")
            cut = {name: x[:, : ends[1]] for name, x in {**rule, "q": d.q, "k": d.k, "v": d.v}.items()}
            self.agree(
                h[:, 2], recurrence(**cut, state=states, offsets=[0, 3, ends[1]])[1][1:], 1e-7, "before the second"
            )
        dense = Draw(T=70)
        with torch.inference_mode():
            h = gdn2.fla.chunk_gdn2(
                *(dense.q, dense.k, dense.v, dense.channel, dense.b, dense.w), return_intermediate_states=True
            )[2]
        self.assertEqual(h.shape, (2, 2, 2, 20, 36))

    def test_what_is_not_served_is_refused_by_name(self):
        d = Draw()
        kda = lambda **more: gdn2.fla.chunk_kda(d.q, d.k, d.v, d.channel, d.beta, **more)  # noqa: E731
        for name in ("cp_context", "use_graph"):
            with self.assertRaisesRegex(gdn2.fla.Unsupported, name):
                kda(**{name: True})
        with self.assertRaisesRegex(gdn2.fla.Unsupported, "beta: shape .* a gate per value channel"):
            gdn2.fla.fused_recurrent_kda(d.q, d.k, d.v, d.channel, d.w)
        with self.assertRaisesRegex(gdn2.fla.Unsupported, "gv"):
            gdn2.fla.fused_recurrent_gla(d.q, d.k, d.v, gk=d.channel, gv=d.w)
        with self.assertRaisesRegex(gdn2.fla.Unsupported, "reverse"):
            gdn2.fla.fused_recurrent_simple_gla(d.q, d.k, d.v, d.scalar, reverse=True)
        large = Draw(T=1, K=272, V=16)
        with self.assertRaisesRegex(gdn2.fla.Unsupported, "K = 272, at most 256"):
            gdn2.fla.chunk_gla(large.q, large.k, large.v, large.channel)
        for wrong, says in (
            ({"A_log": d.v[0, 0, :, 0]}, "A_log is given, which needs use_gate_in_kernel"),
            ({"use_gate_in_kernel": True}, "A_log must be given"),
            ({"use_gate_in_kernel": True, "A_log": d.beta}, "A_log has 84 elements, must have 2"),
            ({"allow_neg_eigval": True}, "allow_neg_eigval=True requires use_beta_sigmoid_in_kernel"),
            ({"chunk_size": 16}, "`chunk_size` must be either 32 or 64 for KDA, got 16"),
            ({"cu_seqlens": torch.tensor([0, 21])}, "cu_seqlens: the batch size is 2, must be 1"),
            ({"cu_seqlens": torch.tensor([0.0, 21.0])}, "cu_seqlens is torch.float32"),
            (
                {"safe_gate": True, "use_gate_in_kernel": True, "lower_bound": -6.0, "A_log": d.scalar[0, 0]},
                "safe range",
            ),
        ):
            with self.assertRaisesRegex(ValueError, says):
                kda(**wrong)
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument: use_l2norm"):
            kda(use_l2norm=True)
        with self.assertWarnsRegex(DeprecationWarning, "renamed to `state_v_first`"):
            kda(transpose_state_layout=True)
        with self.assertRaisesRegex(ValueError, "g: shape"):
            gdn2.fla.chunk_kda(d.q, d.k, d.v, d.scalar, d.beta)

    def test_states_in_a_pool_are_updated_in_place(self):
        for dtype, bar in ((torch.float32, 2e-6), (torch.bfloat16, 0.01)):
            d = Draw(B=3, T=2, K=16, V=32)
            states = 0.1 * d.normal(5, 2, 16, 32)
            pool, slots = states.float(), torch.tensor([4, -1, 0])
            packed = {name: getattr(d, name).reshape(1, 6, *getattr(d, name).shape[2:]) for name in "qkv"}
            given = {name: x.to(dtype) for name, x in packed.items()}
            gates = d.channel.reshape(1, 6, 2, 16), d.beta.reshape(1, 6, 2)
            call = lambda **more: gdn2.fla.fused_recurrent_kda_fwd(  # noqa: E731
                *given.values(), *gates, initial_state=pool, cu_seqlens=torch.tensor([0, 2, 4, 6]), **more
            )
            o, final = call(ssm_state_indices=slots)
            self.assertIs(final, pool)
            for row, slot in ((0, 4), (2, 0)):
                one = [x[row : row + 1] for x in (d.q, d.k, d.v, d.channel, d.beta, d.beta)]
                want_o, want = recurrence(*one, state=states[slot : slot + 1])
                self.agree(o[:, 2 * row : 2 * row + 2], want_o, bar, "o")
                self.agree(pool[slot], want[0], bar, "state")
            self.assertTrue(torch.equal(pool[1:4], states[1:4].float()))
            with self.assertRaisesRegex(gdn2.fla.Unsupported, "ssm_state_indices: shape"):
                call(ssm_state_indices=slots[:, None])
            with self.assertRaisesRegex(gdn2.Error, "beta|b requires gradients and decode has none"):
                gates[1].requires_grad_()
                call(ssm_state_indices=slots)
        d = Draw(B=1, T=6, K=16, V=32)
        with self.assertRaisesRegex(gdn2.fla.Unsupported, "must have as many"):
            gdn2.fla.fused_recurrent_gdn2_fwd(
                *(d.q, d.k, d.v, d.channel, d.b, d.w),
                initial_state=torch.zeros(2, 2, 16, 32),
                inplace_final_state=True,
                cu_seqlens=torch.tensor([0, 2, 6]),
            )

    def test_a_decay_above_0_is_the_recurrence_s(self):
        d = Draw()
        g = -d.channel
        o, last = gdn2.fla.chunk_kda(*(x.bfloat16() for x in (d.q, d.k, d.v)), g, d.beta, output_final_state=True)
        want_o, want_last = recurrence(*(x.bfloat16().double() for x in (d.q, d.k, d.v)), g, d.beta, d.beta)
        self.agree(o, want_o, 0.005, "o")
        self.agree(last, want_last, 1e-6, "final states")
        self.assertIn("a decay above 0, computed in float64", gdn2.fla.last_path().why)

    def test_a_compiled_call_is_one_graph(self):
        d = Draw(T=12)
        q = d.q.bfloat16().requires_grad_()
        given = [x.bfloat16() for x in (d.k, d.v)] + [d.channel.float(), d.beta.float()]
        call = lambda q, *x: gdn2.fla.chunk_kda(q, *x, use_qk_l2norm_in_kernel=True)[0]  # noqa: E731
        want = call(q, *given)
        (want_grad,) = torch.autograd.grad(want.float().sum(), q)
        got = torch.compile(call, fullgraph=True, backend="aot_eager")(q, *given)
        (grad,) = torch.autograd.grad(got.float().sum(), q)
        self.assertTrue(torch.equal(got, want) and torch.equal(grad, want_grad))


@unittest.skipIf(torch is None, "torch is not installed")
class Accelerated(unittest.TestCase):
    """On a stand-in of flash-linear-attention: a function, the package that exports it, a layer that imported it."""

    def setUp(self):
        def chunk_kda(*args, **kwargs):
            return "the original", kwargs

        self.original = chunk_kda
        names = ("fla", "fla.ops", "fla.ops.kda", "fla.ops.kda.chunk", "fla.layers", "fla.layers.kda")
        self.before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "fla"}
        for name in self.before:
            del sys.modules[name]
        for name in names:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = []
            if name.startswith(("fla.ops.kda", "fla.layers.kda")):
                sys.modules[name].chunk_kda = chunk_kda
        self.addCleanup(self.back)

    def back(self):
        gdn2.fla.restore()
        for name in [name for name in sys.modules if name.partition(".")[0] == "fla"]:
            del sys.modules[name]
        sys.modules.update(self.before)

    def test_it_is_put_in_place_once_and_undone(self):
        places = gdn2.fla.accelerate()
        self.assertEqual(set(places), {f"fla.{home}.chunk_kda" for home in ("layers.kda", "ops.kda", "ops.kda.chunk")})
        ours = sys.modules["fla.ops.kda"].chunk_kda
        self.assertIsNot(ours, self.original)
        self.assertEqual(sorted(gdn2.fla.accelerate(["chunk_kda"])), sorted(places))
        self.assertIs(sys.modules["fla.layers.kda"].chunk_kda, ours)
        gdn2.fla.restore()
        for home in ("layers.kda", "ops.kda", "ops.kda.chunk"):
            self.assertIs(sys.modules[f"fla.{home}"].chunk_kda, self.original)
        with self.assertRaisesRegex(ValueError, "chunk_rwkv: not served"):
            gdn2.fla.accelerate(["chunk_rwkv"])

    def test_what_is_not_served_runs_the_original_and_says_why(self):
        gdn2.fla.accelerate()
        d, call = Draw(), sys.modules["fla.layers.kda"].chunk_kda
        o, _ = call(d.q, d.k, d.v, d.channel, d.beta)
        self.assertLessEqual(error(o, recurrence(d.q, d.k, d.v, d.channel, d.beta, d.beta)[0]), 1e-7)
        self.assertEqual(gdn2.fla.last_path().ran, "gdn2")
        self.assertEqual(call(d.q, d.k, d.v, d.channel, d.beta, cp_context=1), ("the original", {"cp_context": 1}))
        path = gdn2.fla.last_path()
        self.assertEqual(path[:2], ("chunk_kda", "original"))
        self.assertIn("cp_context", path.why)
        # A GPU that no kernel is made for, as the library says it.
        old = gdn2.Error("GPU has compute capability 7.5; kernels are generated for 8.0")
        with mock.patch.object(gdn2.Kernels, "of", mock.Mock(side_effect=old)):
            self.assertEqual(call(d.q, d.k, d.v, d.channel, d.beta), ("the original", {}))
        self.assertIn("no kernels: GPU has compute capability 7.5", gdn2.fla.last_path().why)

    def test_the_official_repository_s_op_is_replaced_too(self):
        official = types.ModuleType("lit_gpt.gdn2_ops")
        official.chunk_gdn2 = lambda *args, **kwargs: "the official one"
        model = types.ModuleType("lit_gpt.model")
        model.chunk_gdn2 = official.chunk_gdn2
        names = {"lit_gpt": types.ModuleType("lit_gpt"), "lit_gpt.gdn2_ops": official, "lit_gpt.model": model}
        sys.modules.update(names)
        self.addCleanup(lambda: [sys.modules.pop(name) for name in names])
        places = gdn2.fla.accelerate(["chunk_gdn2"])
        self.assertEqual(set(places), {"lit_gpt.gdn2_ops.chunk_gdn2", "lit_gpt.model.chunk_gdn2"})
        d = Draw()
        o, _ = model.chunk_gdn2(d.q, d.k, d.v, d.channel, d.b, d.w)
        self.assertLessEqual(error(o, recurrence(d.q, d.k, d.v, d.channel, d.b, d.w)[0]), 1e-7)
        self.assertEqual(model.chunk_gdn2(d.q, d.k, d.v, d.channel, d.b, d.w, cp_context=1), "the official one")
        gdn2.fla.restore()
        self.assertEqual(model.chunk_gdn2(), "the official one")


@unittest.skipIf(torch is None, "torch is not installed")
class Installed(unittest.TestCase):
    """On flash-linear-attention itself, where it is installed, without a GPU."""

    def setUp(self):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import fla.layers
                import fla.ops.gla
                import fla.ops.kda
        except ImportError:
            self.skipTest("flash-linear-attention is not installed")
        self.fla = fla
        self.addCleanup(gdn2.fla.restore)

    def test_what_we_serve_runs_and_what_we_do_not_is_refused_there_for_want_of_a_gpu(self):
        before = {name: getattr(self.fla.ops.kda, name) for name in ("chunk_kda", "fused_recurrent_kda")}
        places = gdn2.fla.accelerate()
        self.assertEqual(sorted(places), sorted(gdn2.fla.accelerate()))
        for name in ("ops.kda.chunk_kda", "layers.kda.chunk_kda", "ops.gla.chunk_gla", "layers.gdn2.chunk_gdn2"):
            self.assertIn(f"fla.{name}", places)
        # All of them, under their other names too.
        self.assertEqual({place.rpartition(".")[2] for place in places} - set(table.names()), ALIASES)
        d = Draw()
        given = d.q, d.k, d.v, d.channel, d.beta
        o, _ = self.fla.ops.kda.chunk_kda(*given)
        self.assertLessEqual(error(o, recurrence(*given, d.beta)[0]), 1e-7)
        self.assertEqual(gdn2.fla.last_path(), ("chunk_kda", "gdn2", "head dims padded from 20 and 36 to 32 and 48"))
        # The original is marked as not to be compiled; ours is part of the graph.
        call = lambda *given: self.fla.ops.kda.chunk_kda(*given)[0]  # noqa: E731
        self.assertTrue(torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(*given), o))
        refused = {
            "use_graph": lambda: self.fla.ops.kda.chunk_kda(*(x.float() for x in given), use_graph=True),
            "gv": lambda: self.fla.ops.gla.fused_recurrent_gla(*(x.float() for x in (d.q, d.q, d.q)), gv=d.q.float()),
            "reverse": lambda: self.fla.ops.gla.fused_recurrent_gla(
                *(x.float() for x in (d.q, d.q, d.q)), reverse=True
            ),
        }
        if not torch.cuda.is_available():
            for argument, call in refused.items():
                text = f"^(chunk_kda|fused_recurrent_gla): {argument} is given.* needs tensors on a GPU"
                with self.assertRaisesRegex(gdn2.fla.Unsupported, text):
                    call()
                self.assertEqual(gdn2.fla.last_path().ran, "original")
                self.assertIn(argument, gdn2.fla.last_path().why)
        # What the original says of an argument is not taken for that.
        with self.assertRaisesRegex(TypeError, "missing"):
            self.fla.ops.kda.chunk_kda(d.q)
        gdn2.fla.restore()
        for name, original in before.items():
            self.assertIs(getattr(self.fla.ops.kda, name), original)


if __name__ == "__main__":
    unittest.main()
