"""The layers: a cache that goes on where prefill ended, padding, and flash-linear-attention's layers as reference where
it is installed."""

import copy
import inspect
import multiprocessing
import os
import pickle
import unittest
import warnings

try:
    import torch
    import torch.nn.functional as F

    from gdn2 import layers
except ImportError:
    torch = None

from .test_fla import error

SEED = int(os.environ.get("GDN2_SEED", int.from_bytes(os.urandom(4), "little")))
BAR = 2e-5
SMALL = {"hidden_size": 48, "head_dim": 20, "num_heads": 2}
# By layer, what it is made with: groups of value heads, other value dims, and each switch.
MADE = [
    ("GatedDeltaNet2", {"num_v_heads": 4}),
    ("GatedDeltaNet2", {"allow_neg_eigval": True, "use_short_conv": False}),
    ("KimiDeltaAttention", {"num_v_heads": 4, "expand_v": 2}),
    ("KimiDeltaAttention", {"safe_gate": True, "lower_bound": -5.0, "allow_neg_eigval": True}),
    ("GatedDeltaNet", {"num_v_heads": 4}),
    ("GatedDeltaNet", {"use_gate": False, "conv_bias": True, "expand_v": 1}),
]


def in_another_process(layer, x):
    with torch.no_grad():
        return layer(x)[0]


@unittest.skipIf(torch is None, "torch is not installed")
class Layers(unittest.TestCase):
    def setUp(self):
        print(f"seed {SEED}: GDN2_SEED={SEED} python3 -m unittest {self.id()}")
        torch.manual_seed(SEED)

    def agree(self, got, want, what=""):
        self.assertLessEqual(error(got, want), BAR, what)

    def each(self):
        for name, more in MADE:
            with self.subTest(name, **more):
                yield name, more, getattr(layers, name)(**SMALL, **more, layer_idx=0)

    @torch.no_grad()
    def test_decoding_goes_on_where_prefill_ended(self):
        for _, _, layer in self.each():
            x = torch.randn(2, 17, 48)
            want, cache = layer(x)[0], layers.Cache()
            parts = [layer(x[:, :9], past_key_values=cache, use_cache=True)[0]]
            parts += [layer(x[:, t : t + 1], past_key_values=cache, use_cache=True)[0] for t in range(9, 17)]
            self.agree(torch.cat(parts, 1), want)
            self.assertEqual(cache.tokens, 17)

    @torch.no_grad()
    def test_padding_is_as_if_it_were_not_there(self):
        for _, _, layer in self.each():
            x, mask = torch.randn(2, 13, 48), torch.ones(2, 13)
            mask[0, :5] = 0
            o, cache = layer(x, attention_mask=mask)[0], layers.Cache()
            self.agree(o[0, 5:], layer(x[:1, 5:])[0][0])
            self.agree(o[1], layer(x[1:])[0][0])
            self.assertEqual(o[0, :5].abs().max(), 0)
            first = layer(x[:, :10], attention_mask=mask[:, :10], past_key_values=cache, use_cache=True)[0]
            rest = layer(x[:, 10:], attention_mask=mask, past_key_values=cache, use_cache=True)[0]
            self.agree(torch.cat((first, rest), 1), o)

    def test_packed_sequences_do_not_see_one_another_and_every_parameter_learns(self):
        for _, _, layer in self.each():
            x, offsets = torch.randn(1, 14, 48), torch.tensor([0, 3, 14])
            o = layer(x, cu_seqlens=offsets)[0]
            self.agree(o, torch.cat((layer(x[:, :3])[0], layer(x[:, 3:])[0]), 1))
            o.square().sum().backward()
            for name, parameter in layer.named_parameters():
                self.assertTrue(parameter.grad is not None and parameter.grad.abs().max() > 0, name)

    @torch.no_grad()
    def test_the_hybrid_cell_decodes_what_it_prefills(self):
        mixer = layers.GatedDeltaNet2(**SMALL, layer_idx=0)
        cell = layers.HybridCell(mixer, 48, num_heads=4, window=6, intermediate_size=64)
        x, cache = torch.randn(2, 17, 48), layers.Cache()
        parts = [cell(x[:, :9], cache)] + [cell(x[:, t : t + 1], cache) for t in range(9, 17)]
        self.agree(torch.cat(parts, 1), cell(x))

    def test_bf16_under_autocast(self):
        layer = layers.GatedDeltaNet2(**SMALL)
        x = torch.randn(2, 11, 48)
        with torch.autocast("cpu", torch.bfloat16):
            o = layer(x)[0]
        self.assertLessEqual(error(o.float(), layer(x)[0]), 0.05)
        o.float().sum().backward()

    def test_a_layer_compiles_whole_and_is_exported(self):
        for name in ("GatedDeltaNet2", "GatedDeltaNet", "KimiDeltaAttention"):
            layer, x = getattr(layers, name)(**SMALL), torch.randn(2, 11, 48)
            compiled = torch.compile(lambda x, layer=layer: layer(x)[0], fullgraph=True, backend="aot_eager")
            want, got = layer(x), compiled(x)
            self.agree(got, want[0], name)
            parameters = dict(layer.named_parameters())
            grads = [torch.autograd.grad(o.square().sum(), parameters.values()) for o in (want[0], got)]
            for parameter, a, b in zip(parameters, *grads):
                self.agree(b, a, f"{name}: gradient of {parameter}")
            with torch.no_grad():
                exported = torch.export.export(layer, (x,))
                self.agree(exported.module()(x)[0], want[0], name)
            nodes = exported.graph.find_nodes(op="call_function", target=torch.ops.gdn2.forward.default)
            self.assertEqual(len(nodes), 1, name)

    @torch.no_grad()
    def test_copies_pickles_and_other_processes_have_the_layer(self):
        layer, x = layers.KimiDeltaAttention(**SMALL), torch.randn(1, 9, 48)
        want = layer(x)[0]
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            self.assertTrue(torch.equal(other(x)[0], want))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            self.agree(pool.apply(in_another_process, (layer, x)), want)

    def test_a_call_that_cannot_be_says_why(self):
        layer = layers.GatedDeltaNet2(**SMALL)
        x = torch.randn(1, 3, 48)
        with self.assertRaisesRegex(ValueError, "use_cache=True needs a cache"):
            layer(x, use_cache=True)
        with self.assertRaisesRegex(ValueError, "attention_mask: shape"):
            layer(x, attention_mask=torch.ones(1, 2))
        with self.assertRaisesRegex(ValueError, "mode is 'fused_chunk', must be one of chunk, fused_recurrent"):
            layers.GatedDeltaNet2(**SMALL, mode="fused_chunk")
        with self.assertRaisesRegex(ValueError, "num_v_heads is 3, must be a multiple"):
            layers.GatedDeltaNet2(**SMALL, num_v_heads=3)

    def test_state_dicts_are_flash_linear_attention_s_and_so_are_outputs(self):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import fla.layers as theirs
        except ImportError:
            self.skipTest("flash-linear-attention is not installed")
        for name, more, ours in self.each():
            own, other = (list(inspect.signature(of.__init__).parameters) for of in (type(ours), getattr(theirs, name)))
            self.assertEqual([argument for argument in own if argument in other], [x for x in other if x != "kwargs"])
            made = getattr(theirs, name)(**SMALL, **more, layer_idx=0)
            ours.load_state_dict(made.state_dict())
            made.load_state_dict(ours.state_dict())
            x = torch.randn(2, 19, 48)
            self.agree(ours(x)[0], on_the_cpu(made, x), f"{name} {more}")


