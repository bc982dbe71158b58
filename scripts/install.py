#!/usr/bin/env python3
"""Copies the executables and the libtorch they were built with to PREFIX/bin and PREFIX/lib/bstar.

The executables look for libtorch beside themselves first ($ORIGIN/../lib/bstar), so the tree can be
moved as a whole.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def place(source, target):
    """Copies through a temporary name, so that a running executable is replaced, not overwritten."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copy2(source, partial)
    partial.rename(target)


def main():
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("usage: scripts/install.py PREFIX")
    prefix = pathlib.Path(sys.argv[1]).expanduser().resolve()
    libtorch = pathlib.Path(os.environ.get("LIBTORCH") or ROOT / "third_party" / "libtorch")
    for name in ("bstar", "bstar-lm"):
        place(ROOT / "target" / "release" / name, prefix / "bin" / name)
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-debug", prefix / "bin" / name], check=True)
    for library in sorted((libtorch / "lib").glob("*.so*")):
        place(library, prefix / "lib" / "bstar" / library.name)
    if (libtorch / "cuda").is_dir():
        for library in sorted((libtorch / "cuda").glob("*.so*")):
            place(library, prefix / "lib" / "bstar" / "cuda" / library.name)
    size = sum(file.stat().st_size for file in (prefix / "lib" / "bstar").rglob("*") if file.is_file())
    print(f"installed bstar and bstar-lm in {prefix}/bin and libtorch ({size / 1e6:.0f} MB) in {prefix}/lib/bstar")


if __name__ == "__main__":
    main()
