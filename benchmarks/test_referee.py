"""A call of flash-linear-attention's becomes a bundle that `gdn2 referee` finds right, without a GPU."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent
GDN2 = HERE.parent / "target" / "release" / "gdn2"

try:
    import fla  # noqa: F401
    import triton  # noqa: F401
except ImportError:
    fla = None


@unittest.skipIf(fla is None or not GDN2.exists(), "flash-linear-attention, Triton and target/release/gdn2 are needed")
class Referee(unittest.TestCase):
    def test_a_peer_is_compiled_run_and_judged(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(HERE / "referee.py"), "--gdn2", str(GDN2), "--out", folder]
            subprocess.run([*command, "gdn-forward", "kda-decode"], check=True, stdout=subprocess.DEVNULL)
            judge = [str(GDN2), "referee", "rules/kda.gdn2", "--pass", "decode", "--peers", folder, "--json"]
            done = subprocess.run(judge, capture_output=True, text=True, cwd=HERE.parent)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            ours, *theirs = json.loads(done.stdout)["rows"]
            self.assertEqual([row["call"] for row in theirs], ["chunk_gated_delta_rule", "fused_recurrent_kda"])
            self.assertEqual([row["launches"] for row in theirs], [5, 1])
            for row in (ours, *theirs):
                self.assertTrue(row["results"] and all(result["passed"] for result in row["results"]), row["call"])
                self.assertGreaterEqual(row["cost"]["distinct"], 0.99 * row["cost"]["floor"], row["call"])


if __name__ == "__main__":
    unittest.main()
