"""flash-linear-attention's own tests with our functions in the place of its Triton ones, on the CPU.

    pip install flash-linear-attention pytest
    cd python && python3 -m tests.fla_suite [--source URL_OR_FOLDER] [--log FILE] [FILE_NAME ...] [pytest options]

The test files are fetched for the run, read where they are, and left there: of one commit from a repository, or of a
folder that holds a checkout. A log keeps what each test gave, so that a run that was broken off goes on where it ended,
as long as the package is the same. Names are those of the files: gdn2, kda, gdn and delta without any.

Their references run as they are, on the CPU, differentiated faster (`by_token`). At least 90 % of the collected tests must pass. The rest may be skipped for a GPU asked for by name or for what is
inside Triton, and each is listed with its reason.
"""

import argparse
import hashlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import types
import warnings

from tests.by_token import by_token

SOURCE = "https://github.com/fla-org/flash-linear-attention"
# What the files are held to be: tests that are added or changed since are not counted.
COMMIT = "bc3b101dcb713ddc5bd8924b66754eb68b5ccf89"
NAMES = ("gdn2", "kda", "gdn", "delta")
NEEDED = 0.9

# Markers that ask for a GPU where ours need none: for CUDA at all, for decoding as vLLM does, and for the backend that
# takes the place of Triton's `chunk_kda`, as ours does.
UNASKED = ("CUDA required", "requires CUDA or NPU", "requires GPU and the flash_kda package")
# Tests of one kernel alone, which is not a call of the package's functions.
INSIDE = {"test_prepare_wy_repr_bwd_no_g": "Triton's internals: one of its kernels alone, which no function calls so"}
# Why the files skip what stays skipped: GPUs and their packages by name.
BY_NAME = r"SM\d+|Blackwell|NPU|FlashQLA"


def size(name):
    """How much a test computes, by the sizes that its name states: tokens, heads, the square of head dims."""
    stated = {letter: int(number) for letter, number in re.findall(r"(?<![A-Za-z])([BTHDKV]|HV)(\d+)", name)}
    tokens = stated.get("T") or max(map(int, re.findall(r"\d+", name.partition("cu_seqlens")[2])), default=1)
    heads = stated.get("HV") or stated.get("H", 1)
    return stated.get("B", 1) * tokens * heads * stated.get("D", stated.get("K", 32)) ** 2


def fetched(source, place):
    """The folder of the test files: in a checkout, or fetched from a repository into `place`."""
    folder = pathlib.Path(source) / "tests" / "ops"
    if folder.is_dir():
        return folder
    git = ["git", "-C", str(place)]
    for command in (
        ["git", "init", "--quiet", str(place)],
        [*git, "fetch", "--quiet", "--depth", "1", source, COMMIT],
        [*git, "checkout", "--quiet", "FETCH_HEAD", "--", "tests/ops"],
    ):
        subprocess.run(command, check=True)
    return place / "tests" / "ops"


def stamp():
    """What a result depends on: our library, our Python, and the original's version."""
    import fla
    import gdn2

    package = pathlib.Path(gdn2.__file__).parent
    text = hashlib.sha256(fla.__version__.encode())
    for path in sorted(package.rglob("*.py")):
        text.update(path.read_bytes())
    text.update(pathlib.Path(gdn2._library.library._name).read_bytes())
    return text.hexdigest()[:16]


def in_place():
    """Puts ours where the tests find the original's; says where."""
    import fla.layers
    import fla.ops.gated_delta_rule.gate
    import fla.ops.kda.gate
    import fla.utils
    import gdn2.fla
    import gdn2.layers
    from gdn2.fla.prologue import activated_decay

    def fused_kda_gate(g, A_log=None, dt_bias=None, lower_bound=None):
        return activated_decay(g, None if A_log is None else A_log.flatten(), dt_bias, lower_bound)

    def fused_gdn_gate(g, A_log, dt_bias=None):
        return activated_decay(g, A_log, dt_bias, None)

    # The run of the plain functions, as the files call it: no backend of other packages is tried.
    os.environ["FLA_DISABLE_BACKEND_DISPATCH"] = "1"
    fla.utils.device = "cpu"
    for rule in ("gdn2", "kda", "gated_delta_rule", "delta_rule"):
        naive = importlib.import_module(f"fla.ops.{rule}.naive")
        for module in (naive, importlib.import_module(f"fla.ops.{rule}")):
            for name in [name for name in vars(naive) if name.startswith("naive_recurrent_")]:
                own = getattr(module, name, None)
                if own is not None and not hasattr(own, "__wrapped__"):
                    setattr(module, name, by_token(own))
    fla.ops.kda.gate.fused_kda_gate = fused_kda_gate
    fla.ops.gated_delta_rule.gate.fused_gdn_gate = fused_gdn_gate
    fla.layers.GatedDeltaNet2 = gdn2.layers.GatedDeltaNet2
    return gdn2.fla.accelerate()


