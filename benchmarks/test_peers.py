"""What of the comparison needs neither a GPU nor PyTorch: `python3 -m unittest` in this folder, with numpy."""

import json
import pathlib
import sys
import tempfile
import time
import unittest

import numpy as np

import peers
from contest import out, recurrence, rows, supervise
from contest.contestants import ALL

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))
from case import read_case  # noqa: E402


def heads(x, count):
    """[B,T,H,…] as [T,B·HV,…] with every head repeated for its value heads; one number per token as one channel."""
    if x is None:
        return None
    x = x.astype(np.float64)
    x = x if x.ndim == 4 else x[..., None]
    x = np.repeat(x, count // x.shape[2], axis=2)
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], x.shape[0] * count, x.shape[3])


def recomputed(case, metadata):
    """o and final_state of a stored case by the recurrence that contestants are held to."""
    count = case["v"].shape[2]
    q, k, v, g, b, w = (heads(case.get(name), count) for name in ("q", "k", "v", "g", "b", "w"))
    packed = "cu_seqlens" in case
    starts = list(case["cu_seqlens"][:-1]) if packed else [0]
    shape = case["final_state"].shape
    initial = case.get("initial_state", np.zeros(shape)).astype(np.float64)
    initial = initial if packed else initial.reshape(1, -1, *shape[2:])
    w = b if metadata["write"] == "tied" else w
    o, final = recurrence.recurrence(np, q, k, v, g, b, w, float(metadata["scale"]), initial, starts)
    o = np.moveaxis(o.reshape(len(q), len(case["q"]), count, v.shape[2]), 0, 1)
    return {"o": o, "final_state": final.reshape(shape)}


class Recurrence(unittest.TestCase):
    def test_stored_cases(self):
        cases = sorted((ROOT / "tests" / "cases").glob("*.safetensors"))
        self.assertTrue(cases)
        for path in cases:
            case, metadata = read_case(path)
            for name, got in recomputed(case, metadata).items():
                with self.subTest(case=path.stem, tensor=name):
                    self.assertLess(recurrence.error(got, case[name].astype(np.float64)), 1e-5)

    def test_error_sees_what_is_not_finite(self):
        self.assertEqual(recurrence.error(np.array([np.nan, 1.0]), np.ones(2)), float("inf"))
        self.assertAlmostEqual(recurrence.error(np.full(4, 1.01), np.ones(4)), 0.01)


class Rows(unittest.TestCase):
    def test_ids_are_unique_and_the_main_shapes_come_first(self):
        found = rows.rows()
        self.assertEqual(len({row.id for row in found}), len(found))
        self.assertEqual([(row.b, row.t, row.h, row.d) for row in found[:6]], 3 * [(1, 8192, 16, 128)]
                         + 3 * [(8, 8192, 16, 128)])  # fmt: skip
        self.assertEqual([row.stage for row in found], sorted(row.stage for row in found))

    def test_packed_sequences_fill_the_row(self):
        row = next(row for row in rows.rows() if row.sequences)
        starts, each = rows.lengths(row)
        self.assertEqual(sum(each), row.t)
        self.assertEqual(starts, [sum(each[:index]) for index in range(len(each))])
        self.assertTrue(all(each) and len(set(each)) > 1)

    def test_a_rehearsal_walks_every_kind_of_row(self):
        def kinds(some):
            return {(row.rule, row.passing, row.gate, row.prologue, row.states, row.bound, row.d) for row in some}

        self.assertEqual(kinds(rows.rehearsal()), kinds(rows.rows()))

    def test_minimum_bytes(self):
        row = rows.Row("gdn", "forward", 1, 2, 3, 128)
        self.assertEqual(rows.minimum_bytes(row), 2 * 3 * (4 * 2 * 128 + 8))

    def test_only_far_errors_are_wrong(self):
        self.assertIsNone(rows.wrong({"o": 0.02}, rows.WRONG))
        self.assertIn("o", rows.wrong({"o": 0.04}, rows.WRONG))
        self.assertIn("dg", rows.wrong({"dg": float("nan")}, rows.WRONG))


class Output(unittest.TestCase):
    def test_lines_are_flushed_json(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "lines")
            lines = out.Lines(path)
            lines.write({"a": float("inf"), "b": [1, {"c": float("nan")}]})
            lines.write({"a": 1})
            self.assertEqual([json.loads(line) for line in path.read_text().splitlines()],
                             [{"a": "inf", "b": [1, {"c": "nan"}]}, {"a": 1}])  # fmt: skip
            lines.file.close()

    def test_deadline(self):
        now = 100.0
        deadline = out.Deadline(1, clock=lambda: now)
        self.assertTrue(deadline.allows(59))
        now = 150.0
        self.assertEqual(deadline.left, 10)
        self.assertFalse(deadline.allows(10))

    def test_a_reason_is_one_line(self):
        self.assertEqual(out.one_line(ValueError("a\n  b")), "ValueError: a b")


