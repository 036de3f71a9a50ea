"""What becomes of each argument of flash-linear-attention's functions: the table that `python -m gdn2.fla` prints.

The rows are the functions' own signatures, and those that reach them through **kwargs; an argument without an answer
here is an error, so that none is forgotten.
"""

from __future__ import annotations

import inspect

from . import functions

__all__ = ["VERSION", "answers", "markdown"]

# The version whose arguments these are.
VERSION = "0.6.0"

HONOURED = "honoured"
REFUSED = "refused"
ACCEPTED = "accepted"

IN_TORCH = f"{HONOURED}: PyTorch computes it before the call"
NO_CHANGE = f"{ACCEPTED}: changes no number"

ANSWERS = {
    **dict.fromkeys(("q", "k", "v"), f"{HONOURED}: head dims are padded, float32 is computed in float64 or bfloat16"),
    **dict.fromkeys(("g", "gk", "b", "w", "beta", "scale", "state_v_first"), HONOURED),
    **dict.fromkeys(("output_final_state", "initial_state"), f"{HONOURED}: float32"),
    **dict.fromkeys(("use_qk_l2norm_in_kernel", "use_gate_in_kernel", "use_beta_sigmoid_in_kernel"), IN_TORCH),
    **dict.fromkeys(("A_log", "dt_bias", "lower_bound", "allow_neg_eigval", "g_gamma"), IN_TORCH),
    "safe_gate": f"{HONOURED}: holds lower_bound to its range; the kernels need no bound",
    "cu_seqlens": f"{HONOURED}: int32 or int64",
    "cu_seqlens_cpu": f"{ACCEPTED}: used where cu_seqlens is absent",
    **dict.fromkeys(("disable_recompute", "max_num_seqs"), NO_CHANGE),
    "chunk_indices": f"{ACCEPTED}: the kernels find chunks themselves",
    "chunk_size": f"{ACCEPTED}: held to its range; the schedule has its own",
    "transpose_state_layout": f"{HONOURED}: the old name of state_v_first, with its warning",
    "return_intermediate_states": f"{HONOURED}: in inference mode, a call for each chunk",
    **dict.fromkeys(("cp_context", "use_graph", "gv", "reverse"), f"{REFUSED} by name"),
}

# What some functions take through **kwargs.
BEHIND_KWARGS = {
    "chunk_gdn2": ("A_log", "dt_bias", "chunk_size", "transpose_state_layout"),
    "chunk_kda": ("A_log", "dt_bias", "chunk_size", "transpose_state_layout"),
    "chunk_gated_delta_rule": ("use_gate_in_kernel", "A_log", "dt_bias", "chunk_size", "transpose_state_layout"),
    "chunk_delta_rule": ("chunk_size",),
    "chunk_simple_gla": ("chunk_size",),
    **dict.fromkeys(
        (f"fused_recurrent_{name}" for name in ("gdn2", "kda", "gated_delta_rule", "gla", "simple_gla")),
        ("transpose_state_layout",),
    ),
}


def answers() -> dict[str, dict[str, str]]:
    """By function and argument, in their order."""
    table = {}
    for name in functions.__all__:
        own = inspect.signature(getattr(functions, name)).parameters.values()
        named = [parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
        table[name] = {argument: ANSWERS[argument] for argument in (*named, *BEHIND_KWARGS.get(name, ()))}
    return table


def markdown() -> str:
    """The table, a row for each argument, a column for each function that has it."""
    table = answers()
    rows = [f"Arguments of flash-linear-attention {VERSION}.", "", "| argument | of | here |", "|---|---|---|"]
    for argument in dict.fromkeys(argument for of in table.values() for argument in of):
        having = [name for name, of in table.items() if argument in of]
        of = "all" if len(having) == len(table) else ", ".join(having)
        rows.append(f"| {argument} | {of} | {ANSWERS[argument]} |")
    return "\n".join([*rows, "", "Anything else is a TypeError that names it."])
