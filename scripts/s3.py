#!/usr/bin/env python3
"""Provides the S3 servers that the tests of remote stores talk to, under third_party/s3.

moto (a Python package, 180 MB, seconds) has atomic conditional puts and keeps objects in memory;
s3s-fs (one Rust program, compiled in a few minutes, with --s3s-fs) verifies signatures and keeps
objects in files. Run again at any time: what is there is not made again. A server that
BSTAR_TEST_MOTO or BSTAR_TEST_S3S names is used as it is. Tests without their server are skipped.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

MOTO = "5.2.5"
S3S_FS = "0.14.1"
ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "third_party" / "s3"


class Failed(Exception):
    """Why a server cannot be had."""


def say(text):
    print(f"s3: {text}", flush=True)


def call(command, what, **environment):
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise Failed(f"{what}: {error}") from error
    if done.returncode != 0:
        raise Failed("\n  ".join([f"{what}:"] + done.stdout.strip().splitlines()[-5:]))


def install_moto():
    venv = FOLDER / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    call([sys.executable, "-m", "venv", str(venv)], "making a Python environment failed (Debian: apt install python3-venv)")
    packages = [f"moto[server,s3]=={MOTO}"]
    call([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
          "--retries", "1", "--timeout", "20"] + packages, f"installing {packages[0]} failed")
    link = FOLDER / "bin" / "moto_server"
    link.unlink(missing_ok=True)
    link.symlink_to("../venv/bin/moto_server")


def install_s3s_fs():
    call([os.environ.get("CARGO", "cargo"), "install", "--quiet", f"s3s-fs@{S3S_FS}", "--features", "binary",
          "--locked", "--force", "--debug", "--root", str(FOLDER)], f"installing s3s-fs {S3S_FS} failed",
         CARGO_NET_RETRY="1", CARGO_PROFILE_DEV_DEBUG="false", CARGO_PROFILE_DEV_OPT_LEVEL="1")


def provide(name, version, variable, program, install, cost):
    """Makes sure of one server; the stamp is written last, so that half an installation is made again."""
    given = os.environ.get(variable)
    if given:
        say(f"using {variable}={given}")
        return
    stamp = FOLDER / f"{name}-{version}"
    if stamp.exists() and (FOLDER / "bin" / program).exists():
        say(f"{name} {version} is in third_party/s3")
        return
    say(f"installing {name} {version} ({cost}) …")
    started = time.time()
    (FOLDER / "bin").mkdir(parents=True, exist_ok=True)
    install()
    stamp.touch()
    say(f"{name} {version} is ready ({time.time() - started:.0f} s)")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--s3s-fs", action="store_true", help="also provide s3s-fs")
    arguments.add_argument("--if-possible", action="store_true", help="a server that cannot be had is no error")
    options = arguments.parse_args()
    servers = [("moto", MOTO, "BSTAR_TEST_MOTO", "moto_server", install_moto, "seconds, 180 MB")]
    if options.s3s_fs:
        servers.append(("s3s-fs", S3S_FS, "BSTAR_TEST_S3S", "s3s-fs", install_s3s_fs, "a few minutes, 10 MB"))
    missing = 0
    for server in servers:
        try:
            provide(*server)
        except Failed as failed:
            missing += 1
            say(f"no {server[0]}: {failed}")
            say(f"  tests that need {server[0]} will be skipped; `make setup-s3` tries again")
    return 1 if missing and not options.if_possible else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run `make setup-s3` again to go on")
