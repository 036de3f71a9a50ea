"""cuDNN frontend's Hopper kernels for KDA, tokens of all sequences on one axis."""

from .contestant import Contestant, swapped, with_autograd


class CudnnFrontend(Contestant):
    name = "cudnn-frontend"
    package = "nvidia-cudnn-frontend"
    note = "starts each segment of a sequence after one chunk of 16 tokens where it can prove the decay strong enough"

    def refuses(self, row):
        if row.rule != "kda":
            return "on Hopper it has KDA only"
        if row.passing == "decode":
            return "it has no decode kernel"
        return "on Hopper it has K = V = 128 only" if row.d != 128 else None

    def prepare(self, row, tensors):
        import torch
        from cudnn.linear_attention.ops import kimi_delta_attention

        offsets = tensors.cu32
        if offsets is None:
            offsets = torch.arange(0, (row.b + 1) * row.t, row.t, dtype=torch.int32, device=tensors.device)
        initial = None if tensors.initial is None else tensors.initial.transpose(-1, -2).contiguous()

        def call(**leaves):
            q, k, v, g, b = (leaves.get(name, getattr(tensors, name)) for name in ("q", "k", "v", "g", "b"))
            if row.prologue:
                q, k, g, b = tensors.raw["q"], tensors.raw["k"], tensors.decay(), tensors.raw["b"]
            o, final = kimi_delta_attention(
                *(x.flatten(0, 1) for x in (q, k, v, g, b)), offsets, scale=tensors.scale, initial_state=initial,
                output_final_state=row.states, use_qk_l2norm_in_kernel=row.prologue,
                use_beta_sigmoid_in_kernel=row.prologue,
            )  # fmt: skip
            return o.unflatten(0, (row.b, row.t)), final if row.states else None

        return with_autograd(row, tensors, call, swapped)
