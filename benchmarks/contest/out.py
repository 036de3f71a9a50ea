"""Result lines and the time that is left."""

import json
import math
import time


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
