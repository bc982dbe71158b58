#!/usr/bin/env python3
"""The sampler beside transformers' generate: tokens per second of processor time, one thread each, in turn.

    python3 benches/sampling.py FOLDER... [--peer-python PYTHON] [--rounds 5] [--scenes plain,long,ragged] [--peer-rounds 5]

FOLDER is a model of random weights (Llama, float32). PYTHON ($BSTAR_PYTHON) has torch and transformers; without one
only bstar is measured. A round asks each side once for each scene; what is told are medians over rounds.

plain: 16 prompts of 96 tokens, 32 responses of 128 tokens each, none of which ends early.
long: 2 prompts of 768 tokens, 64 responses of 128 tokens each.
whole, shards: 16 prompts of 768 tokens, 64 responses each, drawn together, and 16 of each at a time, as the steps of a
pipeline do (without the peer, which takes minutes for them).
ragged: as plain, but 64 prompts, and as many tokens end a response as make the mean length 40 % of 128; both sides' tokens are
those drawn until a response ends.

With `--loose` there is a second bstar, whose rows of products are not filled up: what batch invariance costs.

At last one process, two at a time, and one with two threads draw `plain`: tokens per second of wall time.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
#                queries, samples, prompt, tokens, share of tokens that end a response
SCENES = {
    "plain": dict(queries=16, samples=32, prompt=96, tokens=128, ends=0.0),
    "long": dict(queries=2, samples=64, prompt=768, tokens=128, ends=0.0),
    "whole": dict(queries=16, samples=64, prompt=768, tokens=128, ends=0.0),
    "shards": dict(queries=16, samples=64, prompt=768, tokens=128, ends=0.0, shard=16),
    "ragged": dict(queries=64, samples=32, prompt=96, tokens=128, ends=0.0176),
}

PEER = r"""
import json, sys, time, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
pad = 2
for line in sys.stdin:
    ask = json.loads(line)
    ids = torch.randint(3, 4000, (ask["queries"], ask["prompt"]))
    ends = list(range(model.config.vocab_size - ask["ends"], model.config.vocab_size)) or None
    model.generation_config.eos_token_id = ends
    began = time.process_time()
    with torch.inference_mode():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=ask["samples"], max_new_tokens=ask["tokens"], pad_token_id=pad,
        )
    spent = time.process_time() - began
    new = made[:, ids.shape[1]:]
    if ends:
        ended = torch.isin(new, torch.tensor(ends)).long()
        drawn = int(((ended.cumsum(1) - ended) == 0).sum())
    else:
        drawn = new.numel()
    print(json.dumps({"cpu_s": spent, "tokens": drawn}), flush=True)
"""

CALIBRATE = r"""
import sys, time, torch
torch.set_num_threads(1)
a, b, c = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(100_000_000)
def best(act):
    spent = []
    for _ in range(7):
        began = time.process_time(); act(); spent.append(time.process_time() - began)
    return min(spent)
for line in sys.stdin:
    print('{"product": %f, "read": %f}' % (2 * 1024**3 / best(lambda: a @ b), 4e8 / best(c.sum)), flush=True)
"""


def bound(config, scene, product, read):
    """Tokens per second if there were nothing but products as fast as a large one, and the reading of a response's own
    keys and values as fast as memory is read."""
    width, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head, kv = config.get("head_dim") or width // heads, config["num_key_value_heads"]
    block = width * head * 2 * (heads + kv) + 3 * width * config["intermediate_size"]
    products = 2 * (layers * block + config["vocab_size"] * width)
    return 1 / (products / product + scene["tokens"] / 2 * layers * kv * head * 2 * 4 / read)


class Side:
    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )

    def ask(self, what):
        self.begin(what)
        return self.answer()

    def begin(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a side of the benchmark ended early")
        return json.loads(line)


def walls(sides, scene, rounds):
    """Tokens per second of wall time of all these together, each round."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for side in sides:
            side.begin(scene)
        tokens = sum(side.answer()["tokens"] for side in sides)
        found.append(tokens / (time.perf_counter() - began))
    return statistics.median(found)


