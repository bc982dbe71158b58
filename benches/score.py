#!/usr/bin/env python3
"""What computing a prompt once for all of its responses saves in scoring: processor seconds of the worker.

    python3 benches/score.py [WORKER …]

Scores 128 responses by a reward model with random weights on one thread: 32 to each of 4 queries, and one to each of 128
queries with prompts as long. Several workers (target/release/bstar-lm by default) are timed in turn, so that they can be
compared. Prints medians of 5 and ratios.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from worker import Worker

SHAPES = {
    # Name: width, blocks, heads, words of a prompt, words of a response.
    "as in math.yaml": (96, 3, 3, 34, 40),
    "prompts twice as long as responses": (256, 4, 4, 256, 128),
    "prompts half as long as responses": (256, 4, 4, 64, 128),
}
ROUNDS = 5


def rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    programs = sys.argv[1:] or ["target/release/bstar-lm"]
    workers = [Worker(program) for program in programs]
    for name, (width, blocks, heads, prompt, response) in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            words = lambda count, seed: " ".join(str((position * 7 + seed) % 10) for position in range(count))
            rows(folder / "examples.jsonl", [{"prompt": words(40, seed), "completion": "\n\n1"} for seed in range(10)])
            training = {"updates": 1, "batch": 2, "learning_rate": 0.001}
            model = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": blocks,
                     "num_attention_heads": heads, "max_position_embeddings": 1024}
            worker = workers[0]
            worker.order(folder, "tokens", "tokenizer", {"corpus": ["c"], "kind": "words", "vocab_size": 64},
                         {"corpus0": "examples.jsonl"})
            worker.order(folder, "pre", "pretrain",
                         {"tokenizer": "t", "dataset": "d", "model": model, "training": training},
                         {"tokenizer": "tokens/tokenizer", "dataset": "examples.jsonl"})
            rows(folder / "labels.jsonl", [{"query_id": "q", "prompt": "1", "steps": ["1"], "labels": [1.0]}] * 2)
            worker.order(folder, "prm", "reward_model", {"policy": "p", "labels": "l", "training": training},
                         {"policy": "pre/policy", "labels": "labels.jsonl"})
            for k in (32, 1):
                rows(folder / f"queries{k}.jsonl", [
                    {"id": str(number), "prompt": words(prompt, 3 * number) + str(number), "answer": "1"}
                    for number in range(128 // k)
                ])
                rows(folder / f"responses{k}.jsonl", [
                    {"query_id": str(number // k), "sample_index": number % k, "temperature": 1.0, "tokens": 9,
                     "text": words(response // 2 - number % 9, number) + "\n\n" + words(response // 2, number),
                     "logprob": -1.0, "finish_reason": "stop"}
                    for number in range(128)
                ])
            spent = {}
            for turn in range(ROUNDS + 1):
                for program, worker in zip(programs, workers):
                    for k in (32, 1):
                        inputs = {"reward_model": "prm/reward_model", "queries": f"queries{k}.jsonl",
                                  "responses": f"responses{k}.jsonl"}
                        before = worker.seconds()
                        worker.order(folder, f"out{k}", "score_shard", {"grader": "exact", "aggregate": "min"}, inputs)
                        # The first turn loads the model.
                        if turn:
                            spent.setdefault((program, k), []).append(worker.seconds() - before)
            print(f"{name} ({width} wide, {blocks} blocks; {prompt} and {response} tokens)")
            for program in programs:
                shared, apart = (statistics.median(spent[program, k]) for k in (32, 1))
                print(f"  {program}: {shared:.2f} s at K = 32, {apart:.2f} s at K = 1: × {apart / shared:.2f}")


if __name__ == "__main__":
    main()
