"""Holds a wheel to what it promises: `python3 -m tests.wheel dist/gdn2-*.whl`."""

import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

MIB = 1 << 20
MOST = 25 * MIB
# Whose libraries no file of ours may ask for.
FOREIGN = re.compile("torch|c10|cuda|nvrtc|python")


def main():
    path = pathlib.Path(sys.argv[1])
    tag, size = path.stem.split("-", 2)[2], path.stat().st_size
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if "/licenses/" in name]
        native = [name for name in names if name.endswith((".so", "/bin/gdn2"))]
        needed = {name: linked(wheel.read(name)) for name in native}
        metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))
    print(f"{path.name}: {size / MIB:.1f} MiB, {len(names)} files")
    for name, libraries in needed.items():
        print(f"    {name} needs {', '.join(sorted(libraries))}")
    assert {path.rpartition("/")[2] for path in licences} == {"LICENSE-APACHE", "LICENSE-MIT"}, licences
    assert re.fullmatch(r"py3-none-manylinux_2_\d+_\w+", tag), f"the tag is {tag}, no manylinux"
    assert size < MOST, f"{size} bytes, must be less than {MOST}"
    assert len(native) == 2, f"a library and a command, not {native}"
    assert not re.search("(?m)^Requires-Dist: (?!.*extra ==)", metadata), "nothing may be needed beside extras"
    for name in ("gdn2/py.typed", "gdn2/kernels.pyi", "gdn2/fla/functions.py", "gdn2/layers/mixers.py"):
        assert name in names, f"{name} is missing"
    for name, libraries in needed.items():
        assert not any(FOREIGN.search(library) for library in libraries), f"{name} links to {libraries}"


def linked(file):
    """The libraries that a file of ELF asks the loader for."""
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(file)
        copy.flush()
        text = subprocess.run(["readelf", "-d", copy.name], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", text))


if __name__ == "__main__":
    main()