def built(*more):
    """The benchmark's executable."""
    command = ["cargo", "bench", "-p", "bstar-lm", "--bench", "sampling", "--no-run", "--message-format", "json", *more]
    lines = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    made = [json.loads(line) for line in lines]
    return next(m["executable"] for m in made if m.get("executable") and m["target"]["name"] == "sampling")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--peer-python", default=os.environ.get("BSTAR_PYTHON"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int)
    parser.add_argument("--scenes", default="plain,long,ragged")
    parser.add_argument("--queries", type=int, help="fewer queries than a scene has, for large models")
    parser.add_argument("--tokens", type=int, help="fewer tokens than a scene has, for large models")
    parser.add_argument("--memory", type=int, default=1 << 30)
    parser.add_argument("--binary", action="append", help="executables in place of the one that is built, each a side")
    parser.add_argument("--loose", action="store_true")
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # As the engine starts its workers.
    large_pages = {**environment, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    binaries = options.binary or [built(), *([built("--features", "loose")] if options.loose else [])]
    print("| model | scene | side | tokens per CPU second, median | slowest | fastest | ratio to bstar | tokens |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in options.folders:
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        sides = {("bstar" if number == 0 else f"bstar, {number + 1}"): Side([binary, folder], large_pages) for number, binary in enumerate(binaries)}
        if options.peer_python:
            sides["transformers"] = Side([options.peer_python, "-c", PEER, folder], environment)
            calibration = Side([options.peer_python, "-c", CALIBRATE], environment)
        calibrations = []
        scenes = {name: dict(SCENES[name]) for name in options.scenes.split(",")}
        for scene in scenes.values():
            scene["ends"] = round(scene["ends"] * config["vocab_size"])
            scene["queries"] = min(scene["queries"], options.queries or scene["queries"])
            scene["tokens"] = min(scene["tokens"], options.tokens or scene["tokens"])
            scene["memory"] = options.memory
        rates, counts = {}, {}
        for side in sides.values():
            side.ask(dict(queries=2, samples=16, prompt=16, tokens=4, ends=0, memory=1 << 30))
        for number in range(options.rounds):
            for name, scene in scenes.items():
                for who, side in sides.items():
                    peer_rounds = 0 if name in ("whole", "shards") else options.peer_rounds or options.rounds
                    if who == "transformers" and number >= peer_rounds:
                        continue
                    answer = side.ask(scene)
                    rates.setdefault((name, who), []).append(answer["tokens"] / answer["cpu_s"])
                    counts[name, who] = f"{answer['tokens']} {answer.get('bits', '')}"
            if options.peer_python:
                calibrations.append(calibration.ask({}))
        for (name, who), values in rates.items():
            median, own = statistics.median(values), statistics.median(rates[name, "bstar"])
            print(
                f"| {pathlib.Path(folder).name} | {name} | {who} | {median:,.0f} | {min(values):,.0f} | {max(values):,.0f} | "
                f"{own / median:.2f} | {counts[name, who]} |"
            )
        if calibrations:
            product, read = (statistics.median(c[what] for c in calibrations) for what in ("product", "read"))
            print(f"product of 1024³: {product / 1e9:.0f} GFLOP/s; memory read: {read / 1e9:.1f} GB/s", file=sys.stderr)
            for name in scenes.keys() - {"ragged"}:
                most = bound(config, scenes[name], product, read)
                share = statistics.median(rates[name, "bstar"]) / most
                print(f"| {pathlib.Path(folder).name} | {name} | bound | {most:,.0f} | | | bstar has {share:.2f} of it | |")
        if "plain" in scenes:
            second = Side([binaries[0], folder], large_pages)
            second.ask(dict(queries=2, samples=16, prompt=16, tokens=4, ends=0, memory=1 << 30))
            one, two = (walls(pair, scenes["plain"], options.rounds) for pair in ([second], [sides["bstar"], second]))
            print(f"| {pathlib.Path(folder).name} | plain | two processes | {two:,.0f} a second of wall time, one {one:,.0f} | | | {two / one:.2f} times | |")
            both = {**large_pages, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "BENCH_THREADS": "2"}
            wide = Side([binaries[0], folder], both)
            wide.ask(dict(queries=2, samples=16, prompt=16, tokens=4, ends=0, memory=1 << 30))
            threads = walls([wide], scenes["plain"], options.rounds)
            print(f"| {pathlib.Path(folder).name} | plain | one process with two threads | {threads:,.0f} a second of wall time | | | two processes {two / threads:.2f} times | |")
            wide.process.stdin.close()
            second.process.stdin.close()
        for side in sides.values():
            side.process.stdin.close()
    print(f"load {os.getloadavg()[0]:.0f}", file=sys.stderr)


if __name__ == "__main__":
    main()
