#!/usr/bin/env python3
"""Tokens per second of the language-model steps in a store, from what the worker measured itself.

    make demo && python3 benches/rates.py [STORE]
"""

import json
import pathlib
import statistics
import sys

# Seconds inside the worker, by stage: loading and writing files left out.
SECONDS = {"pretrain": "train_s", "sft": "train_s", "sample": "sample_s"}


def kind(manifest):
    stage = manifest["action"]["stage"]
    if stage != "sample":
        return stage
    greedy = "greedy" in manifest["provenance"]["step"]
    return "sample, greedy" if greedy else "sample"


def main():
    store = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".bstar")
    rates = {}
    for file in sorted(store.glob("manifests/*/*.json")):
        manifest = json.loads(file.read_text())
        metrics = manifest["metrics"]
        seconds = metrics.get(SECONDS.get(manifest["action"]["stage"], ""))
        # Gathered steps have no time of their own; tiny ones measure start-up.
        if "/" in manifest["provenance"]["step"] or manifest["action"]["stage"] != "sample":
            if seconds and seconds > 0.05 and metrics.get("tokens"):
                rates.setdefault(kind(manifest), []).append(metrics["tokens"] / seconds)
    print("| step | steps | tokens per second of one step, median | slowest | fastest |\n|---|---|---|---|---|")
    for name, values in sorted(rates.items()):
        print(f"| {name} | {len(values)} | {statistics.median(values):,.0f} | {min(values):,.0f} | {max(values):,.0f} |")


if __name__ == "__main__":
    main()
