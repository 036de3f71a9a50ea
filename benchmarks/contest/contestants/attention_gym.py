"""attention-gym's Triton kernels for GDN and KDA."""

from .contestant import Contestant, swapped, with_autograd


class AttentionGym(Contestant):
    name = "attention-gym"
    package = "attn-gym"

    def refuses(self, row):
        if row.rule == "gdn2":
            return "it has GDN and KDA"
        dims = (64, 128) if row.rule == "gdn" else (128,)
        if row.passing != "decode" and row.d not in dims:
            return f"its fused kernels have K = V of {' or '.join(map(str, dims))}"
        return None

    def prepare(self, row, tensors):
        from attn_gym import linear

        kind = "recurrent" if row.passing == "decode" else "chunk"
        run = getattr(linear, f"{kind}_{row.rule}")
        initial = None if tensors.initial is None else tensors.initial.transpose(-1, -2).contiguous()

        def call(**leaves):
            q, k, g, b = (leaves.get(name, getattr(tensors, name)) for name in ("q", "k", "g", "b"))
            if row.prologue:
                q, k, g, b = tensors.activated()
            return run(
                q, k, leaves.get("v", tensors.v), g, b, initial, cu_seqlens=tensors.cu32, scale=tensors.scale,
                output_final_state=row.states or row.passing == "decode",
            )  # fmt: skip

        return with_autograd(row, tensors, call, swapped)
