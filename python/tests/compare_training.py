"""A small GDN-2 model, 300 steps with three seeds: our kernels against flash-linear-attention's naive recurrence.

    pip install torch numpy flash-linear-attention && cd python && python3 -m tests.compare_training [STEPS]

Both start from the same weights and see the same data, under bfloat16 autocast. The curves of the two, smoothed over 20
steps, must lie closer together than those of two seeds of either. Then: the bytes training takes, per token and head.
"""

import itertools
import sys
import warnings

import torch
import torch.nn.functional as F

import gdn2
import gdn2.layers.mixers as mixers

WIDTH, HEAD, WORDS, TOKENS, ROWS = 48, 16, 16, 8, 6


def naive(q, k, v, g, b, w, **rest):
    """The original's definition in place of chunk_gdn2, as the layer calls it."""
    from fla.ops.gdn2.naive import naive_recurrent_gdn2

    q, k = (x * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    with torch.autocast("cpu", enabled=False):
        return naive_recurrent_gdn2(q, k, v, g, b, w)


def losses(seed, function, steps):
    """The loss of each step: repeat what was said before."""
    torch.manual_seed(seed)
    layer = mixers.GatedDeltaNet2(WIDTH, head_dim=HEAD, num_heads=2)
    model = torch.nn.ModuleList((torch.nn.Embedding(WORDS, WIDTH), layer, torch.nn.Linear(WIDTH, WORDS)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    curve, before = [], mixers.chunk_gdn2
    mixers.chunk_gdn2 = function
    try:
        for _ in range(steps):
            tokens = torch.randint(WORDS, (ROWS, TOKENS)).repeat(1, 3)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model[2](layer(model[0](tokens))[0])[:, TOKENS:-1]
            loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, TOKENS + 1 :].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    finally:
        mixers.chunk_gdn2 = before
    return torch.tensor(curve).unfold(0, min(20, steps), 1).mean(-1)


def bytes_of_training():
    """Bytes per token and head at K = V = 128 in bfloat16 with decays in float32, on a GPU: what lies between forward and
    backward, and the most there is, inside backward. States are apart, 64 KiB for each sequence and head."""
    size, seen = (1, 256, 4, 128), {}
    q, k, v, b, w = (torch.rand(size).bfloat16().requires_grad_() for _ in range(5))
    g = (-torch.rand(size)).requires_grad_()

    def pack(x):
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        o, _ = gdn2.fla.chunk_gdn2(q, k, v, g, b, w)
    gradients = torch.autograd.grad(o.float().sum(), (q, k, v, g, b, w))
    rule = (
        "rule x { decay: channel as f32; erase: channel; write: channel; key_dim: 128; value_dim: 128; dtype: bf16; }"
    )
    scratch = gdn2.load(rule, device="vm").training_bytes((1, 256, 4, 4))
    heads = size[1] * size[2]
    # The gradient on o is as large as o.
    peak = sum(seen.values()) + scratch + sum(x.nbytes for x in (o, o, *gradients))
    return sum(seen.values()) / heads, scratch / heads, peak / heads


def main():
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    ours = [losses(seed, mixers.chunk_gdn2, steps) for seed in range(3)]
    theirs = [losses(seed, naive, steps) for seed in range(3)]
    distance = lambda a, b: (a - b).abs().mean().item()  # noqa: E731
    between = [distance(a, b) for a, b in zip(ours, theirs)]
    seeds = [distance(a, b) for curves in (ours, theirs) for a, b in itertools.combinations(curves, 2)]
    for seed, (a, b) in enumerate(zip(ours, theirs)):
        print(f"seed {seed}: last loss {a[-1]:.4f} ours, {b[-1]:.4f} naive, curves apart by {between[seed]:.4f}")
    print(f"two seeds are apart by {min(seeds):.4f} to {max(seeds):.4f}")
    saved, scratch, peak = bytes_of_training()
    print(
        f"per token and head at K = V = 128, counted: {saved:.0f} bytes of inputs and {scratch:.0f} of scratch are kept,"
    )
    print(f"{peak:.0f} at the peak, with o, its gradient and the inputs' gradients")
    sys.exit(not max(between) < min(seeds))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import gdn2.fla

    main()
