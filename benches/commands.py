#!/usr/bin/env python3
"""Times what a user waits for when nothing has to be computed: median of N runs, wall and CPU.

    make demo && python3 benches/commands.py [N]
"""

import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BSTAR = ROOT / "target" / "release" / "bstar"
COMMANDS = {
    "start (`bstar --version`)": ["--version"],
    "second run of math.yaml": ["pipeline", "run", "math.yaml", "--format", "json"],
    "plan of math.yaml": ["pipeline", "plan", "math.yaml"],
    "plan with a changed threshold grid": ["pipeline", "plan", "math.yaml", "iteration.search.thresholds.by=0.05"],
    "`run list`": ["run", "list"],
    "`cache verify`": ["cache", "verify"],
}


def once(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run([BSTAR, *arguments], cwd=ROOT, capture_output=True, env={**os.environ, "NO_COLOR": "1"})
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"bstar {' '.join(arguments)} failed:\n{done.stderr.decode()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"| command | wall, median of {runs} | CPU, median |\n|---|---|---|")
    for name, arguments in COMMANDS.items():
        once(arguments)
        walls, cpus = zip(*(once(arguments) for _ in range(runs)))
        print(f"| {name} | {1000 * statistics.median(walls):.1f} ms | {1000 * statistics.median(cpus):.1f} ms |")


if __name__ == "__main__":
    main()
