"""The rules token by token, in whatever precision the arrays have: numpy arrays or tensors of PyTorch.

Heads of all batch rows stand on one axis P. Without g there is no decay, without b no erasing, without w values are
written whole; gates hold one number per token or one per channel.
"""


def recurrence(xp, q, k, v, g, b, w, scale, initial, starts):
    """o [T,P,V] and the states [N,P,K,V] after each sequence.

    q and k are [T,P,K], v [T,P,V], gates [T,P,1] or [T,P,channels] or None, initial [N,P,K,V]; `starts` are the first
    tokens of the N sequences. `xp` is the module whose exp and stack fit the arrays. Nothing is written in place, so
    autograd follows.
    """
    tokens, finals, state = [], [], None
    bounds = [*starts, len(q)]
    for index, (first, after) in enumerate(zip(bounds, bounds[1:])):
        state = initial[index]
        for t in range(first, after):
            if g is not None:
                state = state * xp.exp(g[t])[..., None]
            value = v[t] if w is None else v[t] * w[t]
            if b is not None:
                value = value - (state * (k[t] * b[t])[..., None]).sum(-2)
            state = state + k[t][..., None] * value[..., None, :]
            tokens.append((state * q[t][..., None]).sum(-2) * scale)
        finals.append(state)
    return xp.stack(tokens) if tokens else v, xp.stack(finals)


def error(got, want):
    """RMSE over RMS; differences of at most 1e-6 everywhere are none, and what is not finite is infinitely wrong."""
    difference = got - want
    largest = float(abs(difference).max()) if 0 not in difference.shape else 0.0
    if not largest < float("inf"):
        return float("inf")
    if largest <= 1e-6:
        return 0.0
    return float((difference**2).mean() ** 0.5 / ((want**2).mean() ** 0.5 + 1e-8))
