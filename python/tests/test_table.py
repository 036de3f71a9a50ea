"""The table of arguments, held against the functions: every argument of every one of them is tried."""

import ast
import inspect
import pathlib
import unittest
import warnings

import gdn2

try:
    import gdn2.fla
    import torch
    from gdn2.fla import table

    from tests.test_fla import RULES, SEED, Draw
except ImportError:
    torch = None


def base(name, d, tokens=None):
    """A call of a function: its tensors alone."""
    rule = name.removeprefix("chunk_").removeprefix("fused_recurrent_").removesuffix("_fwd")
    given = {"q": 2 * d.q, "k": d.k, "v": d.v, **RULES[rule][0](d)}
    if name == "fused_recurrent_gla":
        given["gk"] = given.pop("g")
    if name == "fused_recurrent_kda_fwd":
        given["inplace_final_state"] = False
    return given | {"output_final_state": True}


def variants(d, serving):
    """By argument: what a call has beside its tensors, and what it is changed to."""
    raw = {"use_gate_in_kernel": True, "A_log": d.scalar[0, 0]}
    bounded = raw | {"lower_bound": -3.0}
    offsets = torch.tensor([0, 8, 16] if serving else [0, 5, 16])
    pool = {"inplace_final_state": True, "ssm_state_indices": torch.tensor([2]), "initial_state": d.pool}
    values = {
        **{name: ({}, {name: x}) for name, x in {"q": d.k, "k": d.q / 3, "v": -d.v, "gk": d.channel / 2}.items()},
        **{name: ({}, {name: x}) for name, x in {"b": d.b / 2, "w": d.w / 2, "beta": d.beta / 2}.items()},
        "scale": ({}, {"scale": 0.3}),
        "initial_state": ({}, {"initial_state": d.state}),
        "output_final_state": ({}, {"output_final_state": False}),
        "state_v_first": ({}, {"state_v_first": True}),
        "transpose_state_layout": ({}, {"transpose_state_layout": True}),
        "use_qk_l2norm_in_kernel": ({}, {"use_qk_l2norm_in_kernel": True}),
        "use_gate_in_kernel": ({}, raw),
        "A_log": (raw, raw | {"A_log": 2 * raw["A_log"]}),
        "lower_bound": (bounded, bounded | {"lower_bound": -4.0}),
        "safe_gate": (bounded, bounded | {"safe_gate": True}),
        "use_beta_sigmoid_in_kernel": ({}, {"use_beta_sigmoid_in_kernel": True}),
        "allow_neg_eigval": (
            {"use_beta_sigmoid_in_kernel": True},
            {"use_beta_sigmoid_in_kernel": True, "allow_neg_eigval": True},
        ),
        "g_gamma": ({"g": None, "g_gamma": d.scalar[0, 0]}, {"g": None, "g_gamma": d.scalar[0, 1]}),
        "cu_seqlens": ({}, {"cu_seqlens": offsets}),
        "cu_seqlens_cpu": ({}, {"cu_seqlens_cpu": offsets}),
        "disable_recompute": ({}, {"disable_recompute": True}),
        "max_num_seqs": ({}, {"max_num_seqs": 4}),
        "chunk_indices": ({}, {"chunk_indices": torch.tensor([[0, 0]])}),
        "chunk_size": ({}, {"chunk_size": 64}),
        "return_intermediate_states": ({}, {"return_intermediate_states": True}),
        "inplace_final_state": (
            {"initial_state": d.pool[:1]},
            {"initial_state": d.pool[:1], "inplace_final_state": True},
        ),
        "ssm_state_indices": (pool, pool | {"ssm_state_indices": torch.tensor([0])}),
        "out": ({}, {"out": torch.empty_like(d.v)}),
        **{name: ({}, {name: d.w}) for name in ("gv", "num_accepted_tokens")},
        **{name: ({}, {name: True}) for name in ("cp_context", "use_graph", "reverse")},
    }
    return values


