#!/usr/bin/env python3
"""Reward models as transformers writes and computes them: reward.py FOLDER TOKENIZER.

Writes FOLDER/head (a model for sequence classification with one label) and FOLDER/logits (a policy), with random weights
and the tokenizer of TOKENIZER, and prints for each row of FOLDER/rows.jsonl ({prompt, response}) the output of both at the
last token: the label, and the mean of all logits.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

folder, source = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
torch.manual_seed(3)
torch.set_num_threads(1)
config = dict(
    vocab_size=tokenizer.get_vocab_size(), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, pad_token_id=0, initializer_range=0.3,
)
models = {
    "head": LlamaForSequenceClassification(LlamaConfig(**config, num_labels=1)),
    "logits": LlamaForCausalLM(LlamaConfig(**config)),
}
for name, model in models.items():
    model.eval().save_pretrained(folder / name)
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(source / file, folder / name / file)
for line in (folder / "rows.jsonl").read_text().splitlines():
    row = json.loads(line)
    ids = [token for part in ("prompt", "response") for token in tokenizer.encode(row[part], add_special_tokens=False).ids]
    with torch.no_grad():
        head = models["head"].score(models["head"].model(torch.tensor([ids])).last_hidden_state)[0, -1, 0]
        logits = models["logits"](torch.tensor([ids])).logits[0, -1].mean()
    print(json.dumps({"head": head.item(), "logits": logits.item()}))
