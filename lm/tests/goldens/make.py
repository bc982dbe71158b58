#!/usr/bin/env python3
"""What transformers computes for small models of every family, to compare with.

    make.py              writes NAME/config.json and NAME/expected.{json,safetensors} for every model
    make.py check DIR    loads the folders DIR/NAME/DTYPE that were written here, and compares their
                         logits with DIR/NAME/logits.safetensors; prints a JSON line for each

Needs torch, transformers and safetensors. Weights are not stored: both sides compute them from the
tensors' names (`weight` below, `weight` in families.rs).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

HERE = Path(__file__).parent
SIZES = dict(
    vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=None, pad_token_id=None,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
MODELS = {
    "llama2": dict(model_type="llama", num_key_value_heads=4, tie_word_embeddings=False),
    "llama3": dict(model_type="llama", tie_word_embeddings=True, rope_parameters=LLAMA3),
    "llama-bias": dict(
        model_type="llama", attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0),
    ),
    "llama-wide": dict(model_type="llama", head_dim=16, rope_parameters=YARN),
    # Wide enough for products on a processor's matrix unit.
    "llama-large": dict(
        model_type="llama", hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
    "mistral": dict(model_type="mistral", head_dim=16, sliding_window=16),
    "mistral-full": dict(model_type="mistral", sliding_window=None),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen2-window": dict(
        model_type="qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=24, max_window_layers=1,
        rope_parameters=YARN,
    ),
    "qwen3": dict(model_type="qwen3", head_dim=16, tie_word_embeddings=True),
    "qwen3-window": dict(
        model_type="qwen3", num_hidden_layers=3, head_dim=8, attention_bias=True, use_sliding_window=True,
        sliding_window=16, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}
NEW = 64
PROMPT = 40
FEW = 16
LOOKED_AT = list(range(3, PROMPT, 4))
LENGTHS = [50, 33, 17, 42]
# Where each row's response begins: what is before it gives no loss.
STARTS = [20, 1, 9, 30]
# AdamW divides by the size of the gradient: where a gradient is rounding noise, so is its direction. At ten times
# this rate transformers in 32 bits is further from itself in 64 bits than the tests allow.
RATE, DECAY, BETAS, UPDATES = 1e-4, 0.1, (0.9, 0.95), 3


def weight(name, shape):
    """Counted pseudo-random numbers, exact in 32 bits, from the tensor's name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = ((z >> np.uint64(40)).astype(np.float32) - np.float32(2**23)) * np.float32(2.0**-23)
    if "norm" in name:
        values = np.float32(1) + unit * np.float32(0.25)
    elif "lm_head" in name:
        values = unit * np.float32(0.5)
    elif "embed_tokens" in name:
        # Small, so that a model whose output matrix this is too does not repeat its last token.
        values = unit * np.float32(0.125)
    else:
        values = unit * np.float32(0.25)
    return torch.from_numpy(values.reshape(shape))


def ids(length, seed):
    return [(seed * 31 + i * i * 7 + i * 13) % 250 for i in range(length)]


def model_of(settings, model=AutoModelForCausalLM, **options):
    settings = {**SIZES, **settings, **options}
    kind = settings.pop("model_type")
    config = AutoConfig.for_model(kind, **settings)
    model = model.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, tuple(parameter.shape)))
    return model


def telling(model):
    """The first prompt after which greedy tokens are not few: a model that repeats itself shows little."""
    return next(text for text in (ids(PROMPT, seed) for seed in range(1, 100)) if len(set(greedy(model, text)[0])) >= FEW)


def greedy(model, prompt):
    text, logprobs, gap = list(prompt), [], 1e9
    with torch.no_grad():
        for _ in range(NEW):
            last = model(torch.tensor([text])).logits[0, -1].float().log_softmax(-1)
            best = last.topk(2).values
            gap = min(gap, float(best[0] - best[1]))
            text.append(int(last.argmax()))
            logprobs.append(float(last.max()))
    return text[PROMPT:], logprobs, gap


def train(model):
    """AdamW on the mean loss of all tokens of all responses, the gradient's norm limited to 1."""
    named = list(model.named_parameters())
    groups = [
        dict(params=[p for _, p in named if p.dim() >= 2], weight_decay=DECAY),
        dict(params=[p for _, p in named if p.dim() < 2], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=1e-8)
    rows = [ids(length, 5 + number) for number, length in enumerate(LENGTHS)]
    targets = sum(LENGTHS) - sum(STARTS)
    losses, norms = [], []
    for _ in range(UPDATES):
        optimizer.zero_grad()
        loss = 0
        for row, start in zip(rows, STARTS):
            logits = model(torch.tensor([row[:-1]])).logits[0, start - 1:]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(row[start:]), reduction="sum") / targets
        loss.backward()
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for _, p in named]))
        if norm > 1:
            for _, p in named:
                p.grad.mul_(1 / norm)
        optimizer.step()
        losses.append(loss.item())
        norms.append(float(norm))
    return losses, norms, rows


def make():
    torch.set_num_threads(1)
    for name, settings in MODELS.items():
        model = model_of(settings)
        prompt = telling(model)
        text = torch.tensor([prompt])
        with torch.no_grad():
            logits = model(text).logits[0, LOOKED_AT]
            half = model_of(settings).to(torch.bfloat16)(text).logits[0, LOOKED_AT].float()
            reward_model = model_of(settings, AutoModelForSequenceClassification, num_labels=1)
            scores = reward_model.score(reward_model.model(text).last_hidden_state)[0, :, 0].tolist()
        tokens, logprobs, gap = greedy(model, prompt)
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        losses, norms, rows = train(model)
        tensors = {"logits": logits, "logits_bfloat16": half.to(torch.bfloat16)}
        for key, parameter in model.named_parameters():
            # How far a weight moved, to 11 bits: a moved weight is known to about 1e-6.
            tensors[f"moved.{key}"] = (parameter.detach() - before[key]).to(torch.float16)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        # An end token that the greedy response does not hold.
        model.config.eos_token_id = min(set(range(256)) - set(tokens))
        model.config.save_pretrained(folder)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "expected.safetensors")
        expected = dict(
            prompt=prompt, looked_at=LOOKED_AT, greedy=tokens, logprobs=logprobs, scores=scores, rows=rows, starts=STARTS, losses=losses,
            norms=norms, rate=RATE, decay=DECAY, betas=BETAS,
        )
        (folder / "expected.json").write_text(json.dumps(expected) + "\n")
        print(f"{name:14} logits ±{logits.abs().max():.2f}  bf16 off by {(half - logits).abs().max():.3f}  "
              f"least gap {gap:.1e}  losses {losses[0]:.4f} … {losses[-1]:.4f}  norm {norms[0]:.2f}")


def check(folder):
    torch.set_num_threads(1)
    for name in MODELS:
        expected = load_file(folder / name / "logits.safetensors")["logits"]
        prompt = json.loads((HERE / name / "expected.json").read_text())["prompt"]
        found = {}
        for dtype in ["float32", "bfloat16", "float16"]:
            path = folder / name / dtype
            model, info = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            strange = [key for key, value in info.items() if value and "keys" in key]
            assert not strange, f"{path}: {info}"
            assert str(AutoConfig.from_pretrained(path).dtype) == f"torch.{dtype}"
            AutoTokenizer.from_pretrained(path)
            with torch.no_grad():
                logits = model(torch.tensor([prompt])).logits[0]
            found[dtype] = float((logits - expected).abs().max())
        print(json.dumps(dict(model=name, largest_difference=found)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(Path(sys.argv[2]))
    else:
        make()
