"""FlashQLA's TileLang kernels for GDN."""

from .contestant import Contestant, unread, with_autograd


class FlashQla(Contestant):
    name = "flash-qla"
    package = "flash-qla"

    def refuses(self, row):
        if row.rule != "gdn":
            return "it has GDN only"
        if row.passing == "decode":
            return "it has no decode kernel"
        return "it has K = V = 128 only" if row.d != 128 else None

    def prepare(self, row, tensors):
        from flash_qla import chunk_gated_delta_rule

        def call(**leaves):
            q, k, g, b = (leaves.get(name, getattr(tensors, name)) for name in ("q", "k", "g", "b"))
            if row.prologue:
                q, k, g, b = tensors.raw["q"], tensors.raw["k"], tensors.decay(), tensors.raw["b"].sigmoid()
            return chunk_gated_delta_rule(
                q, k, leaves.get("v", tensors.v), g=g, beta=b, scale=tensors.scale, initial_state=tensors.initial,
                output_final_state=row.states, use_qk_l2norm_in_kernel=row.prologue, cu_seqlens=tensors.cu64,
            )  # fmt: skip

        return with_autograd(row, tensors, call, unread)
