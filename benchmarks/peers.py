"""Our kernels and other implementations of the same rules, side by side on one GPU.

    python3 benchmarks/peers.py --out ROWS.jsonl --minutes 9 --rules rules --library libgdn2_c.so --device cuda:0

Appends one JSON object a line, each as soon as it is known, and ends by itself within the minutes. benchmarks/README.md
says what is compared and how the lines read.
"""

import collections
import os
import sys

from contest import supervise
from contest.contestants import ALL, BY_NAME
from contest.out import Deadline, Lines, asked, one_line
from contest.rows import BARS, WRONG, describe, minimum_bytes, rehearsal, rehearsed, rows, wrong

TRY_SHARE = {1: 0.4, 2: 0.35}  # of the time that is left at the start of a stage, for trials
REHEARSAL_SHARE = 0.7
CALL_SECONDS = 150  # for what one contestant does at a time, compilation included
START_SECONDS = 120  # for a process to load its packages
ROW_SECONDS = 8  # a row is not begun with less time left
END_SECONDS = 5


def main():
    given = arguments()
    deadline = Deadline(given.minutes)
    run = Run(given, deadline)
    try:
        run.all()
    finally:
        run.close()


def arguments():
    parser = asked(__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, no times")
    return parser.parse_args()


class Run:
    def __init__(self, given, deadline):
        self.deadline, self.lines = deadline, Lines(given.out)
        self.rehearsal = given.rehearse or given.device == "cpu"
        self.rows = {row.id: row for row in (rehearsal() if self.rehearsal else rows())}
        self.answered = collections.defaultdict(set)
        self.outcomes, self.copy_bytes_per_ms = {}, None
        until = deadline.at - END_SECONDS
        self.job = {
            "device": given.device, "rehearsal": self.rehearsal, "library": os.path.abspath(given.library),
            "rules": os.path.abspath(given.rules), "until": until, "limit": CALL_SECONDS, "row_seconds": ROW_SECONDS,
        }  # fmt: skip

    def all(self):
        environment, reason = supervise.describe(self.job, min(START_SECONDS, self.deadline.left - END_SECONDS))
        self.copy_bytes_per_ms = (environment or {}).get("copy_bytes_per_ms")
        self.lines.write({"kind": "environment", "rehearsal": self.rehearsal, "reason": reason} | (environment or {}))
        if environment is None:
            for row in self.rows.values():
                for contestant in ALL:
                    self.answer(row, {"contestant": contestant.name, "status": "refused", "reason": reason})
            return
        for stage in (1, 2):
            if self.deadline.allows(ROW_SECONDS + END_SECONDS):
                share = REHEARSAL_SHARE if self.rehearsal else TRY_SHARE[stage]
                self.stage([row for row in self.rows.values() if row.stage == stage], share)

    def stage(self, stage, share):
        self.try_out(stage, share)
        takes = {row.id: self.takers(row) for row in stage}
        self.job |= {"rows": [row.id for row in stage if takes[row.id]], "takes": takes}
        supervise.time_rows(self.job, self.take, START_SECONDS, self.job["until"])

    def try_out(self, stage, share):
        """One trial of each contestant for each set of kernels that the stage newly needs, compilers side by side."""
        groups, representative = collections.defaultdict(list), {}
        for row in stage:
            for contestant in ALL:
                key = contestant.name, row.kernels
                if key in self.outcomes or key in representative or contestant.refuses(row):
                    continue
                representative[key] = row.id
                apart = () if self.rehearsal else (row.rule, row.passing)
                groups[contestant.name, *apart].append(row.id)
        at_once = max(2, min(14, (os.cpu_count() or 2) - 2))
        until = min(self.job["until"], self.deadline.clock() + share * self.deadline.left)
        kernels = {row.id: row.kernels for row in stage}
        trials = [(key[0], ids) for key, ids in groups.items()]
        self.outcomes |= supervise.try_out(self.job, trials, START_SECONDS, until, at_once, kernels)

    def takers(self, row):
        """Who is timed on a row; the others' answers are written."""
        names = []
        for contestant in ALL:
            name, refusal = contestant.name, contestant.refuses(row)
            outcome = self.outcomes.get((name, row.kernels), {"reason": refusal, "errors": None, "version": None})
            far = wrong(outcome["errors"] or {}, WRONG)
            if outcome["reason"]:
                self.answer(row, {"contestant": name, "status": "refused", "reason": outcome["reason"]})
            elif far:
                self.answer(row, {"contestant": name, "status": "wrong", "reason": f"on a short shape: {far}"})
            else:
                names.append(name)
        return names

    def take(self, line):
        if "result" in line:
            self.answer(self.rows[line["row"]], line["result"])

    def answer(self, row, result):
        """Writes one contestant's line for one row."""
        name = result["contestant"]
        self.answered[row.id].add(name)
        outcome = self.outcomes.get((name, row.kernels), {})
        errors = [*(outcome.get("errors") or {}).values(), *(result.get("errors") or {}).values()]
        line = self.head(row) | {"note": BY_NAME[name].note, "version": outcome.get("version")} | result
        line |= {"errors_short": outcome.get("errors"), "worst_error": max(map(float, errors), default=None)}
        if line.get("graph_ms") and self.copy_bytes_per_ms:
            line["floor"] = line["minimum_bytes"] / self.copy_bytes_per_ms / line["graph_ms"]["median"]
        self.lines.write(line)

    def head(self, row):
        shape = rehearsed(row) if self.rehearsal else row
        head = {"kind": "row", "id": row.id, "rule": row.rule, "pass": row.passing, "shape": shape.shape_text,
                "sizes": describe(shape), "regime": row.regime, "contract": row.contract_text,
                "contract_fields": row.contract, "bars": BARS, "minimum_bytes": minimum_bytes(shape)}  # fmt: skip
        return head | ({"rehearsal": True} if self.rehearsal else {})

    def close(self):
        """What the time did not reach says so."""
        for row in self.rows.values():
            for contestant in ALL:
                if contestant.name not in self.answered[row.id]:
                    self.lines.write(self.head(row) | {"contestant": contestant.name, "status": "not reached"})


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(one_line(error))
