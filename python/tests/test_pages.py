"""What the pages for users show in Python runs, in the order of the page and with the files that its commands write."""

import os
import pathlib
import re
import tempfile
import unittest

try:
    import torch
except ImportError:
    torch = None

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@unittest.skipIf(torch is None, "torch is not installed")
class Pages(unittest.TestCase):
    def test_a_rule_of_ones_own_is_trained(self):
        page = (DOCS / "a-rule-of-your-own.md").read_text(encoding="utf-8")
        rule = re.search(r"cat > mine.gdn2 <<'END'\n(.*?)END\n", page, re.DOTALL)
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        self.assertTrue(rule and len(blocks) == 2)
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                pathlib.Path("mine.gdn2").write_text(rule.group(1), encoding="utf-8")
                for block in blocks:
                    exec(compile(block, "a-rule-of-your-own.md", "exec"), {})
            finally:
                os.chdir(before)


if __name__ == "__main__":
    unittest.main()
