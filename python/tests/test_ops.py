"""The operators under PyTorch's own checks: gradcheck in float64, opcheck, torch.compile, torch.export, autocast,
checkpointing, copies and processes."""

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import unittest
from unittest import mock

import gdn2

try:
    import torch
except ImportError:
    torch = None

RULE = """rule mixed {
    decay: channel; erase: channel; write: scalar; key_dim: 16; value_dim: 32; dtype: bf16;
}"""
NAMES = ("q", "k", "v", "g", "b", "w", "initial_state")
SEED = int(os.environ.get("GDN2_SEED", int.from_bytes(os.urandom(4), "little")))


def drawn(kernels, tokens=7, dtype=None):
    """Fresh inputs that require gradients, as the rule stores them or in one dtype: B = 2, H = 1, HV = 2."""
    make = torch.Generator().manual_seed(SEED)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=make, dtype=torch.float64)

    stored = {name: getattr(torch, stored) for name, stored in kernels.dtypes().items()}
    values = {
        "q": uniform(-0.5, 0.5, 2, tokens, 1, 16),
        "k": uniform(-0.4, 0.4, 2, tokens, 1, 16),
        "v": uniform(-1, 1, 2, tokens, 2, 32),
        "g": uniform(-0.5, -0.01, 2, tokens, 2, 16),
        "b": uniform(0, 1, 2, tokens, 2, 16),
        "w": uniform(0, 1, 2, tokens, 2),
        "initial_state": uniform(-0.1, 0.1, 2, 2, 16, 32),
    }
    return {name: value.to(dtype or stored[name]).requires_grad_() for name, value in values.items()}


def in_another_process(kernels, q, k, v, g, b, w, initial_state):
    return kernels.forward(q, k, v, g, b, w, initial_state)[0].float().sum().item()


