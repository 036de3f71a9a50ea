"""What a script of the hardware check is told, its result lines and the time that is left."""

import argparse
import json
import math
import time


def asked(doc):
    """A parser of what each such script is told, by the first line of its own description."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", required=True, help="file that lines are appended to")
    parser.add_argument("--minutes", type=float, required=True, help="time for all of it")
    parser.add_argument("--rules", required=True, help="folder of gdn.gdn2, kda.gdn2 and gdn2.gdn2")
    parser.add_argument("--library", required=True, help="libgdn2_c.so")
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu to rehearse")
    return parser


class Deadline:
    """Ends `minutes` after it was made, by the wall clock, so that child processes share it."""

    def __init__(self, minutes=None, at=None, clock=time.time):
        self.clock = clock
        self.at = clock() + 60 * minutes if at is None else at

    @property
    def left(self):
        return self.at - self.clock()

    def allows(self, seconds):
        return self.left > seconds


class Lines:
    """Appends one JSON object a line and flushes each; numbers that JSON lacks become text."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def write(self, entry):
        self.file.write(json.dumps(plain(entry), allow_nan=False) + "\n")
        self.file.flush()


def plain(value):
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def one_line(error):
    """An exception, or any text, as one line of bounded length."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    return " ".join(text.split())[:400]
