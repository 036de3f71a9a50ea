"""flash-linear-attention's Triton kernels."""

from .contestant import PLAIN, Contestant, unread, with_autograd


class Fla(Contestant):
    """Its own kernels alone."""

    name = "fla"
    package = "fla-core"

    def prepare(self, row, tensors):
        run = operation(row)
        keywords = {"scale": tensors.scale, "initial_state": tensors.initial,
                    "output_final_state": row.states or row.passing == "decode"}  # fmt: skip
        if row.sequences:
            keywords |= {"cu_seqlens": tensors.cu64}
            keywords |= {"cu_seqlens_cpu": tensors.cu_cpu} if row.passing != "decode" else {}
        if row.bounded and row.passing != "decode":
            keywords |= {"safe_gate": True, "lower_bound": -5.0}
        given = {"q": tensors.q, "k": tensors.k, "v": tensors.v, "g": tensors.g, "b": tensors.b, "w": tensors.w}
        if row.prologue:
            raw = tensors.raw
            given |= {"q": raw["q"], "k": raw["k"], "g": raw["g"]}
            given |= {"b": raw["b"]} if raw["b"] is not None else {}
            keywords |= {"use_qk_l2norm_in_kernel": True, "use_gate_in_kernel": True, "A_log": raw["a_log"],
                         "dt_bias": raw["dt_bias"].flatten()}  # fmt: skip
            keywords |= {"use_beta_sigmoid_in_kernel": True} if raw["b"] is not None else {}

        def call(**leaves):
            inputs = given | leaves
            gates = {"b": inputs["b"], "w": inputs["w"]} if row.rule == "gdn2" else {"beta": inputs["b"]}
            return run(inputs["q"], inputs["k"], inputs["v"], g=inputs["g"], **gates, **keywords)[:2]

        return with_autograd(row, tensors, call, unread)


def operation(row):
    if row.rule == "gdn":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule as chunk
        from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule as recurrent
    elif row.rule == "kda":
        from fla.ops.kda import chunk_kda as chunk
        from fla.ops.kda import fused_recurrent_kda as recurrent
    else:
        from fla.ops.gdn2 import chunk_gdn2 as chunk
        from fla.ops.gdn2 import fused_recurrent_gdn2 as recurrent
    return recurrent if row.passing == "decode" else chunk


class FlaTileLang(Fla):
    """The same with its TileLang kernels for what is in the way of gradients: on Hopper its own GDN backward refuses to
    run with Triton 3.4 to 3.7.0."""

    name = "fla+tilelang"
    environment = PLAIN | {"FLA_TILELANG": "1"}
    note = "flash-linear-attention with TileLang for part of the backward pass"

    def refuses(self, row):
        if row.passing not in ("backward", "training"):
            return "its TileLang kernels are for gradients"
        return "it has no TileLang kernel for GDN-2" if row.rule == "gdn2" else None

    def prepare(self, row, tensors):
        import tilelang  # noqa: F401  without it the call would silently run plain Triton

        return super().prepare(row, tensors)
