"""Writes calls of flash-linear-attention and cuDNN as bundles that `gdn2 referee --peers` judges; no GPU is needed.

    python3 benchmarks/referee.py --gdn2 target/release/gdn2 --out DIR [CALL ...]

A call runs on PyTorch's meta tensors. Every kernel that it launches is compiled for Hopper, and written with its arguments
as one launch of several over one memory. What PyTorch itself does between them, sums and conversions, becomes a launch of a
small kernel (clock/between.py); anything else is an error, since nothing would do it on the virtual machine. Inputs and what must come out are those of `gdn2 case`, in float64 token by token. Configurations of
autotuned kernels are those that the committed rows of published times name. Needs torch, triton and flash-linear-attention.
"""

import argparse
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "clock"))

import cudnn_kda  # noqa: E402
import triton_kernels as kernels  # noqa: E402, first of all: it says that there is a GPU
import torch  # noqa: E402
import triton  # noqa: E402
from between import Between, key  # noqa: E402

# Two whole chunks of fla's and a ragged one.
TOKENS, HEADS, DIM = 150, 2, 128


class Recorder(kernels.Recorder):
    """Catches launches over one memory."""

    def __init__(self, out, choices, inputs):
        super().__init__(out, False, choices)
        self.names = {key(tensor): name for name, tensor in inputs.items()}
        self.held, self.buffers, self.steps, self.between = list(inputs.values()), {}, [], Between()

    def record(self, function, kernel, launch, kinds, given):
        stem = f"{len(self.steps):02d}-{function.__name__}"
        (self.out / f"{stem}.ptx").write_text(kernel.asm["ptx"])
        names = {"kernel": f"{stem}.ptx", "entry": kernel.metadata.name}
        self.steps.append({**names, **launch, "args": self.arguments(kinds, given)})

    def pointer(self, name, tensor):
        own = key(tensor)
        if own not in self.names:
            self.held.append(tensor)
            self.names[own] = f"{len(self.steps):02d}-{name}"
            size = tensor.untyped_storage().nbytes()
            fill = "zero" if own in self.between.zeros else "nan"
            self.buffers[self.names[own]] = {"bytes": size, "fill": fill}
        offset = tensor.storage_offset() * tensor.element_size()
        return {"buffer": self.names[own], **({"offset": offset} if offset else {})}


GATES = {"gdn": ("g", "beta"), "kda": ("g", "beta"), "gdn2": ("g", "b", "w")}
STATES = {"output_final_state": True}


def inputs_of(rule, tokens):
    """The tensors of a call, without numbers. A tied gate is called beta, and `b` in a case."""
    rows = (1, tokens, HEADS)
    shapes = {"q": (*rows, DIM), "k": (*rows, DIM), "v": (*rows, DIM), "initial_state": (1, HEADS, DIM, DIM)}
    shapes["g"] = rows if rule == "gdn" else (*rows, DIM)
    shapes |= {"b": (*rows, DIM), "w": (*rows, DIM)} if rule == "gdn2" else {"beta": rows}
    dtype = lambda own: torch.float32 if own in ("g", "initial_state") else torch.bfloat16  # noqa: E731
    return {own: torch.empty(*sizes, dtype=dtype(own), device="meta") for own, sizes in shapes.items()}


def called(function, rule, x, **more):
    given = {name: x[name] for name in ("q", "k", "v", *GATES[rule], "initial_state")}
    o, final_state = function(**given, output_final_state=True, **more)
    return {"o": o, "final_state": final_state}


def differentiated(recorder, function, rule, x):
    """The gradients of a call, whose forward pass is launched first."""
    given = {name: tensor.requires_grad_() for name, tensor in x.items() if name not in ("do", "d_final_state")}
    results = called(function, rule, given)
    recorder.forward = len(recorder.steps)
    found = torch.autograd.grad(list(results.values()), list(given.values()), [x["do"], x["d_final_state"]])
    names = {"initial_state": "d_initial_state", "beta": "db"}
    return {names.get(name, f"d{name}"): grad for name, grad in zip(given, found)}


def function_of(name):
    from fla.ops import gated_delta_rule, gdn2, kda

    return next(getattr(module, name) for module in (gated_delta_rule, kda, gdn2) if hasattr(module, name))


# Rule: its function that goes by chunks, and the one that goes token by token.
FUNCTIONS = {
    "gdn": ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"),
    "kda": ("chunk_kda", "fused_recurrent_kda"),
    "gdn2": ("chunk_gdn2", "fused_recurrent_gdn2"),
}
CALLS = [f"{rule}-{which}" for rule in FUNCTIONS for which in ("forward", "backward", "decode")]


