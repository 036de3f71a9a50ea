"""Calls through the package: numpy always, PyTorch where it is installed.

cd python && python3 -m unittest
"""

import concurrent.futures
import contextlib
import copy
import pathlib
import pickle
import unittest
from unittest import mock

import numpy as np
from case import read_case
from example import BAR, BARS, error

import gdn2
from gdn2 import Kernels, _call, _library

try:
    import torch
except ImportError:
    torch = None

CASES = pathlib.Path(__file__).resolve().parents[2] / "tests" / "cases"
NAMES = ("q", "k", "v", "g", "b", "w", "initial_state")


def rule_of(case, metadata):
    kinds = {name: metadata[name].replace("tied", "erase") for name in ("decay", "erase", "write")}
    return f"""rule case {{
        decay: {kinds["decay"]}; erase: {kinds["erase"]}; write: {kinds["write"]};
        key_dim: {case["q"].shape[-1]}; value_dim: {case["v"].shape[-1]}; dtype: bf16;
    }}"""


class Formulas(unittest.TestCase):
    """Parameters by name: a decay from its formula is that decay given."""

    SIZES = "key_dim: 16; value_dim: 16; dtype: bf16;"

    def setUp(self):
        rng = np.random.default_rng()
        self.retnet = gdn2.load(
            f"rule r {{ param a_log: head; decay: scalar = -exp(a_log); erase: none; write: none; {self.SIZES} }}",
            device="cpu:f64",
        )
        self.given = gdn2.load(f"rule r {{ decay: scalar; erase: none; write: none; {self.SIZES} }}", device="cpu:f64")
        self.rows = {name: rng.standard_normal((2, 5, 3, 16)) for name in ("q", "k", "v")}
        self.d_o, self.a_log = rng.standard_normal((2, 5, 3, 16)), rng.standard_normal(3)
        self.g = np.broadcast_to(-np.exp(self.a_log), (2, 5, 3)).copy()

    def test_a_formula_gives_what_its_decays_give(self):
        self.assertEqual(self.retnet.names, ["a_log"])
        o, state = self.retnet.forward(**self.rows, named={"a_log": self.a_log})
        want, want_state = self.given.forward(**self.rows, g=self.g)
        np.testing.assert_allclose(o, want, rtol=1e-12)
        np.testing.assert_allclose(state, want_state, rtol=1e-12)

    def test_a_parameters_gradient_is_the_chain_rules(self):
        got = self.retnet.backward(self.d_o, **self.rows, named={"a_log": self.a_log})
        want = self.given.backward(self.d_o, **self.rows, g=self.g)
        np.testing.assert_allclose(got["dq"], want["dq"], rtol=1e-9)
        np.testing.assert_allclose(got["da_log"], (want["dg"] * self.g).sum((0, 1)), rtol=1e-9)

    def test_names_that_the_rule_lacks_and_has_are_told(self):
        for named in (None, {"a": self.a_log}, {"a_log": self.a_log, "more": self.a_log}):
            with self.assertRaisesRegex(gdn2.Error, "the rule names \\['a_log'\\]"):
                self.retnet.forward(**self.rows, named=named)


