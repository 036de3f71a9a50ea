"""What is compared: one row is one rule, pass, shape, gate regime and contract. Most valuable first."""

import dataclasses

RULES = ("gdn", "kda", "gdn2")
REGIMES = ("mid", "strong", "none")

# Largest RMSE over the reference's RMS for bf16 operands with float32 sums; see the oracle's bars.
BARS = {"o": 0.005, "final_state": 0.005, "dq": 0.008, "dk": 0.008, "dv": 0.008, "dg": 0.02, "db": 0.02, "dw": 0.02}
# An output this many bars off is wrong, and is not timed.
WRONG = 6.0

SHORT_TOKENS = 192  # of the short shape on which a contestant is tried first, gradients included


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison. Sizes are B, T, H, D with K = V = D and as many value heads as key heads."""

    rule: str
    passing: str  # forward, backward, training (forward and backward together) or decode
    b: int
    t: int
    h: int
    d: int
    regime: str = "mid"  # decay per token: mid -0.05, strong uniform in [-5, -0.1], none 0
    gate: str = "f32"  # dtype of the decay, and of a beta of one number per head
    bound: bool = True  # the caller promises decays of at least -5 per token (channel-wise decay only)
    prologue: bool = False  # q and k arrive raw, and so do decay and beta: norm and activations are inside the call
    states: bool = False  # an initial state is given and the final one asked for
    sequences: int = 0  # packed sequences of unequal lengths; 0 = dense rows
    stage: int = 1

    @property
    def id(self):
        parts = [self.rule, self.passing, f"B{self.b}T{self.t}H{self.h}D{self.d}", self.regime, self.gate]
        parts += [name for name in ("prologue", "states") if getattr(self, name)]
        parts += [] if self.bound else ["unbounded"]
        parts += [f"packed{self.sequences}"] if self.sequences else []
        return "/".join(parts)

    @property
    def bounded(self):
        return self.bound and self.rule != "gdn" and not self.prologue

    @property
    def short(self):
        """The shape on which a contestant is tried before the row: same kernels, few tokens."""
        return dataclasses.replace(self, b=1 if self.passing != "decode" else 2, t=min(self.t, SHORT_TOKENS),
                                   sequences=min(self.sequences, 3))

    @property
    def kernels(self):
        """What decides which kernels run: rows that agree in it are tried once."""
        return dataclasses.replace(self.short, regime="mid", stage=1)

    @property
    def contract_text(self):
        """The contract in a table's words."""
        parts = [f"decay {self.gate}"] + (["decay at least -5"] if self.bounded else [])
        parts += ["norm and activations inside"] if self.prologue else []
        parts += ["states in and out"] if self.states or self.passing == "decode" else []
        return ", ".join(parts)

    @property
    def shape_text(self):
        packed = f", {self.sequences} packed sequences" if self.sequences else ""
        return f"B={self.b} T={self.t} H={self.h} D={self.d}{packed}"

    @property
    def contract(self):
        beta = "bf16 per channel" if self.rule == "gdn2" else self.gate
        return {
            "qkv_dtype": "bf16",
            "decay_dtype": self.gate,
            "beta_dtype": beta,
            "decay_bound": -5.0 if self.bounded else None,
            "l2norm": "inside the call" if self.prologue else "outside",
            "gate_activation": "inside the call" if self.prologue else "outside",
            "initial_state": self.states or self.passing == "decode",
            "final_state": self.states or self.passing == "decode",
            "cu_seqlens": self.sequences or None,
            "timed": {
                "forward": "one forward call that keeps nothing for gradients",
                "backward": "the gradients alone, forward before it: ours the backward call, a peer's autograd.grad",
                "training": "forward that keeps what gradients need, then the gradients",
                "decode": "one token per sequence, states read and written",
            }[self.passing],
        }


def rows():
    """All rows, in order of worth."""
    main = [(1, 8192, 16, 128), (8, 8192, 16, 128)]
    registry = [(1, 8192, 96, 128), (2, 16384, 16, 128), (4, 2048, 16, 128), (4, 4096, 64, 128), (8, 2048, 32, 256),
                (8, 1024, 8, 64)]
    found = [Row(rule, passing, *shape) for passing in ("forward", "backward") for shape in main for rule in RULES]
    found += [Row(rule, "decode", b, 1, 16, 128) for b in (32, 128) for rule in RULES]
    found += [Row(rule, "forward", *shape, regime=regime)
              for regime in REGIMES[1:] for shape in main for rule in RULES]
    found += [Row(rule, "training", *shape) for shape in main for rule in RULES]
    found += [Row(rule, "forward", *main[0], prologue=True) for rule in RULES]
    found += [Row(rule, "forward", 1, 8192, 16, 128, sequences=16) for rule in RULES]
    found += [Row(rule, "forward", *main[0], states=True) for rule in RULES]
    found += [Row(rule, "forward", *shape, gate="bf16") for shape in main for rule in RULES[1:]]
    found += [Row(rule, "forward", *main[0], bound=False) for rule in RULES[1:]]
    later = [Row(rule, "forward", *shape) for shape in registry for rule in RULES]
    later += [Row(rule, "forward", 1, 8192, 16, d) for d in (64, 256) for rule in RULES]
    later += [Row(rule, "training", *shape) for shape in registry for rule in RULES]
    later += [Row(rule, "backward", *main[0], regime=regime) for regime in REGIMES[1:] for rule in RULES]
    later += [Row(rule, "training", 1, 8192, 16, 128, sequences=16) for rule in RULES]
    return found + [dataclasses.replace(row, stage=2) for row in later]


def rehearsed(row):
    """A row's shape for a rehearsal: every path, hardly any work."""
    return dataclasses.replace(row, b=min(row.b, 2), t=min(row.t, 20), h=2, sequences=min(row.sequences, 3), stage=1)


def rehearsal():
    """One row for each path."""
    found = {}
    for row in rows():
        found.setdefault(rehearsed(row), row)
    return list(found.values())


def lengths(row):
    """Starts and lengths of the row's sequences within a batch row: unequal, some not a multiple of anything."""
    if not row.sequences:
        return [0], [row.t]
    weights = [1 + (7 * index) % 5 + index / 3 for index in range(row.sequences)]
    ends = [round(row.t * sum(weights[: index + 1]) / sum(weights)) for index in range(row.sequences)]
    starts = [0, *ends[:-1]]
    return starts, [end - start for start, end in zip(starts, ends)]


def minimum_bytes(row):
    """Bytes that any implementation must move: inputs read once, outputs written once."""
    tokens, d = row.b * row.t * row.h, row.d
    decay = (1 if row.rule == "gdn" else d) * (4 if row.gate == "f32" else 2)
    beta = 4 * d if row.rule == "gdn2" else (4 if row.gate == "f32" else 2)
    read, grads = 6 * d + decay + beta, 6 * d + decay + beta
    states = 4 * (row.sequences or row.b) * row.h * d * d * (2 if row.states or row.passing == "decode" else 0)
    per_token = {"forward": read + 2 * d, "decode": read + 2 * d, "backward": read + 2 * d + grads}
    per_token["training"] = per_token["forward"] + per_token["backward"]
    return tokens * per_token[row.passing] + states


def describe(row):
    return {"B": row.b, "T": row.t, "H": row.h, "D": row.d, "sequences": lengths(row)[1] if row.sequences else None}


def wrong(errors, factor):
    """What is further off than `factor` bars, as one line; None if nothing is."""
    far = {name: value for name, value in errors.items() if not value <= factor * BARS[name]}
    return ", ".join(f"{name} {value:.3g} against {BARS[name]}" for name, value in far.items()) or None