def without_cuda(module):
    """Lets a test file that names the device find the CPU there."""
    torch = module.torch
    stand_in = types.ModuleType("torch")
    stand_in.__getattr__ = lambda name: getattr(torch, name)
    stand_in.device = lambda name, *rest: torch.device("cpu" if name == "cuda" else name, *rest)
    module.torch = stand_in


class OnTheCpu:
    """The pytest plugin: takes away demands for CUDA, leaves out what the log has, and keeps what each test gives."""

    def __init__(self, log):
        self.log, self.stamp = log, stamp()
        self.collected, self.results = [], {}
        if log and log.is_file():
            rows = map(json.loads, log.read_text().splitlines())
            self.results = {row["test"]: row for row in rows if row["stamp"] == self.stamp}

    def pytest_collection_modifyitems(self, session, config, items):
        import pytest

        for item in items:
            asked = lambda mark: any(text in str(mark.kwargs.get("reason")) for text in UNASKED)  # noqa: E731
            for holder in item.listchain():
                holder.own_markers = [mark for mark in holder.own_markers if not asked(mark)]
            if item.originalname in INSIDE:
                item.add_marker(pytest.mark.skip(reason=INSIDE[item.originalname]))
            if item.originalname == "test_fused_recurrent_vllm_decode":
                without_cuda(item.module)
        self.collected = [name(item) for item in items]
        # The small ones first: a run that is broken off has said the most.
        items.sort(key=lambda item: size(item.name))
        known = [item for item in items if name(item) in self.results]
        items[:] = [item for item in items if name(item) not in self.results]
        config.hook.pytest_deselected(items=known)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            reason = report.longrepr[2] if report.skipped else report.longreprtext[-2000:]
            row = {"test": report.nodeid.rpartition("/")[2], "outcome": report.outcome, "reason": reason}
            row |= {"seconds": round(report.duration, 1), "stamp": self.stamp}
            self.results[row["test"]] = row
            print(f"{time.strftime('%H:%M:%S')} {row['outcome']:8}{row['seconds']:7.1f} s  {row['test']}", flush=True)
            if self.log:
                with self.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")

    def summary(self):
        """Prints a row per file and every test that did not pass; whether it is enough."""
        rows = [self.results[test] for test in self.collected if test in self.results]
        print(f"\n{'file':16}{'collected':>10}{'passed':>8}{'failed':>8}{'skipped':>9}{'left':>6}")
        files = list(dict.fromkeys(test.partition("::")[0] for test in self.collected))
        for file in [*files, "all"]:
            own = lambda test: file == "all" or test.startswith(f"{file}::")  # noqa: B023, E731
            of = [row["outcome"] for row in rows if own(row["test"])]
            total = sum(map(own, self.collected))
            counts = [of.count(outcome) for outcome in ("passed", "failed", "skipped")]
            print(f"{file:16}{total:10}{counts[0]:8}{counts[1]:8}{counts[2]:9}{total - len(of):6}")
        reasons = {}
        for row in rows:
            if row["outcome"] == "skipped":
                reason = row["reason"].removeprefix("Skipped: ")
                inside = reason.startswith("Triton's internals")
                kind = "" if inside else "a GPU by name: " if re.search(BY_NAME, reason) else "NOT ALLOWED: "
                reasons.setdefault(kind + reason, []).append(row["test"])
            if row["outcome"] == "failed":
                print(f"\nfailed: {row['test']}\n{row['reason']}")
        for reason, tests in reasons.items():
            print(f"\nskipped, {reason}")
            for test in tests:
                print(f"    {test}")
        passed = sum(row["outcome"] == "passed" for row in rows)
        allowed = not any(reason.startswith("NOT ALLOWED") for reason in reasons)
        failed = any(row["outcome"] == "failed" for row in rows)
        print(f"\n{passed} of {len(self.collected)} passed, {passed / max(1, len(self.collected)):.1%}")
        return allowed and not failed and passed >= NEEDED * len(self.collected)


def name(item):
    """A test's file and name, wherever the file is."""
    return item.nodeid.rpartition("/")[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=SOURCE, help="a repository of git, or a folder that is a checkout")
    parser.add_argument("--log", type=pathlib.Path, help="what tests gave, to go on from")
    parser.add_argument("names", nargs="*", default=NAMES)
    arguments, options = parser.parse_known_args()
    warnings.filterwarnings("ignore", message="Triton is not supported")
    import pytest
    import torch

    places = in_place()
    print(f"{len(places)} places have our functions: {', '.join(places[:4])}, ...")
    print(f"torch {torch.__version__}, fla {importlib.import_module('fla').__version__}, tests of {COMMIT[:12]}")
    with tempfile.TemporaryDirectory() as place:
        folder = fetched(arguments.source, pathlib.Path(place))
        files = [str(folder / f"test_{name}.py") for name in arguments.names]
        plugin = OnTheCpu(arguments.log)
        quiet = ["--noconftest", "--rootdir", str(folder), "-p", "no:cacheprovider", "-p", "no:terminal"]
        pytest.main([*files, *quiet, *options], plugins=[plugin])
    sys.exit(not plugin.summary())


if __name__ == "__main__":
    main()