class Numpy(unittest.TestCase):
    def setUp(self):
        self.case, metadata = read_case(CASES / "gdn2_d32_grouped.safetensors")
        self.kernels = gdn2.load(rule_of(self.case, metadata))
        self.inputs = {name: self.case.get(name) for name in NAMES}

    def refused(self, says, **changes):
        with self.assertRaisesRegex(gdn2.Error, says):
            self.kernels.forward(**self.inputs | changes)

    def test_an_input_that_does_not_fit_is_named(self):
        self.refused("g", g=None)
        self.refused("v is float64, must be float32", v=self.case["v"].astype(np.float64))
        self.refused("q is int64", q=self.case["q"].astype(np.int64))
        self.refused("k is a list", k=self.case["k"].tolist())
        self.refused("v has 3 axes", v=self.case["v"][0])
        self.refused("v must be given, with axes", v=None)
        self.refused("b", b=self.case["b"][..., :3])
        self.refused("strides", q=self.case["q"][:, ::-1])

    def test_offsets_that_are_none_are_named(self):
        self.refused("cu_seqlens is float64", cu_seqlens=[0.0, 5.0])
        self.refused("cu_seqlens is bool", cu_seqlens=[False, True])
        self.refused("cu_seqlens has 2 axes", cu_seqlens=[[0, 5]])
        self.refused("cu_seqlens: none at all", cu_seqlens=[])
        packed = {name: None if array is None else array[:1] for name, array in self.inputs.items()}
        self.inputs = packed
        self.refused("cu_seqlens: must end at T", cu_seqlens=[0, 1])

    def test_a_scale_of_0_is_a_scale(self):
        self.assertEqual(np.abs(self.kernels.forward(**self.inputs, scale=0.0)[0]).max(), 0)
        self.assertGreater(np.abs(self.kernels.forward(**self.inputs)[0]).max(), 0)

    def test_the_virtual_machine_takes_an_architecture(self):
        kernels = gdn2.load(self.kernels.text, device="vm:sm_90a")
        self.assertIn("forward on sm_90a", kernels.explain(1, 64, 1, 2))
        with self.assertRaisesRegex(gdn2.Error, "unknown architecture `sm_70`"):
            gdn2.load(self.kernels.text, device="vm:sm_70")

    def test_calls_are_counted_where_that_was_asked_for(self):
        kernels = gdn2.load(self.kernels.text, device="cpu")
        kernels.forward(**self.inputs)
        self.assertEqual(kernels.seen_shapes(), "")
        kernels.watch_shapes()
        for _ in range(3):
            kernels.forward(**self.inputs)
        (batch, tokens, heads), values = self.inputs["q"].shape[:3], self.inputs["v"].shape[2]
        shape = f"B={batch},T={tokens},H={heads},HV={values}"
        self.assertRegex(kernels.seen_shapes(), rf"^\w+ forward {shape} 3\n$")

    def test_copies_pickles_and_threads_have_the_same_kernels(self):
        want = self.kernels.forward(**self.inputs)[0]
        for other in (copy.deepcopy(self.kernels), pickle.loads(pickle.dumps(self.kernels))):
            np.testing.assert_array_equal(other.forward(**self.inputs)[0], want)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for o, _ in pool.map(lambda _: self.kernels.forward(**self.inputs), range(8)):
                np.testing.assert_array_equal(o, want)

    def test_strides_and_packed_sequences(self):
        want = self.kernels.forward(**self.inputs)
        heads_first = {
            name: array if array is None or name == "initial_state" else array.swapaxes(1, 2).copy().swapaxes(1, 2)
            for name, array in self.inputs.items()
        }
        for got, whole in zip(self.kernels.forward(**heads_first), want):
            np.testing.assert_array_equal(got, whole)
        # The rows of a batch, one after another.
        batch, tokens = self.case["q"].shape[:2]
        packed = {
            name: array if array is None or name == "initial_state" else array.reshape(1, -1, *array.shape[2:])
            for name, array in self.inputs.items()
        }
        offsets = np.arange(batch + 1) * tokens
        o, final_state = self.kernels.forward(**packed, cu_seqlens=offsets)
        np.testing.assert_array_equal(o.reshape(want[0].shape), want[0])
        np.testing.assert_array_equal(final_state, want[1])

    def test_a_rule_that_is_wrong_is_drawn(self):
        with self.assertRaisesRegex(gdn2.Error, "did you mean|decay"):
            gdn2.load("rule x { decy: scalar; erase: none; write: none; key_dim: 32; value_dim: 32; dtype: bf16; }")


