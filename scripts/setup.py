#!/usr/bin/env python3
"""Provides libtorch for tch 0.24 (PyTorch 2.11.0) under third_party/libtorch.

Uses $LIBTORCH when it is set and of that version. Otherwise downloads the PyTorch wheel and the
two CUDA libraries that even its CPU part links (544 MB), verifies their digests, and keeps the
few files that building and running need. Run again at any time: finished parts are not repeated.
With --cuda the GPU libraries are added beside them (2.7 GB); the same executables then use them.
"""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import zipfile

VERSION = "2.11.0"
ROOT = pathlib.Path(__file__).resolve().parent.parent
THIRD_PARTY = ROOT / "third_party"
LIBTORCH = THIRD_PARTY / "libtorch"
WHEELS = THIRD_PARTY / "wheels"

# requirement: (sha256 of the wheel, {member: file in lib/}); torch also brings its headers.
CPU_WHEELS = {
    f"torch=={VERSION}": (
        "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        ["torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1"],
    ),
    "nvidia-cuda-runtime==13.0.96": (
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        ["nvidia/cu13/lib/libcudart.so.13"],
    ),
    "nvidia-cuda-cupti==13.0.85": (
        "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        ["nvidia/cu13/lib/libcupti.so.13"],
    ),
}
PLATFORM = ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
# Whatever Python runs this, the wheels are those for CPython 3.11 on glibc 2.28 or older.
PLATFORM += [flag for minor in range(28, 4, -1) for flag in ("--platform", f"manylinux_2_{minor}_x86_64")]
PLATFORM += ["--platform", "manylinux2014_x86_64"]


def say(text):
    print(f"setup: {text}", flush=True)


def fail(text, hint):
    sys.exit(f"error: {text}\n  hint: {hint}")


def installed_version(libtorch):
    """The version of a libtorch folder, or None when it is not one."""
    if not (libtorch / "lib" / "libtorch_cpu.so").exists() or not (libtorch / "include").is_dir():
        return None
    # A libtorch archive says its version in one file, an installed PyTorch in another.
    for name, pattern in (("build-version", r"^([\d.]+)"), ("version.py", r"__version__ = '([\d.]+)")):
        if (libtorch / name).exists() and (found := re.search(pattern, (libtorch / name).read_text(), re.M)):
            return found[1]
    return None


