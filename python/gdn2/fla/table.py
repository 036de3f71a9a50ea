"""What becomes of each argument of flash-linear-attention's functions: the table that `python -m gdn2.fla` prints.

The rows are the functions' own signatures, and those that reach them through **kwargs; an argument without an answer
here is an error, so that none is forgotten. A test calls every function with every argument.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable, NamedTuple

from . import functions, serving

__all__ = ["VERSION", "Answer", "answers", "function", "markdown", "names"]

# The version whose arguments these are.
VERSION = "0.6.0"


class Answer(NamedTuple):
    """What becomes of an argument."""

    here: str
    """"honoured", or "refused": by name, and passed on to the original by `accelerate()`."""
    how: str
    """In more words."""
    changes: bool = True
    """Whether results depend on it."""


def honoured(how: str = "", changes: bool = True) -> Answer:
    """An answer of that kind."""
    return Answer("honoured", how, changes)


REFUSED = Answer("refused", "`accelerate()` passes the call on to the original")
IN_TORCH = honoured("PyTorch computes it before the call")
ANSWERS = {
    **dict.fromkeys(("q", "k", "v"), honoured("head dims are padded, float32 is computed in float64 or bfloat16")),
    **dict.fromkeys(("gk", "b", "w", "beta", "scale", "state_v_first"), honoured()),
    "g": honoured("natural logs, at most 0; on the CPU any"),
    **dict.fromkeys(("output_final_state", "initial_state"), honoured("float32")),
    **dict.fromkeys(("use_qk_l2norm_in_kernel", "use_gate_in_kernel", "use_beta_sigmoid_in_kernel"), IN_TORCH),
    **dict.fromkeys(("A_log", "dt_bias", "lower_bound", "allow_neg_eigval", "g_gamma"), IN_TORCH),
    "safe_gate": honoured("holds lower_bound to its range; the kernels need no bound", changes=False),
    "cu_seqlens": honoured("int32 or int64; states in place need sequences of as many tokens each"),
    "cu_seqlens_cpu": honoured("used where cu_seqlens is absent"),
    **dict.fromkeys(("disable_recompute", "max_num_seqs"), honoured("changes no number", changes=False)),
    "chunk_indices": honoured("the kernels find chunks themselves", changes=False),
    "chunk_size": honoured("held to its range; the schedule has its own", changes=False),
    "transpose_state_layout": honoured("the old name of state_v_first, with its warning"),
    "return_intermediate_states": honoured("in inference mode, a call for each chunk"),
    "inplace_final_state": honoured("initial_state is updated"),
    "ssm_state_indices": honoured("[N], where states are in place; negative ones are skipped"),
    "out": honoured("o is written there"),
    **dict.fromkeys(("cp_context", "use_graph", "gv", "reverse", "num_accepted_tokens"), REFUSED),
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


def names() -> list[str]:
    """The functions."""
    return [*functions.__all__, *serving.__all__]


def function(name: str) -> Callable[..., Any]:
    """The one of a name."""
    return getattr(functions if name in functions.__all__ else serving, name)


def answers() -> dict[str, dict[str, Answer]]:
    """By function and argument, in their order."""
    table = {}
    for name in names():
        own = inspect.signature(function(name)).parameters.values()
        named = [parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
        table[name] = {argument: ANSWERS[argument] for argument in (*named, *BEHIND_KWARGS.get(name, ()))}
    return table


def markdown() -> str:
    """The table, a row for each argument and its functions."""
    table = answers()
    rows = [
        f"Arguments of flash-linear-attention {VERSION}.",
        "",
        "| argument | of | here | how |",
        "|---|---|---|---|",
    ]
    for argument in dict.fromkeys(argument for of in table.values() for argument in of):
        having = [name for name, of in table.items() if argument in of]
        of = "all" if len(having) == len(table) else ", ".join(having)
        rows.append(f"| {argument} | {of} | {ANSWERS[argument].here} | {ANSWERS[argument].how} |")
    return "\n".join([*rows, "", "Anything else is a TypeError that names it."])
