"""The wheel's native part: cargo builds the library and the command, and the wheel is tagged for where they run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LIBRARY = {"darwin": "libgdn2_c.dylib", "win32": "gdn2_c.dll"}.get(sys.platform, "libgdn2_c.so")
COMMAND = "gdn2.exe" if sys.platform == "win32" else "gdn2"
# What a manylinux wheel may link to, the dynamic loader aside.
MANYLINUX = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"}


class NativeHook(BuildHookInterface):
    """Adds `gdn2/<library>` and `gdn2/bin/<command>`."""

    def initialize(self, version: str, build_data: dict) -> None:
        if self.target_name != "wheel":
            raise RuntimeError("only wheels are built: the sources are the whole repository")
        if version == "editable":
            # The package finds what cargo built in the target folder.
            self.cargo()
            return
        release = self.cargo()
        built = [stripped(release / name) for name in (LIBRARY, COMMAND)]
        places = (f"gdn2/{LIBRARY}", f"gdn2/bin/{COMMAND}")
        build_data["force_include"] |= {str(path): place for path, place in zip(built, places)}
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform(built)}"

    def cargo(self) -> pathlib.Path:
        """The folder of what cargo built: now, or before, where GDN2_BUILT names it."""
        if "GDN2_BUILT" in os.environ:
            return pathlib.Path(os.environ["GDN2_BUILT"])
        command = ["cargo", "build", "--release", "--locked", "-p", "gdn2-capi", "-p", "gdn2-cli"]
        try:
            subprocess.run(command, cwd=ROOT, check=True)
        except FileNotFoundError:
            raise RuntimeError("cargo is not on the path: install Rust with rustup, or install a wheel") from None
        return TARGET / "release"


def stripped(path: pathlib.Path) -> pathlib.Path:
    """A copy without symbols, where there is a tool that removes them."""
    copy = TARGET / "wheel" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)
    if strip := shutil.which("strip"):
        subprocess.run([strip, "-x" if sys.platform == "darwin" else "--strip-unneeded", copy], check=True)
    return copy


def platform(built: list[pathlib.Path]) -> str:
    """The platform tag that holds for all files: on Linux manylinux of the newest symbol of glibc that one needs."""
    own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if not own.startswith("linux"):
        return own
    needed, versions = set(), {(2, 17)}
    for path in built:
        text = path.read_bytes()
        versions |= {tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", text)}
        needed |= linked(path)
    foreign = {name for name in needed - MANYLINUX if not name.startswith("ld-linux")}
    if foreign:
        return own
    major, minor = max(versions)
    return f"manylinux_{major}_{minor}_{own.removeprefix('linux_')}"


def linked(path: pathlib.Path) -> set[str]:
    """The libraries that a file names as needed; one that no list has, where there is no tool to tell."""
    if not shutil.which("readelf"):
        return {"unknown"}
    found = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", found))
