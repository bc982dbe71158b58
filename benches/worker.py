"""A worker process that is given orders as the engine gives them (`stages/src/protocol.rs`)."""

import json
import os
import subprocess
import sys
from pathlib import Path


class Worker:
    def __init__(self, program, environment=None):
        self.process = subprocess.Popen([program, "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **(environment or {})})
        self.process.stdout.readline()

    def order(self, folder, output, uses, settings, inputs, progress=lambda report: None):
        """Has a step carried out on one thread; inputs are paths, absolute or in `folder`. Ends all if it fails, or if the
        worker has something to say about it."""
        folder = Path(folder)
        request = {
            "id": 1, "stage": {"uses": uses, "with": settings}, "seed": 1, "threads": 1, "device": "cpu",
            "inputs": {name: {"path": str(folder / path), "digest": digest(str(path))} for name, path in inputs.items()},
            "output": str(folder / output), "scratch": str(folder / f"{output}.scratch"), "log": str(folder / f"{output}.log"),
        }
        print(json.dumps({"order": "run", **request}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            report = json.loads(line)
            if report["report"] == "finished":
                return
            if report["report"] in ("failed", "log"):
                sys.exit(f"{self.process.args[0]}: {report['message']}")
            progress(report)
        sys.exit(f"{self.process.args[0]} is gone")

    def seconds(self):
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def digest(path):
    """Any, another for each path of the benchmarks."""
    return path.encode().hex().rjust(64, "0")[-64:]