@unittest.skipIf(torch is None, "torch is not installed")
class Torch(unittest.TestCase):
    def setUp(self):
        self.case, self.metadata = read_case(CASES / "gdn2_d32_grouped.safetensors")
        self.scale = float(self.metadata["scale"])

    def tensors(self, device="cpu"):
        """Inputs as kernels store them; every one of them requires its gradient."""
        stored = {name: torch.float32 if name in ("g", "initial_state") else torch.bfloat16 for name in NAMES}
        given = {name: torch.from_numpy(self.case[name].copy()) for name in NAMES if name in self.case}
        return {name: tensor.to(device, stored[name]).requires_grad_() for name, tensor in given.items()}

    def judge(self, name, got):
        """A tensor against the case's, which float64 made from the same stored inputs."""
        bar = BARS.get(name, BAR) * float(self.metadata.get("bar_scale", 1))
        self.assertLessEqual(error(got.detach().float().cpu().numpy(), self.case[name]), bar, name)

    def trained(self, kernels, tensors):
        o, final_state = kernels.forward(**tensors, scale=self.scale)
        d_o, d_last = (torch.from_numpy(self.case[name].copy()).to(o.device) for name in ("do", "d_final_state"))
        loss = (o * d_o.to(o.dtype)).sum() + (final_state * d_last).sum()
        loss.backward(retain_graph=True)
        once = {name: tensor.grad.clone() for name, tensor in tensors.items()}
        loss.backward()
        for name, tensor in tensors.items():
            self.assertTrue(torch.equal(tensor.grad, once[name] * 2), f"{name}: a second backward")
        self.judge("o", o)
        self.judge("final_state", final_state)
        for name, grad in once.items():
            self.judge("d_initial_state" if name == "initial_state" else f"d{name}", grad)

    def test_autograd_gives_the_case_s_gradients(self):
        for device in ("cpu", "vm"):
            with self.subTest(device):
                self.trained(gdn2.load(rule_of(self.case, self.metadata), device=device), self.tensors())

    @unittest.skipUnless(torch and torch.cuda.is_available(), "PyTorch has no GPU")
    def test_autograd_on_a_gpu_gives_the_case_s_gradients(self):
        kernels = gdn2.load(rule_of(self.case, self.metadata), device="cuda:0")
        self.trained(kernels, self.tensors("cuda:0"))
        with torch.cuda.stream(torch.cuda.Stream()):
            self.trained(kernels, self.tensors("cuda:0"))

    def test_tensors_on_a_gpu_go_through_the_calls_on_its_current_stream(self):
        # A GPU whose memory is the host's, with every tensor on it: a call on a stream becomes the one on host memory.
        gpu = torch.device("cuda", 0)

        def here(make):
            return lambda *arguments, device, **rest: make(*arguments, **rest)

        library, called = _library.library, []

        def on_stream(name, host, arguments):
            def call(handle, stream, struct, *rest):
                called.append(name)
                self.assertEqual(stream, 1234)
                return host(handle, struct, *rest[:arguments])

            return call

        stand_in = mock.Mock(wraps=library)
        stand_in.gdn2_forward_on = on_stream("forward", library.gdn2_forward, 2)
        stand_in.gdn2_forward_for_backward_on = on_stream("forward_for_backward", library.gdn2_forward, 2)
        stand_in.gdn2_backward_on = on_stream("backward", library.gdn2_backward, 3)
        stand_in.gdn2_decode_on = on_stream("decode", library.gdn2_decode, 2)
        kernels = gdn2.load(rule_of(self.case, self.metadata), device="vm")
        self.enterContext(mock.patch.object(Kernels, "call", lambda self, *call: _call.Call(*call)))
        with (
            mock.patch.object(_library, "library", stand_in),
            mock.patch.object(_call, "gpu_of", lambda array: gpu if isinstance(array, torch.Tensor) else None),
            mock.patch.object(torch, "empty", here(torch.empty)),
            mock.patch.object(torch, "as_tensor", here(torch.as_tensor)),
            mock.patch.object(torch.cuda, "device", lambda _: contextlib.nullcontext()),
            mock.patch.object(torch.cuda, "current_stream", lambda _: mock.Mock(cuda_stream=1234)),
        ):
            tensors = self.tensors()
            self.trained(kernels, tensors)
            plain = {name: tensor.detach() for name, tensor in tensors.items()}
            self.judge("o", kernels.forward(**plain, scale=self.scale)[0])
            state = plain.pop("initial_state").clone()
            first = {name: tensor[:, :1] for name, tensor in plain.items()}
            o = kernels.decode(state, **first, slots=list(range(len(state))), scale=self.scale)
            self.assertLessEqual(error(o.float().numpy(), self.case["o"][:, :1]), BAR)
            with self.assertRaisesRegex(gdn2.Error, "g is a ndarray, v a torch tensor"):
                kernels.forward(**plain | {"g": self.case["g"]})
        self.assertEqual(called, ["forward_for_backward", "backward", "backward", "forward", "decode"])


if __name__ == "__main__":
    unittest.main()