@unittest.skipIf(torch is None, "torch is not installed")
class Operators(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}: GDN2_SEED={SEED} python3 -m unittest {self.id()}")
        self.kernels = gdn2.load(RULE)

    def layer(self):
        kernels = self.kernels

        class Layer(torch.nn.Module):
            def forward(self, *tensors):
                return kernels.forward(*tensors)

        return Layer()

    def gradients(self, call, tensors):
        o, state = call(*tensors.values())
        (o.float().square().sum() + state.sum()).backward()
        found = {name: tensor.grad.clone() for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.grad = None
        return o.detach(), found

    def same(self, got, want):
        self.assertTrue(torch.equal(got[0], want[0]), "o")
        for name, grad in want[1].items():
            self.assertTrue(torch.equal(got[1][name], grad), f"gradient of {name}")

    def test_gradcheck_in_float64_at_its_own_tolerances(self):
        kernels = gdn2.load(RULE, device="cpu:f64")
        tensors = drawn(kernels, tokens=3, dtype=torch.float64)
        self.assertTrue(torch.autograd.gradcheck(kernels.forward, tuple(tensors.values()), fast_mode=True))
        packed = {
            name: x.detach().reshape(1, -1, *x.shape[2:]).requires_grad_() if name != "initial_state" else x
            for name, x in tensors.items()
        }
        offsets = torch.tensor([0, 2, 6], dtype=torch.int32)
        call = lambda *inputs: kernels.forward(*inputs, cu_seqlens=offsets, scale=0.3)  # noqa: E731
        self.assertTrue(torch.autograd.gradcheck(call, tuple(packed.values()), fast_mode=True))
        # Without the shortcut, over the few inputs of one token.
        one = {name: x.detach()[:1, :1] if name != "initial_state" else x.detach()[:1] for name, x in tensors.items()}
        small = one | {name: one[name].requires_grad_() for name in ("q", "k", "g", "w")}
        self.assertTrue(torch.autograd.gradcheck(kernels.forward, tuple(small.values())))

    def test_opcheck(self):
        tensors = drawn(self.kernels)
        key = self.kernels.key
        torch.library.opcheck(torch.ops.gdn2.forward, (*tensors.values(), [], None, None, key, True))
        plain = [tensor.detach() for tensor in tensors.values()]
        o, state, scratch = torch.ops.gdn2.forward(*plain, [], None, 0.5, key, True)
        given = o, state, *plain, [], None, scratch, 0.5, key, "dq dg d_initial_state"
        torch.library.opcheck(torch.ops.gdn2.backward, given)
        token = [tensor[:, :1] for tensor in plain[:-1]]
        torch.library.opcheck(torch.ops.gdn2.decode, (plain[-1].clone(), *token, [], None, None, key))

    def test_a_compiled_layer_is_one_graph_and_gives_the_same_bits(self):
        tensors = drawn(self.kernels)
        want = self.gradients(self.layer(), tensors)
        compiled = torch.compile(self.layer(), fullgraph=True, backend="aot_eager")
        self.same(self.gradients(compiled, tensors), want)
        # Another length: the graph is made for any.
        longer = drawn(self.kernels, tokens=11)
        self.same(self.gradients(compiled, longer), self.gradients(self.layer(), longer))

    def test_an_exported_layer_names_its_kernels(self):
        plain = tuple(tensor.detach() for tensor in drawn(self.kernels).values())
        exported = torch.export.export(self.layer(), plain)
        nodes = exported.graph.find_nodes(op="call_function", target=torch.ops.gdn2.forward.default)
        self.assertEqual(len(nodes), 1)
        self.assertTrue(torch.equal(exported.module()(*plain)[0], self.kernels.forward(*plain)[0]))

    def test_checkpointing_gives_the_same_gradients(self):
        from torch.utils.checkpoint import checkpoint

        tensors = drawn(self.kernels)
        want = self.gradients(self.layer(), tensors)
        layer = self.layer()
        self.same(self.gradients(lambda *x: checkpoint(layer, *x, use_reentrant=False), tensors), want)

    def test_autocast_converts_and_the_absence_of_it_refuses(self):
        tensors = drawn(self.kernels, dtype=torch.float32)
        for name in NAMES:
            if name in ("g", "initial_state"):
                continue
            given = {
                other: tensor.bfloat16() for other, tensor in tensors.items() if other not in ("g", "initial_state")
            }
            given |= {name: tensors[name], "g": tensors["g"], "initial_state": tensors["initial_state"]}
            with self.assertRaisesRegex(gdn2.Error, f"{name} is float32, the rule stores it as bfloat16"):
                self.kernels.forward(**given)
        with torch.autocast("cpu", torch.bfloat16):
            o, _ = self.kernels.forward(**tensors)
        self.assertEqual(o.dtype, torch.bfloat16)
        o.float().sum().backward()
        self.assertEqual(tensors["q"].grad.dtype, torch.float32)

    def test_gradients_only_for_what_requires_them(self):
        tensors = drawn(self.kernels)
        want = self.gradients(self.layer(), tensors)[1]
        some = {name: x if name in ("k", "w") else x.detach() for name, x in tensors.items()}
        o, state = self.kernels.forward(**some)
        (o.float().square().sum() + state.sum()).backward()
        for name, tensor in some.items():
            self.assertTrue(torch.equal(tensor.grad, want[name]) if name in ("k", "w") else tensor.grad is None, name)

    def test_what_has_no_gradients_says_so(self):
        tensors = drawn(self.kernels)
        with self.assertRaisesRegex(gdn2.Error, "gradients of gradients are not computed"):
            o, _ = self.kernels.forward(**tensors)
            (grad,) = torch.autograd.grad(o.float().square().sum(), tensors["q"], create_graph=True)
            grad.float().sum().backward()
        state = tensors.pop("initial_state").detach()
        token = {name: tensor[:, :1] for name, tensor in tensors.items()}
        with self.assertRaisesRegex(gdn2.Error, "q requires gradients and decode has none"):
            self.kernels.decode(state, **token)
        with self.assertRaisesRegex(gdn2.Error, "cu_seqlens requires gradients"):
            self.kernels.forward(**tensors, cu_seqlens=torch.zeros(3, requires_grad=True))

    def test_parameters_that_a_rule_does_not_have_are_named(self):
        tensors = {name: x.detach() for name, x in drawn(self.kernels).items()}
        with self.assertRaisesRegex(gdn2.Error, r"named holds \['a_log'\], the rule names \[\]"):
            self.kernels.forward(**tensors, named={"a_log": torch.zeros(2)})

    def test_no_tokens_have_empty_gradients(self):
        for device in ("cpu", "cpu:f64", "vm"):
            kernels = gdn2.load(RULE, device=device)
            tensors = drawn(kernels, tokens=0)
            o, state = kernels.forward(**tensors)
            (o.float().sum() + state.sum()).backward()
            for name in NAMES[:-1]:
                self.assertEqual(tensors[name].grad.numel(), 0, name)
            self.assertTrue((tensors["initial_state"].grad == 1).all())

    def test_a_torch_device_is_a_device(self):
        self.assertEqual(gdn2.load(RULE, device=torch.device("cpu")).device, "cpu")
        with self.assertRaisesRegex(gdn2.Error, "device .*meta"):
            gdn2.load(RULE, device=torch.device("meta"))

    def test_copies_and_other_processes_load_the_rule_again(self):
        tensors = {name: tensor.detach() for name, tensor in drawn(self.kernels).items()}
        want = in_another_process(self.kernels, **tensors)
        for other in (copy.deepcopy(self.kernels), pickle.loads(pickle.dumps(self.kernels))):
            self.assertEqual(in_another_process(other, **tensors), want)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            self.assertEqual(pool.apply(in_another_process, (self.kernels,), tensors), want)

    def test_four_threads_give_what_one_does(self):
        tensors = drawn(self.kernels)
        want = self.gradients(self.layer(), tensors)

        def one(_):
            return self.gradients(self.layer(), {name: x.detach().requires_grad_() for name, x in tensors.items()})

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for got in pool.map(one, range(8)):
                self.same(got, want)

    def test_a_large_call_goes_a_part_of_its_heads_at_a_time(self):
        from gdn2 import ops

        one = drawn(self.kernels)
        # Three key heads of two value heads each, and packed sequences.
        axis = {name: 1 if name == "initial_state" else 2 for name in one}
        wide = {name: torch.cat([(1 - n / 9) * x.detach() for n in range(3)], axis[name]) for name, x in one.items()}
        tensors = {name: x.to(one[name].dtype).requires_grad_() for name, x in wide.items()}
        want = self.gradients(self.layer(), tensors)
        for most in (1, 2 * 7 * 2 * 32 * 2):
            with mock.patch.object(ops, "MOST_NUMBERS", most):
                self.assertEqual(len(ops._parts(tensors)), 3 if most == 1 else 2)
                self.same(self.gradients(self.layer(), tensors), want)

    def test_a_profile_names_the_passes(self):
        tensors = drawn(self.kernels)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.gradients(self.layer(), tensors)
        self.assertLessEqual({"gdn2::forward", "gdn2::backward"}, {event.key for event in profile.key_averages()})

    def test_decoding_updates_the_slots_that_are_named(self):
        tensors = {name: tensor.detach() for name, tensor in drawn(self.kernels, tokens=1).items()}
        start = tensors.pop("initial_state")
        want_o, want = self.kernels.forward(**tensors, initial_state=start)
        pool = torch.full((5, *start.shape[1:]), 3.0)
        pool[4], pool[1] = start[0], start[1]
        o = self.kernels.decode(pool, **tensors, slots=torch.tensor([4, 1]))
        self.assertTrue(torch.allclose(o.float(), want_o.float(), atol=2e-2))
        self.assertTrue(torch.allclose(pool[[4, 1]], want, atol=1e-4))
        self.assertTrue((pool[[0, 2, 3]] == 3).all())


if __name__ == "__main__":
    unittest.main()