def pip():
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        try:
            subprocess.run(command + ["--version"], check=True, capture_output=True)
            return command
        except (OSError, subprocess.CalledProcessError):
            continue
    fail("Python's package installer (pip) was not found",
         "install it (Debian: apt install python3-pip) or set LIBTORCH to a libtorch of version " + VERSION)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def wheel_file(requirement):
    name, version = requirement.split("==")
    found = sorted(WHEELS.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    return found[0] if found else None


def fetch(requirement, expected):
    """The verified wheel of `requirement`, downloaded unless it is already here."""
    wheel = wheel_file(requirement)
    if wheel and sha256(wheel) == expected:
        return wheel
    if wheel:
        say(f"{wheel.name} is damaged; downloading it again")
        wheel.unlink()
    WHEELS.mkdir(parents=True, exist_ok=True)
    say(f"downloading {requirement} …")
    started = time.time()
    command = pip() + ["download", "--quiet", "--no-deps", "--dest", str(WHEELS)] + PLATFORM + [requirement]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    wheel = wheel_file(requirement)
    if done.returncode != 0 or wheel is None:
        fail(f"downloading {requirement} failed:\n{done.stderr.strip()}",
             "check the network and run `make setup` again (finished downloads are kept), "
             f"or set LIBTORCH to a libtorch of version {VERSION}")
    if sha256(wheel) != expected:
        wheel.unlink()
        fail(f"{wheel.name} does not have the expected sha256 digest", "run `make setup` again")
    say(f"  {wheel.stat().st_size / 1e6:.0f} MB in {time.time() - started:.0f} s")
    return wheel


def extract(archive, member, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(target, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def empty_library(path):
    """torch-sys links `-ltorch`, which in the wheel only pulls in CUDA: an empty one serves."""
    for compiler in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if compiler and shutil.which(compiler):
            subprocess.run([compiler, "-shared", "-Wl,-soname,libtorch.so", "-x", "c", os.devnull, "-o", str(path)],
                           check=True)
            return
    fail("no C compiler was found", "install one (Debian: apt install g++)")


def provide_cpu():
    if installed_version(LIBTORCH) == VERSION:
        say(f"libtorch {VERSION} is in third_party/libtorch")
        return
    started = time.time()
    free = shutil.disk_usage(ROOT).free
    if free < 2e9:
        fail(f"only {free / 1e9:.1f} GB of disk are free here", "libtorch needs 1.1 GB while it is set up")
    say(f"libtorch {VERSION} for CPU: 544 MB to download, 0.5 GB on disk")
    building = THIRD_PARTY / "libtorch.partial"
    shutil.rmtree(building, ignore_errors=True)
    for requirement, (digest, libraries) in CPU_WHEELS.items():
        with zipfile.ZipFile(fetch(requirement, digest)) as archive:
            for member in libraries:
                extract(archive, member, building / "lib" / member.rsplit("/", 1)[1])
            for member in archive.namelist():
                if member.startswith("torch/include/") and not member.endswith("/"):
                    extract(archive, member, building / member.removeprefix("torch/"))
    empty_library(building / "lib" / "libtorch.so")
    (building / "build-version").write_text(VERSION + "\n")
    shutil.rmtree(LIBTORCH, ignore_errors=True)
    building.rename(LIBTORCH)
    shutil.rmtree(WHEELS, ignore_errors=True)
    say(f"libtorch {VERSION} is ready in third_party/libtorch ({time.time() - started:.0f} s)")


def provide_cuda():
    """GPU libraries, in their own folder so that linking never sees them; opened at run time."""
    target = LIBTORCH / "cuda"
    if (target / "libtorch_cuda.so").exists():
        say("the CUDA libraries are in third_party/libtorch/cuda")
        return
    free = shutil.disk_usage(ROOT).free
    if free < 9e9:
        fail(f"only {free / 1e9:.1f} GB of disk are free here", "the CUDA libraries need 9 GB while they are set up")
    say("CUDA libraries: 2.7 GB to download, 5 GB on disk")
    WHEELS.mkdir(parents=True, exist_ok=True)
    command = pip() + ["download", "--dest", str(WHEELS)] + PLATFORM + [f"torch=={VERSION}"]
    if subprocess.run(command).returncode != 0:
        fail("downloading the CUDA libraries failed", "check the network and run `make setup-cuda` again")
    building = LIBTORCH / "cuda.partial"
    shutil.rmtree(building, ignore_errors=True)
    for wheel in sorted(WHEELS.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                folder, _, name = member.rpartition("/")
                if ".so" in name and (folder == "torch/lib" or folder.startswith("nvidia/")) \
                        and not (LIBTORCH / "lib" / name).exists() and name != "libtorch_python.so":
                    extract(archive, member, building / name)
    building.rename(target)
    shutil.rmtree(WHEELS, ignore_errors=True)
    say("the CUDA libraries are ready; `bstar doctor` tells whether a GPU is usable")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cuda", action="store_true", help="also provide the CUDA libraries")
    options = arguments.parse_args()
    given = os.environ.get("LIBTORCH")
    if given:
        version = installed_version(pathlib.Path(given))
        if version == VERSION:
            say(f"using LIBTORCH={given} ({version})")
            return
        say(f"LIBTORCH={given} is {version or 'no libtorch folder that says its version'}, "
            f"but tch 0.24 needs {VERSION}")
        fail("the libtorch that LIBTORCH names does not fit",
             f"unset LIBTORCH and run `make setup`, or point it to libtorch {VERSION}")
    provide_cpu()
    if options.cuda:
        provide_cuda()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run `make setup` again to go on")
