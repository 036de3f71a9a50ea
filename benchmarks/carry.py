"""Builds .carry/, what a machine with a GPU but without Rust and network needs beside the repository: our stripped
binaries, the oracle's cases, and the other implementations from the Python package index.

    cargo build --release -p gdn2-cli -p gdn2-capi && python3 benchmarks/carry.py

Prints what each part weighs and fails beyond 60 MB. benchmarks/on-gpu.sh unpacks it there. Needs pip, strip and xz.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CARRY = ROOT / ".carry"
ORACLE = ROOT.parent / "shared" / "oracle"
LIMIT = 60_000_000
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
# Pinned: what a row says depends on them. TileLang works with neither newer apache-tvm-ffi nor newer z3-solver.
WHEELS = ("fla-core==0.6.0", "attn-gym==0.0.17", "flash-qla==0.1.3", "nvidia-cudnn-frontend==1.32.0",
          "tilelang==0.1.15", "apache-tvm-ffi==0.1.12", "torch-c-dlpack-ext==0.1.5",
          "z3-solver==4.15.4.0")  # fmt: skip
# Of those, what no linear attention on this kind of machine needs.
LEFT_OUT = (
    ".data/", ".pyi", "z3/include/", "tilelang/3rdparty/tvm/src/", "tilelang/3rdparty/cutlass/tools/",
    "include/cudnn_frontend", "cudnn/sdpa/", "cudnn/gemm/", "cudnn/deepseek_sparse_attention/",
    "cudnn/gated_attention_block/", "cudnn/moe_ep/", "cudnn/block_sparse_attention/", "cudnn/flex_attention/",
    "cudnn/hstu/",
)  # fmt: skip
# x86 code packs better with its branches made absolute; the dictionary covers the largest library.
XZ = ("xz", "--x86", "--lzma2=preset=6,dict=64MiB", "--stdout")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser.add_argument("--release", default=release, type=pathlib.Path, help="folder of gdn2 and libgdn2_c.so")
    given = parser.parse_args()
    shutil.rmtree(CARRY, ignore_errors=True)
    CARRY.mkdir()
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, fill in {"ours": lambda place: ours(given.release, place), "oracle": oracle, "peers": peers}.items():
            place = pathlib.Path(folder, name)
            place.mkdir()
            fill(place)
            total += pack(place, CARRY / f"{name}.tar.xz")
    print(f"{total:>12,}  in all, of {LIMIT:,}")
    if total > LIMIT:
        sys.exit("too much to carry")


def ours(release, place):
    for name in ("gdn2", "libgdn2_c.so"):
        if not (release / name).is_file():
            sys.exit(f"{release / name} is missing: cargo build --release -p gdn2-cli -p gdn2-capi")
        subprocess.run(["strip", "-o", place / name, release / name], check=True)


def oracle(place):
    if not ORACLE.is_dir():
        sys.exit(f"{ORACLE} is missing: the oracle's cases belong there")
    for case in sorted(ORACLE.iterdir()):
        shutil.copyfile(case, place / case.name)


def peers(place):
    with tempfile.TemporaryDirectory() as wheels:
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        f"--python-version={PYTHON}", *platforms, f"--dest={wheels}", *WHEELS], check=True)  # fmt: skip
        for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as files:
                for name in files.namelist():
                    if not any(part in name for part in LEFT_OUT):
                        files.extract(name, place)
    # The wheel holds this library twice.
    library = place / "z3" / "lib" / "libz3.so"
    for copy in library.parent.glob("libz3.so.*"):
        copy.unlink()
        copy.symlink_to(library.name)


def pack(folder, archive):
    """Packs a folder's contents and says what each weighs."""
    with tempfile.TemporaryFile() as plain, open(archive, "wb") as packed:
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name)
        plain.seek(0)
        subprocess.run(XZ, stdin=plain, stdout=packed, check=True)
    size = archive.stat().st_size
    print(f"{size:>12,}  {archive.relative_to(ROOT)}: {', '.join(sorted(path.name for path in folder.iterdir()))}",
          flush=True)  # fmt: skip
    return size


if __name__ == "__main__":
    main()
