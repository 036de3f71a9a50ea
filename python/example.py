"""Runs GDN-2 on a stored case with numpy, forward, backward and token by token, against the case's float64 results.

python3 python/example.py [CASE.safetensors] [DEVICE]
"""

import pathlib
import sys

import numpy as np
from case import read_case

import gdn2

HERE = pathlib.Path(__file__).resolve().parent
# Largest RMSE over the reference's RMS, as for all kernels with bf16 operands.
BAR = 0.005
BARS = {"dq": 0.008, "dk": 0.008, "dv": 0.008, "d_initial_state": 0.008, "dg": 0.02, "db": 0.02, "dw": 0.02}


def error(got, want):
    return float(np.sqrt(np.mean((got - want) ** 2)) / (np.sqrt(np.mean(want**2)) + 1e-8))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "tests" / "cases" / "gdn2_d32_grouped.safetensors"
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    case, metadata = read_case(path)
    rule = f"""
        rule case {{
            decay: {metadata["decay"]};
            erase: {metadata["erase"]};
            write: {metadata["write"].replace("tied", "erase")};
            key_dim: {case["q"].shape[-1]}; value_dim: {case["v"].shape[-1]}; dtype: bf16;
        }}"""
    kernels = gdn2.load(rule, device=device)
    inputs = {name: case.get(name) for name in ("q", "k", "v", "g", "b", "w")}
    scale = float(metadata["scale"])
    o, final_state = kernels.forward(
        **inputs, initial_state=case.get("initial_state"), cu_seqlens=case.get("cu_seqlens"), scale=scale
    )
    errors = {"o": error(o, case["o"]), "final_state": error(final_state, case["final_state"])}

    grads = kernels.backward(
        case["do"],
        **inputs,
        initial_state=case.get("initial_state"),
        cu_seqlens=case.get("cu_seqlens"),
        scale=scale,
        d_final_state=case.get("d_final_state"),
    )
    errors |= {name: error(grad, case[name]) for name, grad in grads.items()}

    if "cu_seqlens" not in case:
        state = case["initial_state"].copy() if "initial_state" in case else np.zeros_like(final_state)
        rows = []
        for t in range(o.shape[1]):
            token = {name: array if array is None else array[:, t : t + 1] for name, array in inputs.items()}
            rows.append(kernels.decode(state, **token, scale=scale))
        errors["o, decoded"] = error(np.concatenate(rows, axis=1), case["o"])
        errors["state, decoded"] = error(state, case["final_state"])

    bars = {name: BARS.get(name, BAR) * float(metadata.get("bar_scale", 1)) for name in errors}
    for name, value in errors.items():
        print(f"{name:15} {value:.5f}  {'within' if value <= bars[name] else 'beyond'} {bars[name]}")
    sys.exit(any(not value <= bars[name] for name, value in errors.items()))


if __name__ == "__main__":
    main()