WORKER = """
import json, os, signal, sys, time
job = json.loads(sys.argv[1])
def say(**line): print(json.dumps(line), flush=True)
if job["mode"] == "describe":
    sys.exit(job.get("complaint", 0)) if "complaint" in job else say(environment={"torch": "none"})
for row in job.get("rows", []):
    if job["mode"] == "try":
        name = job["contestants"][0]
        say(begin=name, row=row, seconds=job["limit"])
        if name == "hangs": time.sleep(60)
        if name == "dies": os.kill(os.getpid(), signal.SIGSEGV)
        say(tried=name, row=row, reason="it says no" if name == "refuses" else None, errors={"o": 0.001}, version="1")
    elif "mute" not in job:
        for name in job["takes"][row]:
            say(begin=name, row=row, seconds=job["limit"])
            if name == "dies late": sys.exit("illegal address")
            if name == "spoils": say(begin="all", row=row, seconds=job["limit"]); sys.exit("context lost")
            say(result={"contestant": name, "status": "rehearsed"}, row=row)
say(done=True)
"""


class Supervision(unittest.TestCase):
    def setUp(self):
        self.command = supervise.command
        supervise.command = lambda job: [sys.executable, "-c", WORKER, json.dumps(job)]
        self.addCleanup(setattr, supervise, "command", self.command)

    def test_a_trial_that_dies_hangs_or_refuses_is_a_reason(self):
        groups = [(name, ["a", "b"]) for name in ("good", "dies", "hangs", "refuses")]
        kernels = {"a": "A", "b": "B"}
        found = supervise.try_out({"limit": 0.5}, groups, 30, time.time() + 30, 4, kernels)
        reasons = {name: [found[name, kernel]["reason"] for kernel in "AB"] for name, _ in groups}
        self.assertEqual(reasons["good"], [None, None])
        self.assertEqual(reasons["refuses"], ["it says no"] * 2)
        self.assertTrue(all("signal 11" in reason for reason in reasons["dies"]), reasons)
        self.assertTrue(all("hung" in reason for reason in reasons["hangs"]), reasons)

    def test_the_run_goes_on_without_what_ended_it(self):
        ids = ["gdn/forward/1", "kda/forward/1", "gdn/forward/2"]
        job = {"rows": list(ids), "takes": {row: ["dies late", "good"] for row in ids}, "limit": 10}
        job["takes"]["kda/forward/1"] = ["good"]
        answers = []
        supervise.time_rows(job, lambda line: answers.append(line) if "result" in line else None, 30, time.time() + 30)
        found = {(line["row"], line["result"]["contestant"]): line["result"] for line in answers}
        self.assertEqual({key: result["status"] for key, result in found.items()}, {
            (ids[0], "dies late"): "refused", (ids[0], "good"): "rehearsed", (ids[1], "good"): "rehearsed",
            (ids[2], "dies late"): "refused", (ids[2], "good"): "rehearsed",
        })  # fmt: skip
        self.assertIn("illegal address", found[ids[0], "dies late"]["reason"])

    def test_a_row_that_ends_the_run_while_all_are_timed_is_answered(self):
        job = {"rows": ["a/f/1", "a/f/2"], "takes": {"a/f/1": ["spoils"], "a/f/2": ["good"]}, "limit": 10}
        answers = []
        supervise.time_rows(job, lambda line: answers.append(line) if "result" in line else None, 30, time.time() + 30)
        self.assertEqual([line["result"]["status"] for line in answers], ["refused", "rehearsed"])
        self.assertIn("context lost", answers[0]["result"]["reason"])

    def run_peers(self, **job):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "lines.jsonl")
            library = pathlib.Path(folder, "library.so")
            arguments = ["--out", str(path), "--minutes", "0.5", "--rules", str(ROOT / "rules"), "--library",
                         str(library), "--device", "cpu"]  # fmt: skip
            sys.argv = ["peers.py", *arguments]
            run = peers.Run(peers.arguments(), out.Deadline(0.5))
            run.job |= job
            run.all()
            run.close()
            run.lines.file.close()
            return [json.loads(line) for line in path.read_text().splitlines()]

    def test_a_rehearsal_answers_every_row_and_holds_no_time(self):
        lines = self.run_peers(limit=5)
        answers = [line for line in lines if line["kind"] == "row"]
        self.assertEqual(len(answers), len(rows.rehearsal()) * len(ALL))
        self.assertTrue(all(line["rehearsal"] and "graph_ms" not in line and "floor" not in line for line in answers))
        self.assertEqual({line["status"] for line in answers}, {"rehearsed", "refused"})
        self.assertTrue(all(line.get("reason") for line in answers if line["status"] == "refused"))

    def test_what_the_time_does_not_reach_says_so(self):
        lines = self.run_peers(limit=5, mute=True)
        self.assertEqual(len(lines) - 1, len(rows.rehearsal()) * len(ALL))
        self.assertEqual({line["status"] for line in lines[1:]}, {"refused", "not reached"})

    def test_without_the_packages_every_row_is_refused_with_the_reason(self):
        lines = self.run_peers(complaint="No module named 'torch'")
        self.assertIn("torch", lines[0]["reason"])
        self.assertEqual({line["status"] for line in lines[1:]}, {"refused"})


if __name__ == "__main__":
    unittest.main()
