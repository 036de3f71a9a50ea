"""`emit --emit torch-ref`: what it prints runs in the dtypes that `check` prints, and says what the rule computes."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import gdn2

try:
    import torch
except ImportError:
    torch = None

from .test_fla import error

RULES = pathlib.Path(__file__).parents[2] / "rules"
SEED = int(os.environ.get("GDN2_SEED", int.from_bytes(os.urandom(4), "little")))
SIZES = {"B": 1, "T": 5, "H": 1, "HV": 2, "N": 1}


def gdn2_command(*arguments):
    done = subprocess.run([sys.executable, "-m", "gdn2", *arguments], capture_output=True, check=True)
    return done.stdout.decode()


@unittest.skipIf(torch is None, "torch is not installed")
class Reference(unittest.TestCase):
    def test_every_shipped_rule_runs_in_its_own_dtypes(self):
        dtypes = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
        make = torch.Generator().manual_seed(SEED)
        for path in sorted(RULES.glob("*.gdn2")):
            with self.subTest(rule=path.stem, seed=SEED):
                (checked,) = json.loads(gdn2_command("check", str(path), "--json"))
                module = {}
                exec(compile(gdn2_command("emit", str(path), "--emit", "torch-ref"), path.stem, "exec"), module)
                drawn = {}
                for tensor in checked["tensors"] + checked["named"]:
                    letters = tensor["shape"].strip("[]").split(",")
                    shape = [SIZES[letter] if letter in SIZES else int(letter) for letter in letters]
                    x = torch.randn(shape, generator=make)
                    if not checked["formulas"] and tensor["name"] in ("g", "b", "w"):
                        x = -x.square().clamp(max=5) if tensor["name"] == "g" else x.sigmoid()
                    if tensor["name"] in ("q", "k"):
                        x = torch.nn.functional.normalize(x, dim=-1)
                    drawn[tensor["name"]] = x.to(dtypes[tensor["dtype"]])
                out, state = drawn.pop("o"), drawn.pop("state")
                kernels = gdn2.load(str(path), device="cpu")
                named = {own["name"]: drawn.pop(own["name"]) for own in checked["named"]}
                o, final_state = module[checked["rule"]](**drawn, **named, initial_state=state)
                self.assertEqual((o.shape, o.dtype, final_state.dtype), (out.shape, out.dtype, torch.float32))
                want, want_state = kernels.forward(**drawn, named=named, initial_state=state)
                self.assertLess(error(o, want), 0.005)
                self.assertLess(error(final_state, want_state), 0.005)


if __name__ == "__main__":
    unittest.main()
