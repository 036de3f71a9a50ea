"""flash-linear-attention's own tests with our functions in the place of its Triton ones, on the CPU.

    git clone https://github.com/fla-org/flash-linear-attention
    pip install flash-linear-attention pytest
    cd python && python3 -m tests.fla_suite ../flash-linear-attention gdn2 kda gdn delta

The files are read where they are. What is skipped beside what the files skip themselves is listed with its reason.
"""

import pathlib
import re
import sys

# Tests of what is not a call of these functions, by the pattern of their names.
SKIPPED = {
    r"gate$": "Triton's internals: the kernel of the gate alone",
    r"layer$": "Triton's internals: the convolution and the norm of its layer",
    r"vllm_decode$": "Triton's internals: the inner function of decoding",
    r"prepare_wy": "Triton's internals: one of its kernels alone",
    r"flash_(kda|qla)|ascend|blackwell": "a GPU asked for by name",
}


def size(name):
    """How much a test computes, by the sizes that its name states: tokens, heads, the square of head dims."""
    stated = {letter: int(number) for letter, number in re.findall(r"(?<![A-Za-z])([BTHDKV]|HV)(\d+)", name)}
    tokens = stated.get("T") or max(map(int, re.findall(r"\d+", name.partition("cu_seqlens")[2])), default=1)
    heads = stated.get("HV") or stated.get("H", 1)
    return stated.get("B", 1) * tokens * heads * stated.get("D", stated.get("K", 32)) ** 2


class OnTheCpu:
    """The pytest plugin that puts ours in place and takes away the demand for CUDA."""

    def __init__(self):
        self.skipped = {}

    def pytest_collection_modifyitems(self, items):
        import pytest

        for item in items:
            item.own_markers = [mark for mark in item.own_markers if "CUDA required" not in str(mark.kwargs)]
            for pattern, reason in SKIPPED.items():
                if re.search(pattern, item.originalname):
                    self.skipped.setdefault(reason, set()).add(item.originalname)
                    item.add_marker(pytest.mark.skip(reason=reason))
        # The small ones first: a run that is broken off has said the most.
        items.sort(key=lambda item: size(item.name))

    def pytest_terminal_summary(self, terminalreporter):
        for reason, names in self.skipped.items():
            terminalreporter.write_line(f"skipped, {reason}: {', '.join(sorted(names))}")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    import warnings

    warnings.filterwarnings("ignore", message="Triton is not supported")
    import fla.utils
    import gdn2.fla
    import pytest

    fla.utils.device = "cpu"
    places = gdn2.fla.accelerate()
    print(f"{len(places)} places have our functions: {', '.join(places[:6])}, ...")
    folder = pathlib.Path(sys.argv[1])
    names = [name for name in sys.argv[2:] if not name.startswith("-")]
    files = [str(folder / "tests" / "ops" / f"test_{name}.py") for name in names]
    options = [option for option in sys.argv[2:] if option.startswith("-")]
    sys.exit(pytest.main([*files, "-q", "-p", "no:cacheprovider", "--noconftest", *options], plugins=[OnTheCpu()]))


if __name__ == "__main__":
    main()
