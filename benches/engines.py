#!/usr/bin/env python3
"""The same DAG of real processes carried out by bstar and by ninja: medians, and their ratio in the same run.

    cargo build --release -p bstar && python3 benches/engines.py [-n 10,100,1000] [-r 5] [-j 2]

Layers of ten steps, each reading two files of the layer before and writing 1 KiB. `cold`: nothing is there.
`noop`: the same command again. `cosmetic`: one step in the middle is changed and its output is not. `value`: its
output changes too. `revert`: as it was at first. Every cell checks the results and how many steps ran. ninja
is looked for in PATH; without it bstar is measured alone. A C compiler builds the step, a small static program."""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
BSTAR = os.environ.get("BSTAR", str(ROOT / "target" / "release" / "bstar"))
WIDTH = 10
SCENES = ["cold", "noop", "cosmetic", "value", "revert"]

# `step PARAM OUT IN…`: OUT is the checksum of PARAM (up to `#`) and of the inputs, 128 times.
STEP = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static uint32_t crc(uint32_t c, const unsigned char *p, size_t n) {
  c = ~c;
  while (n--) { c ^= *p++; for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1; }
  return ~c;
}
int main(int argc, char **argv) {
  static unsigned char buf[1 << 16];
  char out[1025];
  if (argc < 3) return 2;
  uint32_t h = crc(0, (unsigned char *)argv[1], strcspn(argv[1], "#"));
  for (int i = 3; i < argc; i++) {
    int f = open(argv[i], O_RDONLY);
    ssize_t n;
    if (f < 0) { perror(argv[i]); return 3; }
    while ((n = read(f, buf, sizeof buf)) > 0) h = crc(h, buf, n);
    close(f);
  }
  for (int i = 0; i < 128; i++) sprintf(out + 8 * i, "%08x", h);
  int log = open(getenv("STEP_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0644);
  if (log < 0 || write(log, "x\n", 2) != 2) return 4;
  int f = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
  return f < 0 || write(f, out, 1024) != 1024 || close(f) != 0;
}
"""


class Dag:
    def __init__(self, steps):
        self.layers = steps // WIDTH
        self.params = {self.name(l, j): f"{l}.{j}=1" for l in range(self.layers) for j in range(WIDTH)}
        self.middle = self.name(self.layers // 2, WIDTH // 2)

    @staticmethod
    def name(layer, place):
        return f"s{layer}_{place}"

    def steps(self):
        for layer in range(self.layers):
            for place in range(WIDTH):
                inputs = [] if layer == 0 else [self.name(layer - 1, p % WIDTH) for p in (place, place + 1)]
                yield self.name(layer, place), inputs

    def last(self):
        return [self.name(self.layers - 1, place) for place in range(WIDTH)]

    def cone(self):
        changed = {self.middle}
        for name, inputs in self.steps():
            if changed.intersection(inputs):
                changed.add(name)
        return len(changed)

    def results(self):
        made = {}
        for name, inputs in self.steps():
            value = zlib.crc32(self.params[name].split("#")[0].encode())
            for source in inputs:
                value = zlib.crc32(made[source], value)
            made[name] = b"%08x" % value * 128
        return [made[name] for name in self.last()]


class Bstar:
    name = "bstar"
    expected = {"cosmetic": lambda dag: 1, "value": Dag.cone, "revert": lambda dag: 0}

    def __init__(self, folder, step, jobs):
        self.folder, self.step = folder, step
        store = ["--store", str(folder / "store")]
        self.command = [BSTAR, "pipeline", "run", str(folder / "dag.yaml"), "--jobs", jobs, "--format", "json", *store]
        self.store = store

    def write(self, dag):
        lines = ["name: bench", "setup:"]
        for name, inputs in dag.steps():
            argv = [self.step, dag.params[name], "{out}/r.txt", *(f"{{in.i{k}}}" for k in range(len(inputs)))]
            sources = ", ".join(f"i{k}: {source}.r.txt" for k, source in enumerate(inputs))
            lines.append(
                f"  {name}: {{uses: command, with: {{argv: {json.dumps(argv)}, inputs: {{{sources}}}, "
                f"files: [{json.dumps(self.step)}], outputs: [r.txt]}}}}"
            )
        (self.folder / "dag.yaml").write_text("\n".join(lines) + "\n")

    def results(self, dag, output):
        digests = json.loads(output.splitlines()[-1])["results"]
        cat = lambda name: [BSTAR, "cache", "cat", digests[f"setup.{name}.r.txt"], *self.store]
        return [subprocess.run(cat(name), stdout=subprocess.PIPE, check=True).stdout for name in dag.last()]


class Ninja:
    name = "ninja"
    # It looks at times and commands: every change runs the cone.
    expected = {"cosmetic": Dag.cone, "value": Dag.cone, "revert": Dag.cone}

    def __init__(self, folder, step, jobs):
        self.folder, self.step, self.command = folder, step, ["ninja", "--quiet", "-j", jobs]
        (folder / "out").mkdir()

    def write(self, dag):
        lines = [f"rule s\n  command = {self.step} '$p' $out $in"]
        for name, inputs in dag.steps():
            sources = " ".join(f"out/{source}" for source in inputs)
            lines.append(f"build out/{name}: s {sources}\n  p = {dag.params[name]}")
        (self.folder / "build.ninja").write_text("\n".join(lines) + "\n")

    def results(self, dag, _output):
        return [(self.folder / "out" / name).read_bytes() for name in dag.last()]


def timed(command, folder):
    log = folder / "steps.log"
    log.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "STEP_LOG": str(log)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed ({process.returncode}):\n{output.decode()}")
    ran = log.read_bytes().count(b"\n") if log.exists() else 0
    return wall, usage.ru_utime + usage.ru_stime, ran, output


def round_of(engine, steps, folder, step, jobs):
    dag = Dag(steps)
    first = dag.params[dag.middle]
    engine = engine(folder, step, jobs)
    figures = {}
    for scene in SCENES:
        dag.params[dag.middle] = {"cosmetic": first + "#note", "value": first + "7"}.get(scene, first)
        if scene != "noop":
            # Times of files are compared: a change must not carry the time of the last run.
            time.sleep(0.02)
            engine.write(dag)
        wall, cpu, ran, output = timed(engine.command, folder)
        wanted = {"cold": lambda _: steps, "noop": lambda _: 0, **engine.expected}[scene](dag)
        if ran != wanted or engine.results(dag, output) != dag.results():
            sys.exit(f"{engine.name} {scene}: {ran} steps ran, expected {wanted}; or a result is wrong")
        figures[scene] = (wall, cpu, ran)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", default="10,100,1000", help="numbers of steps")
    parser.add_argument("-r", type=int, default=5, help="rounds")
    parser.add_argument("-j", default="2", help="processes at a time")
    options = parser.parse_args()
    engines = [Bstar, Ninja] if shutil.which("ninja") else [Bstar]
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        folder = pathlib.Path(folder)
        (folder / "step.c").write_text(STEP)
        step = str(folder / "step")
        subprocess.run(["cc", "-O2", "-static", "-o", step, str(folder / "step.c")], check=True)
        print("| steps | scene | bstar wall | bstar CPU | ran | ninja wall | ninja CPU | ran | wall ratio |")
        print("|---|---|---|---|---|---|---|---|---|")
        for steps in map(int, options.n.split(",")):
            rounds = {engine: [] for engine in engines}
            for number in range(options.r):
                for engine in engines:
                    place = folder / f"{engine.name}-{steps}-{number}"
                    place.mkdir()
                    rounds[engine].append(round_of(engine, steps, place, step, options.j))
                    shutil.rmtree(place)
            for scene in SCENES:
                cells, walls = [], []
                for engine in engines:
                    wall, cpu = (statistics.median(r[scene][k] for r in rounds[engine]) for k in (0, 1))
                    walls.append(wall)
                    cells += [f"{1000 * wall:.0f} ms", f"{1000 * cpu:.0f} ms", str(rounds[engine][0][scene][2])]
                cells += ["", "", ""] * (len(engines) == 1)
                ratio = f"{walls[0] / walls[1]:.2f}" if len(walls) == 2 else ""
                print("| " + " | ".join([str(steps), scene, *cells, ratio]) + " |", flush=True)


if __name__ == "__main__":
    main()