@unittest.skipIf(torch is None, "torch is not installed")
class Table(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}: GDN2_SEED={SEED} python3 -m unittest {self.id()}")

    def draw(self):
        # States in place need head dims of kernels, and K is not V, so that a layout shows.
        d = Draw(B=1, T=16, H=1, HV=2, K=16, V=32)
        d.pool = 0.1 * d.normal(3, 2, 16, 32).float()
        return d

    def test_every_argument_of_every_function_does_what_the_table_says(self):
        tried = 0
        for name, of in table.answers().items():
            for argument, answer in of.items():
                with self.subTest(name, argument=argument):
                    self.tried(name, argument, answer)
                    tried += 1
        self.assertGreater(tried, 150)

    def tried(self, name, argument, answer):
        d = self.draw()
        values = variants(d, name.endswith("_fwd"))
        values["g"] = ({}, {"g": (d.channel if base(name, d).get("g", d.scalar).ndim == 4 else d.scalar) / 2})
        bias = d.normal(2 if "gated_delta_rule" in name else 32)
        raw = values["A_log"][0]
        values["dt_bias"] = (raw, raw | {"dt_bias": bias})
        before, after = values[argument]
        if "use_gate_in_kernel" in before and "lower_bound" not in table.answers()[name]:
            before = {key: x for key, x in before.items() if key != "lower_bound"}
        call = lambda more: table.function(name)(**base(name, self.draw()) | self.copied(more))  # noqa: E731
        with torch.inference_mode(argument == "return_intermediate_states"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if answer.here == "refused":
                with self.assertRaisesRegex(gdn2.fla.Unsupported, argument):
                    call(after)
                return
            self.assertEqual(answer.here, "honoured")
            changes = not self.same(call(before), call(after))
        if argument in ("inplace_final_state", "out"):
            # The same numbers, elsewhere.
            given = self.copied(after)
            o, final = table.function(name)(**base(name, self.draw()) | given)
            place = given.get("out", given.get("initial_state"))
            self.assertIs(o if argument == "out" else final, place)
        else:
            self.assertEqual(changes, answer.changes)

    def copied(self, given):
        return {key: x.clone() if isinstance(x, torch.Tensor) else x for key, x in given.items()}

    def same(self, got, want):
        if len(got) != len(want):
            return False
        for a, b in zip(got, want):
            if (a is None) != (b is None) or a is not None and (a.shape != b.shape or not torch.equal(a, b)):
                return False
        return True

    def test_the_printed_table_has_every_argument(self):
        text = table.markdown()
        for of in table.answers().values():
            for argument in of:
                self.assertIn(f"\n| {argument} | ", text)
        self.assertIn("| reverse | fused_recurrent_gla, fused_recurrent_simple_gla | refused | ", text)

    def test_what_is_installed_has_these_arguments_and_no_more(self):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import fla
                import fla.ops.gdn2  # noqa: F401
        except ImportError:
            self.skipTest("flash-linear-attention is not installed")
        if fla.__version__ != table.VERSION:
            self.skipTest(f"the table is of {table.VERSION}, {fla.__version__} is installed")
        for name in table.names():
            home = f"fla.ops.{name.removeprefix('chunk_').removeprefix('fused_recurrent_').removesuffix('_fwd')}"
            if name.endswith("_fwd"):
                home += ".fused_recurrent"
            theirs = inspect.unwrap(getattr(__import__(home, fromlist=[name]), name))
            want = [
                (p.name, p.default) for p in inspect.signature(theirs).parameters.values() if p.kind != p.VAR_KEYWORD
            ]
            own = inspect.signature(table.function(name)).parameters.values()
            self.assertEqual([(p.name, p.default) for p in own if p.kind != p.VAR_KEYWORD], want, name)


class Stubs(unittest.TestCase):
    def test_the_stub_has_the_arguments_of_the_module(self):
        stub = ast.parse((pathlib.Path(gdn2.__file__).parent / "kernels.pyi").read_text())
        of_class = {node.name: node.body for node in stub.body if isinstance(node, ast.ClassDef)}["Kernels"]
        pairs = [(gdn2.kernels, node) for node in stub.body] + [(gdn2.Kernels, node) for node in of_class]
        checked = 0
        for holder, node in pairs:
            if isinstance(node, ast.FunctionDef) and not isinstance(
                inspect.getattr_static(holder, node.name), property
            ):
                own = inspect.signature(getattr(holder, node.name)).parameters.values()
                want = [argument.arg for argument in node.args.args]
                defaults = [ast.literal_eval(value) for value in node.args.defaults]
                self.assertEqual([p.name for p in own], want, node.name)
                self.assertEqual([p.default for p in own if p.default is not p.empty], defaults, node.name)
                checked += 1
        public = [name for name, value in vars(gdn2.Kernels).items() if callable(value) and not name.startswith("_")]
        self.assertLessEqual(set(public), {node.name for node in of_class if isinstance(node, ast.FunctionDef)})
        self.assertGreater(checked, 10)


if __name__ == "__main__":
    unittest.main()
