"""The child process that tries and times contestants; `supervise` starts it and reads its lines.

    python3 -m contest.worker '{"mode": "try" or "time", …}'

Each line it writes is a JSON object: `begin` names what starts and how long it may take, `result` is a finished row of
one contestant, `tried` the outcome of a trial. What packages print goes to the standard error.
"""

import functools
import importlib.metadata
import json
import os
import sys

import torch

from . import tensors as drawn
from . import timing
from .contestants import BY_NAME
from .out import Deadline, one_line, plain
from .rows import WRONG, rehearsed, rows, wrong

EXIT_CONTEXT_LOST = 17


class Worker:
    def __init__(self, job):
        self.job, self.device, self.rehearsal = job, torch.device(job["device"]), job["rehearsal"]
        self.deadline = Deadline(at=job["until"])
        self.cuda = self.device.type == "cuda"
        # What packages print must not mix with the lines.
        self.lines = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        ours = BY_NAME["gdn2"]
        ours.library, ours.rules, ours.device = job["library"], job["rules"], job["device"]
        if self.cuda:
            torch.cuda.set_device(self.device)
            # Gradients run on the stream of their forward call: all of it on one that may be captured.
            self.stream = torch.cuda.Stream()
            torch.cuda.set_stream(self.stream)
            self.flush = torch.empty(timing.FLUSH_BYTES, dtype=torch.uint8, device=self.device)
            self.shorten_autotuning()

    @staticmethod
    def shorten_autotuning():
        """Triton's autotuner takes samples for 125 ms for each configuration; 25 ms leave time for more rows."""
        try:
            import triton.testing

            triton.testing.do_bench = functools.partial(triton.testing.do_bench, warmup=5, rep=20)
        except ImportError:
            pass

    def say(self, **line):
        self.lines.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self.lines.flush()

    def synchronize(self):
        """Waits for the GPU. A context that is lost cannot be used again: the process ends, `supervise` goes on."""
        if not self.cuda:
            return
        try:
            torch.cuda.synchronize()
        except Exception as error:
            print(one_line(error), file=sys.stderr, flush=True)
            os._exit(EXIT_CONTEXT_LOST)

    def describe(self):
        """The machine and the packages that decide what times mean."""
        found = {"python": sys.version.split()[0], "torch": torch.__version__, "modes": timing.NOTES}
        for package in ("triton", "tilelang", "numpy"):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
        if self.cuda:
            much = torch.empty(2 << 30, dtype=torch.uint8, device=self.device)
            properties = torch.cuda.get_device_properties(self.device)
            found |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count,
                      "memory_bytes": properties.total_memory, "l2_bytes": properties.L2_cache_size,
                      "cuda": torch.version.cuda, "driver": timing.driver(self.device.index or 0),
                      "copy_bytes_per_ms": timing.copied(much)}  # fmt: skip
        self.say(environment=found)
        self.say(done=True)

    def run(self):
        if self.job["mode"] == "describe":
            return self.describe()
        picked = [row for row in rows() if row.id in set(self.job["rows"])]
        for row in picked:
            if self.job["mode"] == "try":
                self.try_out(row)
            elif not self.deadline.allows(self.job["row_seconds"]):
                break
            else:
                self.time(row)
            if self.cuda:
                torch.cuda.empty_cache()
        self.say(done=True)

    def try_out(self, row):
        """One call of one contestant on the row's short shape against float64: its kernels get compiled, what it
        refuses, gets wrong or breaks is known before anything is timed."""
        contestant = BY_NAME[self.job["contestants"][0]]
        self.say(begin=contestant.name, row=row.id, seconds=self.job["limit"])
        short = rehearsed(row) if self.rehearsal else row.short
        outcome = {"errors": None, "reason": contestant.refuses(row), "version": None}
        try:
            outcome["version"] = contestant.version()
            if outcome["reason"] is None:
                given = drawn.Tensors(short, self.device)
                outcome["errors"] = self.checked(contestant, short, given, row.passing in ("backward", "training"))
        except Exception as error:
            outcome["reason"] = one_line(error)
        self.synchronize()
        self.say(tried=contestant.name, row=row.id, **outcome)

    def checked(self, contestant, row, given, gradients):
        contestant.enter()
        prepared = contestant.prepare(row, given)
        outputs = prepared.read(prepared.call())
        self.synchronize()
        return self.exact(row, given, gradients).errors(outputs)

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def exact(row, given, gradients):
        return drawn.Exact(given, gradients)

    def time(self, row):
        """All contestants of the row: full shape against float64 where there is no gradient, then the times."""
        shape = rehearsed(row) if self.rehearsal else row
        given = drawn.Tensors(shape, self.device)
        entries, results = [], {}
        for name in self.job["takes"][row.id]:
            contestant = BY_NAME[name]
            self.say(begin=name, row=row.id, seconds=self.job["limit"])
            result = {"contestant": name, "status": "rehearsed" if self.rehearsal else "timed", "note": contestant.note}
            try:
                contestant.enter()
                prepared = contestant.prepare(shape, given)
                result |= {"kernels": prepared.kernels} if prepared.kernels else {}
                outputs = prepared.read(prepared.call())
                self.synchronize()
                if row.passing in ("forward", "decode"):
                    result["errors"] = self.exact(shape, given, False).errors(outputs)
                    far = wrong(result["errors"], WRONG)
                    result |= {"status": "wrong", "reason": far} if far else {}
                elif not drawn.finite(outputs):
                    result |= {"status": "wrong", "reason": "a gradient is not finite"}
                del outputs
                entry = timing.Entry(name, prepared.call, contestant.enter)
                if result["status"] == "timed":
                    timing.warm(entry)
                    entries.append(entry)
            except Exception as error:
                result |= {"status": "refused", "reason": one_line(error)}
            self.synchronize()
            results[name] = result
        if entries:
            self.measure(row, entries, results)
        for result in results.values():
            self.say(result=result, row=row.id)

    def measure(self, row, entries, results):
        for entry in entries:
            if [entry.name, row.id] not in self.job["no_graph"]:
                self.say(begin=entry.name, row=row.id, seconds=self.job["limit"], graph=True)
                timing.capture(entry, self.stream)
                self.synchronize()
            else:
                entry.refusal = "capturing it lost the GPU's context"
        self.say(begin="all", row=row.id, seconds=self.job["limit"])
        times = {f"{mode}_ms": timing.in_turns(entries, mode, self.flush) for mode in ("graph", "plain")}
        clocks = timing.clocks(self.device.index or 0)
        for entry in entries:
            found = {mode: times[mode].get(entry.name) for mode in times}
            ratio = timing.ratio(times["graph_ms"], entry.name, "gdn2")
            results[entry.name] |= found | {"ratio": ratio, "graph_refused": entry.refusal, "clocks": clocks}


if __name__ == "__main__":
    Worker(json.loads(sys.argv[1])).run()
