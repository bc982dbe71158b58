#!/usr/bin/env python3
"""What PEFT makes of adapters that were written here.

    adapters.py DIR    DIR/base is a model, DIR/start are adapters of it, DIR/rows.json is what to train them on; writes
                       DIR/adapters.json, the losses, and DIR/adapters.safetensors, the adapters after it and the logits of
                       the first row with them

Those of `qwen2`, `qwen3` and `llama-bias` are kept beside what `make.py` writes: a run of the tests with `BSTAR_PYTHON`
compares with PEFT itself, and fails where that differs from what is kept.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def main(folder):
    torch.set_num_threads(1)
    told = json.loads((folder / "rows.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, folder / "start", is_trainable=True).eval()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in named], lr=told["rate"], betas=told["betas"], weight_decay=told["decay"])
    rows = list(zip(told["rows"], told["starts"]))
    targets = sum(len(row) - start for row, start in rows)
    losses = []
    for _ in range(told["updates"]):
        optimizer.zero_grad()
        loss = 0
        for row, start in rows:
            logits = model(torch.tensor([row[:-1]])).logits[0, start - 1:]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(row[start:]), reduction="sum") / targets
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        losses.append(loss.item())
    found = {name: tensor.detach().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    with torch.no_grad():
        found["logits"] = model(torch.tensor([told["rows"][0]])).logits[0].contiguous()
    save_file(found, folder / "adapters.safetensors")
    (folder / "adapters.json").write_text(json.dumps(dict(losses=losses)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