def on_the_cpu(layer, x):
    """flash-linear-attention's layer, its Triton parts replaced by its naive functions and by PyTorch's."""
    import importlib
    from unittest import mock

    module = importlib.import_module(type(layer).__module__)
    naive = {
        "chunk_gdn2": ("fla.ops.gdn2.naive", "naive_recurrent_gdn2"),
        "chunk_kda": ("fla.ops.kda.naive", "naive_recurrent_kda"),
        "chunk_gated_delta_rule": ("fla.ops.gated_delta_rule.naive", "naive_recurrent_gated_delta_rule"),
    }

    def convolution(conv):
        def call(x, cache=None, output_final_state=False, cu_seqlens=None):
            rows = F.pad(x.transpose(1, 2), (conv.kernel_size[0] - 1, 0))
            return F.silu(F.conv1d(rows, conv.weight, conv.bias, groups=x.shape[2])).transpose(1, 2), None

        return call

    def norm(own):
        def call(x, gate=None):
            y = F.rms_norm(x, x.shape[-1:], own.weight, own.eps)
            kind = getattr(own, "activation", None)
            return y if gate is None else y * (gate.sigmoid() if kind == "sigmoid" else F.silu(gate))

        return call

    def recurrence(function):
        def call(q, k, v, g, beta=None, b=None, w=None, A_log=None, dt_bias=None, lower_bound=None, **rest):
            q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
            if rest.get("use_gate_in_kernel"):
                bias, rate = (
                    (dt_bias.view(g.shape[2], -1), A_log.exp()[:, None]) if g.ndim == 4 else (dt_bias, A_log.exp())
                )
                g = lower_bound * torch.sigmoid(rate * (g + bias)) if lower_bound else -rate * F.softplus(g + bias)
            if rest.get("use_beta_sigmoid_in_kernel"):
                beta = beta.sigmoid() * (2 if rest.get("allow_neg_eigval") else 1)
            gates = {"b": b, "w": w} if beta is None else {"beta": beta}
            if function.__name__ == "naive_recurrent_gated_delta_rule":
                group = v.shape[2] // q.shape[2]
                q, k = q.repeat_interleave(group, 2), k.repeat_interleave(group, 2)
            return function(q=q, k=k, v=v, g=g, **gates)[:2]

        return call

    patches = []
    for name, (home, function) in naive.items():
        if hasattr(module, name):
            patches.append(
                mock.patch.object(module, name, recurrence(getattr(importlib.import_module(home), function)))
            )
    if hasattr(layer, "q_conv1d"):
        for name in ("q", "k", "v"):
            conv = getattr(layer, f"{name}_conv1d")
            patches.append(mock.patch.object(conv, "forward", convolution(conv)))
    if hasattr(layer, "_use_fused_qkv_conv"):
        patches.append(mock.patch.object(layer, "_use_fused_qkv_conv", lambda **_: False))
    patches.append(mock.patch.object(layer.o_norm, "forward", norm(layer.o_norm)))
    for patch in patches:
        patch.start()
    try:
        return layer(x)[0]
    finally:
        for patch in patches:
            patch.stop()


if __name__ == "__main__":
    unittest.main()