def choices(rule):
    """The configurations that the file of a rule's published times names."""
    found = {}
    for path in sorted((HERE.parent / "tuning" / "published").glob("fla_*.json")):
        family = json.loads(path.read_text())
        named = re.split(r"B,T,H,HV=[\d,]+: ", family.get("kernels", ""))
        if family["rule"].split("_")[0] == rule and family["pass"] == "forward" and len(named) == 2:
            for part in named[1].split("; "):
                kernel, _, config = part.partition(": ")
                found.setdefault(kernel, config)
    return found


def short(config):
    return str(config).replace(", num_ctas: 1", "").replace(", maxnreg: None", "")


def bundle(name, gdn2_program, out):
    rule, which = name.split("-")
    tokens = 1 if which == "decode" else TOKENS
    function = FUNCTIONS[rule][which == "decode"]
    out = out / f"fla-{name}"
    out.mkdir(parents=True, exist_ok=True)
    case = out / "case.safetensors"
    shape = f"B=1,T={tokens},H={HEADS}"
    rule_file = HERE.parent / "rules" / f"{rule}.gdn2"
    command = [gdn2_program, "case", str(rule_file), "--shape", shape, "--output", str(case), "-q"]
    subprocess.run(command, check=True)
    inputs = inputs_of(rule, tokens)
    if which == "backward":
        inputs["do"], inputs["d_final_state"] = torch.empty_like(inputs["v"]), torch.empty_like(inputs["initial_state"])
    recorder = Recorder(out, choices(rule), inputs)
    kernels.Autotuner.run = lambda tuner, *a, **k: autotuned(recorder, tuner, *a, **k)
    run = kernels.JITFunction.run
    kernels.JITFunction.run = lambda function, *a, **k: recorder.launched(function, *a, **k)
    try:
        with recorder.between:
            if which == "backward":
                results = differentiated(recorder, function_of(function), rule, inputs)
            else:
                with torch.no_grad():
                    results = called(function_of(function), rule, inputs)
    finally:
        kernels.JITFunction.run = run
    buffers = {}
    for own, tensor in inputs.items():
        dtype = "F32" if tensor.dtype is torch.float32 else "BF16"
        buffers[own] = {"file": case.name, "tensor": {"beta": "b"}.get(own, own), "as": dtype}
    buffers |= recorder.buffers
    outputs = {}
    for result, tensor in results.items():
        place = recorder.names[key(tensor)]
        dtype = "F32" if tensor.dtype is torch.float32 else "BF16"
        buffers[place] = {"dtype": dtype, "shape": list(tensor.shape), "output": True}
        outputs[place] = result
    before = recorder.forward if which == "backward" else 0
    used = {argument.get("buffer") for step in recorder.steps for argument in step["args"]}
    buffers = {own: buffer for own, buffer in buffers.items() if own in used}
    (out / "run.json").write_text(json.dumps({"buffers": buffers, "launches": recorder.steps}, indent=1))
    says = {
        "by": f"flash-linear-attention {importlib.metadata.version('flash-linear-attention')}",
        "call": f"{function}, gradients" if which == "backward" else function,
        "compiled_by": f"Triton {importlib.metadata.version('triton')}",
        "rule": rule,
        "pass": which,
        "shape": f"{shape},K={DIM},V={DIM}",
        "run": "run.json",
        "reference": case.name,
        "outputs": outputs,
        # Launches of the forward pass, which is priced apart.
        "before": before,
    }
    (out / "peer.json").write_text(json.dumps(says, indent=1))
    print(f"{name}: {len(recorder.steps)} launches in {out}", flush=True)


def autotuned(recorder, tuner, *args, **kwargs):
    """One configuration of an autotuned kernel: the one that is named, else the first that compiles."""
    wanted = recorder.choices.get(tuner.base_fn.__name__)
    tuner.nargs = dict(zip(tuner.arg_names, args))
    try:
        configs = tuner.prune_configs(kwargs)
    except Exception:
        configs = tuner.configs
    configs = sorted(configs, key=lambda config: short(config) != wanted)
    for config in configs:
        try:
            return tuner.fn.run(*args, **{**kwargs, **config.all_kwargs()})
        except triton.CompilationError:
            continue
    raise RuntimeError(f"{tuner.base_fn.__name__}: no configuration compiles")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*CALLS, "cudnn-kda-forward"]
    parser.add_argument("calls", nargs="*", metavar="CALL", help=f"of {', '.join(every)}; all of them without")
    parser.add_argument("--gdn2", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    for name in args.calls or every:
        if name.startswith("cudnn"):
            cudnn_kda.bundle(args.gdn2, args.out, TOKENS, HEADS)
        else:
            bundle(name, args.gdn2, args.out)


if __name__ == "__main__":
    main()
