#!/usr/bin/env python3
"""What PEFT makes of adapters that were written here.

    adapters.py DIR    DIR/base is a model, DIR/start and DIR/end are adapters of it, DIR/rows.json is what was trained on
                       in between, DIR/logits.safetensors are the merged model's logits of the first row; prints how far
                       PEFT's own training and logits are from them, as JSON
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def load(folder, adapter, trainable):
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(base, folder / adapter, is_trainable=trainable)


def main(folder):
    torch.set_num_threads(1)
    told = json.loads((folder / "rows.json").read_text())
    model = load(folder, "start", True).eval()
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
    ours = load_file(folder / "end" / "adapter_model.safetensors")
    theirs = get_peft_model_state_dict(model)
    assert sorted(ours) == sorted(theirs), (sorted(ours)[:3], sorted(theirs)[:3])
    weights = max(float((ours[name] - theirs[name].detach()).abs().max()) for name in ours)
    with torch.no_grad():
        logits = load(folder, "end", False).eval()(torch.tensor([told["rows"][0]])).logits[0]
    off = float((logits - load_file(folder / "logits.safetensors")["logits"]).abs().max())
    print(json.dumps(dict(weights=weights, logits=off, losses=losses, adapters=len(ours))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
