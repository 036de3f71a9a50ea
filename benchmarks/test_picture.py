"""The picture of the README is drawn from the table of benchmarks/README.md as it is."""

import pathlib
import subprocess
import sys
import unittest

SCRIPT = pathlib.Path(__file__).parent / "clock" / "picture.py"


class Picture(unittest.TestCase):
    def test_it_is_drawn_from_the_table(self):
        done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
