"""Times of several contestants on one row, taken in turns."""

import dataclasses
import subprocess

import torch

from .out import one_line

WARM_UP = 3
SAMPLES = (12, 60)
SECONDS = 0.5  # that the samples of one row and mode should take together
FLUSH_BYTES = 256 << 20  # written before each sample: more than the L2 cache holds
NOTES = {
    "graph": "CUDA events around one replay, the L2 cache overwritten before it",
    "plain": "CUDA events around one call on an idle stream, the L2 cache overwritten before it; host time is inside",
}


@dataclasses.dataclass
class Entry:
    """A contestant's calls: `enter` sets what its package reads from the environment, before calls and not in them."""

    name: str
    call: object
    enter: object
    graph: object = None
    refusal: str = None  # why there is no graph


def warm(entry):
    for _ in range(WARM_UP):
        entry.enter()
        entry.call()
    torch.cuda.synchronize()


def capture(entry, stream):
    """Captures the call; a contestant that waits for the GPU or builds something on the way cannot be captured."""
    try:
        entry.enter()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            keep = entry.call()
        graph.replay()
        torch.cuda.synchronize()
        entry.graph = (graph, keep)
    except Exception as error:  # any of a foreign package's errors
        entry.refusal = one_line(error)
        torch.cuda.synchronize()


def in_turns(entries, mode, flush):
    """Summaries in milliseconds by name, A/B/A/B over all entries."""
    calls = {}
    for entry in entries:
        if mode == "plain":
            calls[entry.name] = (entry.enter, entry.call)
        elif entry.graph is not None:
            calls[entry.name] = (entry.enter, entry.graph[0].replay)
    once = {name: sample(*pair, mode, flush) for name, pair in calls.items()}
    each = sum(once.values()) / 1e3 + 1e-4 * len(once)
    rounds = min(max(int(SECONDS / max(each, 1e-9)), SAMPLES[0]), SAMPLES[1])
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, pair in calls.items():
            taken[name].append(sample(*pair, mode, flush))
    return {name: summary(values) for name, values in taken.items()}


def sample(enter, call, mode, flush):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    enter()
    flush.zero_()
    if mode == "plain":
        torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def summary(values):
    """Median, 20th and 80th percentile, and how many."""
    ordered = sorted(values)

    def at(part):
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]

    return {"median": at(0.5), "p20": at(0.2), "p80": at(0.8), "n": len(ordered)}


def ratio(times, name, ours):
    """A contestant's median over ours, where both have one."""
    return times[name]["median"] / times[ours]["median"] if name in times and ours in times else None


def copied(buffer):
    """Bytes read and written by a millisecond of copying: what this GPU's memory gives."""
    halves = buffer.chunk(2)
    many = [sample(lambda: None, lambda: halves[0].copy_(halves[1]), "graph", buffer) for _ in range(20)]
    return buffer.numel() / summary(many)["median"]


def asked(index, names):
    """What the driver's tool answers; None where it cannot be asked."""
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={names}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.strip().split(", ")


def clocks(index):
    """Clocks right after the samples."""
    answer = asked(index, "clocks.sm,clocks.mem,temperature.gpu,power.draw")
    return answer and dict(zip(("sm_mhz", "memory_mhz", "celsius", "watts"), answer))


def driver(index):
    answer = asked(index, "driver_version")
    return answer and answer[0]
