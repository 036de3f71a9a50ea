#!/usr/bin/env python3
"""Runs the inputs of a folder of bugs, one folder each, and says of each whether the result is right.

    python3 tests/bugs.py [FOLDER] [--only NAME]

FOLDER is ../shared/bugs without one. A folder holds cmd.txt, whose lines are run by bash in a copy of the folder with `gdn2`
on the path and $GDN2 the checkout, and expected.txt, which says in words what is right. What is right of the known ones is
said once more in RIGHT, for a machine; of others it is that no line ends by a signal or a panic. Exits with 1 where one is
wrong. `gdn2` is target/release/gdn2: build it first.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 900
# Rust's exit code of a panic; from 128 on, a signal.
PANIC, SIGNAL = 101, 128


class Run:
    """What the lines of a cmd.txt gave."""

    def __init__(self, codes, text, folder):
        self.codes, self.text, self.folder = codes, text, folder

    def all_good(self):
        return all(code == 0 for code in self.codes)

    def refused(self, *places):
        """Lines that end with 1 or 2, as an argument or a judgement that is refused does."""
        return all(self.codes[place] in (1, 2) for place in places or range(len(self.codes)))

    def says(self, *texts):
        return all(text in self.text for text in texts)

    def lines(self):
        return self.text.splitlines()

    def of_line(self, place):
        """What one line printed."""
        parts = re.split(r"^@@ \d+ \d+\n", self.text, flags=re.M)
        return parts[place] if place < len(parts) else ""


def numbers_printed(run):
    return [line for line in run.lines() if re.fullmatch(r"\d+", line)]


RIGHT = {
    "backward-slices": lambda run: run.all_good() and run.text.count(" 0 failed") == 3,
    "case-near-identical-keys-bar": lambda run: run.all_good(),
    "cpu-draws-backward": lambda run: run.all_good() and run.says(" 0 failed"),
    "draws-flake": lambda run: run.all_good() and run.text.count(" 0 failed") == 3,
    "f16-state-over-65504": lambda run: run.all_good() and run.says("2 passed, 0 failed"),
    "huge-numbers": lambda run: run.refused(),
    "nan-reference": lambda run: run.refused() and run.text.count("it proves nothing") == 2,
    "out-device": lambda run: (
        re.search(r"null character special file", run.text)
        and re.search(r"fifo fifo", run.text)
        and re.search(r"link symbolic link", run.text)
        and re.search(r"priv regular file 600 [1-9]", run.text)
        and re.search(r"target regular file \d+ [1-9]", run.text)
    ),
    "ptx-loc": lambda run: run.refused(),
    "python-cwd": lambda run: not (run.folder / "gdn2-ran-this").exists() and run.codes[2] != 0 and run.codes[-1] != 0,
    "python-scale-zero": lambda run: "0.0" in run.lines() or run.refused(-1),
    "record-not-utf8": lambda run: run.codes[-1] == 0,
    "reference-shape": lambda run: run.refused() and run.says("[2, 10, 1, 16]", "[1, 20, 1, 16]", "o:"),
    "state-vk-files": lambda run: run.all_good() and run.says("0.0 0.2 0.5 0.8"),
    "toolchain-truncated": lambda run: all(code < SIGNAL for code in run.codes) and "Bus error" not in run.text,
    "torchref-injection": lambda run: not (run.folder / "PWNED").exists() and "SyntaxError" not in run.text,
    "tune-lost-records": lambda run: numbers_printed(run) == ["4"] * 8,
    "vm-barrier-pairing": lambda run: run.refused(),
    "vm-fence-lanes": lambda run: run.codes[0] == 0 and run.refused(1),
    "vm-noinc-count": lambda run: run.codes[0] == 0 and run.refused(1, 2),
}

# Lines that an input needs today for what it is about. A sweep of predictions keeps a record only where it beats what the
# call gets, which its one candidate, the built-in schedule, does not: counts of decode are kept.
TODAY = {
    "tune-lost-records": {"run.sh": {"T=$((128 * ": "T=$((1 * ", "--device model": "--device vm --pass decode"}},
}


def brought_up_to_date(here):
    """Replaces in a copied folder what TODAY says; what is not there to be replaced is an error."""
    for name, changes in TODAY.get(here.name, {}).items():
        text = (here / name).read_text()
        for before, now in changes.items():
            if before not in text:
                sys.exit(f"{here.name}/{name} has no `{before}`")
            text = text.replace(before, now)
        (here / name).write_text(text)


def run(folder):
    """Runs a folder's lines in a copy of it."""
    lines = [line for line in (folder / "cmd.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]
    work = Path(tempfile.mkdtemp(prefix=f"bug-{folder.name}-"))
    try:
        here = work / folder.name
        shutil.copytree(folder, here)
        subprocess.run(["chmod", "-R", "u+w", here], check=True)
        brought_up_to_date(here)
        script = "".join(f"{line}\necho \"@@ {place} $?\"\n" for place, line in enumerate(lines))
        (work / "empty").mkdir()
        path = f"{ROOT / 'target/release'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "GDN2": str(ROOT), "PATH": path, "EMPTY": str(work / "empty")}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=here,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        codes = [int(code) for _, code in re.findall(r"^@@ (\d+) (\d+)$", text, flags=re.M)]
        codes += [done.returncode or SIGNAL] * (len(lines) - len(codes))
        made = work / "empty" if folder.name == "python-cwd" else here
        found = Run(codes, text, made)
        right = RIGHT.get(folder.name, lambda found: all(code < SIGNAL and code != PANIC for code in found.codes))
        return bool(right(found)), found
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", type=Path, default=ROOT.parent / "shared/bugs")
    arguments.add_argument("--only", default="", help="only folders whose name has this in it")
    arguments.add_argument("--verbose", action="store_true", help="what the commands of wrong ones print")
    given = arguments.parse_args()
    folders = sorted(path.parent for path in given.folder.glob("*/cmd.txt") if given.only in path.parent.name)
    if not folders:
        sys.exit(f"{given.folder}: no folder with a cmd.txt")
    wrong = 0
    for folder in folders:
        try:
            right, found = run(folder)
            word = "right" if right else "WRONG"
            known = "" if folder.name in RIGHT else ", only looked at for crashes"
            print(f"{word}  {folder.name}: exit codes {' '.join(map(str, found.codes))}{known}", flush=True)
            if not right and given.verbose:
                print(found.text)
        except subprocess.TimeoutExpired:
            right = False
            print(f"WRONG  {folder.name}: not done in {SECONDS} s", flush=True)
        wrong += not right
    print(f"{len(folders) - wrong} right, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
