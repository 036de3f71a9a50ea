"""The `gdn2` command: `python -m gdn2 --help`."""

import os
import shutil
import sys

from ._library import HERE, places


def command() -> str:
    """Where the command is: in the package, beside the library in a clone, or on the path."""
    name = "gdn2.exe" if sys.platform == "win32" else "gdn2"
    near = [HERE / "bin" / name, *(place.parent / name for place in places())]
    found = next((str(path) for path in near if path.is_file()), None) or shutil.which(name)
    if found is None:
        sys.exit("the gdn2 command is not here: install the wheel, or run `cargo build --release -p gdn2-cli`")
    return found


def main() -> None:
    """Becomes the command."""
    path = command()
    if sys.platform == "win32":
        import subprocess

        sys.exit(subprocess.call([path, *sys.argv[1:]]))
    os.execv(path, [path, *sys.argv[1:]])


if __name__ == "__main__":
    main()
