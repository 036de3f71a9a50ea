"""The Python package on PyTorch's tensors of a device: calls, operators, compilation, graphs, layers of others, memory.

    python3 benchmarks/in_pytorch.py --out ROWS.jsonl --minutes 2 --rules rules --library libgdn2_c.so --device cuda:0

Appends one JSON object a line for each check, as soon as it is known, and begins none when the minutes are over.
"""

import os
import pathlib
import sys
import time

from contest.out import Deadline, Lines, asked, one_line
from contest.rows import BARS, RULES, WRONG, Row, wrong

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEAST_SECONDS = 3  # a check is not begun with less time left


class Refused(Exception):
    """What cannot be checked here."""


def main():
    given = asked(__doc__).parse_args()
    deadline, lines = Deadline(given.minutes), Lines(given.out)
    os.environ["GDN2_LIBRARY"] = os.path.abspath(given.library)
    sys.path.insert(0, str(ROOT / "python"))
    for check in CHECKS:
        line = {"check": check.__name__, "status": "not reached", "found": ""}
        if deadline.allows(LEAST_SECONDS):
            began = time.monotonic()
            line |= outcome(check, given)
            line["seconds"] = round(time.monotonic() - began, 2)
        lines.write(line)


def outcome(check, given):
    try:
        return {"status": "passed", "found": check(given)}
    except (Refused, ImportError) as reason:
        return {"status": "refused", "found": one_line(reason)}
    except Exception as error:  # noqa: BLE001  One check's failure is its own.
        return {"status": "failed", "found": one_line(error)}


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def on_gpu(given):
    if given.device == "cpu":
        raise Refused("needs a GPU")


class Call:
    """A rule's kernels and inputs of a shape on the device."""

    def __init__(self, given, rule, b=1, t=300, h=2):
        import torch

        import gdn2
        from contest.tensors import Tensors

        if given.device == "cpu":
            t = min(t, 20)
        self.tensors = Tensors(Row(rule, "training", b, t, h, 128), given.device)
        self.kernels = gdn2.load(pathlib.Path(given.rules, f"{rule}.gdn2"), device=given.device)
        t = self.tensors
        # Beta as the rule stores it, which the shipped ones do in bf16.
        t.b = t.b.to(getattr(torch, self.kernels.dtypes()["b"]))
        self.inputs = {"q": t.q, "k": t.k, "v": t.v, "g": t.g, "b": t.b} | ({} if t.w is None else {"w": t.w})

    def leaves(self):
        return {name: value.detach().clone().requires_grad_() for name, value in self.inputs.items()}

    def forward(self, **inputs):
        return self.kernels.forward(**inputs, scale=self.tensors.scale)[0]

    def trained(self, forward):
        """o and the gradients of the inputs."""
        leaves = self.leaves()
        o = forward(**leaves)
        o.backward(self.tensors.d_o)
        return {"o": o.detach()} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}


def equal(got, want, what):
    import torch

    for name, value in want.items():
        expect(torch.equal(got[name], value), f"{what}: {name} has other bits")


def package(given):
    """The package finds its library, and PyTorch the device."""
    import torch

    import gdn2

    found = f"gdn2 {gdn2.__version__}, PyTorch {torch.__version__}"
    if given.device != "cpu":
        found += f", {torch.cuda.get_device_name(given.device)}"
    return found


def gradients(given):
    """o and every gradient through autograd, beside float64."""
    from contest.tensors import Exact

    worst = []
    for rule in RULES:
        call = Call(given, rule)
        errors = Exact(call.tensors, gradients=True).errors(call.trained(call.forward))
        far = wrong(errors, WRONG)
        expect(not far, f"{rule}: {far}")
        name = max(errors, key=lambda name: errors[name] / BARS[name])
        worst.append(f"{rule} {name} {errors[name] / BARS[name]:.2f}")
    return "worst in bars: " + ", ".join(worst)


def side_streams(given):
    """Calls follow PyTorch's current stream."""
    on_gpu(given)
    import torch

    call = Call(given, "kda")
    want = call.trained(call.forward)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = call.trained(call.forward)
    stream.synchronize()
    equal(got, want, "on a side stream")
    return "the same bits"


def operators(given):
    """PyTorch's own check of the operators."""
    import torch

    call = Call(given, "gdn2", t=70)
    q, k, v, g, b, w = call.leaves().values()
    torch.library.opcheck(torch.ops.gdn2.forward, (q, k, v, g, b, w, None, [], None, None, call.kernels.key, True))
    return "torch.library.opcheck"


def compiled(given):
    """A compiled call is one graph and gives the same bits."""
    import torch

    call = Call(given, "gdn2")
    backend = "aot_eager" if given.device == "cpu" else "inductor"
    one_graph = torch.compile(call.forward, fullgraph=True, backend=backend)
    equal(call.trained(one_graph), call.trained(call.forward), "compiled")
    return f"{backend}, the same bits"


def captured(given):
    """A captured graph computes anew from what its inputs hold."""
    on_gpu(given)
    import torch

    call = Call(given, "kda")
    t = call.tensors
    call.kernels.warmup(t.count, t.row.b * t.row.t, t.row.h, t.row.h)
    with torch.no_grad():
        call.forward(**call.inputs)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            o = call.forward(**call.inputs)
        t.v.mul_(-0.5)
        graph.replay()
        torch.cuda.synchronize()
        equal({"o": o}, {"o": call.forward(**call.inputs)}, "replayed")
    return "replayed on other values, the same bits"


def accelerated(given):
    """What flash-linear-attention gives by its own kernels, and by ours in their place."""
    import fla.ops.kda
    import torch

    import gdn2.fla
    from contest.recurrence import error

    t = Call(given, "kda", t=512).tensors
    given_to = (t.q, t.k, t.v, t.g, t.b.float())
    own = None
    if given.device != "cpu":
        own = fla.ops.kda.chunk_kda(*given_to, scale=t.scale)[0]
    places = gdn2.fla.accelerate()
    try:
        ours = fla.ops.kda.chunk_kda(*given_to, scale=t.scale)[0]
    finally:
        gdn2.fla.restore()
    path = gdn2.fla.last_path()
    expect(path.ran == "gdn2", f"{path.ran} ran: {path.why}")
    expect(bool(torch.isfinite(ours).all()), "o is not finite")
    if own is None:
        return f"{len(places)} places; its own kernels need a GPU"
    apart = error(ours.double(), own.double())
    expect(apart <= WRONG * BARS["o"], f"o is {apart:.3g} from its own")
    return f"{len(places)} places, o {apart:.2g} from its own"


def memory(given):
    """The most memory of a training step, beside what is said of it."""
    on_gpu(given)
    import torch

    found = []
    for rule in RULES:
        call = Call(given, rule, t=8192, h=16)
        row = call.tensors.row
        said = call.kernels.training_bytes((row.b, row.b * row.t, row.h, row.h))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call.trained(call.forward)
        peak = torch.cuda.max_memory_allocated() - before
        tensors = sum(value.nbytes for value in call.inputs.values())
        # Leaves, their gradients, o and the final state stand beside the scratch memory.
        most = said + 3 * tensors + 2 * call.tensors.v.nbytes + 4 * row.b * row.h * row.d**2
        expect(peak <= 1.05 * most, f"{rule}: {peak:,} B at most, {most:,} B said")
        found.append(f"{rule} {peak / 1e9:.2f} GB, scratch {said / 1e9:.2f}")
    return "B=1 T=8192 H=16: " + ", ".join(found)


CHECKS = (package, gradients, side_streams, operators, compiled, captured, accelerated, memory)

if __name__ == "__main__":
    main()
