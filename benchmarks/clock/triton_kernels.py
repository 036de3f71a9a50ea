"""Compiles flash-linear-attention's kernels for a Hopper GPU that is not at hand; writes each launch's cubin and launch file.

    python3 benchmarks/clock/triton_kernels.py gdn --shape 1,8192,16,16 --out DIR [--every | --choices FILE]

A call runs on PyTorch's meta tensors: every kernel launch is caught, compiled for the target, and written down instead.
With --every each configuration of an autotuned kernel is written, else the one that --choices names. Needs torch, triton
and flash-linear-attention.
"""

import argparse
import json
import pathlib

import torch

# Libraries ask for the GPU when they are imported.
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_name = lambda *_: "NVIDIA H200"
torch.cuda.get_device_capability = lambda *_: (9, 0)

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)
SHARED = 232448  # bytes a block may opt in to, compute capability 9.0


class Driver:
    """What Triton asks of a driver before it launches anything."""

    class utils:
        @staticmethod
        def get_device_properties(_device):
            return {"max_shared_mem": SHARED, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}

    def get_current_target(self):
        return TARGET

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device=None):
        return 0

    def get_device_interface(self):
        return torch.cuda

    def get_active_torch_device(self):
        return torch.device("meta")

    def map_python_to_cpp_type(self, name):
        return name

    def is_active(self):
        return True


triton.runtime.driver.set_active(Driver())


class Recorder:
    """Catches launches and writes them."""

    def __init__(self, out, every, choices):
        self.out, self.every, self.choices = out, every, choices
        self.launches, self.config = [], ""
        # Launches are left out, and nothing is compiled.
        self.paused = False
        self.compile = JITFunction.run

    def autotuned(self, tuner, *args, **kwargs):
        name = tuner.base_fn.__name__
        tuner.nargs = dict(zip(tuner.arg_names, args))
        try:
            configs = tuner.prune_configs(kwargs)
        except Exception:
            configs = tuner.configs
        named = {str(config): config for config in configs}
        if not self.every:
            chosen = self.choices.get(name)
            named = {chosen: named[chosen]} if chosen in named else dict(list(named.items())[:1])
        for text, config in named.items():
            self.config = text
            try:
                tuner.fn.run(*args, **{**kwargs, **config.all_kwargs()})
            except Exception as error:  # what does not compile is no candidate
                print(f"{name} {text}: {type(error).__name__}: {str(error)[:120]}")
        self.config = ""

    def launched(self, function, *args, grid, warmup, **kwargs):
        if self.paused:
            return None
        given = dict(zip(function.arg_names, args)) | {k: v for k, v in kwargs.items() if k in function.arg_names}
        kernel = self.compile(function, *args, grid=grid, warmup=True, **kwargs)
        blocks = grid(given | kwargs) if callable(grid) else grid
        launch = {
            "grid": [int(n) for n in blocks],
            "block": [32 * kernel.metadata.num_warps],
            "shared_bytes": kernel.metadata.shared,
        }
        kinds = {name: kind for name, kind in kernel.src.signature.items() if kind != "constexpr"}
        self.record(function, kernel, launch, kinds, given)
        return kernel

    def arguments(self, kinds, given):
        """A launch file's arguments; `pointer` says what a tensor is called."""
        found = []
        for name, kind in kinds.items():
            value = given[name]
            if kind.startswith("*"):
                found.append(self.pointer(name, value))
            elif kind in ("i32", "u32", "i16", "i8", "u8", "u1", "i1"):
                found.append({"i32": int(value)})
            elif kind in ("i64", "u64"):
                found.append({"i64": int(value)})
            else:
                found.append({"f32": float(value)})
        # Two pointers that Triton appends: global scratch and the profiler's.
        return [*found, {"pointer": 0}, {"pointer": 0}]

    def pointer(self, name, _tensor):
        return {"buffer": name}

    def record(self, function, kernel, launch, kinds, given):
        """Writes a launch with buffers of its own, and its machine code."""
        stem = f"{len(self.launches):03d}-{function.__name__}"
        tensors = {name: given[name] for name, kind in kinds.items() if kind.startswith("*")}
        buffers = {name: {"bytes": int(x.numel() * x.element_size())} for name, x in tensors.items()}
        launch |= {"buffers": buffers, "args": self.arguments(kinds, given)}
        (self.out / f"{stem}.cubin").write_bytes(kernel.asm["cubin"])
        (self.out / f"{stem}.json").write_text(json.dumps(launch))
        total = sum(buffer["bytes"] for buffer in buffers.values())
        self.launches.append({"kernel": function.__name__, "config": self.config, "files": stem, "bytes": total})


def tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def gdn(_recorder, batch, tokens, key_heads, value_heads):
    from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_fwd

    q, k = tensor(batch, tokens, key_heads, 128), tensor(batch, tokens, key_heads, 128)
    v = tensor(batch, tokens, value_heads, 128)
    g, beta = tensor(batch, tokens, value_heads, dtype=torch.float32), tensor(batch, tokens, value_heads)
    chunk_gated_delta_rule_fwd(q, k, v, g, beta, 128**-0.5, None, True)


def kda(_recorder, batch, tokens, heads, _):
    from fla.ops.kda.chunk import chunk_kda

    q, k, v, g = (tensor(batch, tokens, heads, 128) for _ in range(4))
    chunk_kda(q, k, v, g, tensor(batch, tokens, heads), safe_gate=True, lower_bound=-5.0)


def gdn2(_recorder, batch, tokens, heads, _):
    from fla.ops.gdn2.chunk import chunk_gdn2

    q, k, v, g, b, w = (tensor(batch, tokens, heads, 128) for _ in range(6))
    chunk_gdn2(q, k, v, g, b, w)


def gradients_of(recorder, function, inputs, **more):
    """The launches of a call's backward pass, and what PyTorch does between them."""
    from between import Between

    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    recorder.paused = True
    o, _ = function(**inputs, **more)
    recorder.paused = False
    with Between():
        torch.autograd.grad(o, list(inputs.values()), torch.empty_like(o))


def gdn_backward(recorder, batch, tokens, key_heads, value_heads):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    inputs = {name: tensor(batch, tokens, key_heads, 128) for name in ("q", "k")}
    inputs |= {"v": tensor(batch, tokens, value_heads, 128), "beta": tensor(batch, tokens, value_heads)}
    inputs["g"] = tensor(batch, tokens, value_heads, dtype=torch.float32)
    gradients_of(recorder, chunk_gated_delta_rule, inputs)


def kda_backward(recorder, batch, tokens, heads, _):
    from fla.ops.kda import chunk_kda

    inputs = {name: tensor(batch, tokens, heads, 128) for name in ("q", "k", "v")}
    inputs |= {"g": tensor(batch, tokens, heads, 128, dtype=torch.float32), "beta": tensor(batch, tokens, heads)}
    gradients_of(recorder, chunk_kda, inputs)


def gdn2_backward(recorder, batch, tokens, heads, _):
    from fla.ops.gdn2 import chunk_gdn2

    inputs = {name: tensor(batch, tokens, heads, 128) for name in ("q", "k", "v", "b", "w")}
    inputs["g"] = tensor(batch, tokens, heads, 128, dtype=torch.float32)
    gradients_of(recorder, chunk_gdn2, inputs)


def gdn_decode(_recorder, batch, tokens, key_heads, value_heads):
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    q, k = tensor(batch, tokens, key_heads, 128), tensor(batch, tokens, key_heads, 128)
    v = tensor(batch, tokens, value_heads, 128)
    g, beta = tensor(batch, tokens, value_heads, dtype=torch.float32), tensor(batch, tokens, value_heads)
    state = tensor(batch, value_heads, 128, 128, dtype=torch.float32)
    fused_recurrent_gated_delta_rule(q, k, v, g, beta=beta, initial_state=state, output_final_state=True)


EVERY = (gdn, kda, gdn2, gdn_decode, gdn_backward, kda_backward, gdn2_backward)
PIPELINES = {function.__name__: function for function in EVERY}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", choices=PIPELINES)
    parser.add_argument("--shape", required=True, help="B,T,H,HV")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--choices", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    choices = json.loads(args.choices.read_text()) if args.choices else {}
    recorder = Recorder(args.out, args.every, choices)
    Autotuner.run = lambda tuner, *a, **k: recorder.autotuned(tuner, *a, **k)
    JITFunction.run = lambda function, *a, **k: recorder.launched(function, *a, **k)
    PIPELINES[args.pipeline](recorder, *(int(n) for n in args.shape.split(",")))
    (args.out / "launches.json").write_text(json.dumps(recorder.launches, indent=1))
    print(f"{len(recorder.launches)} launches in {args.out}")


if __name__ == "__main__":
    main()
