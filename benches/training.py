#!/usr/bin/env python3
"""SFT beside transformers and TRL: tokens of the data per CPU second, and the share of the speed of matrix products.

    BSTAR_PYTHON=venv/bin/python BENCH_MODELS=models python3 benches/training.py [tiny|small …] [--rounds 5]

BENCH_MODELS holds Hugging Face folders; `BSTAR_PYTHON` has torch, transformers, trl and datasets. One thread, 32-bit
floats, AdamW, no evaluation or saving within what is timed. `full` rows have 256 tokens, `ragged` ones 64 to 256; all
tokens count. In every round each contender is a process of its own, one after the other.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

from worker import Worker

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKER = ROOT / "target" / "release" / "bstar-lm"
LENGTH = 256
# Rows an update, and updates that are timed.
SIZES = {"tiny": (16, 4), "small": (8, 2)}
CONTENDERS = {"full": ["bstar", "trainer"], "ragged": ["bstar", "trl", "trl_packed"]}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# As the engine starts its workers.
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def rows(kind, count):
    """Numbers of tokens of rows."""
    draw = random.Random(0)
    return [LENGTH if kind == "full" else draw.randint(64, LENGTH) for _ in range(count)]


def work(folder):
    """Floating-point operations of a token of a full row: products, and causal attention, forward and backward."""
    config = json.loads((folder / "config.json").read_text())
    width, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    block = width * head * 2 * (heads + config["num_key_value_heads"]) + 3 * width * config["intermediate_size"]
    products = layers * block + config["vocab_size"] * width
    return 6 * products + 6 * 2 * LENGTH * layers * heads * head / 2


def words(folder):
    """Pieces of text that are one token each, wherever they stand."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return [" " + token[1:] for token in vocabulary if token.startswith("Ġ") and token[1:].isalpha()][:50]


def bstar(folder, kind, batch, updates):
    """CPU seconds from the end of the first update to that of the last, and tokens read in them."""
    lengths = rows(kind, batch * (updates + 1))
    draw, pieces = random.Random(1), words(folder)
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        # All but the first token are learnt; the end token is added.
        texts = [draw.choices(pieces, k=length - 1) for length in lengths]
        lines = (json.dumps({"prompt": text[0], "completion": "".join(text[1:])}) + "\n" for text in texts)
        (place / "rows.jsonl").write_text("".join(lines))
        training = {
            "updates": updates + 1, "batch": batch, "learning_rate": 1e-4, "max_length": LENGTH,
            "checkpoint_every": 1000, "schedule": {"shape": "constant"},
        }
        training.update(json.loads(os.environ.get("BENCH_TRAINING", "{}")))
        worker, seen = Worker(WORKER, LARGE_PAGES), {}

        def progress(report):
            seen[report["done"]] = worker.seconds()

        worker.order(place, "out", "sft", {"policy": "p", "dataset": "d", "training": training},
                     {"policy": folder.resolve(), "dataset": "rows.jsonl"}, progress)
        worker.close()
        log = [json.loads(line) for line in (place / "out" / "log.jsonl").read_text().splitlines()]
    first, last = min(seen), max(seen)
    # The model reads all tokens of a row but the last.
    tokens = sum(row["tokens"] + batch for row in log[first:last])
    return {"seconds": seen[last] - seen[first], "tokens": tokens, "loss": log[-1]["loss"]}


def peer(name, folder, kind, batch, updates):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
    from transformers import default_data_collator

    torch.set_num_threads(1)
    torch.manual_seed(0)
    draw = random.Random(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    place = tempfile.TemporaryDirectory()
    settings = dict(
        output_dir=place.name, per_device_train_batch_size=batch, max_steps=updates + 1, report_to=[], save_strategy="no",
        logging_steps=1000, use_cpu=True, learning_rate=1e-4, lr_scheduler_type="constant", optim="adamw_torch_fused",
        disable_tqdm=True, bf16=False, gradient_checkpointing=False,
    )

    class Clock(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            if state.global_step == 1:
                self.began = time.process_time()
                seen.clear()

    seen, clock = [], Clock()

    def counted(collate):
        def count(features):
            seen.append(sum(len(feature["input_ids"]) for feature in features))
            return collate(features)
        return count

    # Packed rows hold more of the data.
    lengths = rows(kind, batch * (updates + 3) * (3 if name == "trl_packed" else 1))
    ids = [[draw.randint(3, 3999) for _ in range(length)] for length in lengths]
    if name == "trainer":
        data = Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])
        trainer = Trainer(model=model, args=TrainingArguments(**settings), train_dataset=data,
                          data_collator=default_data_collator, callbacks=[clock])
    else:
        from trl import SFTConfig, SFTTrainer
        packing = dict(packing=True, packing_strategy="bfd") if name == "trl_packed" else {}
        trainer = SFTTrainer(model=model, args=SFTConfig(**settings, max_length=LENGTH, **packing),
                             train_dataset=Dataset.from_list([{"input_ids": row} for row in ids]),
                             processing_class=AutoTokenizer.from_pretrained(folder), callbacks=[clock])
    trainer.data_collator = counted(trainer.data_collator)
    trainer.train()
    seconds = time.process_time() - clock.began
    return {"seconds": seconds, "tokens": sum(seen[:updates])}


def products():
    """Speed of matrix products of one thread, in operations a second: the best of seven."""
    import torch
    torch.set_num_threads(1)
    one, other, best = torch.randn(1024, 1024), torch.randn(1024, 1024), 1e9
    for _ in range(8):
        began = time.process_time()
        for _ in range(4):
            one @ other
        best = min(best, (time.process_time() - began) / 4)
    return {"speed": 2 * 1024**3 / best}


def measure(name, *arguments):
    """Runs a contender in a process of its own."""
    python = sys.executable if name == "bstar" else os.environ["BSTAR_PYTHON"]
    command = [python, __file__, "--one", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def one(name, arguments):
    if name == "products":
        return products()
    folder, kind, batch, updates = pathlib.Path(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])
    if name == "bstar":
        return bstar(folder, kind, batch, updates)
    return peer(name, folder, kind, batch, updates)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["tiny", "small"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="full,ragged")
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    print("| model | rows | contender | tokens per CPU second, median (all) | ours / theirs, median | of products |\n"
          "|---|---|---|---|---|---|", flush=True)
    for model in chosen.models:
        folder = pathlib.Path(os.environ["BENCH_MODELS"]) / model
        batch, updates = SIZES[model]
        for kind in chosen.kinds.split(","):
            names = [name for name in CONTENDERS[kind] if not chosen.only or name in chosen.only.split(",")]
            rates, shares = {name: [] for name in names}, {name: [] for name in names}
            for _ in range(chosen.rounds):
                for name in names:
                    speeds = [measure("products")["speed"]]
                    found = measure(name, folder, kind, batch, updates)
                    speeds.append(measure("products")["speed"])
                    rate = found["tokens"] / found["seconds"]
                    rates[name].append(rate)
                    shares[name].append(rate * work(folder) / max(speeds))
            for name in names:
                ratios = [ours / theirs for ours, theirs in zip(rates.get("bstar", []), rates[name])]
                ratio = f"{statistics.median(ratios):.2f}" if name != "bstar" and ratios else ""
                share = f"{statistics.median(shares[name]):.2f}" if kind == "full" else ""
                every = ", ".join(f"{rate:,.0f}" for rate in sorted(rates[name]))
                median = f"{statistics.median(rates[name]):,.0f}"
                print(f"| {model} | {kind} | {name} | {median} ({every}) | {ratio} | {share} |", flush=True)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], sys.argv[3:])))
    else:
        main()
