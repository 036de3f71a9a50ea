"""Runs the workers: no package of another project is loaded in this process, so none can end or hang the run."""

import collections
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

from .out import one_line

HOME = pathlib.Path(__file__).resolve().parent.parent


class Child:
    """A worker process: its lines in a queue, its standard error in a file of which the last line is a reason."""

    def __init__(self, command):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, cwd=HOME, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True, start_new_session=True)  # fmt: skip
        self.queue = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.queue.put(line)
        self.queue.put(None)

    def line(self, seconds):
        """The next line as an object; None at the end; raises queue.Empty after `seconds`."""
        text = self.queue.get(timeout=max(seconds, 0))
        return None if text is None else json.loads(text)

    def close(self):
        """Ends the worker and the compilers that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.errors.close()

    def reason(self):
        """Why a worker that is over ended early."""
        self.process.wait()
        self.errors.seek(0)
        lines = [line for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
        code = self.process.returncode
        ended = f"ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return one_line(f"the process {ended}: {lines[-1]}" if lines else f"the process {ended}")


def command(job):
    return [sys.executable, "-m", "contest.worker", json.dumps(job)]


def watch(job, take, start_seconds, until):
    """Runs a worker and hands each of its lines to `take`. None if it says that it is done; else what had begun last,
    why it ended, and whether the time was over."""
    begun, limit = None, time.time() + start_seconds
    child = Child(command(job))
    try:
        while True:
            try:
                line = child.line(min(limit, until) - time.time())
            except queue.Empty:
                late = until <= limit
                return begun, "the time for it ran out" if late else "hung: no answer within its time limit", late
            if line is None:
                return begun, child.reason(), False
            if line.get("done"):
                return None
            if "begin" in line:
                begun, limit = line, time.time() + line["seconds"]
            take(line)
    finally:
        child.close()


def describe(job, seconds):
    """The machine and the packages, or why there is nothing to run on."""
    found = {}
    ended = watch(job | {"mode": "describe"}, found.update, seconds, time.time() + seconds)
    return (found.get("environment"), None) if ended is None else (None, ended[1])


def try_out(job, groups, start_seconds, until, at_once, kernels):
    """Trials, `at_once` processes side by side. `groups` are (contestant, rows); `kernels` of a row id is what a trial
    holds for. Returns {(contestant, kernels): outcome}."""
    outcomes, waiting = {}, collections.deque(groups)

    def one():
        while waiting:
            try:
                name, ids = waiting.popleft()
            except IndexError:
                return
            pending = list(ids)
            while pending and time.time() < until:
                def take(line):
                    if "tried" in line:
                        outcomes[name, kernels[line["row"]]] = line
                        pending.remove(line["row"])

                trial = job | {"mode": "try", "contestants": [name], "rows": list(pending)}
                ended = watch(trial, take, start_seconds, until)
                if ended is None:
                    break
                begun, reason, _ = ended
                failed = begun["row"] if begun else pending[0]
                if failed not in pending:  # it was tried before the process ended
                    continue
                pending.remove(failed)
                outcomes[name, kernels[failed]] = {"errors": None, "version": None, "reason": reason}
            for row in pending:
                reason = "not tried: compiling and trying took all the time that there was"
                outcomes.setdefault((name, kernels[row]), {"errors": None, "version": None, "reason": reason})

    threads = [threading.Thread(target=one) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def time_rows(job, take, start_seconds, until, restarts=8):
    """Times the job's rows in one process; a contestant that ends or hangs it is left out of its rule and pass from
    there on, and the next process goes on with the row. Results go to `take`."""
    job = job | {"mode": "time", "no_graph": []}
    for _ in range(restarts):
        ended = watch(job, take, start_seconds, until)
        if ended is None:
            return
        begun, reason, late = ended
        if late or begun is None:
            return
        name, row = begun["begin"], begun["row"]
        finished = job["rows"].index(row)
        job["rows"] = job["rows"][finished:]
        if begun.get("graph"):
            job["no_graph"].append([name, row])
        elif name in job["takes"][row]:
            take({"result": {"contestant": name, "status": "refused", "reason": reason}, "row": row})
            kind = row.split("/")[:2]
            for other, names in job["takes"].items():
                if other.split("/")[:2] == kind and name in names:
                    names.remove(name)
                    if other != row and other in job["rows"]:
                        left_out = f"left out after {row}: {reason}"
                        take({"result": {"contestant": name, "status": "refused", "reason": left_out}, "row": other})
        else:  # while all were timed: whose call it was is not known
            for each in job["takes"][row]:
                take({"result": {"contestant": each, "status": "refused", "reason": reason}, "row": row})
            job["rows"] = job["rows"][1:]
