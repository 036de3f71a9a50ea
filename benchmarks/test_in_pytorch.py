"""PyTorch's part of the hardware check, rehearsed without a GPU where PyTorch is installed."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import in_pytorch

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "target" / "release" / "libgdn2_c.so"


class Checks(unittest.TestCase):
    def test_what_goes_wrong_is_told_and_ends_there(self):
        def wrong(_):
            in_pytorch.expect(1 > 2, "o has other bits")

        def absent(_):
            raise in_pytorch.Refused("needs a GPU")

        self.assertEqual(in_pytorch.outcome(wrong, None), {"status": "failed", "found": "AssertionError: o has other bits"})
        self.assertEqual(in_pytorch.outcome(absent, None)["status"], "refused")

    @unittest.skipUnless(importlib.util.find_spec("torch") and LIBRARY.is_file(), "PyTorch or the library is missing")
    def test_a_rehearsal_passes_what_needs_no_gpu(self):
        with tempfile.TemporaryDirectory() as folder:
            rows = pathlib.Path(folder, "rows.jsonl")
            command = [sys.executable, "in_pytorch.py", "--out", rows, "--minutes", "5", "--rules", ROOT / "rules",
                       "--library", LIBRARY, "--device", "cpu"]  # fmt: skip
            subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parent)
            lines = [json.loads(line) for line in rows.read_text().splitlines()]
        self.assertEqual([line["check"] for line in lines], [check.__name__ for check in in_pytorch.CHECKS])
        for line in lines:
            with self.subTest(line["check"]):
                on_gpu = line["check"] in ("side_streams", "captured", "memory")
                self.assertEqual(line["status"], "refused" if on_gpu else "passed", line["found"])


if __name__ == "__main__":
    unittest.main()
